"""Loops: places that were seen before are recognised, verified, and tie the map together.

    keyframe -> places nearby by pose, places that look alike -> geometric check with metric depth -> one clear winner?
             -> within what the map may have drifted? -> dense matches across the loop -> edges of the factor graph
             -> robust pose graph -> global bundle adjustment when the map has grown

A loop between two submaps joins them; it needs a second one that says the same. A false loop bends the whole map, a
missed one costs little, so in doubt a loop is not closed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from metric_slam.config.schema import LoopConfig
from metric_slam.correspondence.base import Correspondence, CorrespondenceModel
from metric_slam.geometry import lie
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.slam_map import SlamMap
from metric_slam.loops.links import DriftBound, Loop, chain_links, difference
from metric_slam.loops.place_recognition import PlaceIndex
from metric_slam.loops.pose_graph import optimise_pose_graph
from metric_slam.loops.verification import LoopVerifier, LoopView, VerifiedLoop, choose
from metric_slam.odometry.sliding_window import ScaleParts
from metric_slam.odometry.tracking import FrameTracker
from metric_slam.result import LoopResult

log = logging.getLogger(__name__)

_SAME_VIEW = np.cos(np.radians(40.0))
_DECOY_M, _DECOY_WAY_M = 6.0, 40.0  # so far off a place is another one, and so far the map knows how far off it is
_DECOY_OFF_M = 3.0
_DECOYS, _DECOYS_APART = 3, 4
_NEIGHBOURS = 12  # keyframes before and after a match among which the nearest to the query is sought
_MIN_FIT, _MIN_INLIERS = 0.15, 0.6  # of dense matches: cells that fit, confidence that fits
_AGREEMENT_M, _AGREEMENT, _AGREEMENT_RAD = 0.3, 0.05, np.radians(1.5)
_MOVE_M, _MOVE_RAD = 0.3, np.radians(0.3)  # a smaller correction waits for the next optimisation
_SAME_MOVE_M, _SAME_MOVE_RAD = 1.5, np.radians(5.0)  # two loops that say the same of two submaps
_STRETCH_M = 1.5  # a larger correction on a stretch that was just recognised is looked at as a new place
_PATIENCE = 24  # keyframes between two pose graphs for corrections that are small
_LARGE = 5.0  # times the smallest correction that moves the map: it is not put off
_BELIEVED = 0.5
_UNKNOWN_SCALE_DRIFT = 0.5


class LoopClosure:
    """Looks for loops and closes them; state of the map lives in the store and the graph."""

    def __init__(
        self,
        slam_map: SlamMap,
        tracker: FrameTracker,
        model: CorrespondenceModel,
        scale: ScaleParts,
        global_ba: GlobalBundleAdjustment,
        config: LoopConfig,
        *,
        on_loop: Callable[[LoopResult], None] | None = None,
    ) -> None:
        self._map, self._tracker, self._model, self._config = slam_map, tracker, model, config
        self._scale_parts, self._scale, self._backend, self._on_loop = scale, scale.measured, global_ba, on_loop
        self._submaps, self._graph = slam_map.submaps, slam_map.graph
        self._places = PlaceIndex()
        self._verifier = LoopVerifier(slam_map.camera)
        self._loops: list[Loop] = []
        self._between_submaps: list[Loop] = []  # not yet confirmed by a second one
        self._moved_at = -_PATIENCE
        self._optimised_at = 0
        """Keyframes there were when the whole map was last optimised."""

    def look(self, position: int) -> None:
        """Takes a new keyframe in and closes a loop if it shows a place that was seen before."""
        if not self._config.enabled:
            return
        self._places.add(position, self._map.image(position))
        if position % self._config.every or not self._scale_parts.startup.converged:
            return
        loop = self._find(position)
        if loop is None:
            return
        across = not self._submaps.joined(*(self._map[i].submap for i in (loop.query, loop.match)))
        if across and not self._joined_by(loop):
            return
        self._loops.append(loop)
        log.info(
            "loop closed: frame %d shows the place of frame %d, %.2f m off",
            self._map[loop.query].index,
            self._map[loop.match].index,
            loop.correction_m,
        )
        T_query = lie.inverse(self._map[loop.query].T_cam_world)
        _, turned = difference(T_query, self._seen_pose(loop))
        off = max(loop.correction_m / _MOVE_M, turned / _MOVE_RAD)
        if across or off > _LARGE or (off > 1.0 and position - self._moved_at >= _PATIENCE):
            self._move_map()

    def finish(self) -> None:
        """Closes what waited; the caller optimises everything afterwards."""
        if self._loops:
            self._move_map(optimise=False)

    def results(self) -> list[LoopResult]:
        """All loops that were closed, rejected ones included (by their weight)."""
        return [
            LoopResult(
                self._map[loop.query].index,
                self._map[loop.match].index,
                float(np.linalg.norm(loop.T_query_match[:3, 3])),
                loop.correction_m,
                loop.weight,
            )
            for loop in self._loops
        ]

    # ------------------------------------------------------------------ find

    def _find(self, query: int) -> Loop | None:
        centres, forward = self._centres_and_views()
        submap = np.array([k.submap for k in self._map])
        share = self._config.drift if self._scale.known else _UNKNOWN_SCALE_DRIFT
        bound = DriftBound(centres, submap, self._loops, share, self._config.drift_floor_m)
        unit = 1.0 if self._scale.known else float(np.median(np.diff(bound.path_m)[-100:]))
        # nearby on the way: neighbours, or decoys where places look alike
        on_the_way = (bound.path_m > bound.path_m[query] - self._config.min_path_m * unit) & (submap == submap[query])
        going_on = self._same_stretch(query, centres, forward, on_the_way)
        if going_on is not None:
            return going_on
        candidates = self._candidates(query, centres, forward, bound.between(query), on_the_way)
        if not candidates:
            return None
        view = self._view(query)
        metric = self._scale.known
        answers = [self._verifier.verify(view, self._view(c), metric=metric) for c in candidates]
        verified = [answer for answer in answers if isinstance(answer, VerifiedLoop)]
        winner = choose(verified, centres) if verified else None
        if winner is None or not self._plausible(winner, bound.between(query)):
            return None
        if any(self._repeats(end, submap == submap[end], bound.path_m, unit) for end in (query, winner.match)):
            return None
        return self._dense(winner, ~on_the_way)

    def _same_stretch(
        self, query: int, centres: np.ndarray, forward: np.ndarray, on_the_way: np.ndarray
    ) -> Loop | None:
        """A little after a loop was closed the map is right: dense matches with the nearest keyframe will do."""
        last = self._loops[-1] if self._loops else None
        if last is None or last.weight < _BELIEVED or query - last.query > 2 * self._config.every:
            return None
        near = np.arange(max(last.match - _NEIGHBOURS, 0), min(last.match + 2 * _NEIGHBOURS, query))
        near = near[~on_the_way[near] & (forward[near] @ forward[query] > _SAME_VIEW)]
        if not len(near):
            return None
        match = int(near[np.argmin(np.linalg.norm(centres[near] - centres[query], axis=1))])
        T_match, T_query = (self._map[p].T_cam_world for p in (match, query))
        guess = VerifiedLoop(query, match, T_query @ lie.inverse(T_match), 0.0, 0, 0.0)
        return self._dense(guess, ~on_the_way, _STRETCH_M)

    def _centres_and_views(self) -> tuple[np.ndarray, np.ndarray]:
        T_world_cam = lie.inverse(self._map.T_cam_world())
        return T_world_cam[:, :3, 3], T_world_cam[:, :3, 2]

    def _candidates(
        self, query: int, centres: np.ndarray, forward: np.ndarray, bound: np.ndarray, on_the_way: np.ndarray
    ) -> list[int]:
        """Positions worth a closer look: nearby with the same view, and those that look alike, wherever they are."""
        allowed = ~on_the_way
        allowed[query:] = False
        distance = np.linalg.norm(centres - centres[query], axis=1)
        component = np.array([self._submaps.component(k.submap) for k in self._map])
        near = allowed & (distance < bound) & (forward @ forward[query] > _SAME_VIEW)
        near &= component == component[query]
        chosen: list[int] = []
        by_distance = np.flatnonzero(near)[np.argsort(distance[near], kind="stable")].tolist()
        last = int(np.flatnonzero(allowed)[-1]) if allowed.any() else -1
        alike = []
        if last >= 0:
            found = self._places.query(query, exclude_after=last, count=2 * self._config.candidates)
            alike = [p.position for p in found if allowed[p.position] and p.similarity > self._config.min_similarity]
        for ranked, room in ((by_distance, self._config.candidates // 2), (alike, self._config.candidates)):
            for c in ranked:
                if len(chosen) < room and all(abs(c - other) >= 10 for other in chosen):
                    chosen.append(c)
        return chosen

    def _view(self, position: int) -> LoopView:
        return LoopView(
            position,
            self._map.image(position),
            self._map[position].inv_depth,
            self._graph.confidence_of(position),
        )

    def _plausible(self, loop: VerifiedLoop, bound: np.ndarray) -> bool:
        """Is the place where the map may have drifted to? Between submaps nothing is known yet."""
        if not self._submaps.joined(*(self._map[i].submap for i in (loop.query, loop.match))):
            return True
        T_match = lie.inverse(self._map[loop.match].T_cam_world)
        T_query = lie.inverse(self._map[loop.query].T_cam_world)
        off_m, _ = difference(T_query, T_match @ lie.inverse(loop.T_query_match))
        return off_m < bound[loop.match]

    def _repeats(self, position: int, submap: np.ndarray, path_m: np.ndarray, unit: float) -> bool:
        """Does a place a little way off, another one for sure, look the same as this one? In a row of alike houses it
        does, and a loop there might as well belong one house further on."""
        centres, forward = self._centres_and_views()
        off = np.linalg.norm(centres - centres[position], axis=1) > _DECOY_M * unit
        near = submap & off & (np.abs(path_m - path_m[position]) < _DECOY_WAY_M * unit)
        decoys = np.flatnonzero(near & (forward @ forward[position] > _SAME_VIEW))
        view, T_now = self._view(position), self._map[position].T_cam_world
        for decoy in self._places.most_alike(position, decoys, count=_DECOYS, apart=_DECOYS_APART):
            verified = self._verifier.verify(view, self._view(decoy), metric=self._scale.known)
            if isinstance(verified, VerifiedLoop):
                T_then = self._map[decoy].T_cam_world
                off_m, _ = difference(T_now @ lie.inverse(T_then), verified.T_query_match)
                if off_m > _DECOY_OFF_M * unit:
                    log.debug("keyframe %d looks like %d, another place: no loop", position, decoy)
                    return True
        return False

    # ------------------------------------------------------------------ dense

    def _dense(self, verified: VerifiedLoop, allowed: np.ndarray, limit_m: float = np.inf) -> Loop | None:
        """Dense matches with the nearest keyframe of the place; they become edges if they fit the depths of both and
        the query moves by no more than ``limit_m``."""
        store, query = self._map, verified.query
        match, T_query_match = self._nearest(verified, allowed)
        near = replace(store[match], features=self._features(match))
        here = replace(store[query], features=self._features(query))
        T_match, T_query = (k.T_cam_world for k in (near, here))
        start = T_query_match @ T_match
        forward, backward = self._tracker.match_both(near, here, start)
        pose, inliers, fit = self._tracker.refine([(near, forward)], start)
        back_start = lie.inverse(T_query_match) @ T_query
        back, back_inliers, back_fit = self._tracker.refine([(here, backward)], back_start)
        if min(inliers, back_inliers) < _MIN_INLIERS or min(fit, back_fit) < _MIN_FIT:
            return None
        T_there = pose @ lie.inverse(T_match)
        T_back = T_query @ lie.inverse(back)
        apart_m, turned = difference(T_there, T_back)
        far_m = 1.0 / float(np.median(near.inv_depth))
        if self._scale.known and (apart_m > _AGREEMENT_M + _AGREEMENT * far_m or turned > _AGREEMENT_RAD):
            return None
        off_m, _ = difference(lie.inverse(T_query), lie.inverse(T_there @ T_match))
        if off_m > limit_m:
            return None
        self._add_edges(match, query, forward, backward)
        return Loop(query, match, T_there, 0.0 if self._scale.known else verified.log_scale, off_m)

    def _add_edges(self, match: int, query: int, forward: Correspondence, backward: Correspondence) -> None:
        self._graph.add_matched(match, query, forward)
        self._graph.add_matched(query, match, backward)

    def _nearest(self, verified: VerifiedLoop, allowed: np.ndarray) -> tuple[int, np.ndarray]:
        """The keyframe around the match that sees the place from nearest to the query, and T_query_keyframe."""
        members = self._submaps.range(self._map[verified.match].submap, len(self._map))
        low = max(verified.match - _NEIGHBOURS, members.start)
        high = min(verified.match + _NEIGHBOURS + 1, members.stop, verified.query)
        T = self._map.T_cam_world(slice(low, high))
        T_query = verified.T_query_match @ T[verified.match - low] @ lie.inverse(T)
        distance = np.where(allowed[low:high], np.linalg.norm(T_query[:, :3, 3], axis=1), np.inf)
        best = int(np.argmin(distance))
        return low + best, T_query[best]

    def _features(self, position: int) -> object:
        features = self._map[position].features
        if features is not None:
            return features
        return self._model.encode(self._map.image(position), self._map.camera)

    # ------------------------------------------------------------------ close

    def _seen_pose(self, loop: Loop) -> np.ndarray:
        """T_world_cam [4, 4] of the query according to the loop."""
        T_match = self._map[loop.match].T_cam_world
        return lie.inverse(loop.T_query_match @ T_match)

    def _joined_by(self, loop: Loop) -> bool:
        """A loop between two submaps: join them if an earlier one said the same, else remember it."""
        T_query = lie.inverse(self._map[loop.query].T_cam_world)
        ends = self._components(loop)
        for other in self._between_submaps:
            if self._components(other) != ends or other.query == loop.query:
                continue
            apart_m, turned = difference(self._move_of(loop) @ T_query, self._move_of(other) @ T_query)
            if apart_m < _SAME_MOVE_M and turned < _SAME_MOVE_RAD:
                self._join(*ends, self._move_of(loop))
                self._loops.append(other)
                return True
        self._between_submaps.append(loop)
        return False

    def _components(self, loop: Loop) -> tuple[int, int]:
        """Frames of reference of query and match."""
        now, before = (self._submaps.component(self._map[i].submap) for i in (loop.query, loop.match))
        return now, before

    def _move_of(self, loop: Loop) -> np.ndarray:
        """What the loop does to the frame of reference of its query: T_world_new_world_old [4, 4]."""
        return self._seen_pose(loop) @ self._map[loop.query].T_cam_world

    def _join(self, now: int, before: int, T_before_now: np.ndarray) -> None:
        """The later frame of reference moves into the earlier one."""
        later, T_new_old = (now, T_before_now) if now > before else (before, lie.inverse(T_before_now))
        self._map.move(self._submaps.sharing(later, len(self._map)), T_new_old)
        self._submaps.join(now, before)
        log.info("submaps %d and %d of the map are joined by a loop", before, now)

    def _move_map(self, *, optimise: bool = True) -> None:
        """Robust pose graph over everything, then global bundle adjustment if the map has grown enough."""
        T_cam_world = self._map.T_cam_world()
        submap = np.array([k.submap for k in self._map])
        result = optimise_pose_graph(
            lie.inverse(T_cam_world),
            chain_links(T_cam_world, submap),
            [loop.link() for loop in self._loops],
            self._submaps.anchors(),
            scale_known=self._scale.known,
        )
        self._loops = [
            loop.rescaled(result.log_scale, float(weight))
            for loop, weight in zip(self._loops, result.loop_weights, strict=True)
        ]
        self._map.set_poses(result.T_world_cam, result.log_scale)
        self._forget_rejected()
        count = self._moved_at = len(self._map)
        if optimise and count >= self._backend.growth * self._optimised_at:
            self._optimised_at = count
            self._backend.optimise()

    def _forget_rejected(self) -> None:
        """Edges of loops that the pose graph did not believe leave the factor graph."""
        for loop in self._loops:
            if loop.weight < _BELIEVED and (loop.query, loop.match) in self._graph:
                log.warning(
                    "loop between frames %d and %d rejected: it contradicts the rest of the map",
                    self._map[loop.match].index,
                    self._map[loop.query].index,
                )
                self._graph.remove_pair(loop.query, loop.match)

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> dict[str, np.ndarray]:
        """Everything as plain arrays."""
        return {
            "loops": np.array([_row(loop) for loop in self._loops]).reshape(-1, 21),
            "between_submaps": np.array([_row(loop) for loop in self._between_submaps]).reshape(-1, 21),
            "optimised_at": np.array([self._optimised_at, self._moved_at]),
            "places": self._places.state(),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over a :meth:`state`."""
        self._loops = [_loop(row) for row in state["loops"]]
        self._between_submaps = [_loop(row) for row in state["between_submaps"]]
        self._optimised_at, self._moved_at = state["optimised_at"].tolist()
        self._places.restore(state["places"])


def _row(loop: Loop) -> np.ndarray:
    values = [loop.query, loop.match, loop.log_scale, loop.correction_m, loop.weight]
    return np.concatenate([values, loop.T_query_match.ravel()])


def _loop(row: np.ndarray) -> Loop:
    query, match, log_scale, correction_m, weight = row[:5].tolist()
    return Loop(int(query), int(match), row[5:].reshape(4, 4).copy(), log_scale, correction_m, weight)
