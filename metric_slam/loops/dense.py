"""Dense matches across a loop: both directions must fit the depths of both keyframes and agree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from metric_slam.correspondence.base import Correspondence, CorrespondenceModel
from metric_slam.geometry import lie
from metric_slam.graph.keyframes import Keyframe
from metric_slam.graph.slam_map import SlamMap
from metric_slam.loops.limits import LoopLimits
from metric_slam.loops.loop import Loop, LoopMatches
from metric_slam.loops.route import Route, difference
from metric_slam.loops.verification import VerifiedLoop
from metric_slam.odometry.tracking import FrameTracker


@dataclass(frozen=True)
class _Fit:
    T: np.ndarray  # T_cam_world of the target [4, 4]
    inliers: float
    share: float


class DenseLoopMatcher:
    """Turns a verified pair of keyframes into a measured loop; reads the map and changes nothing in it."""

    def __init__(
        self, slam_map: SlamMap, tracker: FrameTracker, model: CorrespondenceModel, limits: LoopLimits
    ) -> None:
        self._map, self._tracker, self._model, self._limits = slam_map, tracker, model, limits

    def measure(
        self, verified: VerifiedLoop, route: Route, allowed: np.ndarray, *, metric: bool, max_depths: float = np.inf
    ) -> Loop | None:
        """Measure a candidate loop with the nearest keyframe of the place among ``allowed`` [N].

        None if the matches do not fit or move the query by more than ``max_depths`` median depths of the scene.
        """
        limits, query = self._limits, verified.query
        match, T_query_match = self._nearest(verified, route, allowed)
        there, here = self._with_features(match), self._with_features(query)
        T_match, T_query = lie.inverse(route.T_world_cam[match]), lie.inverse(route.T_world_cam[query])
        forward, backward = self._tracker.match_both(there, here, T_query_match @ T_match)
        one_way = self._fit(there, forward, T_query_match @ T_match)
        back = self._fit(here, backward, lie.inverse(T_query_match) @ T_query)
        if min(one_way.inliers, back.inliers) < limits.min_inliers or min(one_way.share, back.share) < limits.min_fit:
            return None
        measured, reverse = one_way.T @ lie.inverse(T_match), T_query @ lie.inverse(back.T)
        depth = float(route.scene_depth[match])
        if metric:  # otherwise the two have different units
            apart, angle = difference(measured, reverse)
            if apart > limits.agreement_depths * route.median_depth[match] or angle > limits.agreement_rad:
                return None
            measured = lie.interpolate(measured, reverse, 0.5)  # their depths err independently
        correction, _ = difference(lie.inverse(T_query), lie.inverse(measured @ T_match))
        if correction > max_depths * depth:
            return None
        matches = LoopMatches.stored(self._map.disk, forward, backward)
        return Loop(query, match, measured, 0.0 if metric else verified.log_scale, correction, matches)

    def _fit(self, source: Keyframe, matches: Correspondence, T_cam_world: np.ndarray) -> _Fit:
        """Pose of the target of the matches by the depths of their source, from a start [4, 4]."""
        T_refined, inliers, share = self._tracker.refine([(source, matches)], T_cam_world)
        return _Fit(T_refined, inliers, share)

    def _nearest(self, verified: VerifiedLoop, route: Route, allowed: np.ndarray) -> tuple[int, np.ndarray]:
        """The keyframe around the match whose camera is nearest to the query, and T_query_keyframe [4, 4]."""
        members = self._map.submaps.range(int(route.submap[verified.match]), len(self._map))
        low = max(verified.match - self._limits.neighbours, members.start)
        high = min(verified.match + self._limits.neighbours + 1, members.stop, verified.query)
        T_match_keyframe = lie.relative(route.T_world_cam[verified.match], route.T_world_cam[low:high])
        T_query_keyframe = verified.T_query_match @ T_match_keyframe
        distance = np.where(allowed[low:high], np.linalg.norm(T_query_keyframe[:, :3, 3], axis=1), np.inf)
        best = int(np.argmin(distance))
        return low + best, T_query_keyframe[best]

    def _with_features(self, position: int) -> Keyframe:
        keyframe = self._map[position]
        if keyframe.features is not None:
            return keyframe
        return replace(keyframe, features=self._model.encode(self._map.image(position), self._map.camera))
