"""Dense bundle adjustment with a metric prior: Python interface of the kernels in thirdparty/droid_backends.

Takes one window of keyframes as arrays, returns new arrays and a report. Cost function:
``thirdparty/droid_backends/include/droid_backends/dense_ba.h``; reference implementation in torch:
:mod:`metric_slam.optimization.reference.dense_ba`.
"""

from __future__ import annotations

from dataclasses import replace

import droid_backends as native
import numpy as np
import torch
from torch import Tensor

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.errors import InputError
from metric_slam.geometry.camera import FEATURE_STRIDE
from metric_slam.geometry.cuda_kernels import CudaKernels
from metric_slam.geometry.grid_array import on_host
from metric_slam.optimization.cuda.dense_ba import solve_on_cuda
from metric_slam.optimization.report import BaReport, SolveStatus
from metric_slam.optimization.window import Baselines, BaWindow, Grid, check_window

__all__ = [
    "BaReport",
    "BaWindow",
    "Baselines",
    "SolveStatus",
    "native_options",
    "native_problem",
    "reproject",
    "reproject_on_cuda",
    "solve_window",
]

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


def solve_window(
    window: BaWindow,
    config: BundleAdjustmentConfig,
    *,
    iterations: int | None = None,
    motion_only: bool = False,
    tight_convergence: bool = False,
    cuda: CudaKernels | None = None,
) -> tuple[BaWindow, BaReport]:
    """Optimise poses, inverse depths and prior scales of a window; the input is not changed.

    Levenberg-Marquardt on the robust cost, whose result is never worse than the start, or plain Gauss-Newton steps
    (``config.solver``); a failed factorisation returns the start.

    Args:
        window: the problem.
        config: weights, losses and limits.
        iterations: linearisations; default: those of ``config``.
        motion_only: hold depths and scales.
        tight_convergence: smaller damping and a smaller relative decrease, for the soft directions of a long
            trajectory; Gauss-Newton takes the damping of the whole trajectory.
        cuda: CUDA kernels to use. Large arrays of the window may then be tensors on their device;
            ``inv_depth`` is returned in the type it was given in, everything else as numpy.

    Raises InputError where arrays do not fit together.
    """
    check_window(window)
    if config.prior_mode == "metric" and window.prior_depth_m is not None and window.prior_weight is None:
        raise InputError("prior_weight must be given with prior_depth_m")
    if motion_only:
        window = replace(window, depth_free=np.zeros_like(window.depth_free))
    options = native_options(
        config,
        has_prior=window.prior_depth_m is not None,
        scale_sigma=window.scale_sigma,
        grid=(int(window.inv_depth.shape[1]), int(window.inv_depth.shape[2])),
        cell_step=window.cell_step,
    )
    if iterations is not None:
        options.iterations = iterations
    if tight_convergence:
        options.initial_damping, options.min_relative_decrease = 1e-8, 1e-7
    if cuda is not None:
        return _on_cuda(window, config, options, cuda, tight_convergence=tight_convergence)
    window = _with_own_state(window)
    if config.solver == "gauss_newton":
        return _gauss_newton(window, config, options, tight_convergence=tight_convergence)
    report = native.solve_dense_ba(native_problem(window), options)
    return window, BaReport(
        _status(report.status), report.iterations, report.trials, report.cost_initial, report.cost_final
    )


def _with_own_state(window: BaWindow) -> BaWindow:
    """The window with copies of the numpy arrays that a solve changes in place."""
    scale = window.prior_log_scale
    return replace(
        window,
        poses=window.poses.copy(),
        inv_depth=np.array(window.inv_depth),
        prior_log_scale=np.zeros(len(window.poses)) if scale is None else scale.copy(),
    )


def _status(status: native.Status) -> SolveStatus:
    return SolveStatus(status.name.lower())


def _step_damping(config: BundleAdjustmentConfig, *, tight_convergence: bool) -> tuple[float, float]:
    """Ridge and damping of Gauss-Newton steps."""
    if tight_convergence:
        return config.global_ridge, config.global_step_damping
    return config.ridge, config.step_damping


def _on_cuda(
    window: BaWindow,
    config: BundleAdjustmentConfig,
    options: native.DenseBaOptions,
    cuda: CudaKernels,
    *,
    tight_convergence: bool,
) -> tuple[BaWindow, BaReport]:
    plain = None
    if config.solver == "gauss_newton":
        plain = _step_damping(config, tight_convergence=tight_convergence)
        options.damping = native.Damping.AFTER_SCHUR
    found = solve_on_cuda(cuda, window, options, ridge_and_damping=plain)
    inv_depth = found.inv_depth if isinstance(window.inv_depth, Tensor) else found.inv_depth.cpu().numpy()
    window = replace(window, poses=found.poses, inv_depth=inv_depth, prior_log_scale=found.scales)
    return window, found.report


