"""Dense bundle adjustment with CUDA: queues the kernels of ``thirdparty/droid_backends/src/cuda/dense_ba.h``.

Acceptance of a step is decided on the GPU, so that a whole solve is queued without a synchronisation; the host reads
the state once, at the end. torch factorises the reduced system on the GPU in float64. A system of more than
:data:`MAX_DENSE_ROWS` rows (a drive of hundreds of keyframes) is factorised on the host instead: the envelope Cholesky
of the C++ solver uses its sparsity, and the transfer is small against the factorisation.
"""

from __future__ import annotations

import atexit
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import droid_backends as native
import numpy as np
import torch
from torch import Tensor

from metric_slam.geometry.cuda_kernels import CudaKernels, checked_numbers
from metric_slam.optimization.cuda.plan import Graph, Plan, make_plan
from metric_slam.optimization.report import BaReport, SolveStatus
from metric_slam.optimization.window import BaWindow

MAX_DENSE_ROWS = 4096
"""128 MB, and 23 GFLOP for a factorisation."""

_PLANS = 8  # plans in the cache; a window is solved several times before its graph changes
_plans: OrderedDict[Hashable, Plan] = OrderedDict()
atexit.register(_plans.clear)  # before the interpreter unloads nanobind, which frees them


@dataclass(frozen=True)
class Solution:
    """The state after a solve."""

    poses: np.ndarray
    """[N, 7]."""

    inv_depth: Tensor
    """[N, h, w], on the GPU."""

    scales: np.ndarray
    """[N]."""

    report: BaReport


def solve_on_cuda(
    cuda: CudaKernels,
    window: BaWindow,
    options: native.DenseBaOptions,
    *,
    ridge_and_damping: tuple[float, float] | None = None,
) -> Solution:
    """Solve as ``solve_dense_ba`` of the C++ kernels, or by Gauss-Newton steps with the given ridge and damping.

    Gauss-Newton steps are those of ``dense_ba_step``, with depths kept within the options' limits. Large arrays of the
    window are numpy or tensors on the GPU; nothing in it is changed. Returns the start where the system could not be
    solved.
    """
    graph = _graph(window, options)
    plan = _plan(graph, cuda)
    if not plan.moves:
        return _start(cuda, window, BaReport(SolveStatus.NOTHING_TO_DO))
    solve = _Solve(cuda, window, options, graph, plan, ridge_and_damping)
    solve.run()
    return solve.solution()


def _start(cuda: CudaKernels, window: BaWindow, report: BaReport) -> Solution:
    """The initial state of a window as a solution."""
    scales = np.zeros(len(window.poses)) if window.prior_log_scale is None else window.prior_log_scale.copy()
    return Solution(window.poses.copy(), cuda.upload(window.inv_depth, torch.float64).clone(), scales, report)


def _graph(window: BaWindow, options: native.DenseBaOptions) -> Graph:
    N = len(window.poses)
    ends = window.source, window.target, window.baselines.pair
    source, target, baseline_pair = (checked_numbers(numbers, N) for numbers in ends)
    has_prior = options.prior_mode == native.PriorMode.METRIC and window.prior_depth_m is not None
    moves = has_prior and options.scale_sigma > 0
    scale_free = window.depth_free & moves
    previous = np.arange(-1, N - 1) if window.scale_previous is None else window.scale_previous
    return Graph(
        source,
        target,
        window.pose_free,
        window.depth_free,
        scale_free,
        np.ascontiguousarray(previous, np.int64),
        baseline_pair,
        int(window.inv_depth.shape[1] * window.inv_depth.shape[2]),
        options.damping == native.Damping.EVERY_BLOCK,
        (_weight(options.scale_sigma), _weight(options.scale_step_sigma)),
    )


def _weight(sigma: float) -> float:
    return sigma**-2 if sigma > 0 else 0.0


def _plan(graph: Graph, cuda: CudaKernels) -> Plan:
    """The plan of this graph, cached for the most recent ones."""
    key = (cuda.device, id(cuda.module), graph.key())
    plan = _plans.pop(key, None)
    _plans[key] = plan = make_plan(graph, cuda) if plan is None else plan
    while len(_plans) > _PLANS:
        _plans.popitem(last=False)
    return plan


