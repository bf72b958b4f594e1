"""The canonical camera: conversion of an image of any camera to a network's input, and of its output to metres.

A near small object and a far large one look the same in one image unless the focal length is known. So
Metric3D (Yin et al., ICCV 2023, section 3) learns depth as it would be for one canonical focal length, 1000 pixels, and
depth is scaled by the true one: either the label is scaled and the image left alone (CSTM_label), or the image is
resized to the canonical focal length and the label left alone (CSTM_image). The released networks combine both: an
image is resized to the network's input, which changes its focal length, and the focal length *of the resized
image* scales the output (hubconf.py and mono/utils/do_test.py of github.com/YvanYin/Metric3D).

The focal length has to be that of the image itself. Cropping does not change it; the network was trained on centred and
cropped images alike, so the principal point plays no part.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.errors import CalibrationError
from metric_slam.geometry.camera import PinholeCamera

CANONICAL_FOCAL_PX = 1000.0
MAX_DEPTH_M = 300.0
"""Metres beyond which the released inference cuts off."""

MEAN_RGB = np.array([123.675, 116.28, 103.53], np.float32)
STD_RGB = np.array([58.395, 57.12, 57.375], np.float32)

_MAX_PIXEL_ASPECT = 2.0
"""Pixels more oblong than this come from a wrong calibration, not from a camera."""

_ROUNDING = 1e-6
"""Tolerance, so that a side of exactly the input's size does not lose a pixel to binary fractions."""


@dataclass(frozen=True)
class CanonicalView:
    """Place of the images of one camera in a network's input: resized with square pixels, padded on both sides."""

    camera: PinholeCamera
    """Of the original image."""

    input_size: tuple[int, int]
    """(width, height) of the network's input, pixels."""

    resized: tuple[int, int]
    """(width, height) of the image within it, pixels."""

    focal_px: float
    """Focal length of the resized image."""

    @property
    def left_top(self) -> tuple[int, int]:
        """Where the image begins in the input: (columns before it, rows above it)."""
        return (self.input_size[0] - self.resized[0]) // 2, (self.input_size[1] - self.resized[1]) // 2

    @property
    def metres_per_canonical(self) -> float:
        """Factor from the network's depth to metres."""
        return self.focal_px / CANONICAL_FOCAL_PX

    def network_image(self, image: np.ndarray) -> np.ndarray:
        """The input for the network, normalised float32 [3, h, w], of an RGB image uint8 [H, W, 3].

        Raises CalibrationError where the image is not of the camera's size.
        """
        height, width = image.shape[:2]
        if (width, height) != self.camera.size:
            raise CalibrationError(
                f"an image of {width}x{height} pixels with the calibration of one of {self.camera.width}x"
                f"{self.camera.height}: metric depth needs the focal length of the very image"
            )
        small = cv2.resize(image, self.resized, interpolation=cv2.INTER_LINEAR)
        left, top = self.left_top
        right = self.input_size[0] - self.resized[0] - left
        bottom = self.input_size[1] - self.resized[1] - top
        colour = tuple(float(c) for c in MEAN_RGB)
        padded = cv2.copyMakeBorder(small, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour)
        return np.ascontiguousarray(((padded - MEAN_RGB) / STD_RGB).transpose(2, 0, 1), dtype=np.float32)

    def image_map(self, network_map: np.ndarray) -> np.ndarray:
        """A map [h, w] of the network's input as one of the original image, float32 [H, W]: cut out and resized."""
        assert network_map.shape == self.input_size[::-1], (network_map.shape, self.input_size)
        left, top = self.left_top
        inner = network_map[top : top + self.resized[1], left : left + self.resized[0]]
        return cv2.resize(np.ascontiguousarray(inner, np.float32), self.camera.size, interpolation=cv2.INTER_LINEAR)

    def depth_m(self, canonical_depth: np.ndarray) -> np.ndarray:
        """Metric depth of the original image, float32 [H, W] in 0..300 m, from the network's [h, w]."""
        return np.clip(self.image_map(canonical_depth) * np.float32(self.metres_per_canonical), 0.0, MAX_DEPTH_M)


def canonical_view(camera: PinholeCamera, input_size: tuple[int, int]) -> CanonicalView:
    """The view of ``camera`` that fits into an input of ``input_size`` (width, height).

    Oblong pixels are made square by the resizing, so that one focal length holds for both axes.

    Raises CalibrationError for a camera whose numbers cannot be those of its image.
    """
    aspect = camera.fx / camera.fy
    if not 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT:
        raise CalibrationError(f"fx {camera.fx:g} and fy {camera.fy:g} differ by more than any camera's: check them")
    if not (-0.5 <= camera.cx <= camera.width - 0.5 and -0.5 <= camera.cy <= camera.height - 0.5):
        raise CalibrationError(
            f"principal point ({camera.cx:g}, {camera.cy:g}) outside the image of {camera.width}x{camera.height}: "
            "is it the calibration of another size?"
        )
    width, height = float(camera.width), camera.height * aspect
    scale = min(input_size[0] / width, input_size[1] / height)
    resized = tuple(max(1, int(side * scale + _ROUNDING)) for side in (width, height))
    return CanonicalView(camera, input_size, (resized[0], resized[1]), camera.fx * scale)


def cstm_label(depth_m: np.ndarray, focal_px: float) -> np.ndarray:
    """Depth for the canonical focal length, of a label in metres whose image has ``focal_px`` and stays as it is."""
    return depth_m * (CANONICAL_FOCAL_PX / focal_px)


def metres_from_label(canonical_depth: np.ndarray, focal_px: float) -> np.ndarray:
    """Invert :func:`cstm_label`."""
    return canonical_depth * (focal_px / CANONICAL_FOCAL_PX)


def cstm_image(image: np.ndarray, depth_m: np.ndarray | None, focal_px: float) -> tuple[np.ndarray, np.ndarray | None]:
    """An image [H, W, 3] resized to the canonical focal length, and its label [H, W], whose metres stay metres.

    Labels are sampled, not mixed: a mean across an edge is a depth where nothing is.
    """
    ratio = CANONICAL_FOCAL_PX / focal_px
    size = max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    label = None if depth_m is None else cv2.resize(depth_m, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return resized, label
