"""Places that are seen again tie the map together; places that only look alike do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metric_slam.checkpointable import flattened, nested
from metric_slam.config.schema import Config
from metric_slam.graph.slam_map import SlamMap
from metric_slam.loops import closure
from metric_slam.loops.closure import LoopClosure
from metric_slam.loops.loop import Loop, LoopState
from metric_slam.loops.pose_graph import PoseGraphResult, PoseLink
from metric_slam.result import LoopResult
from metric_slam.slam import Slam
from tests.scene import CAMERA, Drive, Street, pose, rotation, straight

R = rotation(0.01, 0.005)
THERE_AND_BACK = Drive(Street(), [*straight(16, 0.6, R=R), *straight(13, -0.6, R=R, start_m=0.6 * 14)])
"""Reversed over its own way: the same views again."""

BLACK = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
TWICE = Drive(
    Street(),
    [*straight(24, 0.9, R=R), *[pose(R=R)] * 7, *straight(30, 0.6, R=R, start_m=1.2)],
    images={i: BLACK for i in range(24, 31)},
)
"""The same street again after darkness: a new submap that finds itself in the old one."""


def new_slam(drive: Drive, **loop: object) -> Slam:
    """With loops from short detours on: the streets of these tests are short."""
    settings = {"dis": {"finest_scale": 1}, "loop": {"min_detour": 0.1, "every": 2, **loop}}
    return Slam.for_dataset(drive, Config.model_validate(settings))


def drive_through(drive: Drive, **loop: object) -> Slam:
    slam = new_slam(drive, **loop)
    for index in range(len(drive)):
        slam.process_frame(drive[index])
    return slam


def parts_of(slam: Slam) -> tuple[SlamMap, LoopClosure]:
    return slam._parts.slam_map, slam._parts.loops


def pair(loop: Loop) -> tuple[int, int]:
    return loop.match, loop.query


@pytest.fixture(scope="module")
def back() -> Slam:
    return drive_through(THERE_AND_BACK)


def test_places_are_recognised_and_nothing_else(back: Slam) -> None:
    result = back.finish()
    slam_map, loops = parts_of(back)
    truth = THERE_AND_BACK.T_world_cam_true[:, :3, 3]
    assert len(result.loops) >= 2 and all(loop.weight >= 0.5 for loop in result.loops)
    for loop in result.loops:
        true_m = np.linalg.norm(truth[loop.index] - truth[loop.match_index])
        assert true_m < 1.5 and loop.distance_m == pytest.approx(true_m, abs=0.12)
    for found in loops._loops:
        assert found.state is LoopState.CONFIRMED
        assert pair(found) in slam_map.graph and pair(found)[::-1] in slam_map.graph
    assert np.linalg.norm(result.T_world_cam[-1, :3, 3] - truth[-1]) < 0.25


def test_a_checkpoint_holds_everything(back: Slam) -> None:
    slam_map, loops = parts_of(back)
    again = new_slam(THERE_AND_BACK)._parts.loops
    again._map = slam_map
    again.restore(nested(flattened(loops.state())))
    before, after = flattened(loops.state()), flattened(again.state())
    assert before.keys() == after.keys() and len(before["loops/values"]) == len(loops._loops) > 0
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_a_rejected_loop_loses_its_edges_and_gets_them_back(back: Slam, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loop of a pose graph may be rejected once and accepted later; the caller hears of the confirmation."""
    slam_map, loops = parts_of(back)
    heard: list[LoopResult] = []
    monkeypatch.setattr(loops, "_on_loop", heard.append)
    matches = {pair(loop): slam_map.graph.matches_of(*pair(loop)) for loop in loops._loops}
    for weight, state in ((0.0, LoopState.REJECTED), (1.0, LoopState.CONFIRMED)):
        monkeypatch.setattr(closure, "optimise_pose_graph", fixed_result(weight))
        loops.finish()
        assert {loop.state for loop in loops._loops} == {state}
        inside = state is LoopState.CONFIRMED
        assert all((pair(loop) in slam_map.graph) == inside for loop in loops._loops)
        assert {loop.weight for loop in loops.results()} == {weight}
    for ends, stored in matches.items():
        np.testing.assert_array_equal(slam_map.graph.matches_of(*ends), stored)
    assert [loop.index for loop in heard] == [loop.index for loop in loops.results()]


def fixed_result(weight: float, log_scale: float = 0.0) -> object:
    """A pose graph that leaves the poses, gives every loop one weight and rescales the keyframes from the 6th on."""

    def optimise(T: np.ndarray, chain: list[PoseLink], loops: list[PoseLink], *_: object, **__: object) -> object:
        scales = np.where(np.arange(len(T)) < 6, 0.0, log_scale)
        return PoseGraphResult(T, scales, np.full(len(loops), weight), 1, 0.0, 0.0)

    return optimise


