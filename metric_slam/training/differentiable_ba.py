"""One step of dense bundle adjustment through which gradients flow back to what a network predicted.

Formulas of :mod:`metric_slam.optimization.reference.dense_ba`, with a quadratic flow loss and without priors: the
network learns its own weighting. It is the layer that DROID-SLAM trains through (Teed and Deng 2021, section 3.3;
droid_slam/geom/ba.py and chol.py). Float64 on the CPU whatever comes in, for both are what the twin works in; results
go back to the type and device of their inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from metric_slam.optimization.reference import dense_ba as reference


@dataclass(frozen=True)
class StepSettings:
    """Weights of one step; the defaults are those of DROID-SLAM's training."""

    flow_weight: float = 1e-3
    """Times confidence: inverse variance of the flow in grid cells."""

    ridge: float = 0.1
    """Added to the diagonal of the pose block, before depths are eliminated."""

    damping: float = 1e-4
    """Times that diagonal, added to it."""

    fixed_poses: int = 2
    """So many first keyframes hold position, orientation and scale."""


@dataclass(frozen=True)
class StepResult:
    """The state after a step."""

    poses: Tensor
    """T_cam_world, [N, 7]."""

    inv_depth: Tensor
    """1/m, [N, h, w]; not clamped, so that every cell keeps its gradient."""

    solved: bool
    """False: the system was not positive definite, and the state is the one before."""


@dataclass(frozen=True)
class _Window:
    """A :class:`metric_slam.optimization.reference.dense_ba.WindowLike` of tensors that carry gradients, and of index
    arrays.
    """

    intrinsics: Tensor
    poses: Tensor
    inv_depth: Tensor
    source: np.ndarray
    target: np.ndarray
    flow_target: Tensor
    confidence: Tensor
    pose_free: np.ndarray
    depth_free: np.ndarray
    depth_damping: Tensor | None
    prior_depth_m: None = None
    prior_weight: None = None
    prior_log_scale: None = None
    scale_anchor: None = None
    scale_previous: None = None
    baselines: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(pair=np.zeros((0, 2), np.int64), length_m=(), sigma=())
    )


def ba_step(
    poses: Tensor,
    inv_depth: Tensor,
    intrinsics: Tensor,
    source: Tensor,
    target: Tensor,
    flow_target: Tensor,
    confidence: Tensor,
    depth_damping: Tensor | None = None,
    *,
    settings: StepSettings | None = None,
    motion_only: bool = False,
) -> StepResult:
    """One Gauss-Newton step on sum of w confidence |flow target - reprojection|^2 over poses and inverse depths.

    Differentiable in poses, inverse depths, flow targets, confidences and depth damping. A cell that no edge sees in
    front of both cameras, or without confidence and damping, stays where it is.

    Args:
        poses: T_cam_world (t, q_xyzw), [N, 7].
        inv_depth: 1/m, [N, h, w].
        intrinsics: fx, fy, cx, cy in grid cells, [4].
        source: first keyframe of each edge, int64 [E].
        target: second one.
        flow_target: where the source cells lie in the target, grid cells (x, y), [E, h, w, 2].
        confidence: 0..1, [E, h, w, 2].
        depth_damping: eta, added to the curvature of each inverse depth, [N, h, w]; 0 where None.
        settings: weights; DROID-SLAM's where None.
        motion_only: inverse depths stay as they are.
    """
    settings = StepSettings() if settings is None else settings
    N, h, w = inv_depth.shape
    E = len(source)
    assert poses.shape == (N, 7), poses.shape
    assert flow_target.shape == confidence.shape == (E, h, w, 2), (flow_target.shape, confidence.shape)
    assert depth_damping is None or depth_damping.shape == (N, h, w), depth_damping.shape
    window = _Window(
        intrinsics=_computed_in(intrinsics),
        poses=_computed_in(poses),
        inv_depth=_computed_in(inv_depth),
        source=source.cpu().numpy(),
        target=target.cpu().numpy(),
        flow_target=_computed_in(flow_target),
        confidence=_computed_in(confidence),
        pose_free=np.arange(N) >= settings.fixed_poses,
        depth_free=np.full(N, not motion_only),
        depth_damping=None if depth_damping is None else _computed_in(depth_damping),
    )
    state = reference.step(window, _options(settings), ridge=settings.ridge, damping=settings.damping)
    if state is None:
        return StepResult(poses, inv_depth, solved=False)
    return StepResult(state.poses.to(poses), state.inv_depth.to(inv_depth), solved=True)


def _computed_in(values: Tensor) -> Tensor:
    """The same numbers where the twin computes; gradients find their way back."""
    return values.to(device="cpu", dtype=torch.float64)


def _options(settings: StepSettings) -> SimpleNamespace:
    """What the twin reads of the kernel's options."""
    none, quadratic = SimpleNamespace(name="NONE"), SimpleNamespace(kind=SimpleNamespace(name="NONE"), width=1.0)
    return SimpleNamespace(
        flow_weight=settings.flow_weight,
        flow_loss=quadratic,
        invalid_residual=0.0,
        prior_mode=none,
        scale_sigma=0.0,
        scale_step_sigma=0.0,
        damping=SimpleNamespace(name="BEFORE_SCHUR"),
    )
