"""What a data set yields: one image of the video with its time, its camera and, where known, depth and truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metric_slam.errors import InputError
from metric_slam.geometry.camera import PinholeCamera


@dataclass(frozen=True)
class Frame:
    """One image of the sequence, in the data set's own resolution.

    Raises InputError with one line that names the argument where a value has another type, shape or unit than its
    field states: intrinsics that do not belong to the image would make every later length wrong without a word.
    """

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

    mask: np.ndarray | None = None
    """Pixels that must not be used, bool [H, W]: True on the vehicle's own bonnet or on a logo. None: all are used."""

    def __post_init__(self) -> None:
        if not isinstance(self.camera, PinholeCamera):
            raise InputError(f"camera is {described(self.camera)}, expected a metric_slam.PinholeCamera")
        if not _is_integer(self.index) or self.index < 0:
            raise InputError(f"index is {described(self.index)}, expected the frame's number, an integer from 0")
        if not _is_real(self.time_s) or not math.isfinite(self.time_s):
            raise InputError(f"time_s is {described(self.time_s)}, expected a finite time stamp in seconds")
        self._check_image()
        self._check_map("depth_m", np.float32, "metres along z, 0 where unknown: convert it with astype and the scale")
        self._check_map("mask", np.bool_, "True where pixels must not be used: compare the mask, e.g. mask > 0")
        truth = self.T_world_cam_true
        if truth is not None and (not isinstance(truth, np.ndarray) or truth.shape != (4, 4)):
            raise InputError(f"T_world_cam_true is {described(truth)}, expected a 4x4 matrix from camera to world")

    def _check_image(self) -> None:
        height, width = self.camera.height, self.camera.width
        image = self.image
        expected = f"expected uint8 [{height}, {width}, 3] in RGB order"
        if not isinstance(image, np.ndarray):
            raise InputError(f"image is {described(image)}, {expected}: convert it to a numpy array")
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
            raise InputError(
                f"image is grey, {described(image)}, {expected}: convert it with cv2.cvtColor(image, "
                "cv2.COLOR_GRAY2RGB)"
            )
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"image is {described(image)}, {expected}: give one colour image of three channels")
        if image.dtype != np.uint8:
            raise InputError(f"image is {described(image)}, {expected}: scale it to 0..255 and convert it to uint8")
        if image.shape[:2] != (height, width):
            raise InputError(
                f"image is {described(image)}, {expected} because camera is {width}x{height}: give the intrinsics of "
                f"this very image, e.g. camera.resized({image.shape[1]}, {image.shape[0]})"
            )

    def _check_map(self, name: str, dtype: type[np.generic], meaning: str) -> None:
        """Refuse a map of pixels, if there is one, that is not ``dtype`` [H, W]."""
        value = getattr(self, name)
        shape = (self.camera.height, self.camera.width)
        if value is None or (isinstance(value, np.ndarray) and value.dtype == dtype and value.shape == shape):
            return
        expected = f"{np.dtype(dtype).name} [{shape[0]}, {shape[1]}] as the image"
        raise InputError(f"{name} is {described(value)}, expected {expected}, {meaning}")


@dataclass(frozen=True)
class CameraMount:
    """Camera mounting on the vehicle; its height sets the metric scale of the ground-plane prior."""

    height_m: float
    """Height of the optical centre above the road in metres, greater than 0."""

    def __post_init__(self) -> None:
        height = self.height_m
        if not _is_real(height) or not math.isfinite(height) or height <= 0:
            raise InputError(f"height_m is {described(height)}, expected metres above the road, greater than 0")


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, float | np.floating) or _is_integer(value)


def described(value: object) -> str:
    """Type and shape of an array, or type and value of anything else, on one line."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} [{', '.join(map(str, value.shape))}]"
    if value is None or isinstance(value, int | float | str | np.generic):
        return repr(value)
    return f"a {type(value).__name__}"
