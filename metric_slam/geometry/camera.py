"""The pinhole camera: intrinsics in pixels, pixel centres at integers, OpenCV axes (x right, y down, z forward)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metric_slam.errors import CalibrationError

FEATURE_STRIDE = 8
"""Pixels between the centres of two neighbouring cells of the grid on which inverse depth is estimated."""

GRID_OFFSET_PX = (FEATURE_STRIDE - 1) / 2
"""Pixel coordinate of the centre of grid cell 0: cell x covers the pixels 8x .. 8x+7."""


@dataclass(frozen=True)
class PinholeCamera:
    """A calibrated camera without distortion.

    A point (X, Y, Z) in metres lands on pixel (fx X/Z + cx, fy Y/Z + cy); pixel (0, 0) is the centre of the first one.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        values = (self.fx, self.fy, self.cx, self.cy)
        if not np.isfinite(values).all() or self.fx <= 0 or self.fy <= 0 or self.width <= 0 or self.height <= 0:
            raise CalibrationError(f"impossible camera {self}: focal lengths and image size must be positive numbers")

    @property
    def K(self) -> np.ndarray:
        """Intrinsic matrix, float64 [3, 3]."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    def resized(self, width: int, height: int) -> PinholeCamera:
        """The same camera after its image was resized to ``width`` x ``height`` (both axes scaled on their own)."""
        sx, sy = width / self.width, height / self.height
        return PinholeCamera(
            fx=self.fx * sx,
            fy=self.fy * sy,
            # the outer edge of the image, half a pixel outside the first centre, is what stays in place
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
            width=width,
            height=height,
        )

    def grid(self) -> PinholeCamera:
        """The camera whose pixels are the cells of the 1/8 grid: cell centres at integers."""
        return PinholeCamera(
            fx=self.fx / FEATURE_STRIDE,
            fy=self.fy / FEATURE_STRIDE,
            cx=(self.cx - GRID_OFFSET_PX) / FEATURE_STRIDE,
            cy=(self.cy - GRID_OFFSET_PX) / FEATURE_STRIDE,
            width=self.width // FEATURE_STRIDE,
            height=self.height // FEATURE_STRIDE,
        )

    def vector(self) -> np.ndarray:
        """(fx, fy, cx, cy), float64 [4]: what the kernels take."""
        return np.array([self.fx, self.fy, self.cx, self.cy])

    def rays(self) -> np.ndarray:
        """Viewing rays with z = 1 for every pixel, float64 [height, width, 3]."""
        v, u = np.mgrid[0 : self.height, 0 : self.width].astype(np.float64)
        return np.stack([(u - self.cx) / self.fx, (v - self.cy) / self.fy, np.ones_like(u)], axis=-1)

    def project(self, points_cam: np.ndarray) -> np.ndarray:
        """Pixels of points in the camera frame. ``points_cam`` [..., 3] in metres, result [..., 2] in pixels."""
        inv_z = 1.0 / points_cam[..., 2]
        u = self.fx * points_cam[..., 0] * inv_z + self.cx
        v = self.fy * points_cam[..., 1] * inv_z + self.cy
        return np.stack([u, v], axis=-1)
