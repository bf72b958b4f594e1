"""The factor graph: directed edges between keyframes with their matches, and the windows that are solved over them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from metric_slam.bundle_adjustment import BaReport, Baselines, BaWindow, reproject, solve_window
from metric_slam.config import BundleAdjustmentConfig
from metric_slam.correspondence.base import Correspondence, CorrespondenceModel, EdgeQuery
from metric_slam.keyframes import KeyframeStore


@dataclass(frozen=True)
class Edge:
    """Matches of one directed pair of keyframes, kept in single precision."""

    source: int
    target: int
    flow_target: np.ndarray
    """float32 [h, w, 2], grid cells."""

    confidence: np.ndarray
    """float32 [h, w]."""


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
        self._edges: dict[tuple[int, int], Edge] = {}
        self._baselines: dict[tuple[int, int], BaselineFactor] = {}
        self.status_counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._edges)

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return pair in self._edges

    def add_matched(self, source: int, target: int, match: Correspondence) -> None:
        """Adds a directed edge whose matches are already known."""
        self._edges[source, target] = Edge(
            source, target, match.target.astype(np.float32), match.confidence.astype(np.float32)
        )

    def match_pairs(self, pairs: list[tuple[int, int]]) -> None:
        """Matches directed pairs, starting from their present reprojection, and adds them."""
        if not pairs:
            return
        store = self._store
        low, high = min(min(p) for p in pairs), max(max(p) for p in pairs) + 1
        source, target = np.array(pairs).T - low
        predicted, _, _ = reproject(
            store.poses(low, high),
            store.stacked("inv_depth", low, high),
            store.camera.grid().vector(),
            source,
            target,
        )
        queries = [
            EdgeQuery(store[i].features, store[j].features, predicted[e], neighbours=abs(i - j) == 1)
            for e, (i, j) in enumerate(pairs)
        ]
        for (i, j), match in zip(pairs, self._model.track(queries), strict=True):
            self.add_matched(i, j, match)

    def set_baseline(self, factor: BaselineFactor) -> None:
        """Adds or replaces the measured baseline of a pair."""
        self._baselines[factor.source, factor.target] = factor

    def remove_baseline(self, source: int, target: int) -> None:
        """Takes the measured baseline of a pair back."""
        del self._baselines[source, target]

    def baselines(self) -> list[BaselineFactor]:
        """All measured baselines."""
        return list(self._baselines.values())

    def is_metric(self, begin: int, end: int) -> bool:
        """Does a prior or a measured baseline hold the scale of keyframes begin..end-1?"""
        return any(begin <= b.source < end and begin <= b.target < end for b in self._baselines.values()) or any(
            self._store[i].prior_weight.any() for i in range(begin, end)
        )

    def window(self, begin: int, end: int, fixed: set[int]) -> BaWindow:
        """The problem over keyframes begin..end-1; the poses of the keyframes in ``fixed`` stay."""
        store = self._store
        edges = [e for e in self._edges.values() if begin <= e.source < end and begin <= e.target < end]
        baselines = [b for b in self._baselines.values() if begin <= b.source < end and begin <= b.target < end]
        confidence = np.stack([e.confidence for e in edges]).astype(np.float64)
        has_prior = any(k.prior_weight.any() for k in (store[i] for i in range(begin, end)))
        return BaWindow(
            intrinsics=store.camera.grid().vector(),
            poses=store.poses(begin, end),
            inv_depth=store.stacked("inv_depth", begin, end),
            source=np.array([e.source - begin for e in edges], np.int64),
            target=np.array([e.target - begin for e in edges], np.int64),
            flow_target=np.stack([e.flow_target for e in edges]).astype(np.float64),
            confidence=np.repeat(confidence[..., None], 2, axis=-1),
            pose_free=np.array([i not in fixed for i in range(begin, end)]),
            depth_free=np.ones(end - begin, bool),
            prior_depth_m=store.stacked("prior_depth_m", begin, end) if has_prior else None,
            prior_weight=store.stacked("prior_weight", begin, end) if has_prior else None,
            prior_log_scale=np.array([store[i].prior_log_scale for i in range(begin, end)]),
            scale_sigma=self._scale_sigma,
            baselines=Baselines(
                pair=np.array([[b.source - begin, b.target - begin] for b in baselines], np.int64).reshape(-1, 2),
                length_m=np.array([b.length_m for b in baselines]),
                sigma=np.array([b.sigma for b in baselines]),
            ),
        )

    def solve(self, begin: int, end: int, fixed: set[int], iterations: int, *, thorough: bool = False) -> BaReport:
        """Optimises keyframes begin..end-1 in place; counts how the solve ended.

        ``thorough`` does not stop at a small decrease: the scale of a long chain is a soft direction, in which a large
        correction lowers the cost little.
        """
        if not any(begin <= e.source < end and begin <= e.target < end for e in self._edges.values()):
            return self._count(BaReport("nothing_to_do"))
        window, report = solve_window(
            self.window(begin, end, fixed), self._config, iterations=iterations, thorough=thorough
        )
        self._store.update(begin, window.poses, window.inv_depth, window.prior_log_scale)
        return self._count(report)

    def settle_depths(self, cell_sigma: float) -> None:
        """Inverse depths alone, all poses fixed, with the prior depth that so far was only shown.

        On asphalt the flow of a cell is easily wrong and would move the poses; for the map the road's plane is right.
        """
        end = len(self._store)
        shown = self._store.stacked("prior_confidence", 0, end) / cell_sigma**2
        if not shown.any() or not self._edges:
            return
        window = self.window(0, end, set(range(end)))
        weight = shown if window.prior_weight is None else np.maximum(window.prior_weight, shown)
        prior_depth_m = self._store.stacked("prior_depth_m", 0, end)
        window = replace(window, prior_weight=weight, prior_depth_m=prior_depth_m, scale_sigma=0.0)
        window, report = solve_window(window, self._config)
        self._store.update(0, window.poses, window.inv_depth, window.prior_log_scale)
        self._count(report)

    def _count(self, report: BaReport) -> BaReport:
        self.status_counts[report.status] = self.status_counts.get(report.status, 0) + 1
        return report

    def confidence_of(self, position: int) -> np.ndarray:
        """Best confidence of each cell over the edges that leave a keyframe, float32 [h, w]."""
        leaving = [e.confidence for e in self._edges.values() if e.source == position]
        if leaving:
            return np.max(leaving, axis=0)
        return np.zeros_like(self._store[position].inv_depth, dtype=np.float32)

