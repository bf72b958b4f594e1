"""Small bundle adjustment windows with a known solution."""

from __future__ import annotations

from dataclasses import replace

import droid_backends as native
import numpy as np
import torch

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.geometry.lie import SE3
from metric_slam.geometry.projective import reproject
from metric_slam.optimization.bundle_adjustment import Baselines, BaWindow, native_options, native_problem


def moved_poses(poses: np.ndarray, xi: np.ndarray) -> np.ndarray:
    """exp(xi) T for poses [N, 7] and xi [N, 6]."""
    return SE3.InitFromVec(torch.tensor(poses)).retr(torch.tensor(xi)).vec().numpy()


def true_window(n: int = 4, height: int = 6, width: int = 8, radius: int = 2, seed: int = 0) -> BaWindow:
    """A drive of 0.4 m steps with some turning, depths of 4 to 9 m, flow without noise: its cost is zero.

    Every depth map is its own, so only flow ties the keyframes together. The prior is the truth; pose 0 is fixed.
    """
    rng = np.random.default_rng(seed)
    identity = np.tile([0.0, 0, 0, 0, 0, 0, 1], (n, 1))
    xi = np.cumsum(rng.normal([0.05, 0, -0.4, 0, 0.01, 0], 0.01, (n, 6)), axis=0)
    poses = moved_poses(identity, xi)
    inv_depth = 1.0 / rng.uniform(4.0, 9.0, (n, height, width))
    pairs = [(i, j) for i in range(n) for j in range(n) if 0 < abs(i - j) <= radius]
    source, target = np.array(pairs, np.int64).T.copy()
    intrinsics = np.array([0.7 * width, 0.75 * width, 0.48 * width, 0.52 * height])
    projection = reproject(*map(torch.tensor, (poses, inv_depth, intrinsics, source, target)))
    assert bool(projection.valid.all())
    return BaWindow(
        intrinsics=intrinsics,
        poses=poses,
        inv_depth=inv_depth,
        source=source,
        target=target,
        flow_target=projection.coords.numpy(),
        confidence=rng.uniform(0.2, 1.0, (len(pairs), height, width, 2)),
        pose_free=np.arange(n) > 0,
        depth_free=np.ones(n, bool),
        prior_depth_m=1.0 / inv_depth,
        prior_weight=rng.uniform(20.0, 100.0, inv_depth.shape),
        prior_log_scale=np.zeros(n),
        scale_sigma=0.03,
    )


def disturbed(window: BaWindow, seed: int = 1, flow: float = 0.1, depth: float = 0.05, pose: float = 0.01) -> BaWindow:
    """The window with noise on flow (cells), depths (relative), free poses, prior and scales."""
    rng = np.random.default_rng(seed)
    n = len(window.poses)
    scales = np.zeros(n) if window.prior_log_scale is None else window.prior_log_scale
    changes = {}
    if window.prior_depth_m is not None:
        holes = rng.uniform(size=window.prior_depth_m.shape) < 0.2
        noisy = window.prior_depth_m * rng.normal(1.0, 0.05, holes.shape)
        changes["prior_depth_m"] = np.where(holes, 0.0, noisy)
    return replace(
        window,
        poses=moved_poses(window.poses, rng.normal(0, pose, (n, 6)) * window.pose_free[:, None]),
        inv_depth=window.inv_depth * rng.normal(1.0, depth, window.inv_depth.shape),
        flow_target=window.flow_target + rng.normal(0, flow, window.flow_target.shape),
        prior_log_scale=scales + rng.normal(0, 0.02, n),
        **changes,
    )


def scaled(window: BaWindow, factor: float) -> BaWindow:
    """The window in other units: lengths of poses and depths times ``factor``; priors stay as they are."""
    poses = window.poses.copy()
    poses[:, :3] *= factor
    return replace(window, poses=poses, inv_depth=window.inv_depth / factor)


