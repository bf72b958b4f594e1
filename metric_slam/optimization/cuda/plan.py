"""Mapping from a graph to the sums and blocks of a bundle adjustment with CUDA; made on the host, once per graph.

The kernels (``thirdparty/droid_backends/src/cuda/dense_ba.h``, struct ``Plan``) add everything in fixed order, without
searching: a source is a keyframe that edges leave, its slots are 0 (its own pose), 1..n (the target poses of its
edges) and n + 1 (its prior scale), and every part of the reduced system lists the pairs of slots that it consists of.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from metric_slam.geometry.cuda_kernels import CudaKernels

_BASELINE_ENDS = 2
_WORKSPACE_BYTES = 512 * 2**20
"""Of the Jacobians of the sources that are eliminated together; more take turns."""


@dataclass(frozen=True)
class Graph:
    """What the plan depends on; arrays as in :class:`metric_slam.optimization.bundle_adjustment.BaWindow`."""

    source: np.ndarray
    target: np.ndarray
    pose_free: np.ndarray
    depth_free: np.ndarray
    scale_free: np.ndarray
    """bool [N]: which prior scales move."""

    scale_previous: np.ndarray
    """int64 [N], -1: none."""

    baseline_pair: np.ndarray
    pixels: int
    every_block: bool
    """True if every block of poses is damped, also between uncoupled ones."""

    scale_weights: tuple[float, float]
    """Of a scale's anchor and of a step between scales: 1 / sigma^2, 0: none."""

    def key(self) -> Hashable:
        """Equal for equal graphs."""
        arrays = (self.source, self.target, self.pose_free, self.depth_free, self.scale_free, self.scale_previous,
                  self.baseline_pair)  # fmt: skip
        return (*(a.tobytes() for a in arrays), self.pixels, self.every_block, self.scale_weights)


class NativePlan(Protocol):
    """``DenseBaPlan`` of the compiled module: the arrays of the plan on the GPU."""

    def workspace_doubles(self, baselines: int) -> int:
        """Size of the workspace of a solve with this many measured baselines."""
        ...


@dataclass(frozen=True)
class Plan:
    """The plan on the GPU, and the part of it that the host uses."""

    native: NativePlan
    rows: int
    """Of the reduced system."""

    part_row: np.ndarray
    """First row of each part, int32 [parts]."""

    part_column: np.ndarray
    part_shape: np.ndarray
    """10 * rows + columns."""

    moves: bool
    """True if there are edges and free variables."""


def make_plan(graph: Graph, cuda: CudaKernels) -> Plan:
    """The plan of a graph. ValueError for numbers of keyframes that do not exist."""
    sources = _Sources(graph)
    rows, pose_row, scale_row = _rows(graph)
    parts = _Parts(graph, sources, pose_row, scale_row)
    n = np.diff(sources.begin)
    numbers = {
        "source_keyframe": sources.keyframe,
        "source_begin": sources.begin,
        "edge_at": sources.edge_at,
        **sources.pairs(graph.depth_free),
        "pose_row": pose_row,
        "scale_row": scale_row,
        "part_row": parts.row,
        "part_column": parts.column,
        "part_shape": parts.shape,
        "part_begin": parts.begin,
        "from_": parts.contributions.reshape(-1),
        "row_keyframe": parts.row_keyframe,
    }
    uploaded = _upload_together(numbers, np.int32, cuda)
    raw, local = (6 * n + 1) ** 2, (6 * n + 7) ** 2
    begins = {"sums_begin": _begins(raw)[:-1], "local_begin": _begins(local)[:-1]}
    native = cuda.module.DenseBaPlan(
        **uploaded,
        **_upload_together(begins, np.int64, cuda),
        part_constant=cuda.upload(parts.constant),
        batches=sources.batches(graph),
        rows=rows,
        pixels=graph.pixels,
        raw=int(raw.sum()),
        local=int(local.sum()),
    )
    moves = bool(len(n)) and (rows > 0 or bool(graph.depth_free[sources.keyframe].any()))
    row, column, shape = (np.ascontiguousarray(a, np.int32) for a in (parts.row, parts.column, parts.shape))
    return Plan(native, rows, row, column, shape, moves)


