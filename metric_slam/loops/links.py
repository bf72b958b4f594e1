"""Which loops are believed: how far off the map may be by now, and what two places say about each other.

Everything here is arithmetic on poses; images are compared in :mod:`metric_slam.loops.verification`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from metric_slam.geometry import lie
from metric_slam.loops.pose_graph import PoseLink

# of one step of the chain: much more than its scatter, because neighbouring steps err the same way
_STEP_SIGMA = 0.10
_STEP_SIGMA_FLOOR_M = 0.01
_STEP_SIGMA_RAD = 0.0015
_STEP_SIGMA_LOG_SCALE = 0.01

_LOOP_SIGMA_M = 0.05
_LOOP_SIGMA = 0.02
_LOOP_SIGMA_RAD = 0.004
_LOOP_SIGMA_LOG_SCALE = 0.03


@dataclass(frozen=True)
class Loop:
    """A place seen twice, found by dense matches between two keyframes."""

    query: int
    """Position of the later keyframe."""

    match: int
    T_query_match: np.ndarray
    """float64 [4, 4], in the unit of the map around ``match``."""

    log_scale: float
    """log(length in the map around ``match`` / the same length around ``query``); 0 between metric places."""

    correction_m: float
    """How far the query was from where the loop puts it."""

    weight: float = 1.0
    """0..1, from the latest pose graph."""

    def rescaled(self, log_scale: np.ndarray, weight: float) -> Loop:
        """The same loop after the keyframes' units changed by exp(``log_scale`` [N]), with its new weight."""
        T = self.T_query_match.copy()
        T[:3, 3] *= np.exp(log_scale[self.match])
        change = float(log_scale[self.match] - log_scale[self.query])
        return replace(self, T_query_match=T, log_scale=self.log_scale + change, weight=weight)

    def link(self) -> PoseLink:
        """As a link of the pose graph."""
        distance = float(np.linalg.norm(self.T_query_match[:3, 3]))
        return PoseLink(
            self.match,
            self.query,
            self.T_query_match,
            sigma_m=_LOOP_SIGMA_M + _LOOP_SIGMA * distance,
            sigma_rad=_LOOP_SIGMA_RAD,
            log_scale=self.log_scale,
            sigma_log_scale=_LOOP_SIGMA_LOG_SCALE,
        )


def chain_links(T_cam_world: np.ndarray, submap: np.ndarray) -> list[PoseLink]:
    """Links between neighbouring keyframes of the same submap; ``T_cam_world`` [N, 4, 4], ``submap`` [N]."""
    links = []
    for i in np.flatnonzero(submap[1:] == submap[:-1]).tolist():
        T = T_cam_world[i + 1] @ lie.inverse(T_cam_world[i])
        sigma_m = _STEP_SIGMA_FLOOR_M + _STEP_SIGMA * float(np.linalg.norm(T[:3, 3]))
        links.append(PoseLink(i, i + 1, T, sigma_m, _STEP_SIGMA_RAD, 0.0, _STEP_SIGMA_LOG_SCALE))
    return links


class DriftBound:
    """How far a keyframe may be from where the map puts it, seen from an earlier one."""

    def __init__(
        self, centres: np.ndarray, submap: np.ndarray, loops: Sequence[Loop], share: float, floor_m: float
    ) -> None:
        """``centres`` [N, 3] of all keyframes, ``submap`` [N]; a step between submaps has no length."""
        step_m = np.linalg.norm(np.diff(centres, axis=0), axis=1) * (submap[1:] == submap[:-1])
        self.path_m = np.concatenate([[0.0], np.cumsum(step_m)])
        """Way to every keyframe, [N]."""

        self._loops, self._share, self._floor_m = loops, share, floor_m

    def between(self, query: int) -> np.ndarray:
        """Bound for the distance between the query and every keyframe, [N]: a share of the shortest way between the
        two, which may lead through a loop that was closed."""
        way_m = np.abs(self.path_m - self.path_m[query])
        for loop in self._loops:
            here = abs(self.path_m[query] - self.path_m[loop.query])
            way_m = np.minimum(way_m, here + np.abs(self.path_m - self.path_m[loop.match]))
        return self._floor_m + self._share * way_m


def difference(T_a: np.ndarray, T_b: np.ndarray) -> tuple[float, float]:
    """Distance and angle [rad] between two poses [4, 4]."""
    T = lie.inverse(T_a) @ T_b
    angle = float(np.arccos(np.clip((np.trace(T[:3, :3]) - 1.0) / 2.0, -1.0, 1.0)))
    return float(np.linalg.norm(T[:3, 3])), angle
