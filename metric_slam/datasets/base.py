"""The protocol that every source of frames follows."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from metric_slam.frame import CameraMount, Frame
from metric_slam.geometry.camera import PinholeCamera


@runtime_checkable
class Dataset(Protocol):
    """A finite sequence of frames of one calibrated camera; random access, cheap to build, images read on demand."""

    name: str
    """Folder of the results below ``results/``, e.g. ``kitti/04``."""

    camera: PinholeCamera
    """Intrinsics of all frames."""

    times_s: np.ndarray
    """Time stamps, float64 [N]."""

    mount: CameraMount | None
    """How the vehicle carries the camera; None where there is no vehicle or nothing is known."""

    T_cam_ref: np.ndarray
    """Maps points from the reference camera (KITTI: camera 0) to this camera, float64 [4, 4]; identity elsewhere."""

    T_world_cam_true: np.ndarray | None
    """Ground truth of this camera, float64 [N, 4, 4], rows of NaN where unknown; None without ground truth."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame:
        """Read frame ``index`` (0 <= index < len). Raises ImageError for a file that cannot be used."""
        ...
