"""Search for loops: places nearby or alike -> geometric verification -> one clear winner within the possible drift."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from metric_slam.checkpointable import StateTree
from metric_slam.config.schema import LoopConfig
from metric_slam.geometry import lie
from metric_slam.graph.slam_map import SlamMap
from metric_slam.loops.limits import LoopLimits
from metric_slam.loops.loop import Loop, LoopState
from metric_slam.loops.place_recognition import PlaceIndex
from metric_slam.loops.route import DriftBound, Route, difference
from metric_slam.loops.verification import LoopVerifier, LoopView, VerifiedLoop

log = logging.getLogger(__name__)


class LoopSearch:
    """Finds keyframes that show the same place as a query; reads the map and changes nothing."""

    def __init__(self, slam_map: SlamMap, config: LoopConfig, limits: LoopLimits) -> None:
        self._map, self._config, self._limits = slam_map, config, limits
        self._places = PlaceIndex()
        self._verifier = LoopVerifier(slam_map.camera)
        self._median_depth: dict[int, tuple[np.ndarray, float]] = {}  # with the inverse depths that it belongs to

    def add(self, position: int) -> None:
        """Add a keyframe to those that may be found."""
        self._places.add(position, self._map.image(position))

    def route(self) -> Route:
        """A snapshot of the poses and the scene depths of all keyframes."""
        submap = np.array([keyframe.submap for keyframe in self._map], np.int64)
        depth = np.array([self._depth_of(position) for position in range(len(self._map))])
        return Route(self._map.T_world_cam(), submap, depth, self._limits)

    def find(self, query: int, route: Route, loops: Sequence[Loop], *, metric: bool) -> VerifiedLoop | None:
        """The place that the query shows, if the camera has come back to it and only one place fits.

        ``metric``: lengths are metres and must agree.
        """
        share = self._config.drift if metric else self._limits.unknown_scale_drift
        bound = DriftBound(route, loops, share, self._config.drift_floor).between(query)
        candidates = self._candidates(query, route, bound)
        if not candidates:
            return None
        view = self._view(query)
        answers = [self._verifier.verify(view, self._view(c), metric=metric) for c in candidates]
        verified = [answer for answer in answers if isinstance(answer, VerifiedLoop)]
        winner = self._verifier.choose(verified, route.centres, float(route.scene_depth[query]))
        if winner is None or not self._is_plausible(winner, route, bound):
            return None
        if any(self.is_repetitive(end, route, metric=metric) for end in (query, winner.match)):
            return None
        return winner

    def continued(self, query: int, route: Route, loops: Sequence[Loop]) -> VerifiedLoop | None:
        """The keyframe nearest to the query shortly after a loop was confirmed there, at the pose that the map has."""
        last = loops[-1] if loops else None
        if last is None or last.state is not LoopState.CONFIRMED or query - last.query > 2 * self._config.every:
            return None
        reach = self._limits.neighbours
        near = np.arange(max(last.match - reach, 0), min(last.match + 2 * reach, query))
        near = near[((route.detour(query) > self._config.min_detour) & route.same_view(query))[near]]
        if not len(near):
            return None
        match = int(near[np.argmin(np.linalg.norm(route.centres[near] - route.centres[query], axis=1))])
        T_query_match = lie.relative(route.T_world_cam[query], route.T_world_cam[match])
        return VerifiedLoop(query, match, T_query_match, log_scale=0.0, inliers=0, spread=0.0)

    def is_repetitive(self, position: int, route: Route, *, metric: bool) -> bool:
        """True if another place a little way off looks the same.

        In a row of alike houses a loop might as well belong one house further on.
        """
        limits, depth = self._limits, float(route.scene_depth[position])
        apart = np.linalg.norm(route.centres - route.centres[position], axis=1)
        near = np.abs(route.way - route.way[position]) < limits.decoy_view_changes
        near &= route.submap == route.submap[position]
        others = np.flatnonzero(near & (apart > limits.decoy_depths * depth) & route.same_view(position))
        view = self._view(position)
        for other in self._places.most_alike(position, others, count=limits.decoys, apart=limits.decoys_apart):
            verified = self._verifier.verify(view, self._view(other), metric=metric)
            if isinstance(verified, VerifiedLoop):
                T_position_other = lie.relative(route.T_world_cam[position], route.T_world_cam[other])
                error, _ = difference(T_position_other, verified.T_query_match)
                if error > limits.decoy_error_depths * depth:
                    log.debug("keyframe %d looks like keyframe %d, another place: no loop", position, other)
                    return True
        return False

    def _candidates(self, query: int, route: Route, bound: np.ndarray) -> list[int]:
        """Positions worth verifying: nearby with the same view, and those that look alike, wherever they are."""
        allowed = route.detour(query) > self._config.min_detour
        allowed[query:] = False
        if not allowed.any():
            return []
        distance = np.linalg.norm(route.centres - route.centres[query], axis=1)
        submaps = self._map.submaps
        component = np.array([submaps.component(int(s)) for s in route.submap])
        near = np.flatnonzero(allowed & (distance < bound) & route.same_view(query) & (component == component[query]))
        by_distance = near[np.argsort(distance[near], kind="stable")].tolist()
        last = int(np.flatnonzero(allowed)[-1])
        found = self._places.query(query, exclude_after=last, count=2 * self._config.candidates)
        alike = [p.position for p in found if allowed[p.position] and p.similarity > self._config.min_similarity]
        chosen: list[int] = []
        for ranked, room in ((by_distance, self._config.candidates // 2), (alike, self._config.candidates)):
            for c in ranked:
                if len(chosen) < room and all(abs(c - other) >= self._limits.candidates_apart for other in chosen):
                    chosen.append(c)
        return chosen

    def _is_plausible(self, loop: VerifiedLoop, route: Route, bound: np.ndarray) -> bool:
        """True if the map may have drifted as far as the loop says; between separate submaps anything may be."""
        if not self._map.submaps.joined(*(int(route.submap[end]) for end in (loop.query, loop.match))):
            return True
        T_world_query = route.T_world_cam[loop.match] @ lie.inverse(loop.T_query_match)
        error, _ = difference(route.T_world_cam[loop.query], T_world_query)
        return bool(error < bound[loop.match])

    def _view(self, position: int) -> LoopView:
        image = None if self._verifier.has_features(position) else self._map.image(position)
        return LoopView(position, image, self._map[position].inv_depth, self._map.graph.confidence_of(position))

    def _depth_of(self, position: int) -> float:
        """The median depth, computed once for each array of inverse depths: arrays are replaced, not written to."""
        inv_depth = self._map[position].inv_depth
        cached = self._median_depth.get(position)
        if cached is None or cached[0] is not inv_depth:
            cached = self._median_depth[position] = inv_depth, self._map.median_depth(position)
        return cached[1]

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> StateTree:
        """Descriptors of all keyframes."""
        return self._places.state()

    def restore(self, state: StateTree) -> None:
        """Replace the descriptors by a :meth:`state`."""
        self._places.restore(state)
