"""The bundle adjustment that gradients pass through: the kernel's step, with gradients that agree with differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import droid_backends as native
import numpy as np
import pytest
import torch
from torch import Tensor

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.optimization.bundle_adjustment import BaWindow, native_options, native_problem
from metric_slam.training.differentiable_ba import StepResult, StepSettings, ba_step
from tests.ba_problems import copy_of, disturbed, true_window

ETA = 0.02


def small_problem(n: int = 3, height: int = 4, width: int = 5) -> BaWindow:
    """A disturbed window without a prior, with damping, and two fixed poses."""
    window = disturbed(true_window(n, height, width), flow=0.3)
    rng = np.random.default_rng(2)
    return replace(
        window,
        prior_depth_m=None,
        prior_weight=None,
        pose_free=np.arange(n) > 1,
        depth_damping=rng.uniform(0.5 * ETA, ETA, window.inv_depth.shape),
    )


def arguments(window: BaWindow) -> dict[str, Any]:
    """The tensors of a window, by the names that ba_step gives them."""
    names = ("poses", "inv_depth", "intrinsics", "source", "target", "flow_target", "confidence", "depth_damping")
    return {name: torch.tensor(getattr(window, name)) for name in names}


def step_with(window: BaWindow, settings: StepSettings | None = None, **changes: Tensor) -> StepResult:
    """A step of the window with some of its tensors replaced."""
    return ba_step(**{**arguments(window), **changes}, settings=settings)


SOFT = StepSettings(ridge=1e-3, fixed_poses=1)
"""Poses that move a good deal, so that their gradients are put to the test."""


@pytest.mark.parametrize("settings", [StepSettings(), SOFT], ids=["droid", "soft"])
def test_the_step_is_that_of_the_kernel(settings: StepSettings) -> None:
    window = small_problem(4, 6, 8)
    window = replace(window, pose_free=np.arange(4) >= settings.fixed_poses)
    options = native_options(BundleAdjustmentConfig(flow_loss="none"), has_prior=False, scale_sigma=0.0, grid=(6, 8))
    options.flow_weight, options.damping = settings.flow_weight, native.Damping.BEFORE_SCHUR
    ours = copy_of(window)
    native.dense_ba_step(native_problem(ours), options, ridge=settings.ridge, damping=settings.damping)
    found = step_with(window, settings)
    assert found.solved
    np.testing.assert_allclose(found.poses, ours.poses, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.inv_depth, ours.inv_depth, rtol=0, atol=1e-11)
    assert np.abs(ours.poses[settings.fixed_poses :] - window.poses[settings.fixed_poses :]).max() > 1e-4
    assert np.abs(ours.inv_depth - window.inv_depth).max() > 1e-3


@pytest.mark.parametrize("name", ["flow_target", "confidence", "depth_damping", "inv_depth"])
@pytest.mark.parametrize("frames", [2, 3])
def test_gradients_agree_with_differences(frames: int, name: str) -> None:
    window = small_problem(frames)
    settings = replace(SOFT, fixed_poses=frames - 1)
    given = arguments(window)[name].requires_grad_()

    def state(values: Tensor) -> tuple[Tensor, Tensor]:
        result = step_with(window, settings, **{name: values})
        return result.poses, result.inv_depth

    every_entry = frames == 2  # random directions of the larger problem, for the sake of time
    assert torch.autograd.gradcheck(state, (given,), eps=1e-6, atol=1e-7, rtol=1e-4, fast_mode=not every_entry)
    poses, inv_depth = state(given)
    for output in (poses[-1].sum(), inv_depth.sum()):
        (gradient,) = torch.autograd.grad(output, given, retain_graph=True)
        assert gradient.abs().max() > 1e-6, "gradients that are zero prove nothing"


def test_gradients_pass_through_two_steps() -> None:
    window = small_problem()
    given = [arguments(window)[name].requires_grad_() for name in ("flow_target", "confidence", "depth_damping")]

    def state(flow_target: Tensor, confidence: Tensor, depth_damping: Tensor) -> tuple[Tensor, Tensor]:
        changes = {"flow_target": flow_target, "confidence": confidence, "depth_damping": depth_damping}
        first = step_with(window, SOFT, **changes)
        second = step_with(window, SOFT, **changes, poses=first.poses, inv_depth=first.inv_depth)
        return second.poses, second.inv_depth

    assert torch.autograd.gradcheck(state, given, eps=1e-6, atol=1e-7, rtol=1e-3, fast_mode=True)


def test_gradients_are_finite_where_the_step_is_blind() -> None:
    """Cells without confidence and damping, cells behind the next camera, and residuals that are zero."""
    window = true_window(3, 4, 5)
    inv_depth, confidence = window.inv_depth.copy(), window.confidence.copy()
    inv_depth[0, 0, 0] = 20.0
    confidence[:, 1] = 0.0
    damping = np.zeros_like(inv_depth)
    window = replace(window, inv_depth=inv_depth, confidence=confidence, depth_damping=damping)
    names = ("flow_target", "confidence", "depth_damping")
    given = {name: arguments(window)[name].requires_grad_() for name in names}
    result = step_with(window, **given)
    gradients = torch.autograd.grad(result.poses.sum() + result.inv_depth.sum(), list(given.values()))
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert torch.equal(result.inv_depth[:, 1], torch.tensor(window.inv_depth)[:, 1])


def test_steps_recover_the_truth() -> None:
    """The damping only slows the way there."""
    truth = true_window(3)
    start = disturbed(replace(truth, pose_free=np.arange(3) > 1), flow=0.0)
    now = arguments(replace(start, depth_damping=np.full(start.inv_depth.shape, 1e-6)))
    for _ in range(8):
        result = ba_step(**now, settings=StepSettings(ridge=1e-6))
        now |= {"poses": result.poses, "inv_depth": result.inv_depth}
    np.testing.assert_allclose(now["poses"], truth.poses, atol=1e-6)
    np.testing.assert_allclose(now["inv_depth"], truth.inv_depth, atol=1e-5)


def test_motion_only_leaves_depths_and_their_gradients_to_the_poses() -> None:
    window = small_problem()
    given = arguments(window) | {"flow_target": torch.tensor(window.flow_target).requires_grad_()}
    result = ba_step(**given, settings=SOFT, motion_only=True)
    assert torch.equal(result.inv_depth, given["inv_depth"])
    (gradient,) = torch.autograd.grad(result.poses.sum(), given["flow_target"])
    assert gradient.abs().max() > 1e-6 and bool((result.poses[1:] != given["poses"][1:]).any())


def test_single_precision_comes_back_and_a_failure_changes_nothing() -> None:
    window = small_problem()
    single = {k: v.float() if v.is_floating_point() else v for k, v in arguments(window).items()}
    result = ba_step(**single)
    assert result.poses.dtype == result.inv_depth.dtype == torch.float32
    np.testing.assert_allclose(result.inv_depth, step_with(window).inv_depth, atol=1e-5)
    broken = arguments(window) | {"flow_target": torch.full_like(torch.tensor(window.flow_target), torch.nan)}
    result = ba_step(**broken)
    assert not result.solved
    assert torch.equal(result.poses, broken["poses"]) and torch.equal(result.inv_depth, broken["inv_depth"])
