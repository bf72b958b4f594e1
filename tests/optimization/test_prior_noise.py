"""Zero-mean noise of log depth in the prior must not change the scale of the map."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.odometry.prior_noise import NoiseLimits
from metric_slam.optimization.bundle_adjustment import BaWindow, reproject, solve_window

MAX_BIAS = 0.004
N, RADIUS, STEP_M = 8, 3, 1.0
HEIGHT, WIDTH = 24, 80
SKY = 1e3


@lru_cache
def street_depth_m() -> tuple[np.ndarray, np.ndarray]:
    """(intrinsics, depth [h, w]) of a straight street: road 1.65 m below, houses 8 m to the sides, 6 m high.

    It looks the same from every keyframe of a drive along it.
    """
    focal = WIDTH / (2 * np.tan(np.radians(40.5)))
    intrinsics = np.array([focal, focal, (WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ray_x, ray_y = (x - intrinsics[2]) / focal, (y - intrinsics[3]) / focal
    house_m = 8.0 / np.abs(ray_x)
    with np.errstate(divide="ignore"):
        depth_m = np.minimum(house_m, np.where(ray_y > 0, 1.65 / ray_y, np.inf))
    depth_m = np.where((-ray_y * depth_m > 6.0) | (depth_m > 200.0), SKY, depth_m)
    return intrinsics, depth_m


def street_window(noise: float, seed: int, assumed: float) -> BaWindow:
    """A drive along the street with true flow; the prior is the truth times exp(noise n), n standard normal."""
    intrinsics, depth_m = street_depth_m()
    poses = np.tile([0.0, 0, 0, 0, 0, 0, 1], (N, 1))
    poses[:, 2] = -STEP_M * np.arange(N)
    inv_depth = np.tile(1.0 / depth_m, (N, 1, 1))
    pairs = [(i, j) for i in range(N) for j in range(N) if 0 < abs(i - j) <= RADIUS]
    source, target = np.array(pairs, np.int64).T.copy()
    coords, _, valid = reproject(poses, inv_depth, intrinsics, source, target)
    inside = valid & (coords >= 0).all(-1) & (coords[..., 0] < WIDTH) & (coords[..., 1] < HEIGHT)
    n = np.random.default_rng(seed).standard_normal(inv_depth.shape)
    prior = np.where(depth_m == SKY, 0.0, depth_m * np.exp(noise * n))
    return BaWindow(
        intrinsics=intrinsics,
        poses=poses,
        inv_depth=inv_depth,
        source=source,
        target=target,
        flow_target=coords,
        confidence=np.repeat(inside[..., None], 2, axis=-1).astype(float),
        pose_free=np.arange(N) > 0,
        depth_free=np.ones(N, bool),
        prior_depth_m=prior,
        prior_weight=(prior > 0) / assumed**2,
        scale_sigma=0.03,
    )


def bias(noise: float, assumed: float, config: BundleAdjustmentConfig) -> float:
    """Relative error of the length of the path: the mean over noise n and -n, whose chance errors cancel."""
    errors = []
    for sign in (1.0, -1.0):
        found, _ = solve_window(street_window(sign * noise, 0, assumed), config, iterations=20, tight_convergence=True)
        length_m = np.linalg.norm(np.diff(found.poses[:, :3], axis=0), axis=1).sum()
        errors.append(length_m / (STEP_M * (N - 1)) - 1.0)
    return float(np.mean(errors))


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3])
def test_the_residual_has_no_bias(noise: float) -> None:
    """Where flow fixes the depths, the prior decides nothing but the scale."""
    assert abs(bias(noise, 0.1, BundleAdjustmentConfig(flow_sigma_px=0.3))) < MAX_BIAS


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3])
def test_the_map_keeps_its_scale(noise: float) -> None:
    """Where depths follow the prior too, if its weights have its noise (metric_slam.odometry.prior_noise)."""
    assert abs(bias(noise, NoiseLimits().inflation * noise, BundleAdjustmentConfig())) < MAX_BIAS


def test_a_noise_that_is_assumed_too_small_makes_the_map_too_small() -> None:
    """Why the noise is measured: errors in variables."""
    assert bias(0.3, 0.1, BundleAdjustmentConfig()) < -2 * MAX_BIAS
