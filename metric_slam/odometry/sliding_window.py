"""The sliding window: takes tracked keyframes in, keeps poses, inverse depths and the metric scale of the recent ones.

New keyframe -> edges -> bundle adjustment of the window -> the prior looks at the motion (road) -> metric baselines
enter the graph -> the next solve pulls the scale. The first keyframes start from matches alone and are given their
scale as soon as a prior has one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from metric_slam.config.schema import SlidingWindowConfig
from metric_slam.depth.base import CurrentDepth, DepthPrior
from metric_slam.geometry import lie
from metric_slam.geometry.triangulation import triangulate
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.keyframes import Keyframe, KeyframeStore
from metric_slam.graph.moving_mask import detect_moving, mask_moving, propagate_mask
from metric_slam.graph.submaps import Submaps
from metric_slam.odometry.edge_selection import new_keyframe_pairs
from metric_slam.odometry.metric_scale import MetricScale, PriorMaps
from metric_slam.odometry.tracking import TrackedFrame, motion_from_matches, transfer_depth

log = logging.getLogger(__name__)

_START_DEPTH = 10.0  # of cells nobody knows anything about, metres or units


@dataclass(frozen=True)
class KeyframeCandidate:
    """A frame on its way to become a keyframe."""

    index: int
    time_s: float
    image: np.ndarray
    """uint8 [H, W, 3] RGB at working resolution."""

    features: Any
    prior_state: Any

    def keyframe(
        self,
        pose: np.ndarray,
        inv_depth: np.ndarray,
        prior: PriorMaps,
        submap: int,
        moving: np.ndarray | None = None,
    ) -> Keyframe:
        """The keyframe with its first estimate; see :class:`metric_slam.graph.keyframes.Keyframe`."""
        return Keyframe(
            self.index,
            self.time_s,
            self.image,
            self.features,
            self.prior_state,
            pose,
            inv_depth,
            prior.depth_m,
            prior.confidence,
            prior.weight,
            submap=submap,
            moving=moving,
        )


class SlidingWindow:
    """Owns the order of work on keyframes; state lives in the store and the graph."""

    def __init__(
        self, store: KeyframeStore, graph: FactorGraph, prior: DepthPrior, submaps: Submaps, config: SlidingWindowConfig
    ) -> None:
        self._store, self._graph, self._submaps, self._config = store, graph, submaps, config
        self._prior_is_metric = prior.metric
        self.scale = MetricScale(store, graph, prior, submaps, config.warm_up)

    def start(self, view: KeyframeCandidate, pose: np.ndarray) -> None:
        """The first keyframe of the video, or of a new submap after a loss: ``pose`` T_cam_world [7] is given."""
        self.scale.begin_submap()
        submap = self._submaps.begin(len(self._store), self._store.motion_from_last(pose))
        prior = self.scale.maps(view.prior_state)
        self._store.append(view.keyframe(pose, _filled(prior), prior, submap))

    @property
    def depth_known(self) -> bool:
        """Can a new frame be tracked against the last keyframe's depth?"""
        position = len(self._store) - 1
        return position > self._submap or self._store.has_prior(position)

    @property
    def _submap(self) -> int:
        return self._submaps.current_begin

    def add(self, view: KeyframeCandidate, frame: TrackedFrame) -> bool:
        """A further keyframe; False if the start of a submap shows too little parallax to begin with it."""
        store, graph, cfg = self._store, self._graph, self._config
        pose = frame.pose
        if not self.depth_known:
            start_pose = self._triangulate_start(view.prior_state, frame)
            if start_pose is None:
                return False
            pose = start_pose
        inv_depth = transfer_depth(store[-1], pose, frame.backward, store.camera)
        prior = self.scale.maps(view.prior_state)
        moving = propagate_mask(store[-1].moving_cells, frame.backward)
        position = store.append(view.keyframe(pose, inv_depth, prior, len(self._submaps) - 1, moving))
        graph.add_matched(position - 1, position, frame.forward)
        graph.add_matched(position, position - 1, mask_moving(frame.backward, moving))
        graph.match_pairs([p for p in new_keyframe_pairs(position, cfg) if min(p) >= self._submap])
        self.scale.collect()
        self._solve(position)
        self.scale.detect_moving_cells(position, inv_depth, frame.backward)
        self.scale.observe(position)
        if self.scale.settle():
            self._solve(position)
        keep = position - max(cfg.radius, cfg.warm_up)
        store.evict_before(keep)
        graph.evict_before(min(keep, position - cfg.window))
        return True

    def _solve(self, position: int) -> None:
        cfg = self._config
        end = position + 1
        begin = max(self._submap, end - cfg.window)
        carries_scale = begin > self._submap and not self._graph.is_metric(begin, end)
        fixed = cfg.fixed if carries_scale else 1
        self._graph.solve(begin, end, set(range(begin, begin + fixed)), cfg.iterations)

    # ------------------------------------------------------------------ start

    def _triangulate_start(self, prior_state: Any, frame: TrackedFrame) -> np.ndarray | None:
        """Two views without depth: relative pose up to scale; the second keyframe's motion is the unit of length,
        until a prior measures it."""
        store = self._store
        grid = store.camera.grid()
        motion = motion_from_matches(frame.forward, store.camera)
        if motion is None:
            return None
        T_second_first, inv_depth = motion
        first = store[-1]
        known = np.isfinite(inv_depth)
        first.inv_depth = np.where(known, inv_depth, np.nanmedian(inv_depth))
        # cells that were filled with the median agree on a road of their own
        road = self.scale.road_inv_depth(CurrentDepth(first.inv_depth, ~known), baseline=1.0)
        if road is not None:
            alone, _ = triangulate(frame.forward.target, T_second_first, grid)  # nothing is expected yet
            look = detect_moving(first.moving_cells, first.inv_depth, alone, frame.forward, T_second_first, road, grid)
            first.moving = look.moving
        usual_step = self._usual_step() if self.scale.known else None
        scale = self.scale.of_start(first.prior_state, prior_state, T_second_first, first.current_depth, usual_step)
        if scale is None:
            scale = 1.0 if usual_step is None else usual_step
            if self._prior_is_metric:
                log.warning(
                    "keyframe %d: no metric scale in the first pair; the map starts at a guess until there is one",
                    len(store),
                )
        first.inv_depth = first.inv_depth / scale
        T_second_first[:3, 3] *= scale
        return lie.matrix_to_pose_vec(T_second_first @ lie.pose_vec_to_matrix(first.pose))

    def _usual_step(self) -> float:
        """Median distance between recent keyframes: the best guess of the next one."""
        centres = lie.inverse(lie.pose_vec_to_matrix(self._store.poses(0, len(self._store))))[:, :3, 3]
        steps = np.linalg.norm(np.diff(centres[-20:], axis=0), axis=1)
        return float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0


def _filled(prior: PriorMaps) -> np.ndarray:
    """First inverse depth [h, w] of a keyframe without neighbours: the prior's, its median where it says nothing."""
    known = prior.weight > 0
    fill = float(np.median(prior.depth_m[known])) if known.any() else _START_DEPTH
    return 1.0 / np.where(known, np.maximum(prior.depth_m, 0.1), fill)
