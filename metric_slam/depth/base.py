"""The protocol of metric depth priors, and the resampling of depth images to the grid of cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from metric_slam.errors import InputError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera

PriorState: TypeAlias = object
"""What a prior keeps of one keyframe. Only the prior that made it looks inside, and checks that it is its own."""


@dataclass(frozen=True)
class DepthPrediction:
    """Metric depth of one keyframe on the 1/8 grid of its working camera."""

    depth_m: np.ndarray
    """Depth along z in metres, float64 [h, w]; 0 where it is unknown."""

    confidence: np.ndarray
    """0..1, float64 [h, w]."""

    def __post_init__(self) -> None:
        if self.depth_m.ndim != 2 or self.depth_m.shape != self.confidence.shape:
            raise InputError(
                f"depth_m has the shape {self.depth_m.shape} and confidence {self.confidence.shape}: both are [h, w]"
            )


@dataclass(frozen=True)
class MotionObservation:
    """Metric length of the baseline between two keyframes, as measured by a prior."""

    log_ratio: float
    """log(metric length / present length) of the pair's baseline."""

    sigma: float
    """Standard deviation of ``log_ratio``."""

    used: bool
    """False: measured but rejected because its support is thin; such an observation only appears in the report."""

    detail: tuple[float, ...] = ()
    """Numbers that the prior needs in :meth:`DepthPrior.revised` (opaque to everyone else)."""

    previous_depth_m: np.ndarray | None = None
    """Metric depth that the observation implies for cells of the first keyframe of the pair, float64 [h, w]; 0: none.
    For map and report; the geometry decides cell by cell whether it applies."""


class CurrentDepth(NamedTuple):
    """Present estimate of a keyframe's depth, from matching."""

    inv_depth: np.ndarray
    """Float64 [h, w], in the unit of the poses."""

    moving: np.ndarray
    """Cells that show moving objects, bool [h, w]."""


class DepthPrior(ABC):
    """A source of metric depth. One instance serves one sequence and may calibrate itself on the way."""

    name: str = ""
    metric: bool = True
    measures_motion: bool = False
    """True if the prior measures scale from the motion between keyframes (see :meth:`observe`)."""

    relative_sigma: float = 0.10
    """Assumed relative error of one cell's depth."""

    scale_sigma: float = 0.025
    """Assumed relative error common to all cells of one keyframe; 0: none."""

    def prefetch(self, frame: Frame, camera: PinholeCamera) -> None:  # noqa: B027  (optional)
        """Start the work of :meth:`prepare` for a likely keyframe in the background."""

    @abstractmethod
    def prepare(self, frame: Frame, camera: PinholeCamera) -> PriorState:
        """Extract from a keyframe what later calls need; ``camera`` is the working camera."""

    @abstractmethod
    def predict(self, state: PriorState, camera: PinholeCamera) -> DepthPrediction | None:
        """Depth of a keyframe from its :meth:`prepare` result; None where nothing is known."""

    def road_inv_depth(
        self, current_depth: CurrentDepth, camera: PinholeCamera, baseline: float | None
    ) -> np.ndarray | None:
        """Inverse depth [h, w] of the road in every cell of a keyframe, 0 where its ray meets none; None: unknown.

        The result has the unit of ``current_depth``. ``baseline`` is the length of a motion in that unit and widens the
        search where the unit may be wrong by a factor; None: the unit is the metre.
        """
        return None

    def calibrate(self, motions: np.ndarray) -> None:  # noqa: B027  (optional)
        """Update the calibration from the latest motions between neighbouring keyframes, oldest first.

        ``motions`` T_next_previous, float64 [M, 4, 4]; each call replaces the motions of the call before.
        """

    def observe(
        self,
        previous: PriorState,
        current: PriorState,
        T_current_previous: np.ndarray,
        camera: PinholeCamera,
        *,
        search: bool,
        current_depth: CurrentDepth | None = None,
    ) -> MotionObservation | None:
        """Measure the metric length of the motion between two keyframes; None if this motion yields no measurement.

        ``T_current_previous`` [4, 4] is known up to scale, ``camera`` is the working camera. ``search``: the present
        scale may be wrong by a factor, so search widely. ``current_depth`` of the previous keyframe is in the unit of
        the pose; None: not known yet.
        """
        return None

    def state(self) -> dict[str, np.ndarray]:
        """Calibration and counters as plain arrays, for a checkpoint."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:  # noqa: B027  (optional)
        """Continue from a :meth:`state`."""

    def revised(self, observation: MotionObservation, path_ahead: np.ndarray) -> MotionObservation:
        """Correct an observation by the path that the camera took afterwards.

        ``path_ahead`` [M, 3]: positions of this and the following keyframes in the axes of the pair's first camera, in
        the unit of the map, beginning with zeros.
        """
        return observation

    def summary(self) -> str | None:
        """One line for the log at the end of a run; None: nothing to report."""
        return None


class ImageDepthPrior(DepthPrior):
    """Base of priors that get the depth of a keyframe from the keyframe alone, when it is prepared."""

    @abstractmethod
    def prepare(self, frame: Frame, camera: PinholeCamera) -> DepthPrediction:
        """Depth of the frame on the grid of the working camera."""

    def predict(self, state: PriorState, camera: PinholeCamera) -> DepthPrediction:
        """The depth as it was prepared."""
        assert isinstance(state, DepthPrediction), type(state)
        return state


def unknown_depth(camera: PinholeCamera) -> DepthPrediction:
    """A prediction without any known depth, for the grid of the working camera."""
    shape = camera.height // FEATURE_STRIDE, camera.width // FEATURE_STRIDE
    return DepthPrediction(np.zeros(shape), np.zeros(shape))


def within_range(depth_m: np.ndarray, nearest_m: float | None, farthest_m: float | None) -> np.ndarray:
    """``depth_m`` with 0 in place of values nearer or farther than the limits; None: no limit."""
    outside = np.zeros(depth_m.shape, bool)
    if nearest_m is not None:
        outside |= depth_m < nearest_m
    if farthest_m is not None:
        outside |= depth_m > farthest_m
    return np.where(outside, 0.0, depth_m) if outside.any() else depth_m


def depth_to_grid(depth_m: np.ndarray, camera: PinholeCamera) -> DepthPrediction:
    """Median depth per cell of a depth image [H, W] of any size (0: none), with a confidence that drops at depth edges.

    A point sample would take the depth of whatever lies under the cell's centre, background bleeding included.
    Raises InputError for an array that is not two-dimensional.
    """
    if depth_m.ndim != 2:
        raise InputError(f"depth_m has the shape {depth_m.shape}: a depth image is [H, W]")
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
