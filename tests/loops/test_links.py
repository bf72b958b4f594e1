"""How far a map may have drifted, and what the pose graph is told."""

from __future__ import annotations

import numpy as np

from metric_slam.geometry import lie
from metric_slam.loops.links import DriftBound, Loop, chain_links, difference
from tests.scene import pose, rotation

LINE = np.column_stack([np.arange(101.0), np.zeros((101, 2))])
ONE = np.zeros(101, int)


def loop(query: int, match: int) -> Loop:
    return Loop(query, match, np.eye(4), 0.0, 0.0)


def test_the_bound_grows_with_the_way() -> None:
    bound = DriftBound(LINE, ONE, [], 0.03, 2.0).between(100)
    np.testing.assert_allclose(bound[[100, 50, 0]], [2.0, 3.5, 5.0])


def test_a_closed_loop_is_a_short_cut() -> None:
    bound = DriftBound(LINE, ONE, [loop(90, 10)], 0.03, 2.0).between(100)
    np.testing.assert_allclose(bound[[0, 10, 50]], [2.0 + 0.03 * 20, 2.0 + 0.03 * 10, 3.5])


def test_a_step_between_segments_has_no_length() -> None:
    submap = np.repeat([0, 1], [50, 51])
    far = LINE.copy()
    far[50:] += 1000.0
    assert DriftBound(far, submap, [], 0.03, 2.0).path_m[-1] == 99.0


def test_links_lead_along_the_chain_and_not_between_submaps() -> None:
    T_world_cam = np.array([pose(z_m=float(z), R=rotation(yaw_rad=0.1 * z)) for z in range(5)])
    links = chain_links(lie.inverse(T_world_cam), np.array([0, 0, 0, 1, 1]))
    assert [(link.source, link.target) for link in links] == [(0, 1), (1, 2), (3, 4)]
    moved = T_world_cam[1] @ links[1].T_target_source @ lie.inverse(T_world_cam[1])
    apart_m, angle = difference(lie.inverse(T_world_cam[2]) @ T_world_cam[1], links[1].T_target_source)
    assert apart_m < 1e-9 and angle < 1e-6 and np.isfinite(moved).all()


def test_a_loop_leads_from_the_earlier_keyframe_to_the_later() -> None:
    link = loop(90, 10).link()
    assert (link.source, link.target) == (10, 90) and link.sigma_m > 0
