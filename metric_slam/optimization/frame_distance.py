"""Distance of keyframes in the image: the mean length of the flow that their relative motion induces.

Python interface of the kernel ``frame_distance`` in thirdparty/droid_backends, with which DROID-SLAM chooses its edges
and drops keyframes (``depth_video.py:distance`` and ``frame_distance_kernel`` there). Computed from poses and inverse
depths alone. Reference implementation: :mod:`metric_slam.optimization.reference.frame_distance`.
"""

from __future__ import annotations

import droid_backends as native
import numpy as np
import torch
from torch import Tensor

from metric_slam.geometry.cuda_kernels import CudaKernels

UNSEEN_DISTANCE = 1000.0
"""Distance one way where less than three quarters of the pixels lie in front of the other camera."""


def frame_distance(
    poses: np.ndarray | Tensor,
    inv_depth: np.ndarray | Tensor,
    intrinsics: np.ndarray,
    source: np.ndarray | Tensor,
    target: np.ndarray | Tensor,
    translation_weight: float = 0.7,
    bidirectional: bool = True,
    *,
    cuda: CudaKernels | None = None,
) -> np.ndarray:
    """Mean induced flow of P pairs of keyframes, in grid cells, float64 [P].

    A weighted mean of the flow under the full motion and of the flow under its translation alone, because a rotation
    in place brings no parallax.

    Args:
        poses: T_cam_world (t, q_xyzw), float64 [N, 7].
        inv_depth: 1/m, float64 [N, h, w].
        intrinsics: fx, fy, cx, cy in grid cells, float64 [4].
        source, target: keyframes of the pairs, integers [P].
        translation_weight: share of the flow under translation alone, 0..1. DROID-SLAM's beta is the share of the
            full motion: its default 0.3 is 0.7 here.
        bidirectional: the mean of both directions, instead of source to target.
        cuda: CUDA kernels to use; arrays may then be tensors on their device.

    Returns:
        One way, :data:`UNSEEN_DISTANCE` where too little of the source is in front of the target's camera; with
        ``bidirectional`` that enters the mean.
    """
    if cuda is not None:
        found = torch.empty(len(source), dtype=torch.float64, device=cuda.device)
        cuda.call(
            "frame_distance",
            cuda.upload(poses, torch.float64),
            cuda.upload(inv_depth, torch.float64),
            np.ascontiguousarray(intrinsics, dtype=np.float64),
            *(cuda.indices(numbers, len(poses)) for numbers in (source, target)),
            found,
            translation_weight=translation_weight,
            bidirectional=bidirectional,
        )
        return found.cpu().numpy()
    distance = np.empty(len(source))
    native.frame_distance(
        np.ascontiguousarray(poses, dtype=np.float64),
        np.ascontiguousarray(inv_depth, dtype=np.float64),
        np.ascontiguousarray(intrinsics, dtype=np.float64),
        np.ascontiguousarray(source, dtype=np.int64),
        np.ascontiguousarray(target, dtype=np.int64),
        distance,
        translation_weight=translation_weight,
        bidirectional=bidirectional,
    )
    return distance
