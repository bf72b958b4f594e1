"""Projection of cells into another keyframe with Jacobians: reference implementation of droid_backends/pixel.h.

A cell of keyframe i with viewing ray a = ((u - cx)/fx, (v - cy)/fy, 1) and inverse depth d is the point a/d. Scaled by
d, so that d = 0 is harmless, keyframe j sees it at X = R a + t d with (R, t) = T_j T_i^-1. Poses are T_cam_world and
change as exp(xi) T, xi = (tau, phi), so d X/d xi_j = [d I, -[X]x], and the Jacobian for i is -Ad(T_ij)^T applied to
the one for j (Teed and Deng, DROID-SLAM, 2021, section 3.3). Differentiable by torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metric_slam.geometry import lie

MIN_DEPTH = 0.2
"""A point with Z, its depth in j over its depth in i, below this is invalid."""

MIN_DIVISOR = 0.1
"""Below this Z is replaced by 1 before dividing."""


@dataclass(frozen=True)
class Projection:
    """Cells of E edges in their targets."""

    coords: Tensor
    """Grid cells (x, y), [E, h, w, 2]."""

    inv_depth: Tensor
    """Inverse depth in the target, 1/m, [E, h, w]."""

    valid: Tensor
    """In front of the target's camera, bool [E, h, w]."""

    Ji: Tensor
    """d coords / d xi of the source pose, [E, h, w, 2, 6]."""

    Jj: Tensor
    """d coords / d xi of the target pose, [E, h, w, 2, 6]."""

    Jz: Tensor
    """d coords / d inverse depth of the source cell, [E, h, w, 2]."""


def relative_poses(poses: Tensor, source: Tensor, target: Tensor) -> lie.SE3:
    """T_target_source of E edges from ``poses``, T_cam_world [N, 7]."""
    T_cam_world = lie.SE3.InitFromVec(poses)
    T_target_source: lie.SE3 = T_cam_world[target] * T_cam_world[source].inv()
    return T_target_source


def viewing_rays(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Rays with z = 1 of the cells of a grid, [h, w, 3]; ``intrinsics`` are fx, fy, cx, cy in cells."""
    fx, fy, cx, cy = intrinsics
    v, u = torch.meshgrid(
        torch.arange(height, dtype=intrinsics.dtype), torch.arange(width, dtype=intrinsics.dtype), indexing="ij"
    )
    return torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], dim=-1)


def reproject(poses: Tensor, inv_depth: Tensor, intrinsics: Tensor, source: Tensor, target: Tensor) -> Projection:
    """Project the cells of every edge's source into its target.

    Args:
        poses: T_cam_world (t, q_xyzw), [N, 7].
        inv_depth: 1/m, [N, h, w].
        intrinsics: fx, fy, cx, cy in grid cells, [4].
        source, target: keyframes of the edges, int64 [E].
    """
    T_ij = relative_poses(poses, source, target)
    T = T_ij.matrix()
    d = inv_depth[source]
    rays = viewing_rays(intrinsics, *inv_depth.shape[1:])
    t = T[:, None, None, :3, 3]
    X, Y, Z = (torch.einsum("eab,hwb->ehwa", T[:, :3, :3], rays) + t * d[..., None]).unbind(-1)

    iz = 1.0 / torch.where(Z < MIN_DIVISOR, torch.ones_like(Z), Z)
    x, y, dj, zero = X * iz, Y * iz, d * iz, torch.zeros_like(d)
    fx, fy, cx, cy = intrinsics
    Jj_x = fx * torch.stack([dj, zero, -x * dj, -x * y, 1.0 + x * x, -y], dim=-1)
    Jj_y = fy * torch.stack([zero, dj, -y * dj, -(1.0 + y * y), x * y, x], dim=-1)
    Jj = torch.stack([Jj_x, Jj_y], dim=-2)
    return Projection(
        coords=torch.stack([fx * x + cx, fy * y + cy], dim=-1),
        inv_depth=dj,
        valid=Z > MIN_DEPTH,
        Ji=-T_ij[:, None, None, None].adjT(Jj),
        Jj=Jj,
        Jz=torch.stack([fx * (t[..., 0] - x * t[..., 2]) * iz, fy * (t[..., 1] - y * t[..., 2]) * iz], dim=-1),
    )
