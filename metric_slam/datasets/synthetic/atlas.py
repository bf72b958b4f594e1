"""One big texture for everything, with mip levels and anisotropic sampling, so that nothing shimmers.

Flow and photometric tests need the rendered image to be the integral over each pixel's footprint. Mip levels
(Williams, Pyramidal Parametrics, SIGGRAPH 1983) do that for round footprints; for the long ones of a road seen at a
grazing angle, several taps along the long axis are averaged (as graphics hardware does).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

ALIGNMENT = 64
"""Textures start at multiples of this, so that they do not mix in the first log2(64) mip levels."""

LEVELS = 7
ATLAS_WIDTH = 8192
MAX_TAPS = 8
_MIP_ROWS = 16 * ALIGNMENT  # rows reduced at once: bounds the memory
_REMAP_ROW = 4096  # cv2.remap takes at most 32767 columns


@dataclass
class AtlasBuilder:
    """Collects textures and packs them in shelves of equal height."""

    images: list[np.ndarray] = field(default_factory=list)
    corners: list[tuple[int, int]] = field(default_factory=list)
    _height: int = 0
    _shelves: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # padded height -> ends (x, y) of shelves

    def add(self, image: np.ndarray) -> tuple[int, int, int, int]:
        """Add a texture, uint8 [h, w, 3] RGB; returns its rectangle (x0, y0, x1, y1) in texels of the atlas."""
        height, width = image.shape[:2]
        assert width <= ATLAS_WIDTH, width
        padded_w, padded_h = (-(-n // ALIGNMENT) * ALIGNMENT for n in (width, height))
        shelves = self._shelves.setdefault(padded_h, [])
        fitting = [k for k, (x, _) in enumerate(shelves) if x + padded_w <= ATLAS_WIDTH]
        if not fitting:
            fitting = [len(shelves)]
            shelves.append((0, self._height))
            self._height += padded_h
        x, y = shelves[fitting[0]]
        shelves[fitting[0]] = (x + padded_w, y)
        self.images.append(image)
        self.corners.append((x, y))
        return x, y, x + width, y + height

    def build(self) -> Atlas:
        """The finished texture with its mip levels."""
        assert self._height < 32767, self._height
        base = np.zeros((self._height, ATLAS_WIDTH, 3), np.uint8)
        for image, (x, y) in zip(self.images, self.corners, strict=True):
            pad_h, pad_w = (-image.shape[0] % ALIGNMENT, -image.shape[1] % ALIGNMENT)
            padded = cv2.copyMakeBorder(image, 0, pad_h, 0, pad_w, cv2.BORDER_REPLICATE)
            base[y : y + padded.shape[0], x : x + padded.shape[1]] = padded
        levels = [base]
        levels += [np.empty((base.shape[0] >> k, ATLAS_WIDTH >> k, 3), np.uint8) for k in range(1, LEVELS)]
        for top in range(0, self._height, _MIP_ROWS):
            part: np.ndarray = base[top : top + _MIP_ROWS].astype(np.float32)
            for k in range(1, LEVELS):  # in float, so that roundings do not add up to a brighter level
                part = cv2.resize(part, (part.shape[1] // 2, part.shape[0] // 2), interpolation=cv2.INTER_AREA)
                levels[k][top >> k : (top >> k) + part.shape[0]] = np.rint(part)
        return Atlas(levels)


@dataclass(frozen=True)
class Atlas:
    """Mip levels, uint8 [h, w, 3] each; level k has texels of 2^k by 2^k."""

    levels: list[np.ndarray]

    def sample(self, uv: np.ndarray, rect: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
        """Colours averaged over footprints, float32 [M, 3] in 0..255.

        ``uv`` [M, 2]: positions in texels (edges of texels at integers); ``rect`` [M, 4]: the texture's bounds, which
        are never left; ``du``, ``dv`` [M, 2]: how far the position moves for one step in x and y of the image.
        """
        length_u, length_v = np.hypot(du[:, 0], du[:, 1]), np.hypot(dv[:, 0], dv[:, 1])
        major = np.where((length_u >= length_v)[:, None], du, dv)
        long, short = np.maximum(length_u, length_v), np.minimum(length_u, length_v)
        ratio = long / np.maximum(np.maximum(short, 1.0), 1e-3)
        taps_log2 = np.clip(np.ceil(np.log2(np.maximum(ratio, 1.0)) - 0.25), 0, np.log2(MAX_TAPS)).astype(np.int32)
        footprint = np.maximum(long / 2.0**taps_log2, short)
        lod = np.clip(np.log2(np.maximum(footprint, 1.0)), 0.0, LEVELS - 1.001).astype(np.float32)
        group = taps_log2 * LEVELS + lod.astype(np.int32)
        order = np.argsort(group, kind="stable")
        uv, rect, major, lod = uv[order], rect[order], major[order], lod[order]
        bounds = np.searchsorted(group[order], np.arange((int(np.log2(MAX_TAPS)) + 1) * LEVELS + 1))
        colours = np.empty((len(uv), 3), np.float32)
        for number, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            if a < b:
                taps, level = 1 << (number // LEVELS), number % LEVELS
                colours[a:b] = self._taps(uv[a:b], rect[a:b], major[a:b], lod[a:b] - level, level, taps)
        result = np.empty_like(colours)
        result[order] = colours
        return result

    def _taps(
        self, uv: np.ndarray, rect: np.ndarray, major: np.ndarray, blend: np.ndarray, level: int, taps: int
    ) -> np.ndarray:
        total = np.zeros((len(uv), 3), np.float32)
        for k in range(taps):
            position = uv + major * ((k + 0.5) / taps - 0.5)
            fine, coarse = (self._bilinear(position, rect, level + up) for up in (0, 1))
            total += fine + blend[:, None] * (coarse - fine)
        return total / taps

    def _bilinear(self, uv: np.ndarray, rect: np.ndarray, level: int) -> np.ndarray:
        scale = np.float32(0.5**level)
        # half a texel inside the texture, so that no neighbour is mixed in
        low, high = rect[:, :2] * scale, rect[:, 2:] * scale - 1.0
        position = np.clip(uv * scale - 0.5, low, np.maximum(high, low)).astype(np.float32)
        count = len(position)
        rows = -(-count // _REMAP_ROW)
        padded = np.zeros((2, rows * _REMAP_ROW), np.float32)
        padded[:, :count] = position.T
        x, y = padded.reshape(2, rows, _REMAP_ROW)
        colours = cv2.remap(self.levels[level], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return colours.reshape(-1, 3)[:count].astype(np.float32)
