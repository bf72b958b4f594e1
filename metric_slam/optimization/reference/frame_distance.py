"""Mean induced flow between keyframes: reference implementation of the kernel ``frame_distance``.

Formula: ``thirdparty/droid_backends/include/droid_backends/view_pairs.h``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metric_slam.geometry.projective import relative_poses, reproject

UNSEEN_DISTANCE = 1000.0
"""Distance of a keyframe that shows too little of the other."""

MIN_SEEN_SHARE = 0.75


def frame_distance(
    poses: Tensor,  # T_cam_world (t, q_xyzw), [N, 7]
    inv_depth: Tensor,  # 1/m, [N, h, w]
    intrinsics: Tensor,  # fx, fy, cx, cy in grid cells, [4]
    source: Tensor,  # int64 [P]
    target: Tensor,  # int64 [P]
    translation_weight: float,
    bidirectional: bool,
) -> Tensor:
    """Mean length of the flow between pairs of keyframes, grid cells, [P]."""
    if bidirectional:
        both = [
            frame_distance(poses, inv_depth, intrinsics, *ends, translation_weight, False)
            for ends in ((source, target), (target, source))
        ]
        return (both[0] + both[1]) / 2
    full = _lengths(poses, inv_depth, intrinsics, source, target)
    shift = _lengths(*_without_rotation(poses, inv_depth, intrinsics, source, target))
    total, seen = torch.zeros(len(source), dtype=poses.dtype), torch.zeros(len(source), dtype=poses.dtype)
    for weight, (length, valid) in ((1.0 - translation_weight, full), (translation_weight, shift)):
        total += weight * torch.where(valid, length, 0.0).sum((1, 2))
        seen += weight * valid.to(poses.dtype).sum((1, 2))
    near = (seen >= MIN_SEEN_SHARE * inv_depth[0].numel()) & (seen > 0)
    return torch.where(near, total / seen, UNSEEN_DISTANCE)


def _lengths(
    poses: Tensor, inv_depth: Tensor, intrinsics: Tensor, source: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """(flow lengths, which of them count), [P, h, w] each."""
    projection = reproject(poses, inv_depth, intrinsics, source, target)
    h, w = inv_depth.shape[1:]
    v, u = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return (projection.coords - torch.stack([u, v], dim=-1)).norm(dim=-1), projection.valid


def _without_rotation(
    poses: Tensor, inv_depth: Tensor, intrinsics: Tensor, source: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same pairs, each with cameras of its own that look the same way: (I, t) instead of (R, t) between them."""
    P = len(source)
    motions = relative_poses(poses, source, target).vec().clone()
    motions[:, 3:] = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=poses.dtype)
    still = torch.zeros_like(motions)
    still[:, 6] = 1.0
    pairs = torch.arange(P)
    return torch.cat([still, motions]), inv_depth[source].repeat(2, 1, 1), intrinsics, pairs, pairs + P
