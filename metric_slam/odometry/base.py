"""The protocol of odometry: frames in, poses and keyframes out, whichever way images are matched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from metric_slam.checkpointable import StateTree, array_in
from metric_slam.correspondence.base import CorrespondenceModel
from metric_slam.frame import Frame
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.odometry.frame_poses import FramePoses

Timed = Callable[[str], AbstractContextManager[None]]
FeaturesOf = Callable[[int], object]
"""Features of the frame with this index, computed again from its image."""


@dataclass(frozen=True)
class EncodedFrame:
    """A frame at working resolution with the features of the correspondence model."""

    frame: Frame
    """As it came in, for priors that look at the original image."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB."""

    features: object
    ignored: np.ndarray | None
    """Cells that show the vehicle itself or a logo, bool [h, w]; None: no cell does."""

    @property
    def index(self) -> int:
        """Frame index in the data set."""
        return self.frame.index

    @property
    def time_s(self) -> float:
        """Time stamp."""
        return self.frame.time_s


class FrameEncoder:
    """Resizes frames to the working camera and computes their features."""

    def __init__(self, model: CorrespondenceModel, camera: PinholeCamera) -> None:
        self._model, self._camera = model, camera

    def __call__(self, frame: Frame) -> EncodedFrame:
        """Encode a frame."""
        image = cv2.resize(frame.image, self._camera.size, interpolation=cv2.INTER_AREA)
        return EncodedFrame(frame, image, self._model.encode(image, self._camera), self._ignored_cells(frame))

    def _ignored_cells(self, frame: Frame) -> np.ndarray | None:
        """A cell is ignored if any of its pixels is, for its match would use that pixel."""
        if frame.mask is None or not frame.mask.any():
            return None
        pixels = cv2.resize(frame.mask.astype(np.float32), self._camera.size, interpolation=cv2.INTER_AREA)
        grid = self._camera.grid()
        rows, columns = grid.height * FEATURE_STRIDE, grid.width * FEATURE_STRIDE
        cells = pixels[:rows, :columns].reshape(grid.height, FEATURE_STRIDE, grid.width, FEATURE_STRIDE)
        return np.asarray(cells.max(axis=(1, 3)) > 0)


@dataclass(frozen=True)
class TrackState:
    """What odometry found out about a frame."""

    T_cam_world: np.ndarray
    """Present estimate of the pose, float64 [4, 4]."""

    tracked: bool
    """False: the pose is only predicted."""

    is_keyframe: bool
    inlier_ratio: float
    """Share of the reference keyframe's cells whose match fits the pose, 0..1."""


class Odometry(Protocol):
    """Follows the camera from frame to frame; the map is shared, frames between keyframes are its own."""

    frames: FramePoses
    """Poses of all processed frames."""

    def begin(self, frame: EncodedFrame, T_cam_world: np.ndarray) -> None:
        """Begin a submap with this frame as its first keyframe, at T_cam_world [4, 4]."""
        ...

    def track(self, frame: EncodedFrame) -> TrackState:
        """Take the next frame; the first one, and one after a loss, begins a submap."""
        ...

    def settled(self) -> range:
        """Positions of keyframes that can no longer be removed, new since the last call."""
        ...

    def finish(self) -> None:
        """Complete what waits for a frame that will not come."""
        ...

    def refine_globally(self, global_ba: GlobalBundleAdjustment) -> None:
        """Refine matches over the whole trajectory before the final optimisation, where the model can."""
        ...

    def state(self) -> StateTree:
        """Arrays for a checkpoint."""
        ...

    def restore(self, state: StateTree, features_of: FeaturesOf) -> None:
        """Replace the state of a freshly built part by what :meth:`state` returned."""
        ...


class StageTimes:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def state(self) -> StateTree:
        """Arrays for a checkpoint."""
        return {
            "stages": np.array(list(self.seconds), np.str_),
            "seconds": np.array(list(self.seconds.values())),
        }

    def restore(self, state: StateTree) -> None:
        """Replace everything by what :meth:`state` returned."""
        names, seconds = array_in(state, "stages").tolist(), array_in(state, "seconds").tolist()
        self.seconds = dict(zip(names, seconds, strict=True))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
