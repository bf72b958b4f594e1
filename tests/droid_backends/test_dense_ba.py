"""The bundle adjustment kernel against numeric differences and against its reference implementation."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import replace
from typing import Any

import droid_backends as native
import numpy as np
import pytest
import torch

from metric_slam.optimization.bundle_adjustment import Baselines, BaWindow, native_problem, solve_window
from metric_slam.optimization.reference import dense_ba as reference
from tests.ba_problems import (
    config_of,
    copy_of,
    disturbed,
    kernel_cost,
    moved_poses,
    options_of,
    true_window,
    with_everything,
)

MODES = ["none", "metric", "droid"]
LOSSES = ["none", "huber", "geman_mcclure", "cauchy"]
DAMPINGS = [native.Damping.BEFORE_SCHUR, native.Damping.AFTER_SCHUR, native.Damping.EVERY_BLOCK]


def assert_same_state(window: BaWindow, state: reference.State, atol: float) -> None:
    np.testing.assert_allclose(window.poses, state.poses, rtol=0, atol=atol)
    np.testing.assert_allclose(window.inv_depth, state.inv_depth, rtol=0, atol=atol)
    np.testing.assert_allclose(window.prior_log_scale, state.scales, rtol=0, atol=atol)


# ---- the mathematics


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_weight_is_the_derivative_of_its_cost(loss: str) -> None:
    options = options_of(true_window(2), loss=loss)
    robust = options.flow_loss
    for n in (0.03, 0.2, 0.26, 1.7, 40.0):
        slope = (robust.cost(n * (1 + 1e-6)) - robust.cost(n * (1 - 1e-6))) / (2e-6 * n)
        assert robust.weight(n) == pytest.approx(slope / (2 * n), rel=1e-6)
        assert float(reference.loss_cost(robust, torch.tensor(n, dtype=torch.float64))) == pytest.approx(robust.cost(n))
        assert float(reference.loss_weight(robust, torch.tensor(n, dtype=torch.float64))) == pytest.approx(
            robust.weight(n)
        )
    assert robust.cost(1e-4) == pytest.approx(1e-8, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", MODES)
def test_right_hand_side_is_the_gradient_of_the_kernels_cost(mode: str, loss: str) -> None:
    window = with_everything(disturbed(true_window(3, 3, 4)))
    options = options_of(window, mode, loss)
    system, state = reference.linearize(window, options), reference.start_of(window)
    n, K = len(system.v), len(system.b)
    x, z = reference.free_rows(window, options)

    def slope(row: int) -> float:
        costs = []
        for h in (1e-6, -1e-6):
            d = torch.zeros(n + K, dtype=torch.float64)
            d[row] = h
            there = reference.moved(window, state, d[:n], d[n:])
            moved = replace(
                window,
                poses=there.poses.numpy(),
                inv_depth=there.inv_depth.numpy(),
                prior_log_scale=there.scales.numpy(),
            )
            costs.append(kernel_cost(moved, options))
        return (costs[0] - costs[1]) / 2e-6

    numeric = [slope(int(row)) for row in [*x, *(n + z)]]
    analytic = -2.0 * torch.cat([system.v[x], system.b[z]]).numpy()
    np.testing.assert_allclose(numeric, analytic, rtol=1e-5, atol=1e-5 * np.abs(analytic).max())


@pytest.mark.parametrize("mode", MODES)
def test_schur_step_solves_the_full_normal_equations(mode: str) -> None:
    window = with_everything(disturbed(true_window(3, 3, 4)))
    options = options_of(window, mode)
    system = reference.linearize(window, options)
    x, z = reference.free_rows(window, options)
    ridge, damping = 0.1, 1e-3
    H = reference.damped_rows(system.H[x][:, x], ridge, damping, 0, False)
    C = torch.diag(1.0 / reference.depth_inverse(window, options, system.C, 0.0)[z])
    E = system.E[x][:, z]
    full = torch.cat([torch.cat([H, E], 1), torch.cat([E.T, C], 1)])
    expected = torch.linalg.solve(full, torch.cat([system.v[x], system.b[z]]))

    dx, dz = reference.solve_system(window, options, system, ridge, damping, 0.0)
    torch.testing.assert_close(torch.cat([dx[x], dz[z]]), expected, rtol=1e-8, atol=1e-10)
    ours = copy_of(window)
    native.dense_ba_step(native_problem(ours), options, ridge=ridge, damping=damping)
    step = ours.inv_depth - window.inv_depth
    np.testing.assert_allclose(step.reshape(-1)[z], expected[len(x) :], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("block", [1, 6, 7])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_envelope_cholesky_is_a_dense_solve(size: int, block: int) -> None:
    """Rows that begin one after another, and blocks of rows that begin together."""
    rng = np.random.default_rng(size)
    i, j = np.indices((size, size)) // block
    band = np.abs(i - j) <= 4 // min(block, 4)
    band[size // 2, 0] = band[0, size // 2] = True  # a loop
    A = np.where(band, rng.normal(size=(size, size)), 0.0)
    A = A + A.T + (12.0 + 2.0 * block) * np.eye(size)
    b = rng.normal(size=size)
    x = b.copy()
    assert native.envelope_solve(A, x)
    np.testing.assert_allclose(A @ x, b, atol=1e-12)
    for wrong in (-1.0, np.nan, np.inf):
        B = A.copy()
        B[-1, -1] = wrong
        assert not native.envelope_solve(B, b.copy())


# ---- kernel and reference implementation


@pytest.mark.parametrize("placement", DAMPINGS, ids=lambda d: d.name.lower())
@pytest.mark.parametrize("loss", ["none", "geman_mcclure"])
@pytest.mark.parametrize("mode", MODES)
def test_one_step_agrees(mode: str, loss: str, placement: Any) -> None:
    window = with_everything(disturbed(true_window()))
    options = options_of(window, mode, loss)
    options.damping = placement
    ours = copy_of(window)
    assert kernel_cost(ours, options) == pytest.approx(float(reference.cost(window, options)), rel=1e-12)
    native.dense_ba_step(native_problem(ours), options, ridge=0.1, damping=1e-3)
    assert_same_state(ours, reference.step(window, options, ridge=0.1, damping=1e-3), 1e-11)
    assert np.abs(ours.poses - window.poses).max() > 1e-4


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", MODES)
def test_solutions_agree(mode: str, loss: str) -> None:
    window = with_everything(disturbed(true_window(), flow=0.2))
    config, options = config_of(mode, loss), options_of(window, mode, loss)
    options.iterations = 12
    ours, report = solve_window(window, config, iterations=12)
    state, expected = reference.solve(window, options)
    assert (report.status, report.iterations) == (expected.status, expected.iterations)
    assert report.cost_initial == pytest.approx(expected.cost_initial, rel=1e-12)
    assert report.cost_final == pytest.approx(expected.cost_final, rel=1e-9)
    assert report.cost_final < 0.9 * report.cost_initial
    assert_same_state(ours, state, 1e-7)


@pytest.mark.parametrize("fixed", ["two poses", "all poses", "some depths", "all depths", "scales"])
def test_solutions_agree_with_parts_fixed(fixed: str) -> None:
    window = disturbed(true_window(5))
    k = np.arange(5)
    window = {
        "two poses": lambda: replace(window, pose_free=k > 1),
        "all poses": lambda: replace(window, pose_free=k < 0),
        "some depths": lambda: replace(window, depth_free=k % 2 == 0),
        "all depths": lambda: replace(window, depth_free=k < 0),
        "scales": lambda: replace(window, scale_sigma=0.0),
    }[fixed]()
    options = options_of(window)
    ours, report = solve_window(window, config_of())
    state, expected = reference.solve(window, options)
    assert report.status == expected.status
    assert_same_state(ours, state, 1e-8)
    assert (ours.poses[~window.pose_free] == window.poses[~window.pose_free]).all()
    assert (ours.inv_depth[~window.depth_free] == window.inv_depth[~window.depth_free]).all()
    held = ~reference.free_scales(window, options)
    assert (ours.prior_log_scale[held] == window.prior_log_scale[held]).all()
    assert report.cost_final < report.cost_initial


def test_odd_grids_agree() -> None:
    """Sizes that are no multiple of the vector length, and one longer than a chunk of the kernel."""
    for height, width in ((1, 1), (1, 3), (3, 7), (31, 37)):
        window = disturbed(true_window(3, height, width))
        options = options_of(window)
        ours = copy_of(window)
        native.dense_ba_step(native_problem(ours), options, ridge=0.1, damping=1e-3)
        assert_same_state(ours, reference.step(window, options, ridge=0.1, damping=1e-3), 1e-10)


def test_chain_with_a_loop_agrees() -> None:
    """A long chain, an edge and a baseline from its end to its start, and an edge that is there twice."""
    window = disturbed(true_window(20, 3, 4), pose=0.003, depth=0.01)
    extra = np.array([[0, 19], [19, 0], [3, 4]])
    every = np.concatenate([np.stack([window.source, window.target], 1), extra])
    flow = np.concatenate([window.flow_target, np.tile(window.flow_target[:1], (3, 1, 1, 1))])
    window = replace(
        window,
        source=np.ascontiguousarray(every[:, 0]),
        target=np.ascontiguousarray(every[:, 1]),
        flow_target=flow,
        confidence=np.concatenate([window.confidence, np.full((3, 3, 4, 2), 0.1)]),
        baselines=Baselines(np.array([[2, 17]]), np.array([6.2]), np.array([0.1])),
    )
    options = options_of(window)
    ours = copy_of(window)
    native.dense_ba_step(native_problem(ours), options, ridge=0.1, damping=1e-3)
    assert_same_state(ours, reference.step(window, options, ridge=0.1, damping=1e-3), 1e-9)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux builds use OpenMP")
def test_number_of_threads_does_not_change_a_bit() -> None:
    openmp = ctypes.CDLL("libgomp.so.1")
    window, before = disturbed(true_window(4, 40, 50)), openmp.omp_get_max_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            openmp.omp_set_num_threads(threads)
            results.append(solve_window(window, config_of(), iterations=3))
    finally:
        openmp.omp_set_num_threads(before)
    for found, report in results[1:]:
        assert report == results[0][1]
        np.testing.assert_array_equal(found.poses, results[0][0].poses)
        np.testing.assert_array_equal(found.inv_depth, results[0][0].inv_depth)


def test_points_behind_the_camera_are_charged_and_not_used() -> None:
    window = true_window(2, 2, 3)
    inv_depth = window.inv_depth.copy()
    inv_depth[0, 0, 0] = 20.0  # 5 cm ahead: the next camera has passed it
    window = replace(window, inv_depth=inv_depth, prior_depth_m=None, prior_weight=None)
    options = options_of(window)
    e = int(np.flatnonzero(window.source == 0)[0])
    weight = options.flow_weight * window.confidence[e, 0, 0].mean()
    expected = weight * options.flow_loss.cost(options.invalid_residual)
    assert kernel_cost(window, options) == pytest.approx(expected)
    assert float(reference.cost(window, options)) == pytest.approx(expected)
    ours = copy_of(window)
    native.dense_ba_step(native_problem(ours), options, ridge=1e-6, damping=0.0)
    np.testing.assert_allclose(ours.inv_depth, window.inv_depth, atol=1e-9)


@pytest.mark.parametrize("anisotropic", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_point_behind_the_camera_costs_as_much_as_the_worst_match(loss: str, anisotropic: bool) -> None:
    """The worst match: from one corner of the image to the opposite one."""
    height, width = 6, 8
    window = replace(true_window(2, height, width), prior_depth_m=None, prior_weight=None)
    e = int(np.flatnonzero(window.source == 0)[0])
    window = replace(
        window,
        source=window.source[[e]],
        target=window.target[[e]],
        flow_target=window.flow_target[[e]],
        confidence=np.zeros((1, height, width, 2)),
    )
    window.confidence[0, 0, 0] = (1e-6, 1.0) if anisotropic else 1.0
    options = options_of(window, "none", loss)
    behind = window.inv_depth.copy()
    behind[0, 0, 0] = 20.0
    cost_behind = kernel_cost(replace(window, inv_depth=behind), options)
    corners = [(u, v) for u in (0.0, width - 1.0) for v in (0.0, height - 1.0)]
    for corner in corners:
        flow = window.flow_target.copy()
        flow[0, 0, 0] = corner
        assert cost_behind >= kernel_cost(replace(window, flow_target=flow), options)
    if loss == "geman_mcclure":  # bounded: the bound
        bound = options.flow_weight * window.confidence[0, 0, 0].mean() * options.flow_loss.width**2
        assert cost_behind == pytest.approx(bound, rel=0.01)


# ---- prior


@pytest.mark.parametrize("inv_depth", [1e-3, 0.2, 3.0, 0.0, -0.5])
def test_derivatives_of_the_prior_are_those_of_differences(inv_depth: float) -> None:
    """r = log(d z) + s, finite for depths that a trial step carries to zero and below."""
    window = replace(true_window(2, 1, 1), confidence=np.zeros((2, 1, 1, 2)))
    window = replace(window, prior_depth_m=np.full((2, 1, 1), 5.0), prior_weight=np.full((2, 1, 1), 3.0))
    options = options_of(window, "metric", "none")
    options.scale_sigma, options.scale_step_sigma = 1e6, 0.0

    def cost(d: float, s: float) -> float:
        state = {"inv_depth": np.array([d, 0.2]).reshape(2, 1, 1), "prior_log_scale": np.array([s, 0.0])}
        return kernel_cost(replace(window, **state), options)

    d, s = inv_depth, 0.3
    here = replace(window, inv_depth=np.array([d, 0.2]).reshape(2, 1, 1), prior_log_scale=np.array([s, 0.0]))
    assert np.isfinite(cost(d, s))
    if d > 0:
        assert cost(d, s) == pytest.approx(3.0 * (np.log(5.0 * d) + s) ** 2)
    system = reference.linearize(here, options)
    h = 1e-7 * max(abs(d), 1e-2)
    slope_d = (cost(d + h, s) - cost(d - h, s)) / (2 * h)
    slope_s = (cost(d, s + 1e-6) - cost(d, s - 1e-6)) / 2e-6
    tolerance = 1e-2 if d == 0.0 else 1e-5  # the tangent begins within the difference around zero
    assert -2.0 * float(system.b[0]) == pytest.approx(slope_d, rel=tolerance)
    assert -2.0 * float(system.v[12]) == pytest.approx(slope_s, rel=1e-4)


@pytest.mark.parametrize("factor", [0.02, 0.2, 5.0, 200.0])
def test_a_depth_that_only_the_prior_knows_reaches_it(factor: float) -> None:
    """From a start that is wrong by any factor; a Newton step on the logarithm would leave the range of depths."""
    window = replace(true_window(2, 3, 4), confidence=np.zeros((2, 3, 4, 2)), scale_sigma=0.0)
    start = replace(window, inv_depth=np.clip(window.inv_depth * factor, 1e-3, 5.0))
    found, _ = solve_window(start, config_of("metric", "none"), iterations=12, tight_convergence=True)
    np.testing.assert_allclose(found.inv_depth * window.prior_depth_m, 1.0, rtol=1e-4)


def test_moved_poses_is_the_retraction_of_the_kernel() -> None:
    """A step with a huge ridge is v / ridge, so the kernel's own retraction can be compared."""
    window = replace(disturbed(true_window()), depth_free=np.zeros(4, bool))
    options, ridge = options_of(window), 1e9
    v = reference.linearize(window, options).v[: 6 * 4].reshape(4, 6).numpy() * window.pose_free[:, None]
    ours = copy_of(window)
    native.dense_ba_step(native_problem(ours), options, ridge=ridge, damping=0.0)
    change = ours.poses - window.poses
    np.testing.assert_allclose(change, moved_poses(window.poses, v / ridge) - window.poses, rtol=1e-2, atol=1e-12)
