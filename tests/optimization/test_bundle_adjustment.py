"""Dense bundle adjustment: what a user of solve_window may rely on. The kernel itself: tests/droid_backends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import droid_backends as native
import numpy as np
import pytest
import torch

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.errors import InputError
from metric_slam.geometry.lie import SE3
from metric_slam.optimization.bundle_adjustment import Baselines, SolveStatus, native_problem, solve_window
from metric_slam.optimization.reference import dense_ba as reference
from tests.ba_problems import (
    config_of,
    copy_of,
    disturbed,
    kernel_cost,
    options_of,
    scaled,
    steps_m,
    true_window,
    window_without_progress,
    with_everything,
)

# ---- what holds for every window


def test_cost_does_not_see_where_the_world_is() -> None:
    window = with_everything(disturbed(true_window()))
    options = options_of(window)
    motion = SE3.exp(torch.tensor([30.0, -20.0, 10.0, 0.5, -2.0, 0.3], dtype=torch.float64))
    elsewhere = replace(window, poses=(SE3.InitFromVec(torch.tensor(window.poses)) * motion).vec().numpy())
    assert kernel_cost(elsewhere, options) == pytest.approx(kernel_cost(window, options), rel=1e-11)
    ours, here = solve_window(elsewhere, config_of()), solve_window(window, config_of())
    assert ours[1].cost_final == pytest.approx(here[1].cost_final, rel=1e-8)
    np.testing.assert_allclose(ours[0].inv_depth, here[0].inv_depth, atol=1e-7)


def test_order_of_edges_does_not_matter() -> None:
    window = disturbed(true_window(5))
    order = np.random.default_rng(0).permutation(len(window.source))
    names = ("source", "target", "flow_target", "confidence")
    shuffled = replace(window, **{name: np.ascontiguousarray(getattr(window, name)[order]) for name in names})
    ours, theirs = solve_window(shuffled, config_of())[0], solve_window(window, config_of())[0]
    np.testing.assert_allclose(ours.poses, theirs.poses, atol=1e-9)
    np.testing.assert_allclose(ours.inv_depth, theirs.inv_depth, atol=1e-9)


def test_truth_is_found_and_stays() -> None:
    window = true_window()
    start = disturbed(window, flow=0.0, depth=0.1, pose=0.02)
    start = replace(start, prior_depth_m=window.prior_depth_m)
    found, report = solve_window(start, config_of(), iterations=40)
    assert report.cost_final < 1e-4 * report.cost_initial
    np.testing.assert_allclose(steps_m(found), steps_m(window), rtol=1e-2)
    again, report = solve_window(window, config_of())
    assert report.cost_initial < 1e-15
    np.testing.assert_allclose(again.inv_depth, window.inv_depth, atol=1e-9)


def test_the_result_is_never_worse_and_the_input_stays() -> None:
    window = disturbed(true_window(), flow=1.0, depth=0.3, pose=0.1)
    before = copy_of(window)
    previous = np.inf
    for iterations in (1, 2, 5):
        found, report = solve_window(window, config_of(), iterations=iterations)
        assert report.cost_final <= min(report.cost_initial, previous)
        assert report.cost_final == pytest.approx(kernel_cost(found, options_of(window)), rel=1e-9)
        previous = report.cost_final
    assert (window.poses == before.poses).all() and (window.inv_depth == before.inv_depth).all()
    np.testing.assert_allclose(np.linalg.norm(found.poses[:, 3:], axis=1), 1.0, atol=1e-14)
    assert found.inv_depth.min() >= 1e-3 and found.inv_depth.max() <= 5.0


def test_motion_only_moves_only_poses() -> None:
    window = disturbed(true_window(), depth=0.0, flow=0.0)
    found, report = solve_window(window, config_of("none"), motion_only=True, iterations=30)
    assert (found.inv_depth == window.inv_depth).all()
    assert (found.prior_log_scale == window.prior_log_scale).all()
    np.testing.assert_allclose(found.poses, true_window().poses, atol=1e-6)
    assert report.status == "converged"


def test_a_frame_without_texture_stays_and_does_no_harm() -> None:
    window = disturbed(true_window(5))
    blank = (window.source == 2) | (window.target == 2)
    window = replace(window, confidence=window.confidence * ~blank[:, None, None, None], prior_depth_m=None)
    window = replace(window, prior_weight=None)
    found, report = solve_window(window, config_of("none"))
    assert report.status in ("converged", "max_iterations")
    assert report.cost_final < 0.5 * report.cost_initial
    np.testing.assert_allclose(found.poses[2], window.poses[2], atol=1e-12)
    assert (found.inv_depth[2] == window.inv_depth[2]).all()


# ---- metres


@pytest.mark.parametrize("factor", [0.7, 1.5])
def test_prior_pulls_a_wrong_scale_to_metres(factor: float) -> None:
    window = true_window()
    start = scaled(window, factor)
    found, _ = solve_window(start, BundleAdjustmentConfig(prior_loss="huber"), iterations=60)
    np.testing.assert_allclose(steps_m(found) / steps_m(window), 1.0, atol=0.01)
    without = replace(start, prior_depth_m=None, prior_weight=None)
    kept, _ = solve_window(without, BundleAdjustmentConfig(), iterations=60)
    np.testing.assert_allclose(steps_m(kept) / steps_m(window), factor, atol=0.01)


def test_measured_baselines_alone_give_metres() -> None:
    window = true_window()
    start = replace(scaled(window, 1.3), prior_depth_m=None, prior_weight=None)
    pairs = np.array([[0, 1], [1, 2], [2, 3]], np.int64)
    start = replace(start, baselines=Baselines(pairs, steps_m(window), np.full(3, 0.1)))
    found, _ = solve_window(start, BundleAdjustmentConfig(baseline_loss_width=10.0), iterations=60)
    np.testing.assert_allclose(steps_m(found) / steps_m(window), 1.0, atol=0.01)


def test_a_prior_that_is_wrong_everywhere_meets_baselines_halfway() -> None:
    """All priors exp(beta) too far, baselines true: the map's log-scale weighs both by their variances.

    Where flow and the prior's cells bind strongly, s_k = log-scale of the map - beta, so the cost of the log-scale x is
    N (x - beta)^2 / sigma_s^2 + F x^2 / sigma_b^2.
    """
    window, beta, sigma_b = true_window(), np.log(1.1), 0.02
    pairs = np.array([[0, 1], [1, 2], [2, 3]], np.int64)
    start = replace(
        window,
        prior_depth_m=window.prior_depth_m * np.exp(beta),
        prior_weight=np.full(window.inv_depth.shape, 1e4),
        baselines=Baselines(pairs, steps_m(window), np.full(3, sigma_b)),
    )
    config = BundleAdjustmentConfig(flow_sigma_px=0.01, prior_loss="none", baseline_loss_width=1e3)
    found, _ = solve_window(start, config, iterations=60)
    by_prior, by_baselines = 4 / start.scale_sigma**2, 3 / sigma_b**2
    expected = beta * by_prior / (by_prior + by_baselines)
    np.testing.assert_allclose(np.log(steps_m(found) / steps_m(window)), expected, atol=2e-3)
    np.testing.assert_allclose(found.prior_log_scale, expected - beta, atol=2e-3)
    assert (np.abs(found.prior_log_scale) < 3 * start.scale_sigma).all()


def test_one_wrong_prior_is_taken_up_by_its_own_scale() -> None:
    """One image of eight is exp(beta) too far: its scale takes 7/8 of that, the metres of the map move by beta/8.

    Least sum of (log-scale of the map - beta_k)^2 / sigma_s^2 over the images. With the scales held at zero the
    keyframe's depths follow its prior instead, against the flow.
    """
    window, beta = true_window(8), np.log(1.1)
    prior_depth_m = window.prior_depth_m.copy()
    prior_depth_m[4] *= np.exp(beta)
    start = replace(window, prior_depth_m=prior_depth_m, prior_weight=np.full(prior_depth_m.shape, 1e4))
    config = BundleAdjustmentConfig(flow_sigma_px=0.1, prior_loss="none", flow_loss="none", scale_step_sigma=0.0)
    found, _ = solve_window(start, config, iterations=60)
    expected = np.where(np.arange(8) == 4, beta / 8 - beta, beta / 8)
    np.testing.assert_allclose(found.prior_log_scale, expected, atol=3e-3)
    assert (np.abs(found.prior_log_scale) < 3 * start.scale_sigma).all()

    held, _ = solve_window(replace(start, scale_sigma=0.0), config, iterations=60)
    error, error_held = (float(np.log(window.inv_depth[4] / w.inv_depth[4]).mean()) for w in (found, held))
    assert error == pytest.approx(beta / 8, abs=3e-3)
    assert error_held > 0.9 * beta


def test_scale_steps_tie_free_scales_to_fixed_neighbours() -> None:
    window = replace(true_window(3), depth_free=np.array([False, True, False]), scale_sigma=1e3)
    window = replace(window, prior_weight=np.zeros_like(window.prior_weight), prior_log_scale=np.array([0.3, 0.0, 0.1]))
    found, _ = solve_window(window, BundleAdjustmentConfig(), iterations=30)
    np.testing.assert_allclose(found.prior_log_scale, [0.3, 0.2, 0.1], atol=1e-3)


# ---- mistakes


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["flow_target", "confidence", "poses", "inv_depth", "prior_depth_m", "prior_weight"])
@pytest.mark.parametrize("moving", ["all", "depths", "poses"])
def test_what_is_not_finite_changes_nothing(place: str, moving: str, value: float) -> None:
    window = disturbed(true_window())
    array = getattr(window, place).copy()
    if place == "poses":
        array[2, 1] = value
    else:
        array.reshape(-1)[7] = value
    window = replace(window, **{place: array})
    if moving == "depths":
        window = replace(window, pose_free=np.zeros(4, bool))
    if moving == "poses":
        window = replace(window, depth_free=np.zeros(4, bool))
    found, report = solve_window(window, config_of())
    assert report.status in ("not_positive_definite", "no_progress")
    for name in ("poses", "inv_depth", "prior_log_scale"):
        np.testing.assert_array_equal(getattr(found, name), getattr(window, name))
    stepped = copy_of(window)
    status = native.dense_ba_step(native_problem(stepped), options_of(window), ridge=0.1, damping=1e-4)
    assert status == native.Status.NOT_POSITIVE_DEFINITE
    for name in ("poses", "inv_depth", "prior_log_scale"):
        np.testing.assert_array_equal(getattr(stepped, name), getattr(window, name))


def test_nan_without_weight_is_not_looked_at() -> None:
    window = disturbed(true_window())
    confidence, weight = window.confidence.copy(), window.prior_weight.copy()
    confidence[:, 1, 2:5] = 0.0
    weight[:, 2, :3] = 0.0
    clean = replace(window, confidence=confidence, prior_weight=weight)
    flow, depth_m = window.flow_target.copy(), window.prior_depth_m.copy()
    flow[:, 1, 2:5] = np.nan
    depth_m[:, 2, :3] = np.nan
    expected, first = solve_window(clean, config_of())
    found, second = solve_window(replace(clean, flow_target=flow, prior_depth_m=depth_m), config_of())
    assert first == second
    np.testing.assert_array_equal(found.inv_depth, expected.inv_depth)
    np.testing.assert_array_equal(found.poses, expected.poses)


def test_nothing_to_do() -> None:
    window = true_window()
    none_free = replace(window, pose_free=np.zeros(4, bool), depth_free=np.zeros(4, bool))
    no_edges = replace(
        window,
        **{name: getattr(window, name)[:0] for name in ("source", "target", "flow_target", "confidence")},
    )
    for nothing in (none_free, no_edges):
        found, report = solve_window(nothing, config_of())
        assert (report.status, report.iterations) == ("nothing_to_do", 0)
        assert reference.solve(nothing, options_of(nothing))[1].status == "nothing_to_do"
        np.testing.assert_array_equal(found.poses, window.poses)


def test_at_a_minimum_a_solve_stops_after_a_few_trials() -> None:
    """The linear model promises nothing there, so the damping need not be raised to its limit."""
    window = disturbed(true_window())
    found, first = solve_window(window, config_of(), iterations=60, tight_convergence=True)
    again, report = solve_window(found, config_of(), tight_convergence=True)
    assert first.status is report.status is SolveStatus.CONVERGED
    assert report.trials <= 3 and report.cost_final >= (1.0 - 1e-6) * first.cost_final
    np.testing.assert_allclose(again.poses, found.poses, atol=1e-4)


FAR_STARTS = [(0, 0.6, "none"), (3, 1.0, "huber"), (5, 1.0, "cauchy"), (6, 1.0, "none")]
"""Seed, disturbance of the poses and loss, for which damping up to 0.1 leaves the solver where it starts."""


@pytest.mark.parametrize(("seed", "pose", "loss"), FAR_STARTS)
def test_a_start_far_off_is_damped_until_the_cost_falls(seed: int, pose: float, loss: str) -> None:
    window = disturbed(true_window(), seed=seed, flow=2.0, depth=0.3, pose=pose)
    config = config_of("metric", loss)
    found, report = solve_window(window, config, iterations=60, tight_convergence=True)
    assert report.status in (SolveStatus.CONVERGED, SolveStatus.MAX_ITERATIONS)
    near = disturbed(true_window(), seed=seed, flow=2.0, depth=0.3, pose=0.0)
    best = solve_window(near, config, iterations=60, tight_convergence=True)[1].cost_final
    assert report.cost_final < 1.3 * best, (report, best)


def test_converged_is_reported_only_where_a_restart_gains_nothing() -> None:
    limit = 2e-2  # several linearisations at the default rule of 1e-4 each
    for seed in range(6):
        for loss in ("huber", "cauchy", "geman_mcclure"):
            window = disturbed(true_window(), seed=seed, flow=2.0, depth=0.3, pose=1.0)
            found, report = solve_window(window, config_of("metric", loss), iterations=30)
            if report.status is not SolveStatus.CONVERGED:
                continue
            _, again = solve_window(found, config_of("metric", loss), iterations=10)
            assert again.cost_final > (1.0 - limit) * report.cost_final, (seed, loss, report, again)


def test_no_progress_is_reported_where_no_damping_lowers_the_cost() -> None:
    window = window_without_progress()
    found, report = solve_window(window, config_of("none", "none"))
    assert report.status is SolveStatus.NO_PROGRESS
    assert report.iterations == 1 and report.trials > 6
    assert report.cost_final == report.cost_initial > 0.0
    np.testing.assert_array_equal(found.inv_depth, window.inv_depth)
    state, expected = reference.solve(window, options_of(window, "none", "none"))
    assert (expected.status, expected.trials) == (report.status, report.trials)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("poses", lambda a: a.astype(np.float32)),
        ("poses", lambda a: a[:, :6].copy()),
        ("flow_target", lambda a: a[:, ::2]),
        ("inv_depth", lambda a: a[:2].copy()),
        ("flow_target", lambda a: a[:-1]),
        ("confidence", lambda a: a[..., 0].copy()),
        ("confidence", lambda a: a[:, 1:].copy()),
        ("source", lambda a: a.astype(np.int32)),
        ("source", lambda a: a - 5),
        ("target", lambda a: a + 1),
        ("target", lambda a: a - 1),
        ("pose_free", lambda a: a[1:]),
        ("depth_free", lambda a: a.astype(float)),
        ("prior_depth_m", lambda a: a[1:]),
        ("prior_weight", lambda a: a[:, 1:].copy()),
        ("prior_weight", lambda a: None),
        ("scale_anchor", lambda a: np.zeros(9)),
        ("intrinsics", lambda a: a[:3]),
        ("baselines", lambda a: Baselines(np.array([[0, 9]]), np.ones(1), np.ones(1))),
        ("baselines", lambda a: Baselines(np.array([[0, 1]]), np.ones(2), np.ones(1))),
    ],
)
def test_wrong_arrays_are_refused_by_name(name: str, change: Any) -> None:
    window = true_window()
    with pytest.raises(InputError, match=name) as refused:
        solve_window(replace(window, **{name: change(getattr(window, name))}), config_of())
    assert "\n" not in str(refused.value)
