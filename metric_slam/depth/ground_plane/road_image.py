"""Local normalisation of images for the alignment of the road: shadows and exposure cancel, texture stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.errors import InputError
from metric_slam.geometry.camera import PinholeCamera

_WINDOW_BLURS = 10.0
"""Standard deviation of the normalisation window, in blurs: wide enough to keep the texture of asphalt."""

_CONTRAST_FLOOR = 1.0
"""Grey levels added to the local contrast, so that sensor noise of a smooth road is not amplified to texture."""

_UNIFORM_RANGE = 2
"""Most grey levels between the brightest and the darkest pixel of a uniform window (painted borders, black bonnets);
noise alone makes it more on a real road."""

_SATURATED = 250
"""Grey level from which a uniform window is overexposed road instead: its edges belong to the road and move with it."""

_MIN_CONTRAST = 0.05
"""Local standard deviation in grey levels below which a pixel is invalid; rounding to 8 bits alone leaves about 0.1."""

_SUPPORT_PX = 2
"""Reach of the bilinear interpolation and of the gradient beyond a pixel."""


@dataclass(frozen=True)
class RoadImage:
    """Brightness with local mean and contrast removed."""

    normalised: np.ndarray
    """float32 [H, W]; 0 above ``first_row`` and where ``valid`` is False."""

    valid: np.ndarray
    """Pixels that show texture of the scene, bool [H, W]: not uniform, not ignored, from ``first_row`` down."""

    camera: PinholeCamera
    first_row: int


def prepare_road_image(
    image: np.ndarray, camera: PinholeCamera, blur_px: float, ignore: np.ndarray | None = None
) -> RoadImage:
    """Convert the lower part of an image, uint8 [H, W, 3] RGB, to grey, blur it, and normalise it locally.

    ``ignore``, bool [H, W], marks pixels that show the vehicle itself or a logo. Those, uniform areas, and the pixels
    whose blur they reach are invalid, and the normalisation of all others is computed without them: the edge of a
    painted border stays where it is in every image and would hold the alignment back. Raises InputError.
    """
    if image.shape != (camera.height, camera.width, 3) or image.dtype != np.uint8:
        raise InputError(
            f"image is {image.dtype} {image.shape}: the camera's images are uint8 {(camera.height, camera.width, 3)}"
        )
    if ignore is not None and (ignore.shape != image.shape[:2] or ignore.dtype != np.bool_):
        raise InputError(f"ignore is {ignore.dtype} {ignore.shape}: it must be bool {image.shape[:2]}")
    first_row = int(np.clip(camera.cy - 8, 0, camera.height - 16))
    grey = cv2.cvtColor(image[first_row:], cv2.COLOR_RGB2GRAY)
    excluded = _uniform(grey, _box_px(_WINDOW_BLURS * blur_px))
    if ignore is not None:
        excluded |= ignore[first_row:]
    normalised, valid = np.zeros(image.shape[:2], np.float32), np.zeros(image.shape[:2], bool)
    normalised[first_row:], valid[first_row:] = _normalise(grey.astype(np.float32), blur_px, excluded)
    return RoadImage(normalised, valid, camera, first_row)


def _uniform(grey: np.ndarray, window_px: int) -> np.ndarray:
    """Pixels in windows without contrast, bool [H, W], of an image uint8 [H, W], except overexposed ones."""
    kernel = np.ones((window_px, window_px), np.uint8)
    darkest, brightest = cv2.erode(grey, kernel), cv2.dilate(grey, kernel)
    flat = (brightest - darkest <= _UNIFORM_RANGE) & (brightest < _SATURATED)
    return cv2.dilate(flat.astype(np.uint8), kernel) > 0 if flat.any() else flat


def _normalise(grey: np.ndarray, blur_px: float, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised brightness [H, W] and valid pixels [H, W]; both 0 at and around excluded pixels."""
    weight = (~excluded).astype(np.float32) if excluded.any() else None
    window = _WINDOW_BLURS * blur_px
    grey = _weighted(lambda values: cv2.GaussianBlur(values, (0, 0), blur_px), grey, weight)
    difference = grey - _weighted(lambda values: _wide_blur(values, window), grey, weight)
    # sums that cancel leave a variance slightly below zero where the image is uniform
    variance = np.maximum(_weighted(lambda values: _wide_blur(values, window), difference * difference, weight), 0.0)
    valid = variance > _MIN_CONTRAST**2
    if weight is not None:
        margin = int(np.ceil(3.0 * blur_px)) + _SUPPORT_PX
        valid &= cv2.erode(weight, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)) > 0
    return np.where(valid, difference / (np.sqrt(variance) + _CONTRAST_FLOOR), np.float32(0.0)), valid


def _weighted(smooth: Callable[[np.ndarray], np.ndarray], values: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Smooth ``values``; with a weight the mean over the pixels of weight 1 (normalised convolution)."""
    if weight is None:
        return smooth(values)
    return smooth(values * weight) / np.maximum(smooth(weight), 1e-3)


def _wide_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    size = _box_px(sigma)
    return cv2.blur(cv2.blur(image, (size, size)), (size, size))


def _box_px(sigma: float) -> int:
    """Side of the box that, applied twice, has about the standard deviation ``sigma``."""
    return 2 * int(sigma * 1.75) + 1
