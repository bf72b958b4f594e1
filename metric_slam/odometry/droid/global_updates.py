"""Global bundle adjustment with a recurrent network: its updates run over edges of the whole trajectory.

At the end, in rounds: edges are chosen anew among all keyframes by flow distance, then every update of the network is
followed by global bundle adjustment (DROID-SLAM, droid_backend.py). The refined matches join those of the factor
graph, so that loops, measured baselines and the prior stay in force. Features of old keyframes are made again from
their images, a bounded number at a time.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

import numpy as np

from metric_slam.config.droid import DroidConfig
from metric_slam.config.schema import BundleAdjustmentConfig, GlobalBaConfig
from metric_slam.correspondence.base import RecurrentModel
from metric_slam.geometry import lie
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.graph.submaps import Submaps
from metric_slam.odometry.droid.active_edges import ActiveEdges
from metric_slam.odometry.droid.edge_selection import Pair, ProximityRule, candidates, proximity
from metric_slam.odometry.metric_scale import MetricScale
from metric_slam.optimization.frame_distance import frame_distance

log = logging.getLogger(__name__)

_COARSE = 3.0  # times the threshold: pairs whose centres alone promise more flow are not looked at
_COARSE_VIEW = np.cos(np.radians(90.0))


class FeatureCache:
    """Features of keyframes, the latest used ones kept, others made again from the stored image."""

    def __init__(self, store: KeyframeStore, model: RecurrentModel, size: int) -> None:
        self._store, self._model, self._size = store, model, size
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __call__(self, position: int) -> Any:
        """Features of the keyframe at ``position``."""
        features = self._store[position].features
        if features is not None:
            return features
        if position not in self._kept:
            self._kept[position] = self._model.encode(self._store.image(position), self._store.camera)
        self._kept.move_to_end(position)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return self._kept[position]


class GlobalUpdates(GlobalBundleAdjustment):
    """As :class:`metric_slam.graph.global_ba.GlobalBundleAdjustment`, with updates of the network before the last
    word."""

    def __init__(
        self,
        store: KeyframeStore,
        graph: FactorGraph,
        submaps: Submaps,
        config: GlobalBaConfig,
        solver: BundleAdjustmentConfig,
        model: RecurrentModel,
        droid: DroidConfig,
    ) -> None:
        super().__init__(store, graph, submaps, config, solver)
        self._model, self._droid = model, droid

    def finish(self, scale: MetricScale) -> None:
        """Rounds of updates over the whole trajectory, then as without a network."""
        scale.collect()
        for updates in self._config.updates:
            if updates and len(self._store) > 2:
                self._round(updates)
        super().finish(scale)

    def _round(self, updates: int) -> None:
        cache = FeatureCache(self._store, self._model, self._droid.features_in_memory)
        active = ActiveEdges(self._store, self._graph, self._model, cache)
        pairs = sorted(self.chosen_pairs())  # by source: neighbours in time share the features that are in memory
        if len(pairs) > self._droid.backend_max_edges:
            log.warning(
                "no updates over the whole trajectory: the memory of %d edges is needed, droid.backend_max_edges is %d",
                len(pairs),
                self._droid.backend_max_edges,
            )
            return
        active.add(pairs, again=True)
        log.info("%d updates of %d edges over the whole trajectory", updates, len(active))
        for step in range(updates):
            active.update(dense=step == updates - 1)  # what is written for old keyframes stays on the disk
            self.optimise(iterations=self._droid.solver_iterations)
        self._graph.evict_before(len(self._store))

    def chosen_pairs(self) -> list[Pair]:
        """Directed pairs of keyframes that are near in flow, wherever in the video they are."""
        cfg, count = self._droid, len(self._store)
        most = min(cfg.backend_edges_per_keyframe * count, cfg.backend_max_edges - 2)  # the last pair may exceed it
        rule = ProximityRule(cfg.backend_radius, cfg.backend_suppression, cfg.backend_threshold_cells, most)
        everything = range(count)
        pairs = self._promising(candidates(everything, everything, cfg.backend_radius))
        distance = np.zeros(0)
        if len(pairs):
            distance = frame_distance(
                self._store.poses(0, count),
                self._graph.stacked("inv_depth", everything),
                self._store.camera.grid().vector(),
                pairs[:, 0],
                pairs[:, 1],
                translation_weight=1.0 - cfg.motion_weight,
                accelerator=self._graph.accelerator,
            )
        chosen = proximity(everything, everything, pairs, distance, (), rule)
        return [(i, j) for i, j in chosen if self._tied(i, j)]

    def _tied(self, first: int, second: int) -> bool:
        return self._submaps.joined(self._store[first].submap, self._store[second].submap)

    def _promising(self, pairs: np.ndarray) -> np.ndarray:
        """Pairs [P, 2] that look the same way and whose centres are not too far apart for the depth of the scene."""
        T_world_cam = lie.inverse(lie.pose_vec_to_matrix(self._store.poses(0, len(self._store))))
        centres, forward = T_world_cam[:, :3, 3], T_world_cam[:, :3, 2]
        per_unit = self._store.camera.grid().fx * np.array([np.median(k.inv_depth) for k in self._store])
        i, j = pairs.T
        cells = np.linalg.norm(centres[i] - centres[j], axis=1) * np.minimum(per_unit[i], per_unit[j])
        same_view = (forward[i] * forward[j]).sum(axis=1) > _COARSE_VIEW
        return pairs[same_view & (cells < _COARSE * self._droid.backend_threshold_cells)]
