"""The factor graph: directed edges between keyframes with their matches, and the problems that are solved over them.

Matches of keyframes that the sliding window has passed lie on the disk and are read for global problems. With an
accelerator the others lie on its device, where the problems are put together and solved; poses, and depths once they
are solved, come back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.correspondence.base import Correspondence, CorrespondenceModel, EdgeQuery, packed, unpacked
from metric_slam.disk_store import DiskArray
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.graph.moving_mask import mask_all_moving, mask_moving
from metric_slam.graph.window import scale_previous, stacked_damping, stacked_field, stacked_matches
from metric_slam.optimization.bundle_adjustment import (
    BaReport,
    Baselines,
    BaWindow,
    reproject,
    reproject_on_device,
    solve_window,
)
from metric_slam.optimization.cuda.arrays import Array, DeviceArrays, on_host
from metric_slam.optimization.cuda.kernels import Accelerator


@dataclass
class Edge:
    """Matches of one directed pair of keyframes, kept in single precision."""

    source: int
    target: int
    matches: Array | DiskArray
    """float32 [h, w, 3 or 4]: where each cell lies in the target, grid cells (x, y), and its confidence 0..1, one or
    one for each axis; replaced, never written into."""


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
        self,
        store: KeyframeStore,
        model: CorrespondenceModel,
        config: BundleAdjustmentConfig,
        scale_sigma: float,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.accelerator = accelerator
        """Where problems are solved; None: by the CPU."""

        self.arrays = None if accelerator is None else DeviceArrays(accelerator)
        """What lies there of the keyframe store."""

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
        edge = self._edges[source][target] = Edge(source, target, self._kept(packed(match)))
        self._in_memory.append(edge)

    def set_matches(self, source: int, target: int, match: Correspondence) -> None:
        """New matches of a directed edge, which is added if it is not there."""
        edge = self._edges.get(source, {}).get(target)
        if edge is None or isinstance(edge.matches, DiskArray):
            self.add_matched(source, target, match)
        else:
            edge.matches = self._kept(packed(match))

    def _kept(self, matches: Array) -> Array:
        """As an edge in memory has them."""
        return matches if self.accelerator is None else self.accelerator.upload(matches)

    def matches_of(self, source: int, target: int) -> np.ndarray:
        """Matches of a directed edge as :class:`Edge` has them, on the host."""
        return on_host(self._edges[source][target].matches)

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
        poses, inv_depth = store.poses(low, high), self.stacked("inv_depth", range(low, high))
        predicted = self.reprojections(poses, inv_depth, source, target)
        if not self._model.recurrent:
            predicted = on_host(predicted)  # which matches on the CPU
        queries = [
            EdgeQuery(store[i].features, store[j].features, predicted[e], neighbours=abs(i - j) == 1)
            for e, (i, j) in enumerate(pairs)
        ]
        matches = mask_all_moving(self._model.track(queries), [store[i].moving_cells for i, _ in pairs])
        for (i, j), match in zip(pairs, matches, strict=True):
            self.add_matched(i, j, match)

    def reprojections(self, poses: np.ndarray, inv_depth: Array, source: np.ndarray, target: np.ndarray) -> Array:
        """Where the cells of every edge's source lie in its target, float64 [E, h, w, 2]; arguments as in
        :class:`metric_slam.optimization.bundle_adjustment.BaWindow`. With an accelerator on its device."""
        intrinsics = self._store.camera.grid().vector()
        if self.accelerator is None:
            return reproject(poses, inv_depth, intrinsics, source, target)[0]
        return reproject_on_device(self.accelerator, poses, inv_depth, intrinsics, source, target)[0]

    def stacked(self, field: str, positions: Sequence[int]) -> Array:
        """One array field of these keyframes, [N, h, w]; with an accelerator on its device."""
        return stacked_field(self._store, field, positions, self.arrays)

    def mask_moving_cells(self, source: int) -> None:
        """Takes the confidence of the cells that move from the edges that leave a keyframe of the sliding window."""
        moving = self._store[source].moving_cells
        if moving.any():
            for edge in self._edges.get(source, {}).values():
                matches = np.asarray(edge.matches) if isinstance(edge.matches, DiskArray) else edge.matches
                edge.matches = self._kept(packed(mask_moving(unpacked(matches), moving)))

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

    def evict_before(self, position: int) -> None:
        """Matches between keyframes before ``position`` go to the disk."""
        staying = []
        for edge in self._in_memory:
            if edge.source < position and edge.target < position:
                if self._edges[edge.source].get(edge.target) is edge:
                    edge.matches = self._store.disk.put(on_host(edge.matches))
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
        move, and only their edges take part. With an accelerator its maps are tensors on the device.
        """
        store, arrays = self._store, self.arrays
        place = {position: n for n, position in enumerate(positions)}
        free = place.keys() if depth_free is None else depth_free
        edges = [e for i in positions if i in free for e in self._edges.get(i, {}).values() if e.target in place]
        baselines = [b for i in positions for b in self._baselines_of(i) if b.target in place]
        has_prior = any(store.has_prior(i) for i in positions)
        matches = [e.matches for e in edges]
        flow_target, confidence = stacked_matches(matches, cell_step, store.camera.grid().size, arrays)
        offset = cell_step // 2
        intrinsics = store.camera.grid().vector()
        intrinsics[2:] -= offset
        weight = stacked_field(store, "prior_weight", positions, arrays, cell_step) if has_prior else None
        return BaWindow(
            intrinsics=intrinsics / cell_step,
            poses=np.array([store[i].pose for i in positions]),
            inv_depth=stacked_field(store, "inv_depth", positions, arrays, cell_step),
            source=np.array([place[e.source] for e in edges], np.int64),
            target=np.array([place[e.target] for e in edges], np.int64),
            flow_target=flow_target,
            confidence=confidence,
            pose_free=np.array([i not in fixed for i in positions]),
            depth_free=np.array([i in free for i in positions]),
            prior_depth_m=stacked_field(store, "prior_depth_m", positions, arrays, cell_step) if has_prior else None,
            prior_weight=weight * cell_step**2 if weight is not None else None,
            prior_log_scale=np.array([store[i].prior_log_scale for i in positions]),
            scale_previous=scale_previous(store, place),
            scale_sigma=self._scale_sigma,
            depth_damping=stacked_damping(store, positions, arrays, cell_step),
            baselines=Baselines(
                pair=np.array([[place[b.source], place[b.target]] for b in baselines], np.int64).reshape(-1, 2),
                length_m=np.array([b.length_m for b in baselines]),
                sigma=np.array([b.sigma for b in baselines]),
            ),
            cell_step=cell_step,
        )

    def solve(self, begin: int, end: int, fixed: set[int], iterations: int) -> BaReport:
        """Optimises keyframes begin..end-1 in place; counts how the solve ended."""
        positions = range(begin, end)
        if not any(begin <= t < end for i in positions for t in self._edges.get(i, {})):
            return self.count(BaReport("nothing_to_do"))
        window = self.window(positions, fixed)
        window, report = solve_window(window, self._config, iterations=iterations, accelerator=self.accelerator)
        self.take_over(positions, window)
        return self.count(report)

    def take_over(self, positions: Sequence[int], window: BaWindow, *, depths: bool = True) -> None:
        """Writes what was solved of these keyframes, the first ones of a window, to the store; without ``depths``
        theirs stay. Depths are downloaded at once, and the device remembers them."""
        n = len(positions)
        solved = window.inv_depth[:n]
        found = on_host(solved) if depths else None
        self._store.update(positions, window.poses[:n], found, window.prior_log_scale[:n])
        if depths and self.arrays is not None and isinstance(solved, Tensor):
            for position, inv_depth in zip(positions, solved, strict=True):
                # one by one, because a part would keep the whole window on the device
                self.arrays.remember(self._store[position].inv_depth, inv_depth.clone())

    def count(self, report: BaReport) -> BaReport:
        """Notes how a solve ended."""
        self.status_counts[report.status] = self.status_counts.get(report.status, 0) + 1
        return report

    def confidence_of(self, position: int) -> np.ndarray:
        """Best confidence of each cell over the edges that leave a keyframe, float32 [h, w]."""
        leaving = [on_host(e.matches)[..., 2:].min(axis=-1) for e in self._edges.get(position, {}).values()]
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
                stored = matches if isinstance(matches, DiskArray) else self._store.disk.put(on_host(matches))
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
            matches = self._kept(stored.load()) if in_memory else stored
            edge = self._edges[source][target] = Edge(source, target, matches)
            if in_memory:
                self._in_memory.append(edge)
        for (i, j), (length_m, sigma) in zip(state["baseline_pairs"], state["baseline_values"], strict=True):
            self.set_baseline(BaselineFactor(int(i), int(j), float(length_m), float(sigma)))
        self.status_counts = dict(zip(state["status_names"].tolist(), state["status_counts"].tolist(), strict=True))