def steps_m(window: BaWindow) -> np.ndarray:
    """Distances between the cameras of neighbouring keyframes [N - 1]."""
    T = SE3.InitFromVec(torch.tensor(window.poses))
    return (T[1:] * T[:-1].inv()).translation().norm(dim=-1).numpy()


def with_everything(window: BaWindow) -> BaWindow:
    """Measured baselines, anchors, eta and a fixed depth map beside what the window has."""
    n = len(window.poses)
    pairs = np.array([[0, 1], [2, 1], [0, n - 1]], np.int64)
    return replace(
        window,
        depth_free=np.arange(n) != 1,
        scale_anchor=np.linspace(-0.02, 0.02, n),
        depth_damping=np.full(window.inv_depth.shape, 0.3),
        baselines=Baselines(pair=pairs, length_m=np.array([0.5, 0.45, 1.3]), sigma=np.array([0.05, 0.1, 0.02])),
    )


def window_without_progress() -> BaWindow:
    """A match pulls a depth behind the camera, where it is after the smallest of steps: no damping lowers the cost."""
    poses = np.array([[0.0, 0, 0, 0, 0, 0, 1], [0.0, 0, -1, 0, 0, 0, 1]])  # 1 m ahead
    return BaWindow(
        intrinsics=np.array([10.0, 10.0, -5.0, 0.0]),
        poses=poses,
        inv_depth=np.array([0.8 - 1e-13, 0.1]).reshape(2, 1, 1),  # in front of the second camera by a hair
        source=np.array([0]),
        target=np.array([1]),
        flow_target=np.array([21.0, 0.0]).reshape(1, 1, 1, 2),  # it lies at 20
        confidence=np.ones((1, 1, 1, 2)),
        pose_free=np.zeros(2, bool),
        depth_free=np.array([True, False]),
    )


def copy_of(window: BaWindow) -> BaWindow:
    """The window with its own state, for calls that change it in place."""
    state = {name: getattr(window, name).copy() for name in ("poses", "inv_depth", "prior_log_scale")}
    return replace(window, **state)


def config_of(mode: str = "metric", loss: str = "geman_mcclure") -> BundleAdjustmentConfig:
    """A configuration with one loss for flow and prior, and depths within what these problems are made of."""
    return BundleAdjustmentConfig(
        prior_mode=mode, flow_loss=loss, prior_loss=loss, flow_loss_width_px=2.0, min_depth=0.2, max_depth=1000.0
    )


def options_of(window: BaWindow, mode: str = "metric", loss: str = "geman_mcclure") -> native.DenseBaOptions:
    """Kernel options of that configuration."""
    has_prior, grid = window.prior_depth_m is not None, tuple(window.inv_depth.shape[1:])
    return native_options(config_of(mode, loss), has_prior=has_prior, scale_sigma=window.scale_sigma, grid=grid)


def kernel_cost(window: BaWindow, options: native.DenseBaOptions) -> float:
    """The robust cost by the kernel."""
    return native.dense_ba_cost(native_problem(window), options)


def reordered(window: BaWindow, order: np.ndarray) -> BaWindow:
    """The same problem with keyframes in another order: ``order`` [N] is new place -> keyframe.

    Scales stay coupled as they were.
    """
    n = len(order)
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    before = np.arange(-1, n - 1) if window.scale_previous is None else window.scale_previous
    per_keyframe = (
        "poses", "inv_depth", "pose_free", "depth_free", "prior_depth_m", "prior_weight", "prior_log_scale",
        "scale_anchor", "depth_damping",
    )  # fmt: skip
    given = {name: getattr(window, name) for name in per_keyframe}
    return replace(
        window,
        **{name: values[order].copy() for name, values in given.items() if values is not None},
        source=place[window.source],
        target=place[window.target],
        scale_previous=np.where(before[order] < 0, -1, place[before[order]]),
        baselines=replace(window.baselines, pair=place[window.baselines.pair]),
    )
