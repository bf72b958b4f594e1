"""The one door to the solver: bundle adjustment and the geometry around it, on the CPU or on a CUDA device.

Which of the two runs is decided once, in :mod:`metric_slam.choices`. Whoever holds a solver hands it arrays wherever
they lie (memory, device or disk) and never asks where it works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.geometry.grid_array import Array, GridArray, on_host
from metric_slam.optimization.bundle_adjustment import BaReport, BaWindow, reproject, solve_window
from metric_slam.optimization.frame_distance import frame_distance
from metric_slam.optimization.view_consistency import count_views_relative

TARGET_CHANNELS, PER_AXIS_CHANNELS = 2, 4
"""Channels of a match's target (x, y), and of matches with one confidence per axis."""


class Solver(Protocol):
    """Dense bundle adjustment and reprojection; grids [N, h, w] it returns lie where it works."""

    name: str
    """What solves, in words."""

    def solve(
        self,
        window: BaWindow,
        *,
        iterations: int | None = None,
        motion_only: bool = False,
        tight_convergence: bool = False,
    ) -> tuple[BaWindow, BaReport]:
        """Optimise a window; see :func:`metric_slam.optimization.bundle_adjustment.solve_window`."""
        ...

    def reproject(
        self, poses: np.ndarray, inv_depth: Array, intrinsics: np.ndarray, source: np.ndarray, target: np.ndarray
    ) -> Array:
        """Where the cells of every edge's source lie in its target, float64 [E, h, w, 2]."""
        ...

    def frame_distance(
        self, poses: np.ndarray, inv_depth: Array, intrinsics: np.ndarray, pairs: np.ndarray, translation_weight: float
    ) -> np.ndarray:
        """Mean induced flow of keyframe pairs [P, 2], grid cells, float64 [P]."""
        ...

    def count_consistent_views(
        self,
        poses: np.ndarray,
        inv_depth: Array,
        intrinsics: np.ndarray,
        keyframes: np.ndarray,
        pairs: np.ndarray,
        max_relative_error: float | np.ndarray,
    ) -> np.ndarray:
        """Number of paired views whose depth agrees with each cell, int32 [K, h, w]."""
        ...

    def held(self, array: Array) -> Array:
        """The array where this solver reads it fastest; what is kept of a match between solves."""
        ...

    def filled(self, shape: tuple[int, ...], value: float) -> Array:
        """A float64 array of one value."""
        ...

    def stack(self, arrays: Sequence[GridArray], cell_step: int = 1) -> Array:
        """Every ``cell_step``-th row and column of arrays [h, w, ...], stacked [N, h', w', ...]; a copy."""
        ...

    def stack_matches(self, matches: Sequence[GridArray], cell_step: int, size: tuple[int, int]) -> tuple[Array, Array]:
        """Targets and confidences [E, h', w', 2] of every ``cell_step``-th cell, in units of such cells.

        ``size``: width and height of the full grid, which an empty list does not tell.
        """
        ...

    def remember(self, host: np.ndarray, solved: Array) -> None:
        """Note that ``solved`` [h, w], which this solver returned, has the content of ``host``."""
        ...


class CpuSolver:
    """The C++ kernels; every array is numpy."""

    name = "C++ on the CPU"

    def __init__(self, config: BundleAdjustmentConfig) -> None:
        self._config = config

    def solve(
        self,
        window: BaWindow,
        *,
        iterations: int | None = None,
        motion_only: bool = False,
        tight_convergence: bool = False,
    ) -> tuple[BaWindow, BaReport]:
        """See :class:`Solver`."""
        return solve_window(
            window, self._config, iterations=iterations, motion_only=motion_only, tight_convergence=tight_convergence
        )

    def reproject(
        self, poses: np.ndarray, inv_depth: Array, intrinsics: np.ndarray, source: np.ndarray, target: np.ndarray
    ) -> Array:
        """See :class:`Solver`."""
        return reproject(poses, inv_depth, intrinsics, source, target)[0]

    def frame_distance(
        self, poses: np.ndarray, inv_depth: Array, intrinsics: np.ndarray, pairs: np.ndarray, translation_weight: float
    ) -> np.ndarray:
        """See :class:`Solver`."""
        return frame_distance(
            poses, inv_depth, intrinsics, pairs[:, 0], pairs[:, 1], translation_weight=translation_weight
        )

    def count_consistent_views(
        self,
        poses: np.ndarray,
        inv_depth: Array,
        intrinsics: np.ndarray,
        keyframes: np.ndarray,
        pairs: np.ndarray,
        max_relative_error: float | np.ndarray,
    ) -> np.ndarray:
        """See :class:`Solver`."""
        return count_views_relative(
            poses, inv_depth, intrinsics, keyframes, pairs[:, 0], pairs[:, 1], max_relative_error
        )

    def held(self, array: Array) -> Array:
        """See :class:`Solver`."""
        return array

    def filled(self, shape: tuple[int, ...], value: float) -> Array:
        """See :class:`Solver`."""
        return np.full(shape, value)

    def stack(self, arrays: Sequence[GridArray], cell_step: int = 1) -> Array:
        """See :class:`Solver`."""
        step = slice(cell_step // 2, None, cell_step)
        return np.stack([on_host(array)[step, step] for array in arrays])

    def stack_matches(self, matches: Sequence[GridArray], cell_step: int, size: tuple[int, int]) -> tuple[Array, Array]:
        """See :class:`Solver`."""
        offset = cell_step // 2
        step = slice(offset, None, cell_step)
        h, w = subsampled_shape(size, cell_step)
        target, confidence = np.empty((len(matches), h, w, 2)), np.empty((len(matches), h, w, 2))
        for e, edge in enumerate(matches):
            cells = on_host(edge)[step, step]
            target[e] = (cells[..., :TARGET_CHANNELS] - np.float32(offset)) / np.float32(cell_step)
            confidence[e] = cells[..., TARGET_CHANNELS:]
        return target, confidence

    def remember(self, host: np.ndarray, solved: Array) -> None:
        """See :class:`Solver`."""


def subsampled_shape(size: tuple[int, int], cell_step: int) -> tuple[int, int]:
    """Rows and columns that are left of a grid (width, height) when every ``cell_step``-th is taken."""
    step = slice(cell_step // 2, None, cell_step)
    return len(range(size[1])[step]), len(range(size[0])[step])
