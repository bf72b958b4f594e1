"""The factor graph: directed edges between keyframes with their matches, and the problems that are solved over them.

Matches of keyframes that the sliding window has passed lie on the disk and are read for global problems.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from metric_slam.bundle_adjustment import BaReport, Baselines, BaWindow, reproject, solve_window
from metric_slam.config import BundleAdjustmentConfig
from metric_slam.correspondence.base import Correspondence, CorrespondenceModel, EdgeQuery, packed, unpacked
from metric_slam.disk_store import DiskArray
from metric_slam.keyframes import KeyframeStore
from metric_slam.moving_cells import still

# how much of the damping that a recurrent model predicts counts, and what is added to it (DROID-SLAM, factor_graph.py)
_DAMPING_WEIGHT, _DAMPING_FLOOR = 0.2, 1e-7
_FIRST_DAMPING = 1e-6  # of keyframes that no update has seen yet


@dataclass
class Edge:
    """Matches of one directed pair of keyframes, kept in single precision."""

    source: int
    target: int
    matches: np.ndarray | DiskArray
    """float32 [h, w, 3 or 4]: where each cell lies in the target, grid cells (x, y), and its confidence 0..1, one or
    one for each axis."""


@dataclass(frozen=True)
class BaselineFactor:
    """A measured metric distance between two keyframes."""

    source: int
    target: int
    length_m: float
    sigma: float
    """Of log(length)."""


class FactorGraph:
    """Owns edges and measured baselines; reads and writes the keyframe store when it solves."""

    def __init__(
        self, store: KeyframeStore, model: CorrespondenceModel, config: BundleAdjustmentConfig, scale_sigma: float
    ) -> None:
        self._store = store
        self._model = model
        self._config = config
        self._scale_sigma = scale_sigma
        self._edges: dict[int, dict[int, Edge]] = defaultdict(dict)  # by source and target
        self._baselines: dict[int, dict[int, BaselineFactor]] = defaultdict(dict)
        self._in_memory: list[Edge] = []
        self.status_counts: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(len(leaving) for leaving in self._edges.values())

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return pair[1] in self._edges.get(pair[0], {})

    def add_matched(self, source: int, target: int, match: Correspondence) -> None:
        """Adds a directed edge whose matches are already known."""
        edge = self._edges[source][target] = Edge(source, target, packed(match))
        self._in_memory.append(edge)

    def set_matches(self, source: int, target: int, match: Correspondence) -> None:
        """New matches of a directed edge, which is added if it is not there."""
        edge = self._edges.get(source, {}).get(target)
        if edge is None or isinstance(edge.matches, DiskArray):
            self.add_matched(source, target, match)
        else:
            edge.matches = packed(match)

    def matches_of(self, source: int, target: int) -> np.ndarray:
        """Matches of a directed edge as :class:`Edge` has them."""
        return np.asarray(self._edges[source][target].matches)

    def remove_keyframe(self, position: int) -> None:
        """Takes all edges and baselines of a keyframe out; those behind it move up by one."""

        def moved(old: int) -> int:
            return old - (old > position)

        edges = [e for leaving in self._edges.values() for e in leaving.values()]
        kept = [e for e in edges if position not in (e.source, e.target)]
        self._edges = defaultdict(dict)
        for edge in kept:
            edge.source, edge.target = moved(edge.source), moved(edge.target)
            self._edges[edge.source][edge.target] = edge
        staying = {id(edge) for edge in kept}
        self._in_memory = [edge for edge in self._in_memory if id(edge) in staying]
        factors = self.baselines()
        self._baselines = defaultdict(dict)
        for factor in factors:
            if position not in (factor.source, factor.target):
                self.set_baseline(replace(factor, source=moved(factor.source), target=moved(factor.target)))

    def match_pairs(self, pairs: list[tuple[int, int]]) -> None:
        """Matches directed pairs, starting from their present reprojection, and adds them."""
        if not pairs:
            return
        store = self._store
        low, high = min(min(p) for p in pairs), max(max(p) for p in pairs) + 1
        source, target = np.array(pairs).T - low
        predicted, _, _ = reproject(
            store.poses(low, high),
            store.stacked("inv_depth", range(low, high)),
            store.camera.grid().vector(),
            source,
            target,
        )
        queries = [
            EdgeQuery(store[i].features, store[j].features, predicted[e], neighbours=abs(i - j) == 1)
            for e, (i, j) in enumerate(pairs)
        ]
        for (i, j), match in zip(pairs, self._model.track(queries), strict=True):
            self.add_matched(i, j, still(match, store[i].moving_cells))

    def leave_out_moving(self, source: int) -> None:
        """Takes the confidence of the cells that move from the edges that leave a keyframe of the sliding window."""
        moving = self._store[source].moving_cells
        if moving.any():
            for edge in self._edges.get(source, {}).values():
                edge.matches = packed(still(unpacked(np.asarray(edge.matches)), moving))

    def pairs(self, begin: int = 0) -> np.ndarray:
        """Source and target of every edge between keyframes from ``begin`` on, int64 [E, 2]."""
        found = [(s, t) for s, leaving in self._edges.items() if s >= begin for t in leaving if t >= begin]
        return np.array(found, np.int64).reshape(-1, 2)

    def remove_pair(self, first: int, second: int) -> None:
        """Takes the edges between two keyframes out."""
        self._edges[first].pop(second, None)
        self._edges[second].pop(first, None)

    def targets_of(self, source: int) -> list[int]:
        """Keyframes that a keyframe is matched with."""
        return list(self._edges.get(source, {}))

    def retire_before(self, position: int) -> None:
        """Matches between keyframes before ``position`` go to the disk."""
        staying = []
        for edge in self._in_memory:
            if edge.source < position and edge.target < position:
                if self._edges[edge.source].get(edge.target) is edge:
                    edge.matches = self._store.disk.put(edge.matches)
            else:
                staying.append(edge)
        self._in_memory = staying

    def set_baseline(self, factor: BaselineFactor) -> None:
        """Adds or replaces the measured baseline of a pair."""
        self._baselines[factor.source][factor.target] = factor

    def remove_baseline(self, source: int, target: int) -> None:
        """Takes the measured baseline of a pair back."""
        del self._baselines[source][target]

    def baselines(self) -> list[BaselineFactor]:
        """All measured baselines."""
        return [factor for leaving in self._baselines.values() for factor in leaving.values()]

    def is_metric(self, begin: int, end: int) -> bool:
        """Does a prior or a measured baseline hold the scale of keyframes begin..end-1?"""
        return any(begin <= b.target < end for i in range(begin, end) for b in self._baselines_of(i)) or any(
            self._store.has_prior(i) for i in range(begin, end)
        )

    def _baselines_of(self, source: int) -> Iterator[BaselineFactor]:
        return iter(self._baselines.get(source, {}).values())

    # ------------------------------------------------------------------ problems

    def window(
        self,
        positions: Sequence[int],
        fixed: set[int],
        *,
        cell_step: int = 1,
        depth_free: set[int] | None = None,
    ) -> BaWindow:
        """The problem over these keyframes, in this order; the poses of the keyframes in ``fixed`` stay.

        ``cell_step`` takes every so many-th row and column of the grid; ``depth_free``: only these keyframes' depths
        move, and only their edges take part.
        """
        store = self._store
        place = {position: n for n, position in enumerate(positions)}
        free = place.keys() if depth_free is None else depth_free
        edges = [e for i in positions if i in free for e in self._edges.get(i, {}).values() if e.target in place]
        baselines = [b for i in positions for b in self._baselines_of(i) if b.target in place]
        has_prior = any(store.has_prior(i) for i in positions)
        flow_target, confidence = _stacked_matches(edges, cell_step, store.camera.grid().size)
        offset = cell_step // 2
        intrinsics = store.camera.grid().vector()
        intrinsics[2:] -= offset
        weight = store.stacked("prior_weight", positions, cell_step) if has_prior else None
        return BaWindow(
            intrinsics=intrinsics / cell_step,
            poses=np.array([store[i].pose for i in positions]),
            inv_depth=store.stacked("inv_depth", positions, cell_step),
            source=np.array([place[e.source] for e in edges], np.int64),
            target=np.array([place[e.target] for e in edges], np.int64),
            flow_target=flow_target,
            confidence=confidence,
            pose_free=np.array([i not in fixed for i in positions]),
            depth_free=np.array([i in free for i in positions]),
            prior_depth_m=store.stacked("prior_depth_m", positions, cell_step) if has_prior else None,
            prior_weight=weight * cell_step**2 if weight is not None else None,
            prior_log_scale=np.array([store[i].prior_log_scale for i in positions]),
            scale_previous=self._scale_previous(place),
            scale_sigma=self._scale_sigma,
            depth_damping=self._depth_damping(positions, cell_step),
            baselines=Baselines(
                pair=np.array([[place[b.source], place[b.target]] for b in baselines], np.int64).reshape(-1, 2),
                length_m=np.array([b.length_m for b in baselines]),
                sigma=np.array([b.sigma for b in baselines]),
            ),
            cell_step=cell_step,
        )

    def _depth_damping(self, positions: Sequence[int], cell_step: int) -> np.ndarray | None:
        """What a recurrent model said of these keyframes, as DROID-SLAM weighs it; None where it said nothing."""
        damping = [self._store[i].depth_damping for i in positions]
        if all(d is None for d in damping):
            return None
        unsaid = np.full_like(self._store[positions[0]].inv_depth, _FIRST_DAMPING)
        step = slice(cell_step // 2, None, cell_step)
        stacked = np.stack([(unsaid if d is None else d)[step, step] for d in damping])
        return (_DAMPING_WEIGHT * stacked + _DAMPING_FLOOR) * cell_step**2

    def _scale_previous(self, place: dict[int, int]) -> np.ndarray:
        """Place of each keyframe's predecessor in the same segment; -1: none."""
        store = self._store
        return np.array(
            [place.get(i - 1, -1) if i > 0 and store[i - 1].segment == store[i].segment else -1 for i in place],
            np.int64,
        )

    def solve(self, begin: int, end: int, fixed: set[int], iterations: int) -> BaReport:
        """Optimises keyframes begin..end-1 in place; counts how the solve ended."""
        positions = range(begin, end)
        if not any(begin <= t < end for i in positions for t in self._edges.get(i, {})):
            return self.count(BaReport("nothing_to_do"))
        window, report = solve_window(self.window(positions, fixed), self._config, iterations=iterations)
        self._store.update(positions, window.poses, window.inv_depth, window.prior_log_scale)
        return self.count(report)

    def count(self, report: BaReport) -> BaReport:
        """Notes how a solve ended."""
        self.status_counts[report.status] = self.status_counts.get(report.status, 0) + 1
        return report

    def confidence_of(self, position: int) -> np.ndarray:
        """Best confidence of each cell over the edges that leave a keyframe, float32 [h, w]."""
        leaving = [np.asarray(e.matches)[..., 2:].min(axis=-1) for e in self._edges.get(position, {}).values()]
        if leaving:
            return np.max(leaving, axis=0)
        return np.zeros_like(self._store[position].inv_depth, dtype=np.float32)

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> dict[str, np.ndarray]:
        """Everything as plain arrays for a checkpoint; matches go to the disk first."""
        rows = []
        for leaving in self._edges.values():
            for edge in leaving.values():
                matches = edge.matches
                stored = matches if isinstance(matches, DiskArray) else self._store.disk.put(matches)
                in_memory = not isinstance(matches, DiskArray)
                channels = stored.shape[-1]
                rows.append((edge.source, edge.target, stored.offset, stored.checksum, in_memory, channels))
        factors = self.baselines()
        return {
            "edges": np.array(rows, np.int64).reshape(-1, 6),
            "baseline_pairs": np.array([(b.source, b.target) for b in factors], np.int64).reshape(-1, 2),
            "baseline_values": np.array([(b.length_m, b.sigma) for b in factors]).reshape(-1, 2),
            "status_names": np.array(list(self.status_counts), np.str_),
            "status_counts": np.array(list(self.status_counts.values()), np.int64),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over a :meth:`state`."""
        grid = self._store.camera.grid()
        for source, target, offset, checksum, in_memory, channels in state["edges"].tolist():
            stored = DiskArray(self._store.disk, offset, "<f4", (grid.height, grid.width, channels), checksum)
            edge = self._edges[source][target] = Edge(source, target, stored.load() if in_memory else stored)
            if in_memory:
                self._in_memory.append(edge)
        for (i, j), (length_m, sigma) in zip(state["baseline_pairs"], state["baseline_values"], strict=True):
            self.set_baseline(BaselineFactor(int(i), int(j), float(length_m), float(sigma)))
        self.status_counts = dict(zip(state["status_names"].tolist(), state["status_counts"].tolist(), strict=True))


def _stacked_matches(edges: list[Edge], cell_step: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Targets and confidences [E, h, w, 2] of every ``cell_step``-th cell, in units of such cells."""
    offset = cell_step // 2
    step = slice(offset, None, cell_step)
    h, w = len(range(size[1])[step]), len(range(size[0])[step])
    target, confidence = np.empty((len(edges), h, w, 2)), np.empty((len(edges), h, w, 2))
    for e, edge in enumerate(edges):
        matches = np.asarray(edge.matches)[step, step]
        target[e] = (matches[..., :2] - np.float32(offset)) / np.float32(cell_step)
        confidence[e] = matches[..., 2:]
    return target, confidence


