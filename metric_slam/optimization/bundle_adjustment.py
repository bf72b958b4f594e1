"""Dense bundle adjustment with a metric prior: the documented surface of the kernel in thirdparty/droid_backends.

Takes one window of keyframes as arrays, returns new arrays and a report. The cost function stands in
``thirdparty/droid_backends/include/droid_backends/dense_ba.h``; a slow torch version of it in
:mod:`metric_slam.geometry.reference.dense_ba`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import droid_backends as native
import numpy as np
import torch
from torch import Tensor

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.geometry.camera import FEATURE_STRIDE
from metric_slam.optimization.cuda.dense_ba import solve_on_device
from metric_slam.optimization.cuda.kernels import Accelerator

PriorMode = Literal["none", "metric", "droid"]

_LOSSES = {
    "none": native.Loss.NONE,
    "huber": native.Loss.HUBER,
    "geman_mcclure": native.Loss.GEMAN_MCCLURE,
    "cauchy": native.Loss.CAUCHY,
}
_PRIOR_MODES = {
    "none": native.PriorMode.NONE,
    "metric": native.PriorMode.METRIC,
    "droid": native.PriorMode.DROID,
}


@dataclass(frozen=True)
class BaReport:
    """How one solve ended. With ``not_positive_definite`` nothing was changed."""

    status: str
    """converged | max_iterations | not_positive_definite | no_progress | nothing_to_do."""

    iterations: int = 0
    cost_initial: float = 0.0
    cost_final: float = 0.0


@dataclass(frozen=True)
class Baselines:
    """Measured metric distances between keyframe centres, F of them."""

    pair: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """Keyframe positions in the window, int64 [F, 2]."""

    length_m: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float64 [F]."""

    sigma: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Standard deviation of log(length), float64 [F]."""


Grid = np.ndarray | Tensor
"""Large arrays: numpy, or tensors of the device that solves."""


@dataclass(frozen=True)
class BaWindow:
    """One problem: N keyframes, E directed edges, on a grid of h x w cells."""

    intrinsics: np.ndarray
    """fx, fy, cx, cy of the grid camera, float64 [4]."""

    poses: np.ndarray
    """T_cam_world: t xyz, q xyzw, float64 [N, 7]."""

    inv_depth: Grid
    """1/m, float64 [N, h, w]."""

    source: np.ndarray
    """int64 [E]."""

    target: np.ndarray
    """int64 [E]."""

    flow_target: Grid
    """Grid cells (x, y), float64 [E, h, w, 2]; tensors may be float32."""

    confidence: Grid
    """0..1, of the type of ``flow_target``, [E, h, w, 2]."""

    pose_free: np.ndarray
    """bool [N]: which poses may move."""

    depth_free: np.ndarray
    """bool [N]: which keyframes' inverse depths (and prior scales) may move."""

    prior_depth_m: Grid | None = None
    """float64 [N, h, w], 0 where the prior says nothing."""

    prior_weight: Grid | None = None
    """Confidence over variance of the prior's relative depth error, float64 [N, h, w]."""

    prior_log_scale: np.ndarray | None = None
    """s_k, float64 [N]; zeros when None."""

    scale_anchor: np.ndarray | None = None
    """Where s_k is pulled to, float64 [N]; zeros when None."""

    scale_previous: np.ndarray | None = None
    """Position of the keyframe whose s_k is coupled with this one's, int64 [N]; -1: none; None: the one before."""

    scale_sigma: float = 0.0
    """Standard deviation of s_k around its anchor; 0 holds the scales."""

    depth_damping: Grid | None = None
    """eta, float64 [N, h, w]."""

    baselines: Baselines = field(default_factory=Baselines)

    cell_step: int = 1
    """Cells of this problem are every so many-th of the 1/8 grid, and stand for those between."""


