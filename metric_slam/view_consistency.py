"""Which depths of the grid other keyframes confirm: the count of views that agree, pixel by pixel.

The documented surface of the kernel ``depth_filter`` in thirdparty/droid_backends, with which DROID-SLAM picks the
points worth showing (``depth_filter_kernel`` there). For depths of the 1/8 grid during a run; the dense depths of the
map are judged by :mod:`metric_slam.depth_filter`, which knows contradictions too. A slow torch version is
:mod:`metric_slam.geometry.view_consistency_twin`.
"""

from __future__ import annotations

import droid_backends as native
import numpy as np


def count_consistent_views(
    poses: np.ndarray,
    inv_depth: np.ndarray,
    intrinsics: np.ndarray,
    keyframes: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    max_depth_error_m: float | np.ndarray,
) -> np.ndarray:
    """Number of neighbours whose depth agrees with that of each pixel, int32 [K, h, w].

    A pixel is carried into the neighbour, where one of the four cells around its place must hold the same depth up to
    ``max_depth_error_m``. Behind the camera, outside the grid, or where a depth is unknown, nothing is confirmed.

    Args:
        poses: T_cam_world (t, q_xyzw), float64 [N, 7].
        inv_depth: 1/m, float64 [N, h, w]; 0 where unknown.
        intrinsics: fx, fy, cx, cy in grid cells, float64 [4].
        keyframes: whose pixels are counted, different integers [K].
        source, target: the pairs that count, integers [P]; every source is one of ``keyframes``.
        max_depth_error_m: depths may differ by this, one number or one a keyframe, [K].
    """
    keyframes = np.ascontiguousarray(keyframes, dtype=np.int64)
    limits = np.array(np.broadcast_to(np.asarray(max_depth_error_m, dtype=np.float64), keyframes.shape))
    count = np.empty((len(keyframes), *inv_depth.shape[1:]), np.int32)
    native.depth_filter(
        *(np.ascontiguousarray(a, dtype=np.float64) for a in (poses, inv_depth, intrinsics)),
        keyframes,
        *(np.ascontiguousarray(a, dtype=np.int64) for a in (source, target)),
        limits,
        count,
    )
    return count
