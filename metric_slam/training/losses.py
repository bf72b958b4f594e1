"""The losses that DROID-SLAM is trained with: poses, residuals and induced flow, over all iterations of its updates.

Facts from the paper (Teed and Deng 2021, section 3.4) and the public training code (princeton-vl/DROID-SLAM, train.py,
droid_slam/geom/losses.py): 15 iterations, iteration k of n counts gamma^(n - 1 - k) with gamma = 0.9, and the three
losses are added with weights 10, 0.01 and 0.05. Translations are compared in metres without fitting a scale: the two
fixed first poses decide it. Poses are T_cam_world (t, q_xyzw); N frames, E edges, I iterations. The geometry runs on
the CPU, so its inputs have to lie there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metric_slam.geometry.projective import relative_poses, reproject

ITERATIONS = 15
"""Updates that are unrolled for one training step."""

GAMMA = 0.9
"""Weight of an iteration relative to the next one."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses in their sum."""

    pose: float = 10.0
    residual: float = 0.01
    flow: float = 0.05


@dataclass(frozen=True)
class Losses:
    """The three losses, scalars, and their weighted sum."""

    pose: Tensor
    """Metres plus radians."""

    residual: Tensor
    """Grid cells."""

    flow: Tensor
    """Pixels of the resolution that the inverse depths have."""

    total: Tensor


@dataclass(frozen=True)
class Iterations:
    """Results of network and bundle adjustment, from the first update to the last; all of one length I."""

    poses: Sequence[Tensor]
    """T_cam_world after each update, I of [N, 7]."""

    inv_depth: Sequence[Tensor]
    """1/m after each update, I of [N, H, W]: up-sampled to the resolution of the true ones."""

    residuals: Sequence[Tensor]
    """Flow target less reprojection after each update, grid cells, I of [E, h, w, 2]."""


@dataclass(frozen=True)
class Truth:
    """True geometry."""

    poses: Tensor
    """T_cam_world, [N, 7]."""

    inv_depth: Tensor
    """1/m, [N, H, W]; 0 where unknown."""

    intrinsics: Tensor
    """fx, fy, cx, cy in pixels of H x W, [4]."""


def droid_losses(
    made: Iterations,
    truth: Truth,
    source: Tensor,
    target: Tensor,
    weights: LossWeights | None = None,
    gamma: float = GAMMA,
) -> Losses:
    """Compute all three losses; ``source`` and ``target`` are the edges of the frame graph, int64 [E]."""
    weights = LossWeights() if weights is None else weights
    pose = geodesic_loss(made.poses, truth.poses, source, target, gamma)
    residual = residual_loss(made.residuals, gamma)
    flow = flow_loss(made.poses, made.inv_depth, truth, gamma)
    return Losses(pose, residual, flow, weights.pose * pose + weights.residual * residual + weights.flow * flow)


def geodesic_loss(
    estimates: Sequence[Tensor], truth: Tensor, source: Tensor, target: Tensor, gamma: float = GAMMA
) -> Tensor:
    """Compute the error of relative poses: mean over edges of |tau| + |phi|, metres + radians.

    (tau, phi) is the twist from the true to the estimated relative pose.

    Args:
        estimates: T_cam_world, I of [N, 7].
        truth: T_cam_world, [N, 7].
        source: first keyframe of each edge, int64 [E].
        target: second one.
        gamma: see the module.
    """
    T_true = relative_poses(truth, source, target)

    def of(poses: Tensor) -> Tensor:
        twist = (relative_poses(poses, source, target) * T_true.inv()).log()
        return twist[:, :3].norm(dim=-1).mean() + twist[:, 3:].norm(dim=-1).mean()

    return _discounted([of(poses) for poses in estimates], gamma)


def residual_loss(residuals: Sequence[Tensor], gamma: float = GAMMA) -> Tensor:
    """Compute the mean absolute residual, I of [E, h, w, 2] in grid cells: flow that no rigid scene explains."""
    return _discounted([r.abs().mean() for r in residuals], gamma)


def flow_loss(
    pose_estimates: Sequence[Tensor], inv_depth_estimates: Sequence[Tensor], truth: Truth, gamma: float = GAMMA
) -> Tensor:
    """Compute the distance between the flows induced by estimate and truth, neighbouring frames, both ways, pixels.

    Mean over all pixels; those without true depth, or behind a camera in either flow, count as zero.

    Args:
        pose_estimates: T_cam_world, I of [N, 7].
        inv_depth_estimates: 1/m, I of [N, H, W].
        truth: the true geometry.
        gamma: see the module.
    """
    source, target = neighbouring_frames(len(truth.poses))
    with torch.no_grad():
        true = reproject(truth.poses, truth.inv_depth, truth.intrinsics, source, target)
        known = true.valid & (truth.inv_depth[source] > 0)

    def of(poses: Tensor, inv_depth: Tensor) -> Tensor:
        found = reproject(poses, inv_depth, truth.intrinsics, source, target)
        distance = (found.coords - true.coords).norm(dim=-1)
        return torch.where(known & found.valid, distance, 0.0).mean()

    return _discounted([of(*pair) for pair in zip(pose_estimates, inv_depth_estimates, strict=True)], gamma)


def neighbouring_frames(count: int) -> tuple[Tensor, Tensor]:
    """Return the directed edges between consecutive frames: sources and targets, int64 [2 (count - 1)]."""
    first = torch.arange(count - 1)
    return torch.cat([first, first + 1]), torch.cat([first + 1, first])


def _discounted(losses: Sequence[Tensor], gamma: float) -> Tensor:
    """Sum of losses with weight 1 for the last and gamma times the next weight for every other."""
    assert losses, "no iterations"
    return torch.stack([gamma ** (len(losses) - 1 - k) * loss for k, loss in enumerate(losses)]).sum()
