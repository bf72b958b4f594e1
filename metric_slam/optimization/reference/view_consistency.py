"""Number of views that agree with a depth: reference implementation of the kernel ``depth_filter``.

Rule: ``thirdparty/droid_backends/include/droid_backends/view_pairs.h``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metric_slam.geometry.projective import reproject


def count_consistent_views(
    poses: Tensor,  # T_cam_world (t, q_xyzw), [N, 7]
    inv_depth: Tensor,  # 1/m, [N, h, w]
    intrinsics: Tensor,  # fx, fy, cx, cy in grid cells, [4]
    keyframes: Tensor,  # int64 [K]
    source: Tensor,  # int64 [P], each one of keyframes
    target: Tensor,  # int64 [P]
    max_depth_error: Tensor,  # [K], in metres
    relative: bool = False,
) -> Tensor:
    """Number of pairs that confirm each pixel of the keyframes, int32 [K, h, w]; ``relative`` limits are shares of the
    pixel's own depth.
    """
    h, w = inv_depth.shape[1:]
    projection = reproject(poses, inv_depth, intrinsics, source, target)
    count = torch.zeros(len(keyframes), h, w, dtype=torch.int32)
    for p, (i, j) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        k = keyframes.tolist().index(i)
        for v in range(h):
            for u in range(w):
                x, y = projection.coords[p, v, u].floor().tolist()
                if not projection.valid[p, v, u] or not (0 <= x < w - 1 and 0 <= y < h - 1):
                    continue
                around = inv_depth[j, int(y) : int(y) + 2, int(x) : int(x) + 2]
                carried = projection.inv_depth[p, v, u]
                limit = max_depth_error[k] / inv_depth[i, v, u] if relative else max_depth_error[k]
                agree = ((1.0 / carried - 1.0 / around).abs() < limit) & (carried > 0) & (around > 0)
                count[k, v, u] += int(agree.any())
    return count
