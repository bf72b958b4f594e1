"""Multi-view consistency: keeps a depth where other keyframes measured the same surface.

Place in the flow: between :mod:`metric_slam.reconstruction.dense_depth` and :mod:`metric_slam.reconstruction.fusion`.
A pixel's point is transformed into each neighbour and compared with the depth measured there. Three outcomes:
agreement, no information (outside the image, unknown, or occluded), and contradiction: the neighbour observes a surface
behind the point, so that the point lies in free space (Merrell et al., "Real-Time Visibility-Based Fusion of Depth
Maps", ICCV 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from metric_slam.errors import InputError
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.reconstruction.pair_flow import MIN_DEPTH_RATIO

MIN_BASELINE_FRACTION = 0.02
"""Neighbours nearer than this times the median depth repeat the same evidence."""

MAX_BASELINE_FRACTION = 1.0
"""Neighbours farther than this times the median depth rarely show the same surface."""


@dataclass(frozen=True)
class DepthView:
    """A depth map with its camera. Raises InputError unless their sizes agree and the pose is [4, 4]."""

    depth: np.ndarray
    """Along z in world units, float32 [H, W]; 0 where unknown."""

    camera: PinholeCamera
    T_world_cam: np.ndarray
    """float64 [4, 4]."""

    def __post_init__(self) -> None:
        shape = (self.camera.height, self.camera.width)
        if self.depth.shape != shape:
            raise InputError(f"depth has shape {self.depth.shape}, expected {shape} as its camera has")
        if self.T_world_cam.shape != (4, 4):
            raise InputError(f"T_world_cam has shape {self.T_world_cam.shape}, expected (4, 4)")

    @property
    def centre(self) -> np.ndarray:
        """Optical centre in the world, float64 [3]."""
        return self.T_world_cam[:3, 3]


@dataclass(frozen=True)
class Agreement:
    """Number of neighbours that agree with each pixel of a depth map, or contradict it; both uint8 [H, W]."""

    agreeing: np.ndarray
    contradicting: np.ndarray


@lru_cache(maxsize=2)
def rays_of(camera: PinholeCamera) -> np.ndarray:
    """Viewing rays with z = 1, float32 [H, W, 3]; cached, since all keyframes of a run share their camera."""
    return camera.rays().astype(np.float32)


def select_neighbours(view: DepthView, candidates: Sequence[DepthView], count: int) -> list[DepthView]:
    """Choose up to ``count`` candidates with a useful baseline, spread evenly over the available baselines."""
    known = view.depth[view.depth > 0]
    if known.size == 0:
        return []
    median_depth = float(np.median(known[:: max(1, known.size // 10_000)]))
    baselines = np.array([np.linalg.norm(c.centre - view.centre) for c in candidates])
    useful = (baselines > MIN_BASELINE_FRACTION * median_depth) & (baselines < MAX_BASELINE_FRACTION * median_depth)
    order = [i for i in np.argsort(baselines) if useful[i]]
    picks = sorted({round(x) for x in np.linspace(0, len(order) - 1, min(count, len(order)))})
    return [candidates[order[i]] for i in picks]


def check_agreement(view: DepthView, neighbours: Sequence[DepthView], max_relative_error: float) -> Agreement:
    """Count, for every pixel of ``view``, the neighbours that agree with its depth and those that contradict it."""
    agreeing = np.zeros(view.depth.shape, np.uint8)
    contradicting = np.zeros(view.depth.shape, np.uint8)
    rays = rays_of(view.camera)
    for neighbour in neighbours:
        T = np.linalg.inv(neighbour.T_world_cam) @ view.T_world_cam
        rotated = rays @ T[:3, :3].T.astype(np.float32)
        x, y, expected = (view.depth * rotated[..., i] + np.float32(T[i, 3]) for i in range(3))
        in_front = (view.depth > 0) & (expected > MIN_DEPTH_RATIO * view.depth)
        z = np.where(in_front, expected, 1.0)
        camera = neighbour.camera
        u = np.where(in_front, camera.fx * x / z + camera.cx, -10.0).astype(np.float32)
        v = np.where(in_front, camera.fy * y / z + camera.cy, -10.0).astype(np.float32)
        measured = cv2.remap(neighbour.depth, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        known = (measured > 0) & in_front
        agreeing += known & (np.abs(measured - z) <= max_relative_error * z)
        contradicting += known & (measured > z * (1 + 2 * max_relative_error))
    return Agreement(agreeing, contradicting)


def filter_depth(
    view: DepthView,
    neighbours: Sequence[DepthView],
    *,
    min_views: int,
    max_relative_error: float,
    max_depth: float,
) -> np.ndarray:
    """Keep the depth of ``view`` where ``min_views`` neighbours and more than contradict agree, up to ``max_depth``.

    Returns float32 [H, W], 0 elsewhere; all 0 with fewer than ``min_views`` neighbours.
    """
    agreement = check_agreement(view, neighbours, max_relative_error)
    keep = (agreement.agreeing >= min_views) & (agreement.agreeing > agreement.contradicting)
    keep &= view.depth <= max_depth
    depth = np.where(keep, view.depth, 0).astype(np.float32)
    return _drop_speckles(depth, max_relative_error)


def _drop_speckles(depth: np.ndarray, max_relative_error: float, min_pixels: int = 60) -> np.ndarray:
    """Remove islands of fewer than ``min_pixels`` connected pixels of similar depth (on the logarithm of the depth)."""
    steps = 8
    known = depth > 0
    if not known.any():
        return np.zeros_like(depth, np.float32)
    nearest = float(depth[known].min())
    levels = np.log(np.where(known, depth, nearest) / nearest) / np.log1p(max_relative_error) * steps
    levels = np.where(known, np.minimum(np.rint(levels), 32000), -32000).astype(np.int16)
    cv2.filterSpeckles(levels, -32000, min_pixels, steps)
    return np.where(levels > -32000, depth, 0).astype(np.float32)
