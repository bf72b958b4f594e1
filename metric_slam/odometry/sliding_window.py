"""The sliding window: adds tracked keyframes and keeps poses, inverse depths and metric scale of the recent ones.

New keyframe -> edges -> bundle adjustment of the window -> the prior measures the motion (road) -> metric baselines
enter the graph -> the next solve pulls the scale. The first keyframes start from matches alone and get their scale as
soon as a prior has measured one.
"""

from __future__ import annotations

import logging

import numpy as np

from metric_slam.config.schema import SlidingWindowConfig
from metric_slam.depth.base import CurrentDepth
from metric_slam.geometry import lie
from metric_slam.geometry.grid_array import on_host
from metric_slam.geometry.triangulation import triangulate
from metric_slam.graph.keyframes import Keyframe
from metric_slam.graph.moving_mask import detect_moving, mask_moving, propagate_mask
from metric_slam.graph.slam_map import PriorGrids, SlamMap
from metric_slam.odometry.base import EncodedFrame
from metric_slam.odometry.edge_selection import new_keyframe_pairs
from metric_slam.odometry.keyframe_prior import KeyframePrior
from metric_slam.odometry.metric_scale import MetricScale
from metric_slam.odometry.moving_cells import MovingCellDetector
from metric_slam.odometry.prior_noise import PriorNoise
from metric_slam.odometry.scale_startup import ScaleStartup
from metric_slam.odometry.tracking import TrackedFrame, motion_from_matches, transfer_depth

log = logging.getLogger(__name__)

_NEAREST_PRIOR_M = 1e-3  # of prior depths that start a keyframe: guards the division alone
START_DEPTH = 10.0
"""First depth of cells about which nothing is known, in the arbitrary unit of a map without a scale."""

_USUAL_STEPS = 20  # latest keyframe steps whose median predicts the next one


class ScaleParts:
    """The parts around the metric scale, built once and shared."""

    def __init__(
        self,
        depth: KeyframePrior,
        measured: MetricScale,
        startup: ScaleStartup,
        moving: MovingCellDetector,
        noise: PriorNoise,
    ) -> None:
        self.depth, self.measured, self.startup, self.moving, self.noise = depth, measured, startup, moving, noise


def new_keyframe(
    frame: EncodedFrame,
    prior_state: object,
    grids: PriorGrids,
    T_cam_world_vec: np.ndarray,
    inv_depth: np.ndarray,
    *,
    submap: int,
    moving: np.ndarray | None = None,
) -> Keyframe:
    """A keyframe with its first estimate; see :class:`metric_slam.graph.keyframes.Keyframe`."""
    return Keyframe(
        index=frame.index,
        time_s=frame.time_s,
        image=frame.image,
        features=frame.features,
        prior_state=prior_state,
        pose=T_cam_world_vec,
        inv_depth=inv_depth,
        prior_depth_m=grids.depth_m,
        prior_confidence=grids.confidence,
        prior_weight=grids.weight,
        road_depth_m=np.zeros_like(inv_depth),
        submap=submap,
        moving=moving,
        ignored=frame.ignored,
    )


