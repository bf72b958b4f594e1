"""Reference implementation of the dense bundle adjustment of thirdparty/droid_backends: float64, slow and plain.

Same cost (thirdparty/droid_backends/include/droid_backends/dense_ba.h), same damping, same accept/reject
Levenberg-Marquardt. ``window`` is a :class:`metric_slam.optimization.window.BaWindow` and ``options`` is the result of
``native_options``, so one problem can be given to both; neither is changed. Arrays of a window may also be float64
tensors: without robust losses a step is then differentiable in them (metric_slam/training).

Unknowns x are all N poses (6 each) and then all N prior scales, z are all N h w inverse depths. Rows of fixed ones are
dropped only when the system is solved. With residuals r and Jacobians J, weights W:

    | H   E | |dx|   |v|       H, E, C = J^T W J by parts,  v, b = -J^T W r,  so the gradient of the cost is -2 (v, b)
    | E^T C | |dz| = |b|       (H - E C^-1 E^T) dx = v - E C^-1 b ,  dz = C^-1 (b - E^T dx)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metric_slam.geometry import lie
from metric_slam.geometry.projective import Projection, relative_poses, reproject
from metric_slam.optimization.reference.problem import LossLike, OptionsLike, WindowLike
from metric_slam.optimization.report import BaReport, SolveStatus

MIN_DAMPING, MAX_DAMPING, FULL_STEP_DAMPING, ZERO_COST = 1e-8, 1e6, 1e-2, 1e-16
"""As in levenberg_marquardt.h."""

MIN_INVERSE_DEPTH = 1e-6
"""Below this the logarithm of the prior residual is continued by its tangent (pixel.h)."""


@dataclass(frozen=True)
class State:
    """The variables of the adjustment."""

    poses: Tensor
    """T_cam_world, [N, 7]."""

    inv_depth: Tensor
    """1/m, [N, h, w]."""

    scales: Tensor
    """Log-scales of the prior, [N]."""


@dataclass
class NormalEquations:
    """The linearised problem over all variables, fixed ones included; zero at the start, terms are added."""

    H: Tensor
    """[7 N, 7 N]: poses, then scales."""

    E: Tensor
    """[7 N, N h w]."""

    C: Tensor
    """Diagonal, [N h w]."""

    v: Tensor
    """[7 N]."""

    b: Tensor
    """[N h w]."""


def start_of(window: WindowLike) -> State:
    """The initial state of a window."""
    scales = np.zeros(len(window.poses)) if window.prior_log_scale is None else window.prior_log_scale
    return State(_tensor(window.poses), _tensor(window.inv_depth), _tensor(scales))


def _tensor(values: np.ndarray | Tensor) -> Tensor:
    """A copy of an array; a tensor itself, for its gradient."""
    return values if isinstance(values, Tensor) else torch.tensor(values)


# ---- robust losses


def loss_cost(loss: LossLike, n: Tensor) -> Tensor:
    """rho(n) of residual lengths n; ``loss`` has a kind and a width (droid_backends/robust.h)."""
    q = (n / loss.width) ** 2
    return {
        "NONE": lambda: n**2,
        "HUBER": lambda: torch.where(n <= loss.width, n**2, 2.0 * loss.width * n - loss.width**2),
        "GEMAN_MCCLURE": lambda: loss.width**2 * q / (1.0 + q),
        "CAUCHY": lambda: loss.width**2 * torch.log1p(q),
    }[loss.kind.name]()


def loss_weight(loss: LossLike, n: Tensor) -> Tensor:
    """rho'(n) / (2 n): the weight of iteratively reweighted least squares."""
    q = (n / loss.width) ** 2
    return {
        "NONE": lambda: torch.ones_like(n),
        "HUBER": lambda: torch.where(n <= loss.width, 1.0, loss.width / n),
        "GEMAN_MCCLURE": lambda: 1.0 / (1.0 + q) ** 2,
        "CAUCHY": lambda: 1.0 / (1.0 + q),
    }[loss.kind.name]()


