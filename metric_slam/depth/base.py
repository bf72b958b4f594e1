"""The protocol of metric depth priors: what is believed about depth before, or beside, the matching of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metric_slam.frame import Frame
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera


@dataclass(frozen=True)
class DepthPrediction:
    """Metric depth of one keyframe on the 1/8 grid of its working camera."""

    depth_m: np.ndarray
    """Depth along z in metres, float64 [h, w]; 0 where nothing is known."""

    confidence: np.ndarray
    """0..1, float64 [h, w]."""


@dataclass(frozen=True)
class MotionObservation:
    """What a prior learns from a pair of keyframes and the motion between them."""

    log_ratio: float
    """log(metric length / present length) of the pair's baseline."""

    sigma: float
    """Standard deviation of ``log_ratio``."""

    used: bool
    """False: measured, but withdrawn because its support is thin; for the report only."""

    detail: tuple[float, ...] = ()
    """What the prior wants to remember of how it was measured (opaque to everyone else)."""

    previous_depth_m: np.ndarray | None = None
    """Metric depth that the observation implies for cells of the first keyframe of the pair, float64 [h, w]; 0: none.
    For map and report; the geometry decides cell by cell whether it applies."""


class CurrentDepth(NamedTuple):
    """What matching says about a keyframe."""

    inv_depth: np.ndarray
    """Float64 [h, w], in the unit of the poses."""

    moving: np.ndarray
    """Cells of things that move, bool [h, w]."""


class DepthPrior(ABC):
    """A source of metric depth. One instance serves one sequence and may calibrate itself on the way."""

    name: str = ""
    metric: bool = True
    measures_motion: bool = False
    """Does :meth:`observe` ever say anything?"""

    relative_sigma: float = 0.10
    """Believed relative error of one cell's depth."""

    scale_sigma: float = 0.025
    """Believed relative error that all cells of one keyframe share; 0: none."""

    def prefetch(self, frame: Frame, camera: PinholeCamera) -> None:  # noqa: B027  (nothing to begin with)
        """A frame that may soon be given to :meth:`prepare`: a slow prior begins with it."""

    @abstractmethod
    def prepare(self, frame: Frame, camera: PinholeCamera) -> Any:
        """What the prior wants to keep of a keyframe (opaque to everyone else)."""

    @abstractmethod
    def predict(self, state: Any, camera: PinholeCamera) -> DepthPrediction | None:
        """Depth of a keyframe from what :meth:`prepare` kept; None where nothing is known."""

    def road_inv_depth(
        self, current_depth: CurrentDepth, camera: PinholeCamera, baseline: float | None
    ) -> np.ndarray | None:
        """Inverse depth [h, w] of the road in every cell of a keyframe, 0 where its ray meets none; None: unknown.

        It has the unit of ``current_depth``; ``baseline`` in that unit, where that may be wrong by a factor; None: it is metres.
        """
        return None

    def calibrate(self, motions: np.ndarray) -> None:  # noqa: B027  (a prior without a calibration is complete)
        """Takes the latest estimates of the recent motions between neighbouring keyframes, oldest first.

        ``motions`` T_next_previous, float64 [M, 4, 4]; each call replaces what an earlier one said.
        """

    def observe(
        self,
        previous: Any,
        current: Any,
        T_current_previous: np.ndarray,
        camera: PinholeCamera,
        *,
        search: bool,
        current_depth: CurrentDepth | None = None,
    ) -> MotionObservation | None:
        """Metric information in a pair of keyframes whose relative pose [4, 4] is known up to scale.

        ``camera`` is the working camera. ``search``: the present scale may be wrong by a factor, look widely.
        ``current_depth`` of the previous keyframe in the unit of the pose, as far as it is known. None: the prior learns nothing
        from this motion.
        """
        return None

    def state(self) -> dict[str, np.ndarray]:
        """What it has learnt so far as plain arrays, for a checkpoint."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:  # noqa: B027  (nothing learnt, nothing to restore)
        """Takes over a :meth:`state`."""

    def revised(self, observation: MotionObservation, path_ahead: np.ndarray) -> MotionObservation:
        """The same observation once it is known where the camera went next.

        ``path_ahead`` [M, 3]: positions of this and the following keyframes in the axes of the pair's first camera, in
        the unit of the map, beginning with zeros.
        """
        return observation


def depth_to_grid(depth_m: np.ndarray, camera: PinholeCamera) -> DepthPrediction:
    """Median depth per cell of a depth image [H, W] of any size (0: none), with a confidence that drops at depth edges.

    A point sample would take the depth of whatever lies under the cell's centre, background bleeding included.
    """
    h, w = camera.height // FEATURE_STRIDE, camera.width // FEATURE_STRIDE
    H, W = depth_m.shape
    # every source pixel goes to the cell that contains it in the working image
    rows = np.minimum(((np.arange(H) + 0.5) * camera.height / H / FEATURE_STRIDE).astype(int), h)
    columns = np.minimum(((np.arange(W) + 0.5) * camera.width / W / FEATURE_STRIDE).astype(int), w)
    cell = (rows[:, None] * (w + 1) + columns[None, :]).ravel()
    values = depth_m.ravel()
    known = np.isfinite(values) & (values > 0)
    cell, values = cell[known], values[known]
    order = np.lexsort((values, cell))
    cell, values = cell[order], values[order]
    cells, start, count = np.unique(cell, return_index=True, return_counts=True)
    middle = values[start + count // 2]
    spread = (values[start + (9 * (count - 1)) // 10] - values[start + (count - 1) // 10]) / middle
    depth, confidence = np.zeros((h + 1) * (w + 1)), np.zeros((h + 1) * (w + 1))
    depth[cells] = middle
    confidence[cells] = 1.0 / (1.0 + (spread / 0.1) ** 2)
    shape = (h + 1, w + 1)
    return DepthPrediction(depth.reshape(shape)[:h, :w], confidence.reshape(shape)[:h, :w])
