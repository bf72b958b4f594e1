"""Depth with the errors of a learned prior: mostly one common factor per image plus a slow field."""

from __future__ import annotations

import cv2
import numpy as np

FIELD_CELLS_X = 5
"""Cells of the slow field across the image's width: errors of networks are correlated over whole objects."""


def degrade_depth(
    depth_m: np.ndarray, seed: int | np.random.Generator, *, smooth_sigma: float = 0.10, frame_sigma: float = 0.03
) -> np.ndarray:
    """Multiply exact depth by errors: exp(frame_sigma n) for the image, exp(smooth field) for its parts.

    ``depth_m`` float [H, W] metres, 0 where unknown (kept); ``smooth_sigma`` is the deviation of the low-frequency
    log-error over places, ``frame_sigma`` that of the common one over images. The same integer ``seed`` gives the same
    errors, so use another one for every frame. Returns float32 [H, W].
    """
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)
    height, width = depth_m.shape
    common = frame_sigma * rng.standard_normal()
    rows = max(2, round(FIELD_CELLS_X * height / width)) + 3
    coarse = rng.standard_normal((rows, FIELD_CELLS_X + 3)).astype(np.float32)
    cell = width / FIELD_CELLS_X
    # positions between the inner nodes; bilinear weights reduce the variance, which is put back below
    x = 1 + np.arange(width, dtype=np.float32) / cell
    y = 1 + np.arange(height, dtype=np.float32) / cell
    map_x, map_y = np.meshgrid(x, y)
    field = cv2.remap(coarse, map_x, map_y, cv2.INTER_LINEAR)
    wx, wy = map_x % 1, map_y % 1
    field = field / np.sqrt((wx**2 + (1 - wx) ** 2) * (wy**2 + (1 - wy) ** 2))
    return (depth_m * np.exp(common + smooth_sigma * field)).astype(np.float32)
