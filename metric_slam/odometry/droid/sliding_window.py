"""The sliding window around a recurrent network: each of its steps is followed by bundle adjustment.

The first keyframes wait until there are enough of them and are then optimised together. After that, for every new one:
old edges retire, new ones are chosen by flow distance, a few updates follow; a keyframe that turns out to be close to
the one before it goes. The order of work and its numbers are DROID-SLAM's (droid_frontend.py); unlike there, the first
keyframes start from the prior's depth where there is one, and the prior's other answers enter as with any matcher.
"""

from __future__ import annotations

import numpy as np

from metric_slam.config.droid import DroidConfig
from metric_slam.correspondence.base import Correspondence, confidence_per_cell, unpacked
from metric_slam.depth.base import DepthPrior
from metric_slam.geometry import lie
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.graph.moving_mask import propagate_mask
from metric_slam.graph.submaps import Submaps
from metric_slam.odometry.droid.active_edges import ActiveEdges
from metric_slam.odometry.droid.edge_selection import Pair, ProximityRule, candidates, neighbourhood, proximity
from metric_slam.odometry.metric_scale import MetricScale, PriorMaps
from metric_slam.odometry.sliding_window import KeyframeCandidate
from metric_slam.odometry.tracking import transfer_depth
from metric_slam.optimization.frame_distance import frame_distance

_INACTIVE_REACH = 3  # keyframes before the first free one whose evicted edges take part (factor_graph.py, update)
_WARM_UP_STAYS = 4  # newest keyframes of the warm-up whose edges go on being refined
_MATCHED = 0.1  # confidence of a match that may betray a cell that moves; the network's is never 0
_DEPTH_KEYFRAMES = 2  # before the last one, whose median depth a new one starts from (_init_next_state)


