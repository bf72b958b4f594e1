"""The implementation of :class:`~metric_slam.datasets.base.Dataset` for image files on disk.

Every loader (KITTI, TUM, image folder, ...) is a function that reads side files and fills an :class:`ImageSequence`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from metric_slam.datasets.images import read_depth_m, read_rgb
from metric_slam.errors import InputError
from metric_slam.frame import CameraMount, Frame
from metric_slam.geometry.camera import PinholeCamera


@dataclass(frozen=True)
class ImageSequence:
    """Frames of one calibrated camera, read from image files on demand; see ``Dataset`` for the shared fields."""

    name: str
    camera: PinholeCamera
    times_s: np.ndarray
    image_paths: tuple[Path, ...]
    """One colour image a frame."""

    depth_paths: tuple[Path | None, ...] | None = None
    """One 16-bit depth image a frame, None where a frame has none; None without a depth sensor."""

    depth_scale: float = 256.0
    """Units of the depth images per metre."""

    distortion: np.ndarray | None = None
    """OpenCV coefficients k1 k2 p1 p2 [k3]: images and depths are undistorted (same K) as they are read."""

    mount: CameraMount | None = None
    T_cam_ref: np.ndarray = field(default_factory=lambda: np.eye(4))
    T_world_cam_true: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, truth = len(self.image_paths), self.T_world_cam_true
        if self.times_s.shape != (n,):
            raise InputError(f"times_s has the shape {self.times_s.shape}: {n} images need {(n,)}")
        if self.depth_paths is not None and len(self.depth_paths) != n:
            raise InputError(f"depth_paths has {len(self.depth_paths)} entries for {n} images: give None for a gap")
        if truth is not None and truth.shape != (n, 4, 4):
            raise InputError(f"T_world_cam_true has the shape {truth.shape}: {n} images need {(n, 4, 4)}")
        if not (np.isfinite(self.depth_scale) and self.depth_scale > 0):
            raise InputError(f"depth_scale is {self.depth_scale}: units per metre must be positive")

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> Frame:
        """Read frame ``index`` (0 <= index < len). Raises ImageError for a file that cannot be used."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {self.name}, which has {len(self)}")
        path = self.image_paths[index]
        depth_path = self.depth_paths[index] if self.depth_paths is not None else None
        depth_m = read_depth_m(depth_path, self.depth_scale, self.camera.size) if depth_path is not None else None
        return Frame(
            index=index,
            time_s=float(self.times_s[index]),
            image=self._undistorted(read_rgb(path, self.camera.size), cv2.INTER_LINEAR),
            camera=self.camera,
            # depth must not be interpolated across the edges of things
            depth_m=self._undistorted(depth_m, cv2.INTER_NEAREST) if depth_m is not None else None,
            T_world_cam_true=None if self.T_world_cam_true is None else self.T_world_cam_true[index],
            path=path,
        )

    def _undistorted(self, image: np.ndarray, interpolation: int) -> np.ndarray:
        if self.distortion is None or not np.any(self.distortion):
            return image
        K = self.camera.K
        map_x, map_y = cv2.initUndistortRectifyMap(K, self.distortion, np.eye(3), K, self.camera.size, cv2.CV_32FC1)
        return cv2.remap(image, map_x, map_y, interpolation)
