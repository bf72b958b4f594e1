"""Bundle adjustment as DROID-SLAM does it: plain steps, its damping, its limits, and failures that are said."""

from __future__ import annotations

from dataclasses import replace

import droid_backends as native
import numpy as np
import pytest

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.optimization.bundle_adjustment import native_options, native_problem, solve_window
from tests.ba_problems import copy_of, disturbed, true_window

PLAIN = BundleAdjustmentConfig(
    solver="gauss_newton", flow_sigma_px=8.0 / np.sqrt(0.001), flow_loss="none", prior_mode="droid"
)


def test_the_flow_weight_is_droid_slams() -> None:
    options = native_options(PLAIN, has_prior=True, scale_sigma=0.0, grid=(6, 8))
    assert options.flow_weight == pytest.approx(0.001) and options.droid_alpha == 0.05


@pytest.mark.parametrize("tight_convergence", [False, True])
def test_steps_are_those_of_the_kernel(tight_convergence: bool) -> None:
    window = replace(disturbed(true_window()), depth_damping=np.full((4, 6, 8), 1e-4))
    expected = copy_of(window)
    options = native_options(PLAIN, has_prior=True, scale_sigma=window.scale_sigma, grid=(6, 8))
    options.damping = native.Damping.AFTER_SCHUR
    ridge, damping = (1e-2, 1e-5) if tight_convergence else (0.1, 1e-4)
    for _ in range(2):
        native.dense_ba_step(native_problem(expected), options, ridge=ridge, damping=damping)
        np.clip(expected.inv_depth, 1e-3, 5.0, out=expected.inv_depth)
    found, report = solve_window(window, PLAIN, iterations=2, tight_convergence=tight_convergence)
    assert report.status == "max_iterations" and report.iterations == 2
    np.testing.assert_array_equal(found.poses, expected.poses)
    np.testing.assert_array_equal(found.inv_depth, expected.inv_depth)


def test_it_converges_and_leaves_the_input_alone() -> None:
    truth = true_window()
    window = replace(disturbed(truth, flow=0.0), prior_depth_m=truth.prior_depth_m)
    before = copy_of(window)
    found, _ = solve_window(window, replace_config(ridge=1e-6), iterations=40)
    np.testing.assert_array_equal(window.poses, before.poses)
    np.testing.assert_allclose(found.poses, truth.poses, atol=2e-3)


def replace_config(**values: float) -> BundleAdjustmentConfig:
    return PLAIN.model_copy(update=values)


def test_depths_stay_within_their_limits() -> None:
    window = disturbed(true_window(), depth=1.5, flow=3.0)
    found, _ = solve_window(window, PLAIN, iterations=5)
    assert found.inv_depth.min() >= 1.0 / PLAIN.max_depth and found.inv_depth.max() <= 1.0 / PLAIN.min_depth
    assert found.inv_depth.max() > 0.5 / PLAIN.min_depth, "the limit was reached, or nearly"


def test_a_failed_factorisation_changes_nothing_and_is_said() -> None:
    window = disturbed(true_window())
    broken = replace(window, flow_target=np.full_like(window.flow_target, np.nan))
    found, report = solve_window(broken, PLAIN, iterations=3)
    assert report.status == "not_positive_definite"
    np.testing.assert_array_equal(found.poses, window.poses)
    np.testing.assert_array_equal(found.inv_depth, window.inv_depth)


def test_motion_only_and_nothing_to_do() -> None:
    window = disturbed(true_window())
    found, _ = solve_window(window, PLAIN, iterations=2, motion_only=True)
    np.testing.assert_array_equal(found.inv_depth, window.inv_depth)
    assert (found.poses[1:] != window.poses[1:]).any() and (found.poses[0] == window.poses[0]).all()
    still = replace(window, pose_free=np.zeros(4, bool))
    assert solve_window(still, PLAIN, motion_only=True)[1].status == "nothing_to_do"
