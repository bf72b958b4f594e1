"""Which depths of the grid other keyframes confirm: the count of views that agree, pixel by pixel.

The documented surface of the kernel ``depth_filter`` in thirdparty/droid_backends, with which DROID-SLAM picks the
points worth showing (``depth_filter_kernel`` there). For depths of the 1/8 grid during a run; the dense depths of the
map are judged by :mod:`metric_slam.depth_filter`, which knows contradictions too. A slow torch version is
:mod:`metric_slam.geometry.view_consistency_twin`.
"""

from __future__ import annotations

import droid_backends as native
import numpy as np

_BAND = 1.5  # depths of a band, from the nearest to the farthest of it, share one limit


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


def count_views_relative(
    poses: np.ndarray,
    inv_depth: np.ndarray,
    intrinsics: np.ndarray,
    keyframes: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    max_relative_error: float,
) -> np.ndarray:
    """As :func:`count_consistent_views`, int32 [K, h, w], with a limit that is a share of each pixel's own depth.

    The kernel knows limits in metres alone, so it is called once for every band of depths, each reaching to 1.5 times
    its nearest, with that share of the band's middle: a pixel's limit is 0.82 to 1.22 times its share. Finer bands cost
    as much more time.
    """
    own = inv_depth[np.asarray(keyframes)]
    known = own > 0
    band = np.zeros(own.shape, np.int64)
    band[known] = np.floor(-np.log(own[known]) / np.log(_BAND))
    count = np.zeros(own.shape, np.int32)
    for number in np.unique(band[known]):
        limit_m = max_relative_error * _BAND ** (float(number) + 0.5)
        found = count_consistent_views(poses, inv_depth, intrinsics, keyframes, source, target, limit_m)
        chosen = known & (band == number)
        count[chosen] = found[chosen]
    return count
