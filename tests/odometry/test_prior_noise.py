"""The noise of a prior is measured against triangulated depths, and sets the weights of its keyframes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metric_slam.correspondence.base import Correspondence
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from metric_slam.graph.keyframes import Keyframe
from metric_slam.odometry.prior_noise import NoiseLimits, log_depth_variance
from tests.optimization.test_prior_noise import HEIGHT, SKY, WIDTH, street_depth_m, street_window

SIGMA = 0.1


def measured_sigma(noise: float, seed: int = 0, **changes: np.ndarray) -> float | None:
    """Square root of the measured variance for a pair of keyframes along the street; None: not measured."""
    intrinsics, depth_m = street_depth_m()
    window = street_window(noise, seed, SIGMA)
    focal, _, cx, cy = intrinsics
    grid = PinholeCamera(focal, focal, cx, cy, WIDTH, HEIGHT)
    e = int(np.flatnonzero((window.source == 1) & (window.target == 0))[0])
    zeros = np.zeros_like(depth_m)
    keyframe = Keyframe(
        index=1,
        time_s=0.0,
        image=np.zeros((HEIGHT * FEATURE_STRIDE, WIDTH * FEATURE_STRIDE, 3), np.uint8),
        features=None,
        prior_state=None,
        pose=window.poses[1],
        inv_depth=window.inv_depth[1],
        prior_depth_m=window.prior_depth_m[1],
        prior_confidence=(depth_m != SKY).astype(float),
        prior_weight=window.prior_weight[1],
        road_depth_m=zeros,
    )
    T_before_new = np.eye(4)
    T_before_new[2, 3] = 1.0
    match = Correspondence(window.flow_target[e], window.confidence[e, ..., 0])
    variance = log_depth_variance(replace(keyframe, **changes), match, T_before_new, grid, SIGMA, NoiseLimits())
    return None if variance is None else float(np.sqrt(variance))


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3, 0.5])
def test_noise_is_found(noise: float) -> None:
    assert measured_sigma(noise) == pytest.approx(noise, rel=0.15)


def test_exact_depth_has_no_noise_and_a_common_factor_does_not_count() -> None:
    assert measured_sigma(0.0) < 0.02
    _, depth_m = street_depth_m()
    assert measured_sigma(0.0, prior_depth_m=np.where(depth_m == SKY, 0.0, 2.0 * depth_m)) < 0.02


def test_cells_that_move_or_have_no_prior_do_not_measure() -> None:
    assert measured_sigma(0.3, moving=np.ones((HEIGHT, WIDTH), np.uint8)) is None
    assert measured_sigma(0.3, prior_confidence=np.zeros((HEIGHT, WIDTH))) is None