# ---- the terms of the cost: each returns its cost and adds to the normal equations where some are given


def flow_term(window: WindowLike, options: OptionsLike, state: State, system: NormalEquations | None) -> Tensor:
    """sum over edges and cells of c rho(|residual|); a cell behind the camera costs rho(invalid_residual)."""
    source, target = _tensor(window.source), _tensor(window.target)
    projection = reproject(state.poses, state.inv_depth, _tensor(window.intrinsics), source, target)
    c = options.flow_weight * _tensor(window.confidence)
    mean, valid = c.mean(-1), projection.valid | projection.coords.isnan().any(-1)  # NaN must reach the cost
    used = ~(mean <= 0)
    r = _tensor(window.flow_target) - projection.coords
    n = torch.sqrt((c * r**2).sum(-1) / mean)
    charged = torch.where(valid, n, options.invalid_residual)
    cost = torch.where(used, mean * loss_cost(options.flow_loss, charged), 0.0).sum()
    if system is not None:
        keep = (used & valid)[..., None]
        W = torch.where(keep, c * loss_weight(options.flow_loss, n)[..., None], 0.0)
        _add_flow(system, window, projection, W, torch.where(keep, r, 0.0))
    return cost


def _add_flow(system: NormalEquations, window: WindowLike, projection: Projection, W: Tensor, r: Tensor) -> None:
    """r = flow target - projection, so the right sides are +J^T W r. W, r [E, h, w, 2]."""
    E, h, w, _ = W.shape
    for e in range(E):
        i, j = int(window.source[e]), int(window.target[e])
        cells = slice(i * h * w, (i + 1) * h * w)
        Jz, We, re = projection.Jz[e].reshape(-1, 2), W[e].reshape(-1, 2), r[e].reshape(-1, 2)
        blocks = [
            (slice(6 * i, 6 * i + 6), projection.Ji[e].reshape(-1, 2, 6)),
            (slice(6 * j, 6 * j + 6), projection.Jj[e].reshape(-1, 2, 6)),
        ]
        for rows, J in blocks:
            system.v[rows] += torch.einsum("pcx,pc,pc->x", J, We, re)
            system.E[rows, cells] += torch.einsum("pcx,pc,pc->xp", J, We, Jz)
            for columns, J_other in blocks:
                system.H[rows, columns] += torch.einsum("pcx,pc,pcy->xy", J, We, J_other)
        system.C[cells] += (We * Jz**2).sum(-1)
        system.b[cells] += (We * Jz * re).sum(-1)


def prior_term(window: WindowLike, options: OptionsLike, state: State, system: NormalEquations | None) -> Tensor:
    """metric: m rho(log(d z) + s); droid: alpha (d - 1/z)^2. Over keyframes that are a source, where z > 0."""
    mode = options.prior_mode.name
    if mode == "NONE" or window.prior_depth_m is None:
        return torch.zeros((), dtype=torch.float64)
    N, h, w = state.inv_depth.shape
    z, d = _tensor(window.prior_depth_m), state.inv_depth
    used = ~(z <= 0) & torch.tensor(np.isin(np.arange(N), window.source))[:, None, None]
    if mode == "DROID":
        r, Jd, Js, curvature = d - 1.0 / z, torch.ones_like(d), torch.zeros_like(d), torch.ones_like(d)
        m, weight, rho = torch.full_like(d, options.droid_alpha), torch.ones_like(d), r**2
    else:
        assert window.prior_weight is not None
        m = _tensor(window.prior_weight)
        used &= ~(m <= 0)
        kept = torch.where(d < MIN_INVERSE_DEPTH, MIN_INVERSE_DEPTH, d)
        Jd, Js = 1.0 / kept, torch.ones_like(d)
        r = torch.log(kept * torch.where(used, z, 1.0)) + (d - kept) * Jd + state.scales[:, None, None]
        above = r.clamp(min=0.0)
        curvature = 1.0 + above * (0.5 + above / 12.0)  # Newton steps on a logarithm stay positive (pixel_terms.h)
        weight, rho = loss_weight(options.prior_loss, r.abs()), loss_cost(options.prior_loss, r.abs())
    if system is not None:
        W = m * weight

        def per_cell(values: Tensor) -> Tensor:
            return torch.where(used, values, 0.0)

        system.C += per_cell(W * Jd**2 * curvature).reshape(-1)
        system.b -= per_cell(W * Jd * r).reshape(-1)
        for k in range(N):
            s, cells = 6 * N + k, slice(k * h * w, (k + 1) * h * w)
            system.E[s, cells] += per_cell(W * Jd * Js)[k].reshape(-1)
            system.H[s, s] += per_cell(W * Js**2)[k].sum()
            system.v[s] -= per_cell(W * Js * r)[k].sum()
    return torch.where(used, m * rho, 0.0).sum()


