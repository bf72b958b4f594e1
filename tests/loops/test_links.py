"""Links of the pose graph."""

from __future__ import annotations

import numpy as np

from metric_slam.geometry import lie
from metric_slam.loops.links import chain_links, loop_link
from metric_slam.loops.route import Route, difference
from tests.scene import pose, rotation


def test_links_lead_along_the_chain_and_not_between_submaps() -> None:
    T_world_cam = np.array([pose(z_m=float(z), R=rotation(yaw_rad=0.1 * z)) for z in range(5)])
    links = chain_links(Route(T_world_cam, np.array([0, 0, 0, 1, 1]), np.full(5, 12.5)))
    assert [(link.source, link.target) for link in links] == [(0, 1), (1, 2), (3, 4)]
    apart, angle = difference(lie.inverse(T_world_cam[2]) @ T_world_cam[1], links[1].T_target_source)
    assert apart < 1e-9 and angle < 1e-6


def test_standard_deviations_are_lengths_of_the_scene() -> None:
    """The same scene ten times smaller has links that are ten times more accurate in metres."""
    T_world_cam = np.array([pose(z_m=float(z)) for z in range(5)])
    small = T_world_cam.copy()
    small[:, :3, 3] /= 10.0
    one = Route(T_world_cam, np.zeros(5, int), np.full(5, 12.5))
    other = Route(small, np.zeros(5, int), np.full(5, 1.25))
    for a, b in zip(chain_links(one), chain_links(other), strict=True):
        np.testing.assert_allclose((a.sigma_m, a.sigma_rad), (10.0 * b.sigma_m, b.sigma_rad))
    far, near = (loop_link(0, 4, r.T_world_cam[4], float(r.scene_depth[0])) for r in (one, other))
    np.testing.assert_allclose(far.sigma_m, 10.0 * near.sigma_m)


def test_a_loop_leads_from_the_earlier_keyframe_to_the_later() -> None:
    link = loop_link(10, 90, np.eye(4), 12.5)
    assert (link.source, link.target) == (10, 90) and link.sigma_m > 0
