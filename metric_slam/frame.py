"""What a data set yields: one image of the video with its time, its camera and, where known, depth and truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metric_slam.geometry.camera import PinholeCamera


@dataclass(frozen=True)
class Frame:
    """One image of the sequence, in the data set's own resolution."""

    index: int
    """Position in the sequence, 0-based, counted before any --start/--stride selection."""

    time_s: float
    """Time stamp in seconds."""

    image: np.ndarray
    """Colour image, uint8 [H, W, 3], RGB."""

    camera: PinholeCamera
    """Intrinsics of this image."""

    depth_m: np.ndarray | None = None
    """Measured depth along z in metres, float32 [H, W]; 0 where nothing was measured. None: no depth sensor."""

    T_world_cam_true: np.ndarray | None = None
    """Ground-truth pose of this camera, float64 [4, 4]. Only evaluation and tests may read it."""

    path: Path | None = None
    """The image file, for messages."""


@dataclass(frozen=True)
class CameraMount:
    """How a vehicle carries the camera: what turns a road into metres."""

    height_m: float
    """Height of the optical centre above the road."""
