"""Loop closure: places that were visited before are recognised, verified, and tie the map together.

    keyframe -> search: places nearby or alike, geometric check, one clear winner within the possible drift
             -> dense matches across the loop: a candidate
             -> robust pose graph: confirmed or rejected; edges of confirmed loops enter the factor graph
             -> global bundle adjustment when the map has grown

A loop between two submaps joins them; it needs a second one that asks for the same move. A false loop bends the whole
map, a missed one costs little, so in doubt a loop is not closed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from metric_slam.checkpointable import StateTree, array_in, tree_in
from metric_slam.config.schema import LoopConfig
from metric_slam.correspondence.base import CorrespondenceModel
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.slam_map import SlamMap
from metric_slam.loops.dense import DenseLoopMatcher
from metric_slam.loops.joining import agreeing_candidate, frames_of_reference, join
from metric_slam.loops.limits import LoopLimits
from metric_slam.loops.links import chain_links, loop_link
from metric_slam.loops.loop import Loop, loops_from_arrays, loops_to_arrays
from metric_slam.loops.pose_graph import optimise_pose_graph
from metric_slam.loops.route import Route, difference
from metric_slam.loops.search import LoopSearch
from metric_slam.odometry.sliding_window import ScaleParts
from metric_slam.odometry.tracking import FrameTracker
from metric_slam.result import LoopResult

log = logging.getLogger(__name__)


class LoopClosure:
    """Searches for loops and closes them; moves the map and changes its edges."""

    def __init__(
        self,
        slam_map: SlamMap,
        tracker: FrameTracker,
        model: CorrespondenceModel,
        scale: ScaleParts,
        global_ba: GlobalBundleAdjustment,
        config: LoopConfig,
        *,
        limits: LoopLimits | None = None,
        on_loop: Callable[[LoopResult], None] | None = None,
    ) -> None:
        """``on_loop`` is called whenever a loop is confirmed."""
        self._map, self._scale, self._global_ba = slam_map, scale, global_ba
        self._config, self._limits, self._on_loop = config, limits or LoopLimits(), on_loop
        self._matcher = DenseLoopMatcher(slam_map, tracker, model, self._limits)
        self._search = LoopSearch(slam_map, config, self._limits)
        self._loops: list[Loop] = []  # within one frame of reference
        self._between_submaps: list[Loop] = []  # candidates that no second loop supports yet
        self._moved_at = -self._limits.patience
        self._optimised_at = 0  # keyframes that the map had at the latest global optimisation

    def look(self, position: int) -> None:
        """Add a new keyframe and close a loop if it shows a place that was visited before."""
        if not self._config.enabled:
            return
        self._search.add(position)
        if position % self._config.every or not self._scale.startup.converged:
            return
        route = self._search.route()
        loop = self._find(position, route)
        if loop is None:
            return
        separate = not self._map.submaps.joined(*frames_of_reference(loop, self._map))
        if separate and not self._joins(loop):
            return
        self._loops.append(loop)
        log.info(
            "loop found: frame %d shows the place of frame %d, %.2f m off",
            self._map[loop.query].index,
            self._map[loop.match].index,
            loop.correction_m,
        )
        correction = self._correction(loop, route)
        if separate or correction > self._limits.large:
            self._move_map()
            return
        self._confirm(loop)
        if correction > 1.0 and position - self._moved_at >= self._limits.patience:
            self._move_map()

    def finish(self) -> None:
        """Run the pose graph once more; the caller optimises everything afterwards."""
        if self._loops:
            self._move_map(optimise=False)

    def results(self) -> list[LoopResult]:
        """All loops within one frame of reference, rejected ones included."""
        return [self._result(loop) for loop in self._loops]

    # ------------------------------------------------------------------ private

    def _find(self, query: int, route: Route) -> Loop | None:
        metric = self._scale.measured.known
        allowed = route.detour(query) > self._config.min_detour
        nearest = self._search.continued(query, route, self._loops)
        if nearest is not None:
            limit = self._limits.stretch_depths
            loop = self._matcher.measure(nearest, route, allowed, metric=metric, max_depths=limit)
            if loop is not None:
                return loop
        verified = self._search.find(query, route, self._loops, metric=metric)
        return None if verified is None else self._matcher.measure(verified, route, allowed, metric=metric)

    def _correction(self, loop: Loop, route: Route) -> float:
        """Distance or angle of the query from where the loop puts it, multiples of the smallest that moves the map."""
        T_query, T_match = self._map.T_world_cam([loop.query, loop.match])
        _, angle = difference(T_query, loop.query_pose(T_match))
        length = self._limits.move_depths * float(route.scene_depth[loop.query])
        return max(loop.correction_m / length, angle / self._limits.move_rad)

    def _joins(self, loop: Loop) -> bool:
        """Joins two submaps if an earlier candidate asks for the same move; otherwise the loop stays a candidate."""
        other = agreeing_candidate(loop, self._between_submaps, self._map, self._limits)
        if other is None:
            self._between_submaps.append(loop)
            return False
        join(loop, self._map)
        self._between_submaps.remove(other)
        self._loops.append(other)
        return True

    def _move_map(self, *, optimise: bool = True) -> None:
        """Robust pose graph over everything, then global bundle adjustment if the map has grown enough."""
        route = self._search.route()
        result = optimise_pose_graph(
            route.T_world_cam,
            chain_links(route),
            [
                loop_link(x.match, x.query, x.T_query_match, float(route.scene_depth[x.match]), x.log_scale)
                for x in self._loops
            ],
            self._map.submaps.anchors(),
            scale_known=self._scale.measured.known,
        )
        self._map.set_poses(result.T_world_cam, None if self._scale.measured.known else result.log_scale)
        for loop in (*self._loops, *self._between_submaps):
            loop.rescale(result.log_scale)
        for loop, weight in zip(self._loops, result.loop_weights.tolist(), strict=True):
            loop.weight = weight
            if weight >= self._limits.accepted_weight:
                self._confirm(loop)
            else:
                self._reject(loop)
        count = self._moved_at = len(self._map)
        if optimise and count >= self._global_ba.growth * self._optimised_at:
            self._optimised_at = count
            self._global_ba.optimise()

    def _confirm(self, loop: Loop) -> None:
        if loop.confirm(self._map.graph) and self._on_loop is not None:
            self._on_loop(self._result(loop))

    def _reject(self, loop: Loop) -> None:
        if loop.reject(self._map.graph):
            first, second = (self._map[end].index for end in (loop.match, loop.query))
            log.warning("loop between frames %d and %d rejected: it contradicts the rest of the map", first, second)

    def _result(self, loop: Loop) -> LoopResult:
        query, match = self._map[loop.query].index, self._map[loop.match].index
        distance_m = float(np.linalg.norm(loop.T_query_match[:3, 3]))
        return LoopResult(query, match, distance_m, loop.correction_m, loop.weight)

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> StateTree:
        """Loops, descriptors and counters as arrays; matches are on the disk already."""
        return {
            "loops": loops_to_arrays(self._loops),
            "between_submaps": loops_to_arrays(self._between_submaps),
            "places": self._search.state(),
            "counters": np.array([self._optimised_at, self._moved_at], np.int64),
        }

    def restore(self, state: StateTree) -> None:
        """Replace everything by a :meth:`state`."""
        disk = self._map.disk
        self._loops = loops_from_arrays(tree_in(state, "loops"), disk)
        self._between_submaps = loops_from_arrays(tree_in(state, "between_submaps"), disk)
        self._search.restore(tree_in(state, "places"))
        self._optimised_at, self._moved_at = array_in(state, "counters").tolist()