def scale_term(window: WindowLike, options: OptionsLike, state: State, system: NormalEquations | None) -> Tensor:
    """sum over free scales of (s - anchor)^2 / sigma_s^2, and of steps that touch a free one / sigma_delta^2."""
    N, s = len(state.scales), state.scales
    free = free_scales(window, options)
    anchor = torch.zeros(N) if window.scale_anchor is None else _tensor(window.scale_anchor)
    rows = [(1.0 / options.scale_sigma, {k: 1.0}, float(anchor[k])) for k in range(N) if free[k]]
    if options.scale_step_sigma > 0:
        previous: Sequence[int] = range(-1, N - 1) if window.scale_previous is None else window.scale_previous.tolist()
        steps = [(k, p) for k, p in enumerate(previous) if p >= 0 and (free[k] or free[p])]
        rows += [(1.0 / options.scale_step_sigma, {k: 1.0, p: -1.0}, 0.0) for k, p in steps]
    cost = torch.zeros((), dtype=torch.float64)
    for inverse_sigma, coefficients, offset in rows:
        J = torch.zeros(N, dtype=torch.float64)
        for k, value in coefficients.items():
            J[k] = inverse_sigma * value
        r = J @ s - inverse_sigma * offset
        cost = cost + r**2
        if system is not None:
            system.H[6 * N :, 6 * N :] += torch.outer(J, J)
            system.v[6 * N :] -= J * r
    return cost


def baseline_term(window: WindowLike, options: OptionsLike, state: State, system: NormalEquations | None) -> Tensor:
    """sum of rho(log(|t| / length) / sigma), t the position of the first camera as the second one sees it."""
    cost = torch.zeros((), dtype=torch.float64)
    pairs = np.asarray(window.baselines.pair)
    for (i, j), length_m, sigma in zip(pairs, window.baselines.length_m, window.baselines.sigma, strict=True):
        T_ij = relative_poses(state.poses, torch.tensor([i]), torch.tensor([j]))
        t = T_ij.translation()[0]
        r = torch.log(t.norm().clamp(min=1e-9) / length_m) / sigma
        cost = cost + loss_cost(options.baseline_loss, r.abs())
        if system is None:
            continue
        Jj = torch.cat([t / (t @ t), torch.zeros(3, dtype=torch.float64)])[None] / sigma
        W = loss_weight(options.baseline_loss, r.abs())
        J = torch.zeros(len(system.v), dtype=torch.float64)
        J[6 * i : 6 * i + 6] -= T_ij.adjT(Jj)[0]
        J[6 * j : 6 * j + 6] += Jj[0]
        system.H += W * torch.outer(J, J)
        system.v -= W * J * r
    return cost


TERMS = (flow_term, prior_term, scale_term, baseline_term)


def cost(window: WindowLike, options: OptionsLike, state: State | None = None) -> Tensor:
    """The robust cost at ``state`` (default: the window's own), a scalar."""
    state = start_of(window) if state is None else state
    zero = torch.zeros((), dtype=torch.float64)
    return sum((term(window, options, state, None) for term in TERMS), zero)


