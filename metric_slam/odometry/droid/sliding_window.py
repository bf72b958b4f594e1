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
from metric_slam.geometry import lie
from metric_slam.graph.moving_mask import propagate_mask
from metric_slam.graph.slam_map import PriorGrids, SlamMap
from metric_slam.odometry.base import EncodedFrame
from metric_slam.odometry.droid.active_edges import ActiveEdges
from metric_slam.odometry.droid.edge_selection import Pair, ProximityRule, candidates, neighbourhood, proximity
from metric_slam.odometry.sliding_window import ScaleParts, new_keyframe
from metric_slam.odometry.tracking import transfer_depth

_NEAREST_PRIOR_M = 1e-3  # of prior depths that start a keyframe: guards the division alone
_INACTIVE_REACH = 3  # keyframes before the first free one whose evicted edges take part (factor_graph.py, update)
_WARM_UP_STAYS = 4  # newest keyframes of the warm-up whose edges go on being refined
_MATCHED = 0.1  # confidence of a match that may betray a cell that moves; the network's is never 0
_DEPTH_KEYFRAMES = 2  # before the last one, whose median depth a new one starts from (_init_next_state)


class DroidSlidingWindow:
    """Order of work on the keyframes of the window; their state lives in the map and the active edges."""

    def __init__(self, slam_map: SlamMap, active: ActiveEdges, scale: ScaleParts, config: DroidConfig) -> None:
        self._map, self._active, self._scale, self._config = slam_map, active, scale, config
        self.ready = False
        """True once the warm-up is over."""

    @property
    def _begin(self) -> int:
        return self._map.submaps.current_begin

    def begin(self, frame: EncodedFrame, prior_state: object, T_cam_world: np.ndarray) -> None:
        """Add the first keyframe of the video, or of a new submap after a loss, at T_cam_world [4, 4]."""
        self._scale.measured.begin_submap()
        submap = self._map.begin_submap(T_cam_world)
        self.ready = False
        grids, pose = self._scale.depth.grids(prior_state), lie.matrix_to_pose_vec(T_cam_world)
        self._map.append(new_keyframe(frame, prior_state, grids, pose, self._first_depth(grids), submap=submap))

    def add(self, frame: EncodedFrame, prior_state: object) -> int | None:
        """Add a keyframe, which starts where the last one is, or a little beyond.

        Returns the position of a keyframe that is superfluous now and must be removed, if any; then call
        :meth:`after_removal`.
        """
        slam_map = self._map
        grids = self._scale.noise.weighted(self._scale.depth.grids(prior_state))
        pose = lie.matrix_to_pose_vec(self._first_pose())
        inv_depth, submap = self._first_depth(grids), slam_map[-1].submap
        newest = slam_map.append(new_keyframe(frame, prior_state, grids, pose, inv_depth, submap=submap))
        if not self.ready:
            if newest + 1 - self._begin >= self._config.warm_up:
                self.initialise()
            return None
        self._scale.measured.collect()
        self._refine(newest)
        self._scale.noise.update(newest)
        self._detect_moving_cells(newest)
        if self._is_near(newest - 1):
            return newest - 1
        self._update(self._config.more_updates)
        self._scale.measured.observe(newest - 1)
        self._rescale_submap()
        self._evict()
        return None

    def after_removal(self) -> None:
        """What is left to do when the keyframe named by :meth:`add` is gone."""
        self._rescale_submap()
        self._evict()

    def initialise(self) -> None:
        """Optimises the keyframes there are together; also at the end of a video that has fewer than the warm-up."""
        cfg, end = self._config, len(self._map)
        if end - self._begin < 2:
            return
        self._active.add(neighbourhood(self._begin, end, cfg.warm_up_radius))
        self._update(cfg.warm_up_updates, free_from=self._begin + 1)
        self._add_near(range(self._begin, end), range(self._begin, end), cfg.warm_up_suppression)
        self._update(cfg.warm_up_updates, free_from=self._begin + 1)
        if self._scale.startup.rescale_submap():
            self._update(cfg.more_updates, free_from=self._begin + 1)
        for position in range(self._begin + 1, end):
            self._scale.noise.update(position)
            self._detect_moving_cells(position)
        self._active.retire_sources_before(end - _WARM_UP_STAYS)
        self.ready = True
        self._evict()

    # ------------------------------------------------------------------ private

    def _refine(self, newest: int) -> None:
        """New edges around the newest keyframe, then the updates that every keyframe gets."""
        cfg, end = self._config, newest + 1
        self._active.retire_older_than(cfg.max_age)
        sources = range(max(end - cfg.source_window, self._begin), end)
        targets = range(max(end - cfg.window, self._begin), end)
        self._add_near(sources, targets, cfg.suppression, max_edges=cfg.max_edges)
        self._update(cfg.updates)

    def _detect_moving_cells(self, position: int) -> None:
        """With the keyframe's latest matches with the one before it; as
        :class:`metric_slam.odometry.sliding_window.SlidingWindow` does.
        """
        slam_map, graph = self._map, self._map.graph
        if (position, position - 1) not in graph:
            return
        match = unpacked(graph.matches_of(position, position - 1))
        confidence = confidence_per_cell(match.confidence)
        backward = Correspondence(match.target, np.where(confidence > _MATCHED, confidence, 0.0))
        keyframe, before = slam_map[position], slam_map[position - 1]
        slam_map.set_moving(position, propagate_mask(before.moving_cells, backward))
        expected = transfer_depth(before, keyframe.T_cam_world, backward, slam_map.camera)
        self._scale.moving.update(position, expected, backward)

    def _add_near(self, sources: range, targets: range, suppression: int, *, max_edges: int | None = None) -> None:
        cfg = self._config
        rule = ProximityRule(cfg.radius, suppression, cfg.edge_threshold_cells, cfg.max_edges)
        pairs = candidates(sources, targets, cfg.radius)
        there: list[Pair] = [(i, j) for i, j in self._map.graph.pairs(targets.start).tolist()]
        chosen = proximity(sources, targets, pairs, self._distance(pairs), there, rule)
        self._active.add(chosen, max_edges=max_edges)

    def _update(self, count: int, *, free_from: int | None = None) -> None:
        """Updates of the network, each followed by bundle adjustment; ``free_from``: the first pose that moves."""
        for _ in range(count):
            self._active.update()
            free = self._active.first_source + 1 if free_from is None else free_from
            free = max(free, self._begin + 1)
            begin = max(min(free - _INACTIVE_REACH, self._active.first_end), self._begin)
            self._map.solve(begin, len(self._map), range(begin, free), self._config.solver_iterations)

    def _distance(self, pairs: np.ndarray) -> np.ndarray:
        """Flow between keyframes, grid cells [P]."""
        if not len(pairs):
            return np.zeros(0)
        low, high = int(pairs.min()), int(pairs.max()) + 1
        return self._map.solver.frame_distance(
            self._map.pose_vectors(range(low, high)),
            self._map.graph.stacked("inv_depth", range(low, high)),
            self._map.camera.grid().vector(),
            pairs - low,
            1.0 - self._config.motion_weight,
        )

    def _is_near(self, position: int) -> bool:
        """True if a keyframe, never the first, shows little that the one before it does not."""
        if position <= self._begin:
            return False
        return bool(self._distance(np.array([[position - 1, position]]))[0] < self._config.keyframe_threshold_cells)

    def _rescale_submap(self) -> None:
        """A fresh scale moves the whole submap; what the prior measured then takes part from the next solve on."""
        if self._scale.startup.rescale_submap():
            self._update(self._config.more_updates)

    def _first_pose(self) -> np.ndarray:
        """T_cam_world [4, 4] of a new keyframe, by damped constant velocity after the warm-up
        (``_init_next_state``).
        """
        last = len(self._map) - 1
        if not self.ready or last == self._begin or not self._config.motion_damping:
            return self._map[last].T_cam_world
        T_before, T_last = self._map.T_cam_world([last - 1, last])
        return lie.interpolate(T_before, T_last, 1.0 + self._config.motion_damping)

    def _first_depth(self, prior: PriorGrids) -> np.ndarray:
        """Inverse depth [h, w] of a new keyframe: the prior's where it says something, elsewhere that of the last
        keyframes, or of this prior, or the configured one.
        """
        known = prior.weight > 0
        if self.ready:
            newest = len(self._map) - 1
            before = range(max(newest - _DEPTH_KEYFRAMES, self._begin), newest)
            fill = float(np.median([self._map[i].inv_depth for i in before]))
        else:
            fill = 1.0 / float(np.median(prior.depth_m[known])) if known.any() else self._config.first_inv_depth
        return np.where(known, 1.0 / np.maximum(prior.depth_m, _NEAREST_PRIOR_M), fill)

    def _evict(self) -> None:
        """Features and matches of keyframes that no edge and no measurement needs any more."""
        cfg = self._config
        keep = min(len(self._map) - max(cfg.window, cfg.warm_up) - 1, self._active.first_end)
        self._map.evict_before(keep, keep)