def solve_window(
    window: BaWindow,
    config: BundleAdjustmentConfig,
    *,
    iterations: int | None = None,
    motion_only: bool = False,
    tight_convergence: bool = False,
    accelerator: Accelerator | None = None,
) -> tuple[BaWindow, BaReport]:
    """Optimise poses, inverse depths and prior scales of a window; the input is left as it is.

    With ``motion_only`` depths and scales stay fixed; ``tight_convergence`` goes on in soft directions, or takes the
    damping of the whole trajectory. Levenberg-Marquardt on the robust cost, so that the result is never worse than the
    start, or plain Gauss-Newton steps as configured; a failed factorisation returns the start.

    With an ``accelerator`` the work is done there, and large arrays of the window may be tensors on its device;
    ``inv_depth`` comes back as what it was, numpy or tensor, all else as numpy.
    """
    scale = window.prior_log_scale
    window = replace(
        window,
        prior_log_scale=np.zeros(len(window.poses)) if scale is None else scale.copy(),
        depth_free=np.zeros_like(window.depth_free) if motion_only else window.depth_free,
    )
    options = native_options(
        config,
        has_prior=window.prior_depth_m is not None,
        scale_sigma=window.scale_sigma,
        cell_step=window.cell_step,
    )
    if iterations is not None:
        options.iterations = iterations
    if tight_convergence:
        options.initial_damping, options.min_relative_decrease = 1e-8, 1e-7
    if accelerator is not None:
        return _on_device(window, config, options, accelerator, tight_convergence=tight_convergence)
    window = replace(window, poses=window.poses.copy(), inv_depth=window.inv_depth.copy())
    if config.solver == "gauss_newton":
        return _gauss_newton(window, config, options, tight_convergence=tight_convergence)
    report = native.solve_dense_ba(native_problem(window), options)
    return window, BaReport(report.status.name.lower(), report.iterations, report.cost_initial, report.cost_final)


def _step_damping(config: BundleAdjustmentConfig, *, tight_convergence: bool) -> tuple[float, float]:
    """Ridge and damping of Gauss-Newton steps."""
    if tight_convergence:
        return config.backend_ridge, config.backend_step_damping
    return config.ridge, config.step_damping


def _on_device(
    window: BaWindow,
    config: BundleAdjustmentConfig,
    options: native.DenseBaOptions,
    accelerator: Accelerator,
    *,
    tight_convergence: bool,
) -> tuple[BaWindow, BaReport]:
    plain = None
    if config.solver == "gauss_newton":
        plain = _step_damping(config, tight_convergence=tight_convergence)
        options.damping = native.Damping.AFTER_SCHUR
    found = solve_on_device(accelerator, window, options, ridge_and_damping=plain)
    inv_depth = found.inv_depth if isinstance(window.inv_depth, Tensor) else found.inv_depth.cpu().numpy()
    window = replace(window, poses=found.poses, inv_depth=inv_depth, prior_log_scale=found.scales)
    report = found.report
    return window, BaReport(report.status, report.iterations, report.cost_initial, report.cost_final)


def _gauss_newton(
    window: BaWindow, config: BundleAdjustmentConfig, options: native.DenseBaOptions, *, tight_convergence: bool
) -> tuple[BaWindow, BaReport]:
    """All steps, better or not, on a window whose arrays are its own; no costs are reported."""
    ridge, damping = _step_damping(config, tight_convergence=tight_convergence)
    options.damping = native.Damping.AFTER_SCHUR  # droid_kernels.cu damps the system of the poses
    start = replace(
        window,
        poses=window.poses.copy(),
        inv_depth=window.inv_depth.copy(),
        prior_log_scale=window.prior_log_scale.copy(),
    )
    free = window.depth_free
    for done in range(options.iterations):
        status = native.dense_ba_step(native_problem(window), options, ridge=ridge, damping=damping)
        finite = bool(np.isfinite(window.poses).all() and np.isfinite(window.inv_depth).all())
        if status == native.Status.NOT_POSITIVE_DEFINITE or not finite:
            return start, BaReport("not_positive_definite", done)
        if status == native.Status.NOTHING_TO_DO:
            return window, BaReport("nothing_to_do")
        window.inv_depth[free] = window.inv_depth[free].clip(options.min_inv_depth, options.max_inv_depth)
    return window, BaReport("max_iterations", options.iterations)


