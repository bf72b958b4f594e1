"""Checked depth maps on the disk between the passes of the fusion: 4 bytes a pixel, removed with their folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metric_slam.errors import OutputError
from metric_slam.reconstruction.consistency import DepthView
from metric_slam.reconstruction.dense_stream import CheckedDepth
from metric_slam.reconstruction.images import KeyframeImages
from metric_slam.reconstruction.surface import MIN_SLANT, Surface, SurfaceGeometry
from metric_slam.result import KeyframeResult

SIGMA_LIMIT = 0.25
"""Largest relative depth sigma that the 8 bit side image of a stored depth can hold."""

SLANT_STEPS = 64
"""Steps of a stored slant per factor of e."""


class DepthFiles:
    """Stores the depth map of a keyframe and what the fusion derives from it as small integers, one file each.

    Depths are stored as 16 bit shares of ``max_depth`` (world units), which no depth may exceed.
    """

    def __init__(self, folder: Path, keyframes: list[KeyframeResult], max_depth: float) -> None:
        self._folder, self._keyframes, self._max_depth = folder, keyframes, max_depth

    def store_depth(self, checked: CheckedDepth) -> None:
        """Store depth and relative sigma of a keyframe. Raises OutputError where that fails."""
        depth = np.round(checked.view.depth * (65535 / self._max_depth)).astype(np.uint16)
        sigma = np.round(np.minimum(checked.relative_sigma, SIGMA_LIMIT) * (255 / SIGMA_LIMIT)).astype(np.uint8)
        self._write(checked.position, "depth", depth)
        self._write(checked.position, "sigma", sigma)

    def store_surface(self, position: int, surface: SurfaceGeometry) -> None:
        """Store slant and weight of a keyframe whose depth is stored. Raises OutputError where that fails."""
        self._write(position, "slant", np.round(np.log(surface.slant / MIN_SLANT) * SLANT_STEPS).astype(np.uint8))
        self._write(position, "weight", np.ceil(surface.weight * 255).astype(np.uint8))

    def view(self, position: int) -> DepthView:
        """The stored depth of a keyframe with its camera."""
        keyframe = self._keyframes[position]
        depth = self._read(position, "depth") * np.float32(self._max_depth / 65535)
        return DepthView(depth, keyframe.camera, np.asarray(keyframe.T_world_cam, np.float64))

    def relative_sigma(self, position: int) -> np.ndarray:
        """The stored relative sigma of a keyframe, float32 [H, W], at most ``SIGMA_LIMIT``."""
        return self._read(position, "sigma") * np.float32(SIGMA_LIMIT / 255)

    def surface(self, position: int, images: KeyframeImages) -> Surface:
        """The stored surface of a keyframe with its colours."""
        slant = MIN_SLANT * np.exp(self._read(position, "slant") / SLANT_STEPS)
        weight = self._read(position, "weight") * np.float32(1 / 255)
        return Surface(self.view(position), images[position], slant, weight)

    def _write(self, position: int, kind: str, picture: np.ndarray) -> None:
        path = self._folder / f"{position:06d}.{kind}.npy"
        try:
            np.save(path, picture)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error}); is the disk full?") from error

    def _read(self, position: int, kind: str) -> np.ndarray:
        path = self._folder / f"{position:06d}.{kind}.npy"
        try:
            return np.load(path).astype(np.float32)
        except OSError as error:
            raise OutputError(f"{path}: vanished while the map was being fused; run again") from error
