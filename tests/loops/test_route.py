"""How far the view has changed, and how far a map may have drifted."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.disk_store import DiskStore
from metric_slam.errors import InputError
from metric_slam.geometry import lie
from metric_slam.loops.limits import LoopLimits
from metric_slam.loops.loop import Loop, LoopMatches, LoopState
from metric_slam.loops.route import DriftBound, Route, difference, rotation_angles
from tests.scene import pose, rotation

DEPTH = 12.5
FLOOR = 0.16  # depths: 2 m


def straight_route(count: int, depth: float = DEPTH, step_m: float = 1.0, sideways: bool = False) -> Route:
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, 0 if sideways else 2, 3] = step_m * np.arange(count)
    return Route(T, np.zeros(count, int), np.full(count, depth))


def turning_route(angles: list[float], depth: float = 1.0) -> Route:
    T = np.array([pose(R=rotation(yaw_rad=angle)) for angle in angles])
    return Route(T, np.zeros(len(T), int), np.full(len(T), depth))


def loop(query: int, match: int, state: LoopState) -> Loop:
    disk = DiskStore()
    stored = disk.put(np.zeros((2, 3, 3), np.float32))
    return Loop(query, match, np.eye(4), 0.0, 0.0, LoopMatches(stored, stored), state=state)


def test_the_bound_grows_with_the_way() -> None:
    bound = DriftBound(straight_route(101), [], 0.03, FLOOR).between(100)
    np.testing.assert_allclose(bound[[100, 50, 0]], [2.0, 3.5, 5.0])


def test_a_confirmed_loop_is_a_short_cut() -> None:
    bound = DriftBound(straight_route(101), [loop(90, 10, LoopState.CONFIRMED)], 0.03, FLOOR).between(100)
    np.testing.assert_allclose(bound[[0, 10, 50]], [2.0 + 0.03 * 20, 2.0 + 0.03 * 10, 3.5])


@pytest.mark.parametrize("state", [LoopState.REJECTED, LoopState.CANDIDATE])
def test_any_other_loop_is_none(state: LoopState) -> None:
    route = straight_route(150)
    without = DriftBound(route, [], 0.03, FLOOR).between(149)
    bound = DriftBound(route, [loop(148, 1, state)], 0.03, FLOOR).between(149)
    assert bound[0] == pytest.approx(6.47) and without[0] == pytest.approx(6.47)
    np.testing.assert_array_equal(bound, without)


def test_a_turn_drifts_like_a_move_that_shifts_the_image_as_much() -> None:
    bound = DriftBound(turning_route([0.0, 0.5, 1.0], depth=2.0), [], 0.03, FLOOR).between(2)
    np.testing.assert_allclose(bound, [2 * (FLOOR + 0.03), 2 * (FLOOR + 0.015), 2 * FLOOR])


def test_the_way_counts_changes_of_the_view() -> None:
    np.testing.assert_allclose(straight_route(14, sideways=True).way[-1], 13.0 / DEPTH)
    forward = LoopLimits().forward_depths
    np.testing.assert_allclose(straight_route(14).way[-1], 13.0 / DEPTH / forward)
    np.testing.assert_allclose(turning_route([0.0, 0.4, 0.8, 0.4, 0.0]).way, [0.0, 0.4, 0.8, 1.2, 1.6])


def test_the_way_has_no_unit_of_length() -> None:
    large, small = straight_route(30), straight_route(30, 0.01 * DEPTH, 0.01)
    np.testing.assert_allclose(large.way, small.way)
    np.testing.assert_allclose(large.detour(29), small.detour(29), atol=1e-12)


def test_going_on_is_no_detour_and_coming_back_is() -> None:
    for sideways in (True, False):
        np.testing.assert_allclose(straight_route(30, sideways=sideways).detour(29), 0.0, atol=1e-12)
    route = turning_route([0.0, 0.4, 0.8, 0.4, 0.1])
    np.testing.assert_allclose(route.detour(2), 0.0, atol=1e-12)
    np.testing.assert_allclose(route.detour(4), [1.4, 0.8, 0.0, 0.0, 0.0], atol=1e-12)


def test_between_submaps_no_detour_is_too_short() -> None:
    route = turning_route([0.0, 0.4, 0.8, 0.4, 0.0])
    other = Route(route.T_world_cam, np.array([0, 0, 1, 1, 1]), route.median_depth)
    np.testing.assert_allclose(other.detour(4), [np.inf, np.inf, 0.0, 0.0, 0.0], atol=1e-12)


def test_a_step_between_submaps_has_no_length() -> None:
    T = straight_route(101).T_world_cam.copy()
    T[50:, 2, 3] += 1000.0
    route = Route(T, np.repeat([0, 1], [50, 51]), np.full(101, DEPTH))
    assert route.travel[-1] == 99.0


def test_a_lorry_that_passes_does_not_change_the_scene() -> None:
    depth = np.full(30, 12.0)
    depth[10:13] = 3.0
    route = Route(straight_route(30).T_world_cam, np.zeros(30, int), depth)
    np.testing.assert_array_equal(route.scene_depth, 12.0)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.3, 3.1])
def test_angles_are_exact_however_small(angle: float) -> None:
    T = pose(R=rotation(yaw_rad=angle))
    assert rotation_angles(T) == pytest.approx(angle, rel=1e-9, abs=1e-15)
    assert difference(np.eye(4), lie.inverse(T))[1] == pytest.approx(angle, rel=1e-9, abs=1e-15)


def test_wrong_arguments_are_refused() -> None:
    T = straight_route(5).T_world_cam
    with pytest.raises(InputError, match="T_world_cam"):
        Route(T[:, :3], np.zeros(5, int), np.ones(5))
    with pytest.raises(InputError, match="submap"):
        Route(T, np.zeros(4, int), np.ones(5))
    with pytest.raises(InputError, match="median_depth must be positive"):
        Route(T, np.zeros(5, int), np.zeros(5))