def linearize(window: WindowLike, options: OptionsLike, state: State | None = None) -> NormalEquations:
    """The normal equations at ``state`` (default: the window's own)."""
    state = start_of(window) if state is None else state
    n, K = 7 * len(state.poses), state.inv_depth.numel()
    shapes = ((n, n), (n, K), (K,), (n,), (K,))
    system = NormalEquations(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))
    for term in TERMS:
        term(window, options, state, system)
    return system


# ---- solving


def free_scales(window: WindowLike, options: OptionsLike) -> np.ndarray:
    """Which prior scales may move, bool [N]."""
    on = options.prior_mode.name == "METRIC" and options.scale_sigma > 0 and window.prior_depth_m is not None
    return np.asarray(window.depth_free) & on


def free_rows(window: WindowLike, options: OptionsLike) -> tuple[Tensor, Tensor]:
    """Indices of the free rows of x and of z; depths of keyframes that no flow leaves count as fixed."""
    N, h, w = window.inv_depth.shape
    moves = np.asarray(window.depth_free) & np.isin(np.arange(N), window.source)
    x = np.concatenate([np.repeat(np.asarray(window.pose_free), 6), free_scales(window, options)])
    return torch.tensor(np.flatnonzero(x)), torch.tensor(np.flatnonzero(np.repeat(moves, h * w)))


def damped_rows(H: Tensor, ridge: float, damping: float, pose_rows: int, every_block: bool) -> Tensor:
    """H with elements grown by ridge + damping * element: the diagonal, or that of every 6x6 block of poses too."""
    grown = torch.eye(len(H), dtype=torch.bool)
    if every_block:
        row = torch.arange(pose_rows) % 6
        grown[:pose_rows, :pose_rows] = row[:, None] == row[None, :]
    return torch.where(grown, H + ridge + damping * H, H)


def depth_inverse(window: WindowLike, options: OptionsLike, C: Tensor, damping: float) -> Tensor:
    """1/C with damping, [N h w]; 0 for a depth that nothing observes. In droid mode the prior replaces eta."""
    C = C * (1.0 + damping)
    if window.depth_damping is not None:
        eta = _tensor(window.depth_damping)
        if options.prior_mode.name == "DROID" and window.prior_depth_m is not None:
            eta = torch.where(_tensor(window.prior_depth_m) > 0, 0.0, eta)
        C = C + eta.reshape(-1)
    seen = C > 1e-12
    return torch.where(seen, 1.0 / torch.where(seen, C, 1.0), 0.0)  # no 1/0, whose gradient would be NaN


def solve_system(
    window: WindowLike,
    options: OptionsLike,
    system: NormalEquations,
    ridge: float,
    damping: float,
    depth_damping: float,
) -> tuple[Tensor, Tensor] | None:
    """Steps (dx [7 N], dz [N h w]) of the damped system, zero where fixed; None: not positive definite."""
    x, z = free_rows(window, options)
    H, E, v, b = system.H[x][:, x], system.E[x][:, z], system.v[x], system.b[z]
    Q = depth_inverse(window, options, system.C, depth_damping)[z]
    placement, pose_rows = options.damping.name, 6 * int(np.sum(window.pose_free))
    if placement == "BEFORE_SCHUR":
        H = damped_rows(H, ridge, damping, pose_rows, False)
    S = H - torch.einsum("ak,k,bk->ab", E, Q, E)
    if placement != "BEFORE_SCHUR":
        S = damped_rows(S, ridge, damping, pose_rows, placement == "EVERY_BLOCK")
    L, failed = torch.linalg.cholesky_ex(S)
    if failed:
        return None
    step = torch.cholesky_solve((v - E @ (Q * b))[:, None], L)[:, 0]
    dx, dz = torch.zeros_like(system.v), torch.zeros_like(system.b)
    dx[x] = step
    dz[z] = Q * (b - E.T @ step)
    return (dx, dz) if bool(torch.isfinite(dx).all() and torch.isfinite(dz).all()) else None