class _Solve:
    """One solve and its memory on the GPU."""

    def __init__(
        self,
        cuda: CudaKernels,
        window: BaWindow,
        options: native.DenseBaOptions,
        graph: Graph,
        plan: Plan,
        ridge_and_damping: tuple[float, float] | None,
    ) -> None:
        self._cuda, self._window, self._options, self._plan = cuda, window, options, plan
        self._gauss_newton = ridge_and_damping is not None
        up = cuda.upload
        initial = _start(cuda, window, BaReport(SolveStatus.MAX_ITERATIONS))
        start = {"status": cuda.module.RUNNING, "lambda": options.initial_damping, "stale": 1.0}
        start["iterations"] = float(self._gauss_newton)  # which counts from one
        self._state = up(np.array([start.get(name, 0.0) for name in cuda.module.STATE_NAMES]))
        self._poses = up(initial.poses).repeat(2, 1, 1)
        self._inv_depth = initial.inv_depth.repeat(2, 1, 1, 1)
        self._scales = up(initial.scales).repeat(2, 1)
        n, F = plan.rows, len(graph.baseline_pair)

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float64, device=cuda.device)

        self._dense = empty(n, n).zero_() if n <= MAX_DENSE_ROWS else None
        self._values, self._right = empty(len(plan.part_row), 36), empty(n)
        workspace = empty(plan.native.workspace_doubles(F))
        flow_type = window.flow_target.dtype if isinstance(window.flow_target, Tensor) else torch.float64
        edges = np.stack([graph.source, graph.target]).astype(np.int32)
        source, target = up(edges)
        optional = {
            "depth_damping": window.depth_damping,
            "prior_depth": window.prior_depth_m,
            "prior_weight": window.prior_weight,
            "scale_anchor": window.scale_anchor,
        }
        if F:
            optional |= {"baseline_length": window.baselines.length_m, "baseline_sigma": window.baselines.sigma}
        self._arrays = {
            "source": source,
            "target": target,
            "flow_target": up(window.flow_target, flow_type),
            "confidence": up(window.confidence, flow_type),
            "depth_free": up(window.depth_free),
            "scale_previous": up(graph.scale_previous.astype(np.int32)),
            "workspace": workspace,
            **{name: up(array, torch.float64) for name, array in optional.items() if array is not None},
            **({"baseline_pair": up(graph.baseline_pair.astype(np.int32))} if F else {}),
        }
        self._native = cuda.module.DenseBaSolver(
            plan.native,
            poses=self._poses,
            inv_depth=self._inv_depth,
            scales=self._scales,
            state=self._state,
            intrinsics=np.ascontiguousarray(window.intrinsics, np.float64),
            options=options,
            ridge_and_damping=ridge_and_damping,
            **self._arrays,
        )

    def run(self) -> None:
        """Queue trials until the solve has ended; read the state after as many as iterations, which mostly suffice."""
        stream = self._cuda.stream
        if not self._gauss_newton:
            self._assemble(stream, trial=False)
            self._native.begin(stream=stream)
        while True:
            for _ in range(max(self._options.iterations, 1) if self._dense is not None else 1):
                self._queue_trial(stream)
            if self._read_state()["status"] != self._cuda.module.RUNNING:
                return

    def _read_state(self) -> dict[str, float]:
        """Wait for the GPU and download the solver state, with poses and scales of both buffers."""
        small = [self._state, self._poses.flatten(), self._scales.flatten()]
        numbers = torch.cat(small).cpu().numpy()
        values, poses, scales = np.split(numbers, np.cumsum([len(part) for part in small])[:-1])
        state = dict(zip(self._cuda.module.STATE_NAMES, values.tolist(), strict=True))
        which = int(state["current"])
        self._found = state, poses.reshape(self._poses.shape)[which].copy(), scales.reshape(2, -1)[which].copy()
        return state

    def _queue_trial(self, stream: int) -> None:
        self._assemble(stream, trial=False)
        x, info = self._solved()
        self._native.step(x, self._right, stream=stream)
        if not self._gauss_newton:
            self._assemble(stream, trial=True)
        self._native.decide(x, info, stream=stream)

    def _assemble(self, stream: int, *, trial: bool) -> None:
        self._native.assemble(trial, self._values, self._dense, self._right, stream=stream)

    def _solved(self) -> tuple[Tensor, Tensor]:
        """Solution of the reduced system [rows], and int32 [1]: not zero where it is singular."""
        if not self._plan.rows:
            return self._right, torch.zeros(1, dtype=torch.int32, device=self._cuda.device)
        if self._dense is None:
            return self._solved_on_host()
        factor, info = torch.linalg.cholesky_ex(self._dense)
        return torch.cholesky_solve(self._right[:, None], factor)[:, 0].contiguous(), info.reshape(1)

    def _solved_on_host(self) -> tuple[Tensor, Tensor]:
        plan, x = self._plan, self._right.cpu().numpy().copy()
        solved = native.solve_parts(plan.part_row, plan.part_column, plan.part_shape, self._values.cpu().numpy(), x)
        up = self._cuda.upload
        return up(x), up(np.array([not solved], np.int32))

    def solution(self) -> Solution:
        """The state that was read last."""
        state, poses, scales = self._found
        status = SolveStatus(native.Status(int(state["status"])).name.lower())
        iterations = int(state["iterations"])
        inv_depth = self._inv_depth[int(state["current"])].clone()  # not a view: the other buffer may go
        if self._gauss_newton:
            return self._plain_solution(status, iterations - 1, poses, inv_depth, scales)
        report = BaReport(status, iterations, int(state["trials"]), state["cost_initial"], state["cost"])
        return Solution(poses, inv_depth, scales, report)

    def _plain_solution(
        self, status: SolveStatus, done: int, poses: np.ndarray, inv_depth: Tensor, scales: np.ndarray
    ) -> Solution:
        finite = bool(np.isfinite(poses).all()) and bool(torch.isfinite(inv_depth).all())
        if status is SolveStatus.NOT_POSITIVE_DEFINITE or not finite:
            return _start(self._cuda, self._window, BaReport(SolveStatus.NOT_POSITIVE_DEFINITE, done))
        free = self._arrays["depth_free"][:, None, None]  # those without edges, too
        kept = torch.where(free, inv_depth.clamp(self._options.min_inv_depth, self._options.max_inv_depth), inv_depth)
        return Solution(poses, kept, scales, BaReport(status, done))
