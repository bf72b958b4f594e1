"""The solver on a CUDA device: what lies there already is used there, the rest is uploaded once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.geometry.cuda_kernels import CudaKernels
from metric_slam.geometry.grid_array import Array, GridArray, on_host
from metric_slam.optimization.bundle_adjustment import BaReport, BaWindow, reproject_on_cuda, solve_window
from metric_slam.optimization.cuda.arrays import CudaArrays
from metric_slam.optimization.frame_distance import frame_distance
from metric_slam.optimization.solver import PER_AXIS_CHANNELS, TARGET_CHANNELS, subsampled_shape
from metric_slam.optimization.view_consistency import count_views_relative


class CudaSolver:
    """Bundle adjustment, reprojection and distances by the CUDA kernels; follows ``optimization.solver.Solver``."""

    def __init__(self, config: BundleAdjustmentConfig, kernels: CudaKernels, name: str = "CUDA") -> None:
        self.name = name
        self._config, self._kernels = config, kernels
        self._arrays = CudaArrays(kernels)

    def solve(
        self,
        window: BaWindow,
        *,
        iterations: int | None = None,
        motion_only: bool = False,
        tight_convergence: bool = False,
    ) -> tuple[BaWindow, BaReport]:
        """See :class:`metric_slam.optimization.solver.Solver`."""
        return solve_window(
            window,
            self._config,
            iterations=iterations,
            motion_only=motion_only,
            tight_convergence=tight_convergence,
            cuda=self._kernels,
        )

    def reproject(
        self, poses: np.ndarray, inv_depth: Array, intrinsics: np.ndarray, source: np.ndarray, target: np.ndarray
    ) -> Array:
        """See :class:`metric_slam.optimization.solver.Solver`."""
        return reproject_on_cuda(self._kernels, poses, inv_depth, intrinsics, source, target)[0]

    def frame_distance(
        self, poses: np.ndarray, inv_depth: Array, intrinsics: np.ndarray, pairs: np.ndarray, translation_weight: float
    ) -> np.ndarray:
        """See :class:`metric_slam.optimization.solver.Solver`."""
        return frame_distance(
            poses,
            inv_depth,
            intrinsics,
            pairs[:, 0],
            pairs[:, 1],
            translation_weight=translation_weight,
            cuda=self._kernels,
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
        """See :class:`metric_slam.optimization.solver.Solver`."""
        return count_views_relative(
            poses,
            inv_depth,
            intrinsics,
            keyframes,
            pairs[:, 0],
            pairs[:, 1],
            max_relative_error,
            cuda=self._kernels,
        )

    def held(self, array: Array) -> Array:
        """See :class:`metric_slam.optimization.solver.Solver`."""
        return self._kernels.upload(array)

    def filled(self, shape: tuple[int, ...], value: float) -> Array:
        """See :class:`metric_slam.optimization.solver.Solver`."""
        return torch.full(shape, value, dtype=torch.float64, device=self._kernels.device)

    def stack(self, arrays: Sequence[GridArray], cell_step: int = 1) -> Array:
        """See :class:`metric_slam.optimization.solver.Solver`."""
        return self._arrays.stacked(arrays, cell_step)

    def stack_matches(self, matches: Sequence[GridArray], cell_step: int, size: tuple[int, int]) -> tuple[Array, Array]:
        """See :class:`metric_slam.optimization.solver.Solver`; float32, and matches from the disk go up together."""
        offset = cell_step // 2
        step = slice(offset, None, cell_step)
        shape = subsampled_shape(size, cell_step)
        stacked = torch.empty(len(matches), *shape, PER_AXIS_CHANNELS, dtype=torch.float32, device=self._kernels.device)
        here = [e for e, edge in enumerate(matches) if isinstance(edge, Tensor)]
        read = [e for e, edge in enumerate(matches) if not isinstance(edge, Tensor)]
        if here:
            there = torch.stack([_per_axis(self._arrays.of(matches[e]))[step, step] for e in here])
            stacked = stacked.index_copy_(0, self._kernels.upload(np.array(here)), there) if read else there
        if read:
            found = np.empty((len(read), *shape, PER_AXIS_CHANNELS), np.float32)
            for n, e in enumerate(read):
                cells = on_host(matches[e])[step, step]
                found[n, ..., :TARGET_CHANNELS] = cells[..., :TARGET_CHANNELS]
                found[n, ..., TARGET_CHANNELS:] = cells[..., TARGET_CHANNELS:]
            stacked.index_copy_(0, self._kernels.upload(np.array(read)), self._kernels.upload(found))
        target, confidence = stacked[..., :TARGET_CHANNELS], stacked[..., TARGET_CHANNELS:]
        if cell_step > 1:
            target = (target - offset) / cell_step
        return target.contiguous(), confidence.contiguous()

    def remember(self, host: np.ndarray, solved: Array) -> None:
        """See :class:`metric_slam.optimization.solver.Solver`."""
        if isinstance(solved, Tensor):
            self._arrays.remember(host, solved.clone())  # a view would keep the whole window on the device


def _per_axis(matches: Tensor) -> Tensor:
    """[h, w, 4] of [h, w, 3 or 4]."""
    if matches.shape[-1] == PER_AXIS_CHANNELS:
        return matches
    return torch.cat([matches, matches[..., TARGET_CHANNELS:]], dim=-1)
