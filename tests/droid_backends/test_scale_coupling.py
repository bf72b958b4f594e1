"""Which prior scales are coupled is free to choose, so the order of the keyframes does not matter."""

from __future__ import annotations

from dataclasses import replace

import droid_backends as native
import numpy as np
import pytest

from metric_slam.errors import InputError
from metric_slam.optimization.bundle_adjustment import BaWindow, native_problem, solve_window
from metric_slam.optimization.reference import dense_ba as reference
from tests.ba_problems import (
    config_of,
    copy_of,
    disturbed,
    kernel_cost,
    options_of,
    reordered,
    true_window,
    with_everything,
)

N = 6


def window_of(previous: list[int] | None) -> BaWindow:
    """A window with everything, whose scales start apart and are coupled as told."""
    window = with_everything(disturbed(true_window(N)))
    coupled = None if previous is None else np.array(previous, np.int64)
    return replace(window, scale_previous=coupled, prior_log_scale=np.array([0.0, 0.05, -0.03, 0.02, 0.06, -0.05]))


def test_by_default_each_scale_is_coupled_with_the_one_before() -> None:
    options = options_of(window_of(None))
    ours, theirs = copy_of(window_of(None)), copy_of(window_of([-1, 0, 1, 2, 3, 4]))
    assert kernel_cost(ours, options) == kernel_cost(theirs, options)
    for window in (ours, theirs):
        native.solve_dense_ba(native_problem(window), options)
    np.testing.assert_array_equal(ours.prior_log_scale, theirs.prior_log_scale)
    np.testing.assert_array_equal(ours.poses, theirs.poses)


@pytest.mark.parametrize("previous", [[-1] * N, [-1, 0, 1, -1, 3, 4], [3, -1, 4, 5, 1, 2], [5, 0, 0, 0, 0, 0]])
def test_kernel_and_twin_agree(previous: list[int]) -> None:
    window = window_of(previous)
    options = options_of(window)
    ours = copy_of(window)
    assert kernel_cost(ours, options) == pytest.approx(float(reference.cost(window, options)), rel=1e-12)
    native.dense_ba_step(native_problem(ours), options, ridge=0.1, damping=1e-3)
    theirs = reference.step(window, options, ridge=0.1, damping=1e-3)
    np.testing.assert_allclose(ours.prior_log_scale, theirs.scales, rtol=0, atol=1e-11)
    np.testing.assert_allclose(ours.poses, theirs.poses, rtol=0, atol=1e-11)
    np.testing.assert_allclose(ours.inv_depth, theirs.inv_depth, rtol=0, atol=1e-11)


def test_cost_counts_the_steps_that_are_named() -> None:
    options = options_of(window_of(None))
    s = window_of(None).prior_log_scale
    apart = kernel_cost(window_of([-1] * N), options)
    coupled = kernel_cost(window_of([-1, -1, -1, -1, -1, 2]), options)
    assert coupled - apart == pytest.approx((s[5] - s[2]) ** 2 / options.scale_step_sigma**2, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("previous", [None, [-1, 0, 1, -1, 3, 4]])
def test_the_order_of_the_keyframes_does_not_matter(previous: list[int] | None, seed: int) -> None:
    window = window_of(previous)
    order = np.random.default_rng(seed).permutation(N)
    expected, report = solve_window(window, config_of(), iterations=12)
    found, its_report = solve_window(reordered(window, order), config_of(), iterations=12)
    assert its_report.iterations == report.iterations
    assert its_report.cost_final == pytest.approx(report.cost_final, rel=1e-12)
    np.testing.assert_allclose(found.poses, expected.poses[order], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.inv_depth, expected.inv_depth[order], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.prior_log_scale, expected.prior_log_scale[order], rtol=0, atol=1e-9)
    assert np.abs(expected.prior_log_scale - window.prior_log_scale).max() > 1e-3


@pytest.mark.parametrize(
    "previous",
    [
        np.array([-1, 0, 1, 2, 3, 6]),
        np.array([-2, 0, 1, 2, 3, 4]),
        np.array([-1, 0, 1, 3, 3, 4]),
        np.array([-1, 0, 1, 2, 3]),
        np.array([-1, 0, 1, 2, 3, 4], np.int32),
        np.array([-1.0, 0, 1, 2, 3, 4]),
    ],
)
def test_wrong_couplings_are_refused(previous: np.ndarray) -> None:
    with pytest.raises(InputError, match="scale_previous"):
        solve_window(replace(window_of(None), scale_previous=previous), config_of())
