"""The protocol of every source of frames."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from metric_slam.errors import ImageError
from metric_slam.frame import CameraMount, Frame
from metric_slam.geometry.camera import PinholeCamera

PROBED_FRAMES = 16
"""Frames that :func:`has_depth` reads at most: each costs the decoding of one image."""


@runtime_checkable
class Dataset(Protocol):
    """A finite sequence of frames of one calibrated camera; random access, cheap to build, images read on demand."""

    @property
    def name(self) -> str:
        """Folder of the results below ``results/``, e.g. ``kitti/04``."""

    @property
    def camera(self) -> PinholeCamera:
        """Intrinsics of all frames."""

    @property
    def times_s(self) -> np.ndarray:
        """Time stamps, float64 [N]."""

    @property
    def mount(self) -> CameraMount | None:
        """Mounting of the camera on its vehicle; None without a vehicle or where it is unknown."""

    @property
    def T_cam_ref(self) -> np.ndarray:
        """Maps points of the reference camera (KITTI: camera 0) to this camera, float64 [4, 4]; identity elsewhere."""

    @property
    def T_world_cam_true(self) -> np.ndarray | None:
        """Ground truth of this camera, float64 [N, 4, 4], rows of NaN where unknown; None without ground truth."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame:
        """Read frame ``index`` (0 <= index < len). Raises ImageError for a file that cannot be used."""


def has_depth(dataset: Dataset) -> bool:
    """True if any of up to ``PROBED_FRAMES`` frames, spread evenly over the sequence, has a depth image.

    Sensors drop images and start late, so the first frame alone does not show it. A frame that cannot be read counts
    as one without: where the run gets to it, it ends with that error and writes what it has.
    """
    count = min(len(dataset), PROBED_FRAMES)
    probed = np.linspace(0, len(dataset) - 1, count).round().astype(int) if count else []
    return any(_has_depth(dataset, int(index)) for index in probed)


def _has_depth(dataset: Dataset, index: int) -> bool:
    try:
        return dataset[index].depth_m is not None
    except ImageError:
        return False
