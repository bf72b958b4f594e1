"""The depth prior as keyframes use it: prepared once per keyframe, on the grid of the working camera."""

from __future__ import annotations

import numpy as np

from metric_slam.depth.base import DepthPrior
from metric_slam.errors import InputError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.graph.slam_map import PriorGrids


class KeyframePrior:
    """Adapter of one depth prior to one working camera."""

    def __init__(self, prior: DepthPrior, camera: PinholeCamera) -> None:
        self._prior, self._camera = prior, camera
        self.gave_depth = False
        """True once the prior has given metric depth for a keyframe."""

    @property
    def name(self) -> str:
        """Name of the prior."""
        return self._prior.name

    @property
    def metric(self) -> bool:
        """True if the prior can give metres at all."""
        return self._prior.metric

    @property
    def cell_sigma(self) -> float:
        """Standard deviation of the relative error of one cell's depth."""
        return self._prior.relative_sigma

    def prefetch(self, frame: Frame) -> None:
        """Announce a frame that is likely to become a keyframe: a slow prior begins with it."""
        self._prior.prefetch(frame, self._camera)

    def prepare(self, frame: Frame) -> object:
        """What the prior keeps of a keyframe."""
        return self._prior.prepare(frame, self._camera)

    def summary(self) -> str | None:
        """One line for the log at the end of a run; None: nothing to report."""
        return self._prior.summary()

    def grids(self, prior_state: object) -> PriorGrids:
        """Depth, confidence and weight of a keyframe."""
        prediction = self._prior.predict(prior_state, self._camera)
        if prediction is None:
            grid = self._camera.grid()
            zeros = np.zeros((grid.height, grid.width))
            return PriorGrids(zeros, zeros, zeros)
        depth_m, confidence = self._checked(prediction.depth_m), self._checked(prediction.confidence)
        confidence = np.where(np.isfinite(depth_m) & (depth_m > 0) & (confidence > 0), confidence, 0.0)
        depth_m = np.where(confidence > 0, depth_m, 0.0)
        self.gave_depth = self.gave_depth or bool(confidence.any())
        return PriorGrids(depth_m, confidence, confidence / self.cell_sigma**2)

    def _checked(self, array: np.ndarray) -> np.ndarray:
        """A grid that the prior returned, float64 [h, w]. Raises InputError where it has another shape."""
        grid = self._camera.grid()
        if np.shape(array) != (grid.height, grid.width):
            raise InputError(
                f"prior {self.name}: depth and confidence have shape {np.shape(array)}, "
                f"the grid is {(grid.height, grid.width)}; depth_to_grid makes such maps"
            )
        return np.asarray(array, np.float64)