def native_options(
    config: BundleAdjustmentConfig, *, has_prior: bool, scale_sigma: float, cell_step: int = 1
) -> native.DenseBaOptions:
    """Kernel options. Flow residuals are in grid cells there, so pixel lengths are divided by the stride."""
    options = native.DenseBaOptions()
    stride_px = FEATURE_STRIDE * cell_step
    options.iterations = config.iterations
    options.prior_mode = _PRIOR_MODES[config.prior_mode if has_prior else "none"]
    options.flow_weight = (stride_px * cell_step / config.flow_sigma_px) ** 2  # a cell stands for step^2 of them
    options.flow_loss = native.RobustLoss(_LOSSES[config.flow_loss], config.flow_loss_width_px / stride_px)
    options.invalid_residual = 3.0 * config.flow_loss_width_px / stride_px
    options.prior_loss = native.RobustLoss(_LOSSES[config.prior_loss], config.prior_loss_width)
    options.baseline_loss = native.RobustLoss(native.Loss.CAUCHY, config.baseline_loss_width)
    options.droid_alpha = config.droid_alpha
    options.scale_sigma = scale_sigma
    options.scale_step_sigma = config.scale_step_sigma
    options.min_inv_depth = 1.0 / config.max_depth
    options.max_inv_depth = 1.0 / config.min_depth
    options.initial_damping = config.initial_damping
    return options


def native_problem(window: BaWindow) -> native.DenseBaProblem:
    """The kernel's view of a window; poses, inverse depths and scales are updated in place by a solve."""
    return native.DenseBaProblem(
        poses=window.poses,
        inv_depth=window.inv_depth,
        scales=window.prior_log_scale,
        intrinsics=window.intrinsics,
        source=window.source,
        target=window.target,
        flow_target=window.flow_target,
        confidence=window.confidence,
        pose_free=window.pose_free,
        depth_free=window.depth_free,
        depth_damping=window.depth_damping,
        prior_depth=window.prior_depth_m,
        prior_weight=window.prior_weight,
        scale_anchor=window.scale_anchor,
        scale_previous=window.scale_previous,
        baseline_pair=np.ascontiguousarray(window.baselines.pair, dtype=np.int64),
        baseline_length=window.baselines.length_m,
        baseline_sigma=window.baselines.sigma,
    )


def reproject(
    poses: np.ndarray | Tensor,
    inv_depth: np.ndarray | Tensor,
    intrinsics: np.ndarray,
    source: np.ndarray | Tensor,
    target: np.ndarray | Tensor,
    *,
    accelerator: Accelerator | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the cells of every edge's source lie in its target.

    Arguments as in :class:`BaWindow`; with an accelerator, which does it then, they may be tensors on its device.
    Returns coordinates in grid cells [E, h, w, 2], inverse depth in the target [E, h, w], and whether the point is in
    front of the target [E, h, w].
    """
    if accelerator is not None:
        found = reproject_on_device(accelerator, poses, inv_depth, intrinsics, source, target)
        coords, inv_depth_target, valid = (tensor.cpu().numpy() for tensor in found)
        return coords, inv_depth_target, valid
    E, (h, w) = len(source), inv_depth.shape[1:]
    coords, inv_depth_target, valid = np.empty((E, h, w, 2)), np.empty((E, h, w)), np.empty((E, h, w), bool)
    native.reproject(
        np.ascontiguousarray(poses),
        np.ascontiguousarray(inv_depth),
        intrinsics,
        np.ascontiguousarray(source, dtype=np.int64),
        np.ascontiguousarray(target, dtype=np.int64),
        coords,
        inv_depth_target,
        valid,
    )
    return coords, inv_depth_target, valid


def reproject_on_device(
    accelerator: Accelerator,
    poses: np.ndarray | Tensor,
    inv_depth: np.ndarray | Tensor,
    intrinsics: np.ndarray,
    source: np.ndarray | Tensor,
    target: np.ndarray | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`reproject`, left on the device: float64 [E, h, w, 2], float64 [E, h, w], bool [E, h, w].

    Nobody waits for it: the kernel may still be running on the current stream.
    """
    E, (h, w), device = len(source), tuple(inv_depth.shape[1:]), accelerator.device
    coords = torch.empty(E, h, w, 2, dtype=torch.float64, device=device)
    inv_depth_target = torch.empty(E, h, w, dtype=torch.float64, device=device)
    valid = torch.empty(E, h, w, dtype=torch.bool, device=device)
    accelerator.call(
        "reproject",
        accelerator.upload(poses, torch.float64),
        accelerator.upload(inv_depth, torch.float64),
        np.ascontiguousarray(intrinsics, dtype=np.float64),
        *(accelerator.indices(numbers, len(poses)) for numbers in (source, target)),
        coords,
        inv_depth_target,
        valid,
    )
    return coords, inv_depth_target, valid