def _gauss_newton(
    window: BaWindow, config: BundleAdjustmentConfig, options: native.DenseBaOptions, *, tight_convergence: bool
) -> tuple[BaWindow, BaReport]:
    """Take every step, better or not, on a window that owns its arrays; no costs are reported."""
    ridge, damping = _step_damping(config, tight_convergence=tight_convergence)
    options.damping = native.Damping.AFTER_SCHUR  # droid_kernels.cu damps the system of the poses
    start = _with_own_state(window)
    free = window.depth_free
    for done in range(options.iterations):
        status = native.dense_ba_step(native_problem(window), options, ridge=ridge, damping=damping)
        finite = bool(np.isfinite(window.poses).all() and np.isfinite(window.inv_depth).all())
        if status == native.Status.NOT_POSITIVE_DEFINITE or not finite:
            return start, BaReport(SolveStatus.NOT_POSITIVE_DEFINITE, done)
        if status == native.Status.NOTHING_TO_DO:
            return window, BaReport(SolveStatus.NOTHING_TO_DO)
        window.inv_depth[free] = window.inv_depth[free].clip(options.min_inv_depth, options.max_inv_depth)
    return window, BaReport(SolveStatus.MAX_ITERATIONS, options.iterations)


def native_options(
    config: BundleAdjustmentConfig, *, has_prior: bool, scale_sigma: float, grid: tuple[int, int], cell_step: int = 1
) -> native.DenseBaOptions:
    """Kernel options for a grid (height, width); flow residuals are in its cells, pixels over the stride."""
    options = native.DenseBaOptions()
    stride_px = FEATURE_STRIDE * cell_step
    options.iterations = config.iterations
    options.prior_mode = _PRIOR_MODES[config.prior_mode if has_prior else "none"]
    options.flow_weight = (stride_px * cell_step / config.flow_sigma_px) ** 2  # a cell stands for step^2 of them
    options.flow_loss = native.RobustLoss(_LOSSES[config.flow_loss], config.flow_loss_width_px / stride_px)
    options.invalid_residual = _longest_residual(grid)
    options.prior_loss = native.RobustLoss(_LOSSES[config.prior_loss], config.prior_loss_width)
    options.baseline_loss = native.RobustLoss(native.Loss.CAUCHY, config.baseline_loss_width)
    options.droid_alpha = config.droid_alpha
    options.scale_sigma = scale_sigma
    options.scale_step_sigma = config.scale_step_sigma
    options.min_inv_depth = 1.0 / config.max_depth
    options.max_inv_depth = 1.0 / config.min_depth
    options.initial_damping = config.initial_damping
    return options


def _longest_residual(grid: tuple[int, int]) -> float:
    """Largest length that a residual between two places inside the image can have for the loss.

    The loss takes sqrt((cx rx^2 + cy ry^2) / mean(cx, cy)), at most sqrt(2) times the longer side. A point behind the
    camera is charged this, so that it never costs less than a wrong match.
    """
    return float(np.sqrt(2.0)) * max(grid)


def native_problem(window: BaWindow) -> native.DenseBaProblem:
    """The problem as the kernel takes it; a solve updates poses, inverse depths and scales in place."""
    assert window.prior_log_scale is not None, "zeros hold the scales"
    return native.DenseBaProblem(
        poses=window.poses,
        inv_depth=on_host(window.inv_depth),
        scales=window.prior_log_scale,
        intrinsics=window.intrinsics,
        source=window.source,
        target=window.target,
        flow_target=on_host(window.flow_target),
        confidence=on_host(window.confidence),
        pose_free=window.pose_free,
        depth_free=window.depth_free,
        depth_damping=_optional_on_host(window.depth_damping),
        prior_depth=_optional_on_host(window.prior_depth_m),
        prior_weight=_optional_on_host(window.prior_weight),
        scale_anchor=window.scale_anchor,
        scale_previous=window.scale_previous,
        baseline_pair=np.ascontiguousarray(window.baselines.pair, dtype=np.int64),
        baseline_length=window.baselines.length_m,
        baseline_sigma=window.baselines.sigma,
    )


def _optional_on_host(grid: Grid | None) -> np.ndarray | None:
    return None if grid is None else on_host(grid)


def reproject(
    poses: np.ndarray | Tensor,
    inv_depth: np.ndarray | Tensor,
    intrinsics: np.ndarray,
    source: np.ndarray | Tensor,
    target: np.ndarray | Tensor,
    *,
    cuda: CudaKernels | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project the cells of every edge's source into its target.

    Arguments as in :class:`BaWindow`; with ``cuda`` they may be tensors on its device. Returns coordinates in
    grid cells [E, h, w, 2], inverse depth in the target [E, h, w], and whether the point is in front of the target
    [E, h, w].
    """
    if cuda is not None:
        found = reproject_on_cuda(cuda, poses, inv_depth, intrinsics, source, target)
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


def reproject_on_cuda(
    cuda: CudaKernels,
    poses: np.ndarray | Tensor,
    inv_depth: np.ndarray | Tensor,
    intrinsics: np.ndarray,
    source: np.ndarray | Tensor,
    target: np.ndarray | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Project as :func:`reproject`, into tensors: float64 [E, h, w, 2], float64 [E, h, w], bool [E, h, w].

    The kernel is only queued on the current stream; it may still be running on return.
    """
    E, (h, w), device = len(source), tuple(inv_depth.shape[1:]), cuda.device
    coords = torch.empty(E, h, w, 2, dtype=torch.float64, device=device)
    inv_depth_target = torch.empty(E, h, w, dtype=torch.float64, device=device)
    valid = torch.empty(E, h, w, dtype=torch.bool, device=device)
    cuda.call(
        "reproject",
        cuda.upload(poses, torch.float64),
        cuda.upload(inv_depth, torch.float64),
        np.ascontiguousarray(intrinsics, dtype=np.float64),
        *(cuda.indices(numbers, len(poses)) for numbers in (source, target)),
        coords,
        inv_depth_target,
        valid,
    )
    return coords, inv_depth_target, valid