class DroidSlidingWindow:
    """Owns the order of work on keyframes; state lives in the store, the graph and the active edges."""

    def __init__(
        self,
        store: KeyframeStore,
        graph: FactorGraph,
        active: ActiveEdges,
        prior: DepthPrior,
        submaps: Submaps,
        config: DroidConfig,
    ) -> None:
        self._store, self._graph, self._active, self._submaps = store, graph, active, submaps
        self._config = config
        self.scale = MetricScale(store, graph, prior, submaps, config.warm_up)
        self.ready = False
        """Is the warm-up over?"""

    @property
    def _submap(self) -> int:
        return self._submaps.current_begin

    def start(self, view: KeyframeCandidate, pose: np.ndarray) -> None:
        """The first keyframe of the video, or of a new submap after a loss: ``pose`` T_cam_world [7] is given."""
        self.scale.begin_submap()
        submap = self._submaps.begin(len(self._store), self._store.motion_from_last(pose))
        self.ready = False
        prior = self.scale.maps(view.prior_state)
        self._store.append(view.keyframe(pose, self._first_depth(prior), prior, submap))

    def add(self, view: KeyframeCandidate) -> int | None:
        """A further keyframe, which starts where the last one is, or a little beyond. Returns the position of one that
        is superfluous now and must be removed, if any: then :meth:`after_removal` comes next."""
        store = self._store
        prior = self.scale.maps(view.prior_state)
        inv_depth = self._first_depth(prior)
        newest = store.append(view.keyframe(self._first_pose(), inv_depth, prior, len(self._submaps) - 1))
        if not self.ready:
            if newest + 1 - self._submap >= self._config.warm_up:
                self.initialise()
            return None
        self.scale.collect()
        self._refine(newest)
        self._detect_moving_cells(newest)
        if self._is_near(newest - 1):
            return newest - 1
        self._update(self._config.more_updates)
        self.scale.observe(newest - 1)
        self._rescale_submap()
        self._evict()
        return None

    def after_removal(self) -> None:
        """What is left to do when the keyframe named by :meth:`add` is gone."""
        self._rescale_submap()
        self._evict()

    def initialise(self) -> None:
        """Optimises the keyframes there are together; also at the end of a video that has fewer than the warm-up."""
        cfg, end = self._config, len(self._store)
        if end - self._submap < 2:
            return
        self._active.add(neighbourhood(self._submap, end, cfg.warm_up_radius))
        self._update(cfg.warm_up_updates, free_from=self._submap + 1)
        self._add_near(range(self._submap, end), range(self._submap, end), cfg.warm_up_suppression)
        self._update(cfg.warm_up_updates, free_from=self._submap + 1)
        if self.scale.settle():
            self._update(cfg.more_updates, free_from=self._submap + 1)
        for position in range(self._submap + 1, end):
            self._detect_moving_cells(position)
        self._active.retire_sources_before(end - _WARM_UP_STAYS)
        self.ready = True
        self._evict()

    # ------------------------------------------------------------------ private

    def _refine(self, newest: int) -> None:
        """New edges around the newest keyframe, then the updates that every keyframe gets."""
        cfg, end = self._config, newest + 1
        self._active.retire_older_than(cfg.max_age)
        sources = range(max(end - cfg.source_window, self._submap), end)
        targets = range(max(end - cfg.window, self._submap), end)
        self._add_near(sources, targets, cfg.suppression, max_edges=cfg.max_edges)
        self._update(cfg.updates)

    def _detect_moving_cells(self, position: int) -> None:
        """With the keyframe's latest matches with the one before it; as
        :class:`metric_slam.odometry.sliding_window.SlidingWindow` does."""
        store = self._store
        if (position, position - 1) not in self._graph:
            return
        match = unpacked(self._graph.matches_of(position, position - 1))
        confidence = confidence_per_cell(match.confidence)
        backward = Correspondence(match.target, np.where(confidence > _MATCHED, confidence, 0.0))
        keyframe, before = store[position], store[position - 1]
        keyframe.moving = propagate_mask(before.moving_cells, backward)
        expected = transfer_depth(before, keyframe.pose, backward, store.camera)
        self.scale.detect_moving_cells(position, expected, backward)

    def _add_near(self, sources: range, targets: range, suppression: int, *, max_edges: int | None = None) -> None:
        cfg = self._config
        rule = ProximityRule(cfg.radius, suppression, cfg.edge_threshold_cells, cfg.max_edges)
        pairs = candidates(sources, targets, cfg.radius)
        there: list[Pair] = [(i, j) for i, j in self._graph.pairs(targets.start).tolist()]
        chosen = proximity(sources, targets, pairs, self._distance(pairs), there, rule)
        self._active.add(chosen, max_edges=max_edges)

    def _update(self, count: int, *, free_from: int | None = None) -> None:
        """Updates of the network, each followed by bundle adjustment; ``free_from``: the first pose that moves."""
        for _ in range(count):
            self._active.update()
            free = self._active.first_source + 1 if free_from is None else free_from
            free = max(free, self._submap + 1)
            begin = max(min(free - _INACTIVE_REACH, self._active.first_end), self._submap)
            fixed = set(range(begin, free))
            self._graph.solve(begin, len(self._store), fixed, self._config.solver_iterations)

    def _distance(self, pairs: np.ndarray) -> np.ndarray:
        """Flow between keyframes, grid cells [P]."""
        if not len(pairs):
            return np.zeros(0)
        low, high = int(pairs.min()), int(pairs.max()) + 1
        return frame_distance(
            self._store.poses(low, high),
            self._graph.stacked("inv_depth", range(low, high)),
            self._store.camera.grid().vector(),
            pairs[:, 0] - low,
            pairs[:, 1] - low,
            translation_weight=1.0 - self._config.motion_weight,
            accelerator=self._graph.accelerator,
        )

    def _is_near(self, position: int) -> bool:
        """Does a keyframe, never the first, show little that the one before it does not?"""
        if position <= self._submap:
            return False
        return bool(self._distance(np.array([[position - 1, position]]))[0] < self._config.keyframe_threshold_cells)

    def _rescale_submap(self) -> None:
        """A fresh scale moves the whole submap; what the prior measured then takes part from the next solve on."""
        if self.scale.settle():
            self._update(self._config.more_updates)

    def _first_pose(self) -> np.ndarray:
        """T_cam_world [7] of a new keyframe, by damped constant velocity (``_init_next_state``) after the warm-up."""
        last = len(self._store) - 1
        if not self.ready or last == self._submap or not self._config.motion_damping:
            return self._store[last].pose.copy()
        T_before, T_last = lie.pose_vec_to_matrix(self._store.poses(last - 1, last + 1))
        return lie.matrix_to_pose_vec(lie.interpolate(T_before, T_last, 1.0 + self._config.motion_damping))

    def _first_depth(self, prior: PriorMaps) -> np.ndarray:
        """Inverse depth [h, w] of a new keyframe: the prior's where it says something, elsewhere that of the last
        keyframes, or of this prior, or the configured one."""
        known = prior.weight > 0
        if self.ready:
            newest = len(self._store) - 1
            before = range(max(newest - _DEPTH_KEYFRAMES, self._submap), newest)
            fill = float(np.median([self._store[i].inv_depth for i in before]))
        else:
            fill = 1.0 / float(np.median(prior.depth_m[known])) if known.any() else self._config.first_inv_depth
        return np.where(known, 1.0 / np.maximum(prior.depth_m, 0.1), fill)

    def _evict(self) -> None:
        """Features and matches of keyframes that no edge and no measurement needs any more."""
        cfg = self._config
        keep = min(len(self._store) - max(cfg.window, cfg.warm_up) - 1, self._active.first_end)
        self._store.evict_before(keep)
        self._graph.evict_before(keep)
