"""Classification of the cells ahead into road and not road.

Moving objects are masked by :mod:`metric_slam.graph.moving_mask`. Parked cars, kerbs and walls are separated from the
road by one quantity that needs no metres: the height of the camera above the point that a cell shows,

    height = (n . ray) / inverse depth        (n: the road's unit normal, pointing down),

which is the same for all cells of a flat road, smaller for objects that stand on it, and larger where a moving object
has distorted the matches of the cells around it.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from metric_slam.geometry.camera import PinholeCamera

_ABOVE, _BELOW = 0.75, 1.5
"""Multiples of the road's height between which a cell may be road."""

_HORIZON = 0.03
"""Slope of a ray against the road below which it meets the road beyond 33 heights, too far to have a depth."""

_BIN = 0.05
_SMOOTHING = np.array([0.25, 0.5, 1.0, 0.5, 0.25])
"""Histogram over log(height): width of its bins, and the kernel that smooths them."""

_MIN_CELLS = 30
"""Fewest cells in which the height of the road can be found."""


class RoadCells(NamedTuple):
    """The cells of a keyframe in the corridor ahead."""

    free: np.ndarray
    """Cells that may show road, bool [h, w]; the neighbours of cells that do not are excluded."""

    hidden: float
    """Share of the inner corridor that moving objects hide."""

    inv_depth: np.ndarray
    """Inverse depth of the road plane in every cell, float64 [h, w]; 0 where the cell's ray does not meet it."""


def classify_cells(
    inv_depth: np.ndarray,
    moving: np.ndarray,
    grid: PinholeCamera,
    normal: np.ndarray,
    *,
    inner: float,
    depths: tuple[float, float],
    heights: tuple[float, float],
) -> RoadCells | None:
    """Classify the cells of a keyframe by the height of the camera above them.

    ``inv_depth`` [h, w] in any unit; ``moving`` bool [h, w]; ``normal`` [3] of the road in camera axes. ``inner``, half
    the width of the corridor, and ``depths``, its nearest and farthest point, are multiples of the camera's height.
    ``heights`` are the limits between which the road is searched, in the unit of the depths. None where too few cells
    lie there.
    """
    rays = grid.rays()
    slope = rays @ normal
    ahead = (slope > 1.0 / depths[1]) & (slope < 1.0 / depths[0])
    height = slope / np.maximum(inv_depth, 1e-9)
    road = _road_height(height[ahead & ~moving], heights)
    if road is None:
        return None
    near = ahead & (np.abs(rays[..., 0]) < inner * slope)
    hidden = float(moving[near].mean()) if near.any() else 0.0
    taken = moving | (ahead & ((height < _ABOVE * road) | (height > _BELOW * road)))
    free = cv2.erode((~taken).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return RoadCells(free & ahead, hidden, np.where(slope > _HORIZON, slope / road, 0.0))


def _road_height(heights: np.ndarray, limits: tuple[float, float]) -> float | None:
    """Mode of the heights between ``limits``; None for too few."""
    inside = heights[(heights > limits[0]) & (heights < limits[1])]
    if len(inside) < _MIN_CELLS:
        return None
    edges = np.arange(np.log(limits[0]) - _BIN, np.log(limits[1]) + 2 * _BIN, _BIN)
    counts, _ = np.histogram(np.log(inside), edges)
    smooth = np.convolve(counts, _SMOOTHING, mode="same")
    best = int(np.argmax(smooth))
    return float(np.exp(edges[best] + 0.5 * _BIN))
