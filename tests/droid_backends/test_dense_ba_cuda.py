"""Dense bundle adjustment on a GPU against the C++ solver."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import droid_backends as native
import numpy as np
import pytest
import torch

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.geometry.cuda_kernels import CudaKernels
from metric_slam.optimization.bundle_adjustment import BaWindow, SolveStatus, native_problem, solve_window
from metric_slam.optimization.cuda import dense_ba as device_ba
from metric_slam.optimization.cuda import plan as device_plan
from metric_slam.optimization.cuda.dense_ba import solve_on_cuda
from tests.ba_problems import (
    config_of,
    copy_of,
    disturbed,
    options_of,
    reordered,
    true_window,
    window_without_progress,
    with_everything,
)

ORDERS = ("0", "1", "7")


def problem(seed: int = 1, **shape: int) -> BaWindow:
    return disturbed(with_everything(true_window(**shape)), seed)


def assert_same(found: BaWindow, expected: BaWindow, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(found.poses, expected.poses, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.inv_depth, expected.inv_depth, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.prior_log_scale, expected.prior_log_scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("loss", ["none", "huber", "geman_mcclure", "cauchy"])
@pytest.mark.parametrize("mode", ["none", "metric", "droid"])
def test_solves_as_on_the_cpu(cuda: CudaKernels, mode: str, loss: str) -> None:
    window, config = problem(), config_of(mode, loss)
    expected, report = solve_window(window, config)
    found, its_report = solve_window(window, config, cuda=cuda)
    assert_same(found, expected)
    assert (its_report.status, its_report.iterations) == (report.status, report.iterations)
    assert its_report.cost_initial == pytest.approx(report.cost_initial, rel=1e-12)
    assert its_report.cost_final == pytest.approx(report.cost_final, rel=1e-9)


@pytest.mark.parametrize(
    ("seed", "pose", "loss", "status"),
    [(1, 0.1, "cauchy", "max_iterations"), (7, 0.6, "huber", "converged"), (3, 1.0, "geman_mcclure", "converged")],
)
def test_refuses_steps_as_on_the_cpu(cuda: CudaKernels, seed: int, pose: float, loss: str, status: str) -> None:
    """A start so far off that some steps make it worse: they leave no trace, and the damping grows."""
    window = disturbed(true_window(), seed=seed, flow=2.0, depth=0.6, pose=pose)
    options = options_of(window, "metric", loss)
    options.initial_damping, options.iterations = 1e-8, 12
    ours = copy_of(window)
    report = native.solve_dense_ba(native_problem(ours), options)
    assert report.trials > report.iterations and report.status.name.lower() == status  # or this test shows nothing
    solution = solve_on_cuda(cuda, window, options)
    assert (solution.report.status, solution.report.trials) == (report.status.name.lower(), report.trials)
    found = replace(ours, poses=solution.poses, inv_depth=solution.inv_depth.cpu(), prior_log_scale=solution.scales)
    assert_same(found, ours, 1e-7)


def test_no_progress_is_reported_as_on_the_cpu(cuda: CudaKernels) -> None:
    window = window_without_progress()
    _, expected = solve_window(window, config_of("none", "none"))
    found, report = solve_window(window, config_of("none", "none"), cuda=cuda)
    assert report == expected and report.status is SolveStatus.NO_PROGRESS
    np.testing.assert_array_equal(found.inv_depth, window.inv_depth)


@pytest.mark.parametrize("placement", ["BEFORE_SCHUR", "AFTER_SCHUR", "EVERY_BLOCK"])
def test_a_plain_step_is_that_of_the_cpu(cuda: CudaKernels, placement: str) -> None:
    window = problem()
    options = options_of(window, "droid", "none")
    options.damping, options.iterations = getattr(native.Damping, placement), 1
    options.min_inv_depth, options.max_inv_depth = -1e9, 1e9
    ours = copy_of(window)
    assert native.dense_ba_step(native_problem(ours), options, ridge=0.1, damping=1e-4) == native.Status.MAX_ITERATIONS
    solution = solve_on_cuda(cuda, window, options, ridge_and_damping=(0.1, 1e-4))
    found = replace(ours, poses=solution.poses, inv_depth=solution.inv_depth.cpu(), prior_log_scale=solution.scales)
    assert_same(found, ours)
    assert solution.report.iterations == 1


@pytest.mark.parametrize("tight_convergence", [False, True])
def test_gauss_newton_is_that_of_the_cpu(cuda: CudaKernels, tight_convergence: bool) -> None:
    window = problem()
    config = BundleAdjustmentConfig(solver="gauss_newton", prior_mode="droid")
    expected, report = solve_window(window, config, iterations=3, tight_convergence=tight_convergence)
    found, its_report = solve_window(window, config, iterations=3, tight_convergence=tight_convergence, cuda=cuda)
    assert_same(found, expected)
    assert its_report.status == report.status and its_report.iterations == report.iterations


def test_motion_only_and_depths_only(cuda: CudaKernels) -> None:
    window = problem()
    for case, options in (
        (window, {"motion_only": True}),
        (replace(window, pose_free=np.zeros(len(window.poses), bool), scale_sigma=0.0), {}),
    ):
        expected, report = solve_window(case, config_of(), **options)
        found, its_report = solve_window(case, config_of(), cuda=cuda, **options)
        assert_same(found, expected)
        assert its_report.status == report.status


def test_keyframes_in_any_order_and_coupled_scales(cuda: CudaKernels) -> None:
    window = reordered(problem(), np.array([2, 0, 3, 1]))
    assert_same(solve_window(window, config_of(), cuda=cuda)[0], solve_window(window, config_of())[0])


def test_many_pixels_edges_and_batches(cuda: CudaKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid that is no multiple of a warp, several blocks a source, all pairs of keyframes, sources in turns."""
    window = problem(n=5, height=9, width=21, radius=4)
    expected = solve_window(window, config_of(), iterations=2)[0]
    assert_same(solve_window(window, config_of(), iterations=2, cuda=cuda)[0], expected)
    monkeypatch.setattr(device_plan, "_WORKSPACE_BYTES", 48 * 9 * 21 * 5)
    monkeypatch.setattr(device_ba, "_plans", OrderedDict())
    assert_same(solve_window(window, config_of(), iterations=2, cuda=cuda)[0], expected)


