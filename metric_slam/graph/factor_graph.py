"""The factor graph: edges with their matches, measured baselines, and the problems that are solved over them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from metric_slam.checkpointable import StateTree, array_in, tree_in
from metric_slam.correspondence.base import (
    Correspondence,
    CorrespondenceModel,
    EdgeQuery,
    checked_matches,
    packed,
    unpacked,
)
from metric_slam.geometry.grid_array import Array, in_reach, on_host
from metric_slam.graph.baselines import BaselineFactor, BaselineSet
from metric_slam.graph.edges import EdgeSet
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.graph.moving_mask import mask_all_moving, mask_moving
from metric_slam.graph.window import WindowParts, build_window
from metric_slam.optimization.bundle_adjustment import BaReport, BaWindow
from metric_slam.optimization.solver import Solver


class FactorGraph:
    """Edges and baselines over the keyframes of a map; solving is up to :class:`metric_slam.graph.slam_map.SlamMap`."""

    def __init__(self, store: KeyframeStore, model: CorrespondenceModel, solver: Solver, scale_sigma: float) -> None:
        self.solver = solver
        self.edges = EdgeSet(solver, store.offloader)
        self.baselines = BaselineSet()
        self.status_counts: dict[str, int] = {}
        """How often each solver status was returned."""

        self._store, self._model = store, model
        self._parts = WindowParts(store, self.edges, self.baselines, solver, scale_sigma)

    def __len__(self) -> int:
        return len(self.edges)

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return pair in self.edges

    def add_matched(self, source: int, target: int, match: Correspondence) -> None:
        """Add a directed edge whose matches are known."""
        self.edges.add(source, target, packed(match))

    def set_matches(self, source: int, target: int, match: Correspondence) -> None:
        """Give a directed edge new matches; it is added if it is not there."""
        self.edges.update(source, target, match)

    def matches_of(self, source: int, target: int) -> np.ndarray:
        """Matches of a directed edge, float32 [h, w, 3 or 4], in memory."""
        return on_host(self.edges[source, target].matches)

    def match_pairs(self, pairs: list[tuple[int, int]]) -> None:
        """Match directed pairs, starting from their present reprojection, and add them as edges."""
        if not pairs:
            return
        store = self._store
        low, high = min(min(p) for p in pairs), max(max(p) for p in pairs) + 1
        source, target = np.array(pairs).T - low
        inv_depth = self.stacked("inv_depth", range(low, high))
        predicted = self.reprojections(store.poses(low, high), inv_depth, source, target)
        if not self._model.recurrent:
            predicted = on_host(predicted)  # which matches on the CPU
        queries = [
            EdgeQuery(
                store[i].features,
                store[j].features,
                predicted[e],
                neighbours=abs(i - j) == 1,
                source_ignored=store[i].ignored,
                target_ignored=store[j].ignored,
            )
            for e, (i, j) in enumerate(pairs)
        ]
        matches = mask_all_moving(checked_matches(self._model, queries), [store[i].moving_cells for i, _ in pairs])
        for (i, j), match in zip(pairs, matches, strict=True):
            self.add_matched(i, j, match)

    def reprojections(self, poses: np.ndarray, inv_depth: Array, source: np.ndarray, target: np.ndarray) -> Array:
        """Where the cells of every edge's source lie in its target, float64 [E, h, w, 2], where the solver works;
        arguments as in :class:`metric_slam.optimization.bundle_adjustment.BaWindow`.
        """
        return self.solver.reproject(poses, inv_depth, self._store.camera.grid().vector(), source, target)

    def stacked(self, field: str, positions: Sequence[int]) -> Array:
        """One grid of these keyframes, [N, h, w], where the solver works."""
        return self.solver.stack([getattr(self._store[i], field) for i in positions])

    def mask_moving_cells(self, source: int) -> None:
        """Set the confidence of moving cells to zero in the edges that leave a keyframe of the sliding window."""
        moving = self._store[source].moving_cells
        if moving.any():
            for edge in self.edges.leaving(source):
                matches = in_reach(edge.matches)
                edge.matches = self.solver.held(packed(mask_moving(unpacked(matches), moving)))

    def pairs(self, begin: int = 0) -> np.ndarray:
        """Source and target of every edge between keyframes from ``begin`` on, int64 [E, 2]."""
        return self.edges.pairs(begin)

    def remove_pair(self, first: int, second: int) -> None:
        """Remove the edges between two keyframes, both ways."""
        self.edges.remove_pair(first, second)

    def targets_of(self, source: int) -> list[int]:
        """Keyframes that a keyframe is matched with."""
        return self.edges.targets_of(source)

    def remove_keyframe(self, position: int) -> None:
        """Remove edges and baselines of a keyframe; the numbers of later keyframes decrease by one."""
        self.edges.remove_keyframe(position)
        self.baselines.remove_keyframe(position)

    def set_baseline(self, factor: BaselineFactor) -> None:
        """Add the measured baseline of a pair, or replace it."""
        self.baselines.set(factor)

    def is_metric(self, begin: int, end: int) -> bool:
        """True if a prior or a measured baseline holds the scale of keyframes begin..end-1."""
        positions = range(begin, end)
        measured = any(b.target in positions for i in positions for b in self.baselines.leaving(i))
        return measured or any(self._store.has_prior(i) for i in positions)

    def window(
        self,
        positions: Sequence[int],
        fixed: Collection[int],
        *,
        cell_step: int = 1,
        depth_free: Collection[int] | None = None,
    ) -> BaWindow:
        """The problem over these keyframes; see :func:`metric_slam.graph.window.build_window`."""
        return build_window(self._parts, positions, fixed, cell_step=cell_step, depth_free=depth_free)

    def count(self, report: BaReport) -> BaReport:
        """Note how a solve ended."""
        self.status_counts[report.status] = self.status_counts.get(report.status, 0) + 1
        return report

    def confidence_of(self, position: int) -> np.ndarray:
        """Best confidence of each cell over the edges that leave a keyframe, float32 [h, w]."""
        leaving = [on_host(e.matches)[..., 2:].min(axis=-1) for e in self.edges.leaving(position)]
        if leaving:
            return np.asarray(np.max(leaving, axis=0))
        return np.zeros_like(self._store[position].inv_depth, dtype=np.float32)

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> StateTree:
        """Arrays for a checkpoint; matches go to the disk first."""
        return {
            "edges": self.edges.state(),
            "baselines": self.baselines.state(),
            "status_names": np.array(list(self.status_counts), np.str_),
            "status_counts": np.array(list(self.status_counts.values()), np.int64),
        }

    def restore(self, state: StateTree) -> None:
        """Replace everything by what :meth:`state` returned."""
        self.edges.restore(tree_in(state, "edges"), self._store.camera)
        self.baselines.restore(tree_in(state, "baselines"))
        names, counts = array_in(state, "status_names"), array_in(state, "status_counts")
        self.status_counts = dict(zip(names.tolist(), counts.tolist(), strict=True))
