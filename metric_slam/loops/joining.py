"""Joining two submaps: two loops between them must ask for the same move."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from metric_slam.geometry import lie
from metric_slam.graph.slam_map import SlamMap
from metric_slam.loops.limits import LoopLimits
from metric_slam.loops.loop import Loop
from metric_slam.loops.route import difference

log = logging.getLogger(__name__)


def frames_of_reference(loop: Loop, slam_map: SlamMap) -> tuple[int, int]:
    """Connected components of submaps of the query and of the match."""
    now, before = (slam_map.submaps.component(slam_map[end].submap) for end in (loop.query, loop.match))
    return now, before


def requested_move(loop: Loop, slam_map: SlamMap) -> np.ndarray:
    """T_world_new_world_old [4, 4]: the motion of the query's frame of reference that makes the loop true."""
    T_query, T_match = slam_map.T_world_cam([loop.query, loop.match])
    return loop.query_pose(T_match) @ lie.inverse(T_query)


def agreeing_candidate(loop: Loop, candidates: Sequence[Loop], slam_map: SlamMap, limits: LoopLimits) -> Loop | None:
    """An earlier candidate between the same frames of reference, from another query, that asks for the same move."""
    ends = frames_of_reference(loop, slam_map)
    (T_query,) = slam_map.T_world_cam([loop.query])
    limit = limits.same_move_depths * slam_map.median_depth(loop.match)
    for other in candidates:
        if frames_of_reference(other, slam_map) != ends or other.query == loop.query:
            continue
        apart, angle = difference(requested_move(loop, slam_map) @ T_query, requested_move(other, slam_map) @ T_query)
        if apart < limit and angle < limits.same_move_rad:
            return other
    return None


def join(loop: Loop, slam_map: SlamMap) -> None:
    """Move the later frame of reference into the earlier one and join their submaps."""
    now, before = frames_of_reference(loop, slam_map)
    T_before_now = requested_move(loop, slam_map)
    later, T_new_old = (now, T_before_now) if now > before else (before, lie.inverse(T_before_now))
    slam_map.move(slam_map.submaps.sharing(later, len(slam_map)), T_new_old)
    slam_map.submaps.join(now, before)
    log.info("submaps %d and %d are joined by a loop", before, now)