def _begins(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)])


def _upload_together(arrays: dict[str, np.ndarray], dtype: type, cuda: CudaKernels) -> dict[str, Tensor]:
    """One copy for all; each begins at a multiple of 16 bytes."""
    unit = 16 // np.dtype(dtype).itemsize
    lengths = [-(-len(a) // unit) * unit for a in arrays.values()]
    begins = _begins(np.array(lengths, np.int64))
    together: np.ndarray = np.zeros(max(int(begins[-1]), 1), dtype)
    for begin, array in zip(begins, arrays.values(), strict=False):
        together[begin : begin + len(array)] = array
    there = cuda.upload(together)
    return {name: there[b : b + len(a)] for b, (name, a) in zip(begins, arrays.items(), strict=False)}


def _rows(graph: Graph) -> tuple[int, np.ndarray, np.ndarray]:
    """(rows of the system, first row of each pose, row of each scale), -1 where they do not move: keyframe by keyframe,
    its pose and then its scale.
    """
    width = 6 * graph.pose_free.astype(np.int64) + graph.scale_free
    first = _begins(width)
    pose_row = np.where(graph.pose_free, first[:-1], -1)
    scale_row = np.where(graph.scale_free, first[:-1] + 6 * graph.pose_free, -1)
    return int(first[-1]), pose_row, scale_row


class _Sources:
    """Edges grouped by their source."""

    def __init__(self, graph: Graph) -> None:
        self.edge_at = np.argsort(graph.source, kind="stable")
        self.keyframe, counts = np.unique(graph.source, return_counts=True)
        self.begin = _begins(counts)

    def pairs(self, depth_free: np.ndarray) -> dict[str, np.ndarray]:
        """Pairs of slots 1..n + 1 whose sums are made, of sources whose depths move."""
        found = [np.zeros((0, 3), np.int64)]
        for b in np.flatnonzero(depth_free[self.keyframe]):
            first, second = np.triu_indices(self.begin[b + 1] - self.begin[b] + 1)
            found.append(np.stack([np.full(len(first), b), first + 1, second + 1], axis=1))
        table = np.concatenate(found)
        return {"pair_source": table[:, 0], "pair_first": table[:, 1], "pair_second": table[:, 2]}

    def batches(self, graph: Graph) -> np.ndarray:
        """(first source, one past the last, first place, first pair, pairs) of sources whose Jacobians fit together."""
        n = np.diff(self.begin)
        at_once = max(_WORKSPACE_BYTES // (48 * max(graph.pixels, 1)), 1)
        pairs = np.where(graph.depth_free[self.keyframe], (n + 1) * (n + 2) // 2, 0)
        first_pair = _begins(pairs)
        batches, begin = [], 0
        while begin < len(n):
            end = max(int(np.searchsorted(self.begin, self.begin[begin] + at_once, side="right")) - 1, begin + 1)
            batches.append((begin, end, self.begin[begin], first_pair[begin], first_pair[end] - first_pair[begin]))
            begin = end
        return np.array(batches, np.int32).reshape(-1, 5)


class _Parts:
    """Blocks of the reduced system, and what each is the sum of: (source, slot, slot) or (-1 - baseline, end, end)."""

    def __init__(self, graph: Graph, sources: _Sources, pose_row: np.ndarray, scale_row: np.ndarray) -> None:
        N = len(pose_row)
        self._row_of = np.concatenate([pose_row, scale_row])  # variable k: pose of keyframe k, N + k: its scale
        table = np.concatenate([
            np.zeros((0, 5), np.int64),
            *(self._of_source(graph, sources, b, N) for b in range(len(sources.keyframe))),
            self._of_baselines(graph),
            self._of_couplings(graph, N),
        ])  # fmt: skip
        rows, columns = self._row_of[table[:, 0]], self._row_of[table[:, 1]]
        table = table[(columns >= 0) & (rows >= columns)]
        order = np.lexsort((self._row_of[table[:, 1]], self._row_of[table[:, 0]]))
        table = table[order]  # the order of contributions stays: sources, baselines
        pairs, begins = np.unique(self._row_of[table[:, :2]], axis=0, return_index=True)
        self.row, self.column = pairs.reshape(-1, 2).T
        variables = table[begins, :2] if len(begins) else np.zeros((0, 2), np.int64)
        width = np.where(variables < N, 6, 1)
        self.shape = 10 * width[:, 0] + width[:, 1]
        self.row_keyframe = variables[:, 0] % max(N, 1)
        self.constant = self._constants(graph, variables, N)
        part_of = np.repeat(np.arange(len(begins)), np.diff([*begins, len(table)]))
        real = table[:, 3] >= 0
        self.contributions = table[real][:, 2:]
        self.begin = np.searchsorted(part_of[real], np.arange(len(begins) + 1))

    def _of_source(self, graph: Graph, sources: _Sources, b: int, N: int) -> np.ndarray:
        """(variable, variable, source, slot, slot) of all pairs of slots, [pairs, 5]."""
        edges = sources.edge_at[sources.begin[b] : sources.begin[b + 1]]
        k = sources.keyframe[b]
        variable = np.concatenate([[k], graph.target[edges], [N + k]])
        slots = np.arange(len(variable))
        first, second = (m.reshape(-1) for m in np.meshgrid(slots, slots, indexing="ij"))
        return np.stack([variable[first], variable[second], np.full(len(first), b), first, second], axis=1)

    def _of_baselines(self, graph: Graph) -> np.ndarray:
        """The same of measured baselines, whose slots are their two ends."""
        rows = [
            (graph.baseline_pair[f, a], graph.baseline_pair[f, c], -1 - f, a, c)
            for f in range(len(graph.baseline_pair))
            for a in range(_BASELINE_ENDS)
            for c in range(_BASELINE_ENDS)
        ]
        return np.array(rows, np.int64).reshape(-1, 5)

    def _of_couplings(self, graph: Graph, N: int) -> np.ndarray:
        """Pairs that exist though no source says anything of them (slot -1): the diagonal, coupled scales, and all
        pairs of poses where every block is damped.
        """
        own = [(v, v) for v in range(2 * N)]
        if graph.scale_weights[1] > 0:
            steps = [(N + k, N + int(p)) for k, p in enumerate(graph.scale_previous) if p >= 0]
            own += [pair for k, p in steps for pair in ((k, p), (p, k))]
        if graph.every_block:
            own += [(i, j) for i in range(N) for j in range(N) if i != j]
        pairs = np.array(own, np.int64).reshape(-1, 2)
        return np.concatenate([pairs, np.full((len(pairs), 3), -1)], axis=1)

    def _constants(self, graph: Graph, variables: np.ndarray, N: int) -> np.ndarray:
        """What anchors and steps of scales add to each part, float64 [parts]."""
        anchor, step = graph.scale_weights
        previous = graph.scale_previous
        steps = np.zeros(N)
        coupled = np.zeros(len(variables))
        if step > 0:
            before = np.flatnonzero(previous >= 0)
            np.add.at(steps, before, 1.0)
            np.add.at(steps, previous[before], 1.0)
            one, other = (variables[:, i] - N for i in (0, 1))
            both = (one >= 0) & (other >= 0) & (one != other)
            one, other = one[both], other[both]
            coupled[both] = (previous[one] == other).astype(float) + (previous[other] == one)
        diagonal = (variables[:, 0] == variables[:, 1]) & (variables[:, 0] >= N)
        own = np.where(diagonal, anchor + step * steps[np.maximum(variables[:, 0] - N, 0)] if N else 0.0, 0.0)
        return own - step * coupled
