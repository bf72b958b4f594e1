"""Number of views that agree with each depth of the grid.

Python interface of the kernel ``depth_filter`` in thirdparty/droid_backends, with which DROID-SLAM picks the points to
show (``depth_filter_kernel`` there). For depths of the 1/8 grid during a run; the dense depths of the map are checked
by :mod:`metric_slam.reconstruction.consistency`, which counts contradictions too. Reference implementation:
:mod:`metric_slam.optimization.reference.view_consistency`.
"""

from __future__ import annotations

import droid_backends as native
import numpy as np
import torch
from torch import Tensor

from metric_slam.geometry.cuda_kernels import CudaKernels, checked_numbers


def count_consistent_views(
    poses: np.ndarray | Tensor,
    inv_depth: np.ndarray | Tensor,
    intrinsics: np.ndarray,
    keyframes: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    max_depth_error_m: float | np.ndarray,
    *,
    cuda: CudaKernels | None = None,
) -> np.ndarray:
    """Number of neighbours whose depth agrees with that of each pixel, int32 [K, h, w].

    A pixel is projected into the neighbour, where one of the four cells around it must have the same depth up to
    ``max_depth_error_m``. Behind the camera, outside the grid, or where a depth is unknown, no view agrees.

    Args:
        poses: T_cam_world (t, q_xyzw), float64 [N, 7].
        inv_depth: 1/m, float64 [N, h, w]; 0 where unknown.
        intrinsics: fx, fy, cx, cy in grid cells, float64 [4].
        keyframes: whose pixels are counted, different integers [K].
        source, target: the pairs that count, integers [P]; every source is one of ``keyframes``.
        max_depth_error_m: depths may differ by this, one number or one a keyframe, [K].
        cuda: CUDA kernels to use; poses and inverse depths may then be tensors on their device.
    """
    scene = poses, inv_depth, intrinsics, keyframes, source, target
    return _count(*scene, max_depth_error_m, relative=False, cuda=cuda)


def count_views_relative(
    poses: np.ndarray | Tensor,
    inv_depth: np.ndarray | Tensor,
    intrinsics: np.ndarray,
    keyframes: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    max_relative_error: float | np.ndarray,
    *,
    cuda: CudaKernels | None = None,
) -> np.ndarray:
    """As :func:`count_consistent_views`, int32 [K, h, w], with a limit that is a share of each pixel's own depth."""
    scene = poses, inv_depth, intrinsics, keyframes, source, target
    return _count(*scene, max_relative_error, relative=True, cuda=cuda)


def _count(
    poses: np.ndarray | Tensor,
    inv_depth: np.ndarray | Tensor,
    intrinsics: np.ndarray,
    keyframes: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    max_error: float | np.ndarray,
    *,
    relative: bool,
    cuda: CudaKernels | None,
) -> np.ndarray:
    keyframes, source, target = (np.ascontiguousarray(a, dtype=np.int64) for a in (keyframes, source, target))
    intrinsics = np.ascontiguousarray(intrinsics, dtype=np.float64)
    limits = np.array(np.broadcast_to(np.asarray(max_error, dtype=np.float64), keyframes.shape))
    shape = (len(keyframes), *inv_depth.shape[1:])
    if cuda is None:
        count = np.empty(shape, np.int32)
        native.depth_filter(
            np.ascontiguousarray(poses, dtype=np.float64),
            np.ascontiguousarray(inv_depth, dtype=np.float64),
            intrinsics,
            keyframes,
            source,
            target,
            limits,
            count,
            relative=relative,
        )
        return count
    row_begin, order = _by_row(keyframes, source, len(poses))
    found = torch.empty(shape, dtype=torch.int32, device=cuda.device)
    cuda.call(
        "depth_filter",
        cuda.upload(poses, torch.float64),
        cuda.upload(inv_depth, torch.float64),
        intrinsics,
        cuda.upload(keyframes),
        cuda.upload(row_begin),
        cuda.indices(target[order], len(poses)),
        cuda.upload(limits),
        found,
        relative=relative,
    )
    return found.cpu().numpy()


def _by_row(keyframes: np.ndarray, source: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Order of the pairs by the row of their source, and where each row begins in it, [K + 1]; ValueError as the kernel
    for the CPU has it.
    """
    keyframes, source = (checked_numbers(numbers, count) for numbers in (keyframes, source))
    row_of = np.full(count, -1)
    row_of[keyframes] = np.arange(len(keyframes))
    if (row_of[keyframes] != np.arange(len(keyframes))).any():
        raise ValueError("keyframes names one twice")
    rows = row_of[source]
    if (rows < 0).any():
        raise ValueError("a pair starts at a keyframe that is not among keyframes")
    order = np.argsort(rows, kind="stable")
    return np.searchsorted(rows[order], np.arange(len(keyframes) + 1)).astype(np.int64), order
