"""Global bundle adjustment with a recurrent network: its updates run over edges of the whole trajectory.

At the end, in rounds: edges are chosen anew among all keyframes by flow distance, then every update of the network is
followed by global bundle adjustment (DROID-SLAM, droid_backend.py). The refined matches join those of the factor
graph, so that loops, measured baselines and the prior stay in force. Features of old keyframes are made again from
their images, a bounded number at a time.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

import numpy as np

from metric_slam.config.droid import DroidConfig
from metric_slam.correspondence.base import RecurrentModel
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.droid.active_edges import ActiveEdges
from metric_slam.odometry.droid.edge_selection import Pair, ProximityRule, candidates, proximity

log = logging.getLogger(__name__)

_COARSE = 3.0  # times the threshold: pairs whose centres alone promise more flow are not looked at
_COARSE_VIEW = np.cos(np.radians(90.0))


class FeatureCache:
    """Features of keyframes: the latest used ones are kept, others are computed again from the stored image."""

    def __init__(self, slam_map: SlamMap, model: RecurrentModel, size: int) -> None:
        self._map, self._model, self._size = slam_map, model, size
        self._kept: OrderedDict[int, object] = OrderedDict()

    def __call__(self, position: int) -> object:
        """Features of the keyframe at ``position``."""
        features = self._map[position].features
        if features is not None:
            return features
        if position not in self._kept:
            self._kept[position] = self._model.encode(self._map.image(position), self._map.camera)
        self._kept.move_to_end(position)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return self._kept[position]


class GlobalUpdates:
    """Rounds of network updates over the whole trajectory, each update followed by global bundle adjustment."""

    def __init__(self, slam_map: SlamMap, model: RecurrentModel, droid: DroidConfig, updates: tuple[int, int]) -> None:
        """``updates``: number of updates in each of the two rounds."""
        self._map, self._model, self._droid, self._updates = slam_map, model, droid, updates

    def run(self, global_ba: GlobalBundleAdjustment) -> None:
        """Run all rounds."""
        for updates in self._updates:
            if updates and len(self._map) > 2:
                self._round(updates, global_ba)

    def _round(self, updates: int, global_ba: GlobalBundleAdjustment) -> None:
        cache = FeatureCache(self._map, self._model, self._droid.features_in_memory)
        active = ActiveEdges(self._map, self._model, cache)
        pairs = sorted(self.chosen_pairs())  # by source: neighbours in time share the features that are in memory
        if len(pairs) > self._droid.global_max_edges:
            log.warning(
                "no updates over the whole trajectory: the memory of %d edges is needed, droid.global_max_edges is %d",
                len(pairs),
                self._droid.global_max_edges,
            )
            return
        active.add(pairs, again=True)
        log.info("%d updates of %d edges over the whole trajectory", updates, len(active))
        for step in range(updates):
            active.update(dense=step == updates - 1)  # what is written for old keyframes stays on the disk
            global_ba.optimise(iterations=self._droid.solver_iterations)
        self._map.graph.edges.evict_before(len(self._map))

    def chosen_pairs(self) -> list[Pair]:
        """Directed pairs of keyframes that are near in flow, wherever in the video they are."""
        cfg, count = self._droid, len(self._map)
        most = min(cfg.global_edges_per_keyframe * count, cfg.global_max_edges - 2)  # the last pair may exceed it
        rule = ProximityRule(cfg.global_radius, cfg.global_suppression, cfg.global_threshold_cells, most)
        everything = range(count)
        pairs = self._promising(candidates(everything, everything, cfg.global_radius))
        distance = np.zeros(0)
        if len(pairs):
            distance = self._map.solver.frame_distance(
                self._map.pose_vectors(everything),
                self._map.graph.stacked("inv_depth", everything),
                self._map.camera.grid().vector(),
                pairs,
                1.0 - cfg.motion_weight,
            )
        chosen = proximity(everything, everything, pairs, distance, (), rule)
        return [(i, j) for i, j in chosen if self._tied(i, j)]

    def _tied(self, first: int, second: int) -> bool:
        return self._map.submaps.joined(self._map[first].submap, self._map[second].submap)

    def _promising(self, pairs: np.ndarray) -> np.ndarray:
        """Pairs [P, 2] that look the same way and whose centres are not too far apart for the depth of the scene."""
        T_world_cam = self._map.T_world_cam()
        centres, forward = T_world_cam[:, :3, 3], T_world_cam[:, :3, 2]
        per_unit = self._map.camera.grid().fx * np.array([k.median_inv_depth for k in self._map])
        i, j = pairs.T
        cells = np.linalg.norm(centres[i] - centres[j], axis=1) * np.minimum(per_unit[i], per_unit[j])
        same_view = (forward[i] * forward[j]).sum(axis=1) > _COARSE_VIEW
        return np.asarray(pairs[same_view & (cells < _COARSE * self._droid.global_threshold_cells)])