def test_very_large_systems_are_solved_on_the_host(cuda: CudaKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_ba, "MAX_DENSE_ROWS", 10)
    window = problem()
    expected, report = solve_window(window, config_of())
    found, its_report = solve_window(window, config_of(), cuda=cuda)
    assert_same(found, expected)
    assert its_report.status == report.status


def test_tensors_of_the_device_in_single_precision(cuda: CudaKernels) -> None:
    window = problem()
    flow, confidence = window.flow_target.astype(np.float32), window.confidence.astype(np.float32)
    rounded = replace(window, flow_target=flow.astype(float), confidence=confidence.astype(float))
    names = ("inv_depth", "prior_depth_m", "prior_weight", "depth_damping")
    there = {name: cuda.upload(getattr(window, name)) for name in names}
    on_device = replace(window, flow_target=cuda.upload(flow), confidence=cuda.upload(confidence), **there)
    found, _ = solve_window(on_device, config_of(), cuda=cuda)
    assert isinstance(found.inv_depth, torch.Tensor) and found.inv_depth.device == cuda.device
    assert_same(replace(found, inv_depth=found.inv_depth.cpu().numpy()), solve_window(rounded, config_of())[0])
    assert bool((on_device.inv_depth == there["inv_depth"]).all())  # the input is left as it is
    np.testing.assert_array_equal(there["inv_depth"].cpu().numpy(), window.inv_depth)


def test_the_same_bits_in_any_order(cuda: CudaKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    window = problem(height=7, width=11)
    results = []
    for order in ORDERS:
        monkeypatch.setenv("METRIC_SLAM_EMULATION_ORDER", order)
        results.append(solve_window(window, config_of(), iterations=3, cuda=cuda)[0])
    for other in results[1:]:
        for name in ("poses", "inv_depth", "prior_log_scale"):
            np.testing.assert_array_equal(getattr(other, name), getattr(results[0], name))


def test_what_cannot_be_solved_changes_nothing(cuda: CudaKernels) -> None:
    window = problem()
    broken = replace(window, poses=np.where(np.arange(4)[:, None] == 2, np.nan, window.poses))
    for config in (config_of(), BundleAdjustmentConfig(solver="gauss_newton")):
        found, report = solve_window(broken, config, cuda=cuda)
        assert report.status == "not_positive_definite"
        np.testing.assert_array_equal(found.inv_depth, broken.inv_depth)
        np.testing.assert_array_equal(found.poses, broken.poses)


def test_nothing_to_do(cuda: CudaKernels) -> None:
    window = problem()
    no = np.zeros(4, bool)
    cases = [
        replace(window, pose_free=no, depth_free=no),
        replace(
            window,
            source=window.source[:0],
            target=window.target[:0],
            flow_target=window.flow_target[:0],
            confidence=window.confidence[:0],
        ),
    ]
    for case in cases:
        found, report = solve_window(case, config_of(), cuda=cuda)
        assert report.status == "nothing_to_do"
        np.testing.assert_array_equal(found.inv_depth, case.inv_depth)


def test_nan_without_confidence_does_not_count(cuda: CudaKernels) -> None:
    window = problem()
    flow, confidence = window.flow_target.copy(), window.confidence.copy()
    confidence[:, 2, 3] = 0.0
    clean = solve_window(replace(window, confidence=confidence), config_of(), cuda=cuda)[0]
    flow[:, 2, 3] = np.nan
    dirty = replace(window, flow_target=flow, confidence=confidence)
    assert_same(solve_window(dirty, config_of(), cuda=cuda)[0], clean, 0.0)


def test_keyframes_that_do_not_exist_are_named(cuda: CudaKernels) -> None:
    window = problem()
    with pytest.raises(ValueError, match="outside 0..3"):
        solve_window(replace(window, target=window.target + 1), config_of(), cuda=cuda)