class SlidingWindow:
    """Order of work on the keyframes of the window; their state lives in the map."""

    def __init__(self, slam_map: SlamMap, scale: ScaleParts, config: SlidingWindowConfig) -> None:
        self._map, self._scale, self._config = slam_map, scale, config

    def begin(self, frame: EncodedFrame, prior_state: object, T_cam_world: np.ndarray) -> None:
        """Add the first keyframe of the video, or of a new submap after a loss, at T_cam_world [4, 4]."""
        self._scale.measured.begin_submap()
        submap = self._map.begin_submap(T_cam_world)
        grids = self._scale.depth.grids(prior_state)
        pose = lie.matrix_to_pose_vec(T_cam_world)
        self._map.append(new_keyframe(frame, prior_state, grids, pose, _filled(grids), submap=submap))

    @property
    def depth_known(self) -> bool:
        """True if a new frame can be tracked against the last keyframe's depth."""
        position = len(self._map) - 1
        return position > self._begin or self._map.has_prior(position)

    @property
    def _begin(self) -> int:
        return self._map.submaps.current_begin

    def add(self, frame: EncodedFrame, prior_state: object, tracked: TrackedFrame) -> bool:
        """Add a keyframe; False if the start of a submap shows too little parallax to begin with it."""
        slam_map, graph, cfg = self._map, self._map.graph, self._config
        T_cam_world = tracked.T_cam_world
        if not self.depth_known:
            start = self._triangulate_start(prior_state, tracked)
            if start is None:
                return False
            T_cam_world = start
        before = slam_map[-1]
        inv_depth = transfer_depth(before, T_cam_world, tracked.backward, slam_map.camera)
        moving = propagate_mask(before.moving_cells, tracked.backward)
        grids = self._scale.noise.weighted(self._scale.depth.grids(prior_state))
        pose = lie.matrix_to_pose_vec(T_cam_world)
        position = slam_map.append(
            new_keyframe(frame, prior_state, grids, pose, inv_depth, submap=before.submap, moving=moving)
        )
        graph.add_matched(position - 1, position, tracked.forward)
        graph.add_matched(position, position - 1, mask_moving(tracked.backward, moving))
        graph.match_pairs([p for p in new_keyframe_pairs(position, cfg) if min(p) >= self._begin])
        self._scale.measured.collect()
        self._solve(position)
        self._scale.noise.update(position)
        self._scale.moving.update(position, inv_depth, tracked.backward)
        self._scale.measured.observe(position)
        if self._scale.startup.rescale_submap():
            self._solve(position)
        keep = position - max(cfg.radius, cfg.warm_up)
        slam_map.evict_before(keep, min(keep, position - cfg.window))
        return True

    def _solve(self, position: int) -> None:
        cfg = self._config
        end = position + 1
        begin = max(self._begin, end - cfg.window)
        carries_scale = begin > self._begin and not self._map.graph.is_metric(begin, end)
        fixed = cfg.fixed if carries_scale else 1
        self._map.solve(begin, end, range(begin, begin + fixed), cfg.iterations)

    # ------------------------------------------------------------------ start

    def _triangulate_start(self, prior_state: object, tracked: TrackedFrame) -> np.ndarray | None:
        """T_cam_world [4, 4] of the second of two views without depth; the first one's depths are triangulated.

        The relative pose is known up to scale: its length is the unit of the map until a prior measures it.
        """
        position = len(self._map) - 1
        first, grid = self._map[position], self._map.camera.grid()
        motion = motion_from_matches(tracked.forward, self._map.camera)
        if motion is None:
            return None
        T_second_first, inv_depth = motion
        known = np.isfinite(inv_depth)
        inv_depth = np.where(known, inv_depth, np.nanmedian(inv_depth))
        # cells that were filled with the median agree on a road of their own
        road = self._scale.moving.road_inv_depth(CurrentDepth(inv_depth, ~known), baseline=1.0)
        if road is not None:
            alone, _ = triangulate(on_host(tracked.forward.target), T_second_first, grid)  # nothing is expected yet
            found = detect_moving(first.moving_cells, inv_depth, alone, tracked.forward, T_second_first, road, grid)
            self._map.set_moving(position, found.moving)
        current_depth = CurrentDepth(inv_depth, self._map[position].moving_cells > 0)
        scale = self._scale_of_start(first, prior_state, T_second_first, current_depth)
        self._map.set_inv_depth(position, inv_depth / scale)
        T_second_first[:3, 3] *= scale
        return np.asarray(T_second_first @ first.T_cam_world)

    def _scale_of_start(
        self, first: Keyframe, prior_state: object, T_second_first: np.ndarray, current_depth: CurrentDepth
    ) -> float:
        """Length of the unit of the first pair: measured, or that of the usual step, or 1."""
        usual_step = self._usual_step() if self._scale.measured.measured else None
        scale = self._scale.startup.first_pair(
            first.prior_state, prior_state, T_second_first, current_depth, usual_step
        )
        if scale is not None:
            return scale
        if self._scale.depth.metric:
            log.warning(
                "keyframe %d: no metric scale in the first pair; the map starts at a guess until there is one",
                len(self._map),
            )
        return 1.0 if usual_step is None else usual_step

    def _usual_step(self) -> float:
        """Median distance between recent keyframes: the best guess of the next one."""
        centres = self._map.T_world_cam(slice(-_USUAL_STEPS, None))[:, :3, 3]
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
        return float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0


def _filled(prior: PriorGrids) -> np.ndarray:
    """First inverse depth [h, w] of a keyframe without neighbours: the prior's, its median where it has no depth."""
    known = prior.weight > 0
    fill = float(np.median(prior.depth_m[known])) if known.any() else START_DEPTH
    return np.asarray(1.0 / np.where(known, np.maximum(prior.depth_m, _NEAREST_PRIOR_M), fill))
