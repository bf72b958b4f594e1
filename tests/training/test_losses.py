"""The training losses: zero at the truth, their own arithmetic elsewhere, gradients that agree with differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from metric_slam.geometry.lie import SE3
from metric_slam.geometry.projective import relative_poses, reproject
from metric_slam.training.differentiable_ba import StepSettings, ba_step
from metric_slam.training.losses import (
    Iterations,
    Losses,
    LossWeights,
    Truth,
    droid_losses,
    flow_loss,
    geodesic_loss,
    neighbouring_frames,
    residual_loss,
)
from tests.ba_problems import true_window

N, H, W = 3, 4, 5


@pytest.fixture
def truth() -> Truth:
    window = true_window(N, H, W)
    return Truth(torch.tensor(window.poses), torch.tensor(window.inv_depth), torch.tensor(window.intrinsics))


@pytest.fixture
def edges() -> tuple[Tensor, Tensor]:
    window = true_window(N, H, W)
    return torch.tensor(window.source), torch.tensor(window.target)


def moved(poses: Tensor, xi: Tensor) -> Tensor:
    """exp(xi) T for poses [N, 7] and xi [N, 6]."""
    return SE3.InitFromVec(poses).retr(xi).vec()


def noise(*shape: int, size: float, seed: int = 3) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perfect(truth: Truth, edges: tuple[Tensor, Tensor], count: int = 4) -> Iterations:
    residuals = [torch.zeros(len(edges[0]), H, W, 2, dtype=torch.float64)] * count
    return Iterations([truth.poses] * count, [truth.inv_depth] * count, residuals)


def test_the_truth_costs_nothing_and_has_finite_gradients(truth: Truth, edges: tuple[Tensor, Tensor]) -> None:
    xi = torch.zeros(N, 6, dtype=torch.float64, requires_grad=True)
    inv_depth = truth.inv_depth.clone().requires_grad_()
    made = replace(perfect(truth, edges, 1), poses=[moved(truth.poses, xi)], inv_depth=[inv_depth])
    losses = droid_losses(made, truth, *edges)
    for loss in (losses.pose, losses.residual, losses.flow):
        assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(losses.total, (xi, inv_depth)))
    assert float(droid_losses(perfect(truth, edges), truth, *edges).total) == pytest.approx(0.0, abs=1e-12)


def test_later_iterations_count_more() -> None:
    residuals = [torch.full((2, 3), value) for value in (1.0, -2.0, 4.0)]
    assert float(residual_loss(residuals)) == pytest.approx(0.81 * 1.0 + 0.9 * 2.0 + 4.0)
    assert float(residual_loss(residuals, gamma=0.5)) == pytest.approx(0.25 + 1.0 + 4.0)
    with pytest.raises(AssertionError, match="no iterations"):
        residual_loss([])


def test_pose_loss_is_metres_plus_radians_whatever_the_frame_of_the_world() -> None:
    identity = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1]] * 2, dtype=torch.float64)
    edge = (torch.tensor([0]), torch.tensor([1]))
    translated = moved(identity, torch.tensor([[0.0] * 6, [0.3, 0, 0.4, 0, 0, 0]], dtype=torch.float64))
    turned = moved(identity, torch.tensor([[0.0] * 6, [0, 0, 0, 0, 0.2, 0]], dtype=torch.float64))
    assert float(geodesic_loss([translated], identity, *edge)) == pytest.approx(0.5)
    assert float(geodesic_loss([turned], identity, *edge)) == pytest.approx(0.2)
    assert float(geodesic_loss([turned, translated], identity, *edge)) == pytest.approx(0.9 * 0.2 + 0.5)
    elsewhere = (SE3.InitFromVec(translated) * SE3.exp(noise(1, 6, size=1.0))).vec()
    assert float(geodesic_loss([elsewhere], identity, *edge)) == pytest.approx(0.5)


def test_pose_loss_knows_metres(truth: Truth, edges: tuple[Tensor, Tensor]) -> None:
    """No scale is fitted: a map ten per cent too large costs ten per cent of its baselines."""
    scaled = truth.poses.clone()
    scaled[:, :3] *= 1.1
    baselines_m = relative_poses(truth.poses, *edges).translation().norm(dim=-1)
    expected = 0.1 * float(baselines_m.mean())
    assert float(geodesic_loss([scaled], truth.poses, *edges)) == pytest.approx(expected, rel=1e-2)


def test_flow_loss_is_a_mean_distance_over_all_pixels_of_neighbours(truth: Truth) -> None:
    source, target = neighbouring_frames(N)
    assert sorted(zip(source.tolist(), target.tolist(), strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    wrong = moved(truth.poses, noise(N, 6, size=0.02))
    true, found = (
        reproject(poses, truth.inv_depth, truth.intrinsics, source, target).coords for poses in (truth.poses, wrong)
    )
    distance = (true - found).norm(dim=-1)
    assert float(flow_loss([wrong], [truth.inv_depth], truth)) == pytest.approx(float(distance.mean()))
    holes = truth.inv_depth.clone()
    holes[:, 0] = 0.0
    part = float(flow_loss([wrong], [truth.inv_depth], replace(truth, inv_depth=holes)))
    assert part == pytest.approx(float(distance[:, 1:].sum()) / distance.numel())


def test_pixels_behind_the_camera_cost_nothing(truth: Truth) -> None:
    near = truth.inv_depth.clone()
    near[0, 0, 0] = 20.0  # 5 cm ahead: the next camera has passed it
    estimate = near.clone().requires_grad_()
    loss = flow_loss([truth.poses], [estimate], truth)
    (gradient,) = torch.autograd.grad(loss, estimate)
    assert bool(gradient.isfinite().all()) and gradient[0, 0, 0] == 0.0
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["pose", "residual", "flow", "total"])
def test_gradients_agree_with_differences(name: str, truth: Truth, edges: tuple[Tensor, Tensor]) -> None:
    given = (
        noise(2, N, 6, size=0.03).requires_grad_(),
        (truth.inv_depth + noise(2, N, H, W, size=0.02)).requires_grad_(),
        noise(2, len(edges[0]), H, W, 2, size=0.5).requires_grad_(),
    )

    def loss(xi: Tensor, inv_depth: Tensor, residuals: Tensor) -> Tensor:
        made = Iterations([moved(truth.poses, x) for x in xi], list(inv_depth), list(residuals))
        return getattr(droid_losses(made, truth, *edges), name)

    assert torch.autograd.gradcheck(loss, given, eps=1e-6, atol=1e-7, rtol=1e-4, fast_mode=True)
    gradients = torch.autograd.grad(loss(*given), given, allow_unused=True)
    used = {"pose": [0], "residual": [2], "flow": [0, 1], "total": [0, 1, 2]}[name]
    assert [k for k, g in enumerate(gradients) if g is not None and g.abs().max() > 1e-6] == used


def test_weights_are_applied(truth: Truth, edges: tuple[Tensor, Tensor]) -> None:
    made = replace(
        perfect(truth, edges, 2),
        poses=[moved(truth.poses, noise(N, 6, size=s)) for s in (0.05, 0.02)],
        residuals=[noise(len(edges[0]), H, W, 2, size=s) for s in (1.0, 0.5)],
    )
    losses = droid_losses(made, truth, *edges)
    assert float(losses.total) == pytest.approx(
        10.0 * float(losses.pose) + 0.01 * float(losses.residual) + 0.05 * float(losses.flow)
    )
    only = droid_losses(made, truth, *edges, weights=LossWeights(0.0, 1.0, 0.0))
    assert float(only.total) == pytest.approx(float(losses.residual))


def descended(loss_of: Callable[[Tensor], Losses], start: Tensor, length: float, steps: int) -> list[float]:
    """Losses along gradient steps of one length."""
    values, given = [], start.clone()
    for _ in range(steps):
        given = given.detach().requires_grad_()
        loss = loss_of(given).total
        values.append(float(loss.detach()))
        (gradient,) = torch.autograd.grad(loss, given)
        given = given - length * gradient / gradient.norm()
    return values


def test_losses_fall_along_gradients_through_the_bundle_adjustment(truth: Truth, edges: tuple[Tensor, Tensor]) -> None:
    """What a network learns from: flow targets get better because poses and depths after the step get better."""
    source, target = edges
    start_poses = truth.poses.clone()
    start_poses[2] = moved(truth.poses, noise(N, 6, size=0.02))[2]
    start_depth = truth.inv_depth + noise(N, H, W, size=0.02)
    true_flow = reproject(truth.poses, truth.inv_depth, truth.intrinsics, source, target).coords
    confidence, eta = torch.full_like(true_flow, 0.5), torch.full_like(start_depth, 1e-4)

    def loss_of(flow: Tensor) -> Losses:
        step = ba_step(
            start_poses, start_depth, truth.intrinsics, source, target, flow, confidence, eta,
            settings=StepSettings(ridge=1e-4),
        )  # fmt: skip
        assert step.solved
        residual = flow - reproject(step.poses, step.inv_depth, truth.intrinsics, source, target).coords
        return droid_losses(Iterations([step.poses], [step.inv_depth], [residual]), truth, source, target)

    values = descended(loss_of, true_flow + noise(*true_flow.shape, size=0.3), length=0.1, steps=5)
    assert values == sorted(values, reverse=True), values
    assert values[-1] < 0.4 * values[0], values