def predicted_decrease(
    window: WindowLike, options: OptionsLike, system: NormalEquations, state: State, damping: float, dx: Tensor
) -> float:
    """Decrease of the cost that the linear model promises of a step; depths move within their limits."""
    x, z = free_rows(window, options)
    Q, b, d = depth_inverse(window, options, system.C, damping)[z], system.b[z], state.inv_depth.reshape(-1)[z]
    step = (d + Q * b).clamp(options.min_inv_depth, options.max_inv_depth) - d
    depths = torch.where(Q > 0, step * (2.0 * b - step / torch.where(Q > 0, Q, 1.0)), 0.0).sum()
    return float(dx[x] @ (system.v[x] - system.E[x][:, z] @ (Q * b)) + depths)


def moved(window: WindowLike, state: State, dx: Tensor, dz: Tensor) -> State:
    """The state after a step; poses move by exp(xi) T."""
    N = len(state.poses)
    poses = lie.SE3.InitFromVec(state.poses).retr(dx[: 6 * N].reshape(N, 6)).vec()
    free = _tensor(window.pose_free)[:, None]
    return State(
        torch.where(free, poses, state.poses),
        state.inv_depth + dz.reshape(state.inv_depth.shape),
        state.scales + dx[6 * N :],
    )


def step(window: WindowLike, options: OptionsLike, *, ridge: float, damping: float) -> State | None:
    """One Gauss-Newton step with fixed damping, depths not clamped; None: not positive definite."""
    system = linearize(window, options)
    solution = solve_system(window, options, system, ridge, damping, 0.0)
    return None if solution is None else moved(window, start_of(window), *solution)


def clamped(window: WindowLike, options: OptionsLike, state: State) -> State:
    """Inverse depths that may move, within their limits."""
    _, z = free_rows(window, options)
    flat = state.inv_depth.reshape(-1).clone()
    flat[z] = flat[z].clamp(options.min_inv_depth, options.max_inv_depth)
    return replace(state, inv_depth=flat.reshape(state.inv_depth.shape))


def solve(window: WindowLike, options: OptionsLike) -> tuple[State, BaReport]:
    """Levenberg-Marquardt with accept/reject on the robust cost, as the kernel does it."""
    state = start_of(window)
    if not len(window.source) or sum(map(len, free_rows(window, options))) == 0:
        return state, BaReport(SolveStatus.NOTHING_TO_DO)
    first = present = float(cost(window, options, state))
    damping, trials, iteration = options.initial_damping, 0, 0
    status = SolveStatus.MAX_ITERATIONS if np.isfinite(first) else SolveStatus.NOT_POSITIVE_DEFINITE
    while status is SolveStatus.MAX_ITERATIONS and iteration < options.iterations:
        iteration += 1
        system = linearize(window, options, state)
        accepted = solvable = False
        while not accepted and status is SolveStatus.MAX_ITERATIONS:
            trials += 1
            used, before, decrease = damping, present, np.nan
            solution = solve_system(window, options, system, options.ridge, damping, damping)
            if solution is not None:
                solvable = True
                dx, dz = solution
                decrease = predicted_decrease(window, options, system, state, damping, dx)
                candidate = clamped(window, options, moved(window, state, dx, dz))
                value = float(cost(window, options, candidate))
                accepted = value < present
            if accepted:
                decrease, state, present = present - value, candidate, value
                damping = max(damping * 0.2, MIN_DAMPING)
            else:
                damping = max(damping, 1e-6) * 10.0
            limit = options.min_relative_decrease * max(before, ZERO_COST * first)
            if used <= FULL_STEP_DAMPING and decrease <= limit:
                status = SolveStatus.CONVERGED
            elif not accepted and damping > MAX_DAMPING:
                status = SolveStatus.NO_PROGRESS if solvable else SolveStatus.NOT_POSITIVE_DEFINITE
    return state, BaReport(status, iteration, trials, first, present)
