"""The start of a map, with exact matches: what the first keyframes are given, and where metres come from."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from metric_slam.config.schema import GroundPlaneConfig, SensorConfig, SlidingWindowConfig
from metric_slam.depth.ground_plane.prior import GroundPlane
from metric_slam.depth.no_prior import NoPrior
from metric_slam.depth.sensor import SensorDepth
from metric_slam.frame import CameraMount
from metric_slam.odometry.edge_selection import new_keyframe_pairs
from tests.scene import HEIGHT_M, Start, Street, pose, rotation

R = rotation(0.01, 0.0)


def ground_plane() -> GroundPlane:
    return GroundPlane(GroundPlaneConfig(), CameraMount(HEIGHT_M))


@pytest.mark.parametrize("step_m", [0.5, 1.0, 2.0])
def test_two_views_of_a_road_begin_in_metres(step_m: float) -> None:
    start = Start(ground_plane())
    start.start(pose(R=R))
    assert not start.window.depth_known
    assert start.add(pose(z_m=step_m, R=R))
    assert start.window.depth_known
    assert start.steps_m()[0] == pytest.approx(step_m, rel=0.05)
    for k in range(2, 5):
        assert start.add(pose(z_m=k * step_m, R=R), start.last_pose)
    np.testing.assert_allclose(start.steps_m(), step_m, rtol=0.05)
    assert len(start.scale.observations) == 4
    assert all(abs(o.log_ratio) < 0.05 for o in start.scale.observations)
    assert sorted(o.index for o in start.scale.observations) == [1, 2, 3, 4]


def test_a_view_from_the_same_place_does_not_begin_a_map() -> None:
    start = Start(ground_plane())
    start.start(pose(R=R))
    assert not start.add(pose(R=rotation(0.01, 0.0, 0.05)))
    assert len(start.map) == 1 and len(start.map.graph) == 0 and not start.window.depth_known
    assert start.add(pose(z_m=1.0, R=R)), "the next view can still begin it"


def test_without_a_prior_the_first_step_is_the_unit() -> None:
    start = Start(NoPrior())
    start.start(pose(R=R))
    assert start.add(pose(z_m=0.7, R=R))
    first = start.steps_m()[0]
    assert first == pytest.approx(1.0, abs=0.15)
    for k in range(2, 6):
        assert start.add(pose(z_m=0.7 * k, R=R), start.last_pose)
    np.testing.assert_allclose(start.steps_m() / start.steps_m()[0], 1.0, rtol=0.03)
    assert start.scale.observations == []


def test_a_depth_sensor_is_metric_from_the_first_frame() -> None:
    start = Start(SensorDepth(SensorConfig()), with_depth=True)
    start.start(pose(R=R))
    assert start.window.depth_known
    assert start.add(pose(z_m=0.9, R=R))
    assert start.steps_m()[0] == pytest.approx(0.9, rel=0.02)
    assert start.map[1].prior_weight.any() and start.map.graph.is_metric(0, 2)


def test_no_road_at_the_start_is_said(caplog: pytest.LogCaptureFixture) -> None:
    start = Start(ground_plane(), street=Street(road=False, walls=False, end_m=20.0))
    start.prior.observe = lambda *states, **options: None  # type: ignore[method-assign]
    start.start(pose(R=R))
    with caplog.at_level(logging.WARNING):
        assert start.add(pose(0.4, 1.0, R=R))
    assert "no metric scale in the first pair" in caplog.text and start.steps_m()[0] == pytest.approx(1.0, abs=0.2)


def test_a_new_submap_takes_the_usual_step_as_its_scale() -> None:
    start = Start(NoPrior())
    start.start(pose(R=R))
    for k in range(1, 4):
        assert start.add(pose(z_m=0.5 * k, R=R), start.last_pose)
    usual = float(np.median(start.steps_m()))
    start.start(pose(z_m=30.0, R=R), start.last_pose)
    assert start.map.submaps.begins == [0, 4] and not start.window.depth_known
    assert start.add(pose(z_m=30.5, R=R), start.last_pose)
    assert start.steps_m()[-1] == pytest.approx(usual, rel=0.15)
    edges = [(i, j) for i in range(6) for j in range(6) if (i, j) in start.map.graph]
    assert edges and all((i < 4) == (j < 4) for i, j in edges), "no edge across the gap"


def test_the_window_slides_and_old_keyframes_are_left_alone() -> None:
    start = Start(ground_plane(), window=4, warm_up=3)
    start.start(pose(R=R))
    for k in range(1, 6):
        assert start.add(pose(z_m=0.8 * k, R=R), start.last_pose)
    before = start.map.pose_vectors(range(3))
    assert start.add(pose(z_m=0.8 * 6, R=R), start.last_pose)
    np.testing.assert_array_equal(start.map.pose_vectors(range(3)), before)
    np.testing.assert_allclose(start.steps_m(), 0.8, rtol=0.05)


def test_the_whole_trajectory_is_optimised_with_the_first_pose_fixed() -> None:
    start = Start(ground_plane())
    start.start(pose(R=R))
    for k in range(1, 5):
        assert start.add(pose(z_m=0.8 * k, R=R), start.last_pose)
    start.map.move([3], pose(0.05, 0.06, y_m=-0.04))
    start.finish()
    np.testing.assert_array_equal(start.map[0].T_cam_world, np.eye(4))
    np.testing.assert_allclose(start.steps_m(), 0.8, rtol=0.03)


def test_pairs_of_a_new_keyframe() -> None:
    assert new_keyframe_pairs(5, SlidingWindowConfig(radius=3)) == [(2, 5), (5, 2), (3, 5), (5, 3)]
    assert new_keyframe_pairs(1, SlidingWindowConfig(radius=3)) == []
    assert new_keyframe_pairs(5, SlidingWindowConfig(radius=1)) == []
