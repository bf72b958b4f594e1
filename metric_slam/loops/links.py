"""Links of the pose graph: the chain of neighbouring keyframes, and loops."""

from __future__ import annotations

import numpy as np

from metric_slam.geometry import lie
from metric_slam.loops.limits import LinkSigmas
from metric_slam.loops.pose_graph import PoseLink
from metric_slam.loops.route import Route


def chain_links(route: Route, sigmas: LinkSigmas | None = None) -> list[PoseLink]:
    """Links between neighbouring keyframes of the same submap."""
    sigmas = sigmas or LinkSigmas()
    T_cam_world, depth, travel = lie.inverse(route.T_world_cam), route.scene_depth, np.diff(route.travel)
    links = []
    for i in np.flatnonzero(route.submap[1:] == route.submap[:-1]).tolist():
        T = T_cam_world[i + 1] @ route.T_world_cam[i]
        sigma_m = sigmas.step_depths * float(depth[i]) + sigmas.step * float(travel[i])
        links.append(PoseLink(i, i + 1, T, sigma_m, sigmas.step_rad, 0.0, sigmas.step_log_scale))
    return links


def loop_link(
    match: int,
    query: int,
    T_query_match: np.ndarray,
    depth: float,
    log_scale: float = 0.0,
    sigmas: LinkSigmas | None = None,
) -> PoseLink:
    """The link of a loop, from its match to its query; ``depth``: median depth of the scene at the match."""
    sigmas = sigmas or LinkSigmas()
    distance = float(np.linalg.norm(T_query_match[:3, 3]))
    return PoseLink(
        match,
        query,
        T_query_match,
        sigma_m=sigmas.loop_depths * depth + sigmas.loop * distance,
        sigma_rad=sigmas.loop_rad,
        log_scale=log_scale,
        sigma_log_scale=sigmas.loop_log_scale,
    )