def test_a_candidate_is_rescaled_with_the_map(back: Slam, monkeypatch: pytest.MonkeyPatch) -> None:
    _, loops = parts_of(back)
    before = loops._loops[-1]
    waiting = replace(before, state=LoopState.CANDIDATE)
    monkeypatch.setattr(loops, "_between_submaps", [waiting])
    monkeypatch.setattr(closure, "optimise_pose_graph", fixed_result(1.0, log_scale=1e-4))
    assert waiting.match < 6 <= waiting.query
    T, log_scale = waiting.T_query_match.copy(), waiting.log_scale
    loops.finish()
    np.testing.assert_allclose(waiting.T_query_match, T)
    assert waiting.log_scale == pytest.approx(log_scale - 1e-4, abs=1e-9)


def test_a_bent_map_is_straightened_by_its_loops() -> None:
    slam = drive_through(THERE_AND_BACK, every=1000)
    slam_map, loops = parts_of(slam)
    assert loops.results() == []
    returning = [position for position in range(len(slam_map)) if slam_map[position].index >= 18]
    slam_map.move(returning, pose(x_m=1.0))  # the way back has drifted by a metre
    loops._config = loops._search._config = loops._config.model_copy(update={"every": 1})
    route = loops._search.route()
    found = [loop for position in returning[-4:] if (loop := loops._find(position, route)) is not None]
    assert found, "a place a metre off is still found"
    assert max(loop.correction_m for loop in found) > 0.7
    assert not any(pair(loop) in slam_map.graph for loop in found)
    loops._loops = found
    loops.finish()
    assert all(pair(loop) in slam_map.graph for loop in found)
    last = slam._odometry.frames.final()[-1, :3, 3]
    assert np.linalg.norm(last - THERE_AND_BACK.T_world_cam_true[-1, :3, 3]) < 0.4


def test_loops_can_be_switched_off() -> None:
    assert drive_through(THERE_AND_BACK, enabled=False).finish().loops == []


def test_a_drive_that_never_comes_back_has_no_loops() -> None:
    slam = drive_through(Drive(Street(), straight(22, 0.6, R=R)))
    assert slam.finish().loops == []


def test_a_row_of_alike_places_is_not_closed() -> None:
    """Seven keyframes on, everything looks exactly as before; the way shows that it is another place."""
    path = straight(30, 0.6, R=R)
    street = Street()
    images = {i: street.render(pose(z_m=0.6 * (i % 7), R=R))[0] for i in range(30)}
    slam = drive_through(replace(Drive(street, path), images=images), drift=0.5, drift_floor=0.6, every=1)
    assert [loop for loop in parts_of(slam)[1].results() if loop.weight >= 0.5] == []


def test_a_place_that_stands_twice_in_the_map_is_repetitive() -> None:
    """The later half of the map is moved 10 m on, as if it were another place that looks as the earlier half does."""
    slam = drive_through(Drive(Street(), straight(14, 0.6, R=R)), every=1000)
    slam_map, loops = parts_of(slam)
    half = len(slam_map) // 2

    def repeating() -> list[bool]:
        route = loops._search.route()
        return [loops._search.is_repetitive(position, route, metric=True) for position in (half - 1, half)]

    assert repeating() == [False, False]
    slam_map.move(range(half, len(slam_map)), pose(z_m=10.0))
    assert repeating() == [True, True]


def test_submaps_are_joined_by_two_loops_and_a_candidate_leaves_no_edge() -> None:
    heard: list[LoopResult] = []
    slam = new_slam(TWICE, every=1)
    slam_map, loops = parts_of(slam)
    loops._on_loop = heard.append
    alone = 0
    for index in range(len(TWICE)):
        slam.process_frame(TWICE[index])
        if loops._between_submaps and not loops._loops:
            alone += 1
            assert not slam_map.submaps.joined(0, 1) and not heard
            assert all(loop.state is LoopState.CANDIDATE for loop in loops._between_submaps)
            assert not any(pair(loop) in slam_map.graph for loop in loops._between_submaps)
    assert alone, "a first loop waits for a second one"
    result = slam.finish()
    assert len(slam_map.submaps) == 2 and slam_map.submaps.joined(0, 1) and result.submap_count == 1
    confirmed = [loop for loop in loops._loops if loop.state is LoopState.CONFIRMED]
    assert len(confirmed) >= 2 and all(pair(loop) in slam_map.graph for loop in confirmed)
    assert {loop.index for loop in heard} >= {slam_map[loop.query].index for loop in confirmed}
    error_m = result.T_world_cam[:, :3, 3] - TWICE.T_world_cam_true[:, :3, 3]
    way_m = TWICE.T_world_cam_true[:, 2, 3]
    again = range(33, len(TWICE))
    first = np.stack([np.interp(way_m[again], way_m[:24], error_m[:24, axis]) for axis in range(3)], axis=1)
    apart_m = np.linalg.norm(error_m[again] - first, axis=1)
    assert apart_m.max() < 0.15, "both submaps are in one frame of reference"
    error = np.linalg.norm(error_m[again], axis=1)
    assert error.max() < 0.06 * 0.6 * 30, "and half resolution keeps the scale to a few per cent"
