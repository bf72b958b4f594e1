"""Places that are seen again tie the map together; places that only look alike do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metric_slam.config.schema import Config
from metric_slam.geometry import lie
from metric_slam.slam import MetricSlam, build_slam
from tests.scene import CAMERA, Drive, Street, pose, rotation, straight

R = rotation(0.01, 0.005)
THERE_AND_BACK = Drive(Street(), [*straight(16, 0.6, R=R), *straight(13, -0.6, R=R, start_m=0.6 * 14)])
"""Reversed over its own way: the same views again."""


def drive_through(drive: Drive, **loop: object) -> MetricSlam:
    settings = {"dis": {"finest_scale": 1}, "loop": {"min_path_m": 5.0, "every": 2, **loop}}
    slam = build_slam(Config.model_validate(settings), drive)
    for index in range(len(drive)):
        slam.process(drive[index])
    return slam


@pytest.fixture(scope="module")
def back() -> MetricSlam:
    return drive_through(THERE_AND_BACK)


def test_places_are_recognised_and_nothing_else(back: MetricSlam) -> None:
    result = back.finish()
    truth = THERE_AND_BACK.T_world_cam_true[:, :3, 3]
    assert len(result.loops) >= 2 and all(loop.accepted for loop in result.loops)
    for loop in result.loops:
        true_m = np.linalg.norm(truth[loop.index] - truth[loop.match_index])
        assert true_m < 1.5 and loop.distance_m == pytest.approx(true_m, abs=0.12)
        assert (back._loops._loops[0].match, back._loops._loops[0].query) in back._graph
    assert np.linalg.norm(result.T_world_cam[-1, :3, 3] - truth[-1]) < 0.25


def test_a_bent_map_is_straightened_by_its_loops() -> None:
    slam = drive_through(THERE_AND_BACK, every=1000)
    assert slam._loops.results() == []
    store = slam._store
    back = [position for position in range(len(store)) if store[position].index >= 18]
    for position in back:  # the way back has drifted by a metre
        store[position].pose = back_moved(store[position].pose, 1.0)
    for position in back[-4:]:
        slam._loops._config = slam._loops._config.model_copy(update={"every": 1})
        loop = slam._loops._find(position)
        if loop is not None:
            slam._loops._loops.append(loop)
    assert slam._loops._loops, "a place a metre off is still found"
    assert max(loop.correction_m for loop in slam._loops._loops) > 0.7
    slam._loops.finish()
    found = slam._frames.final()[:, :3, 3]
    assert np.linalg.norm(found[-1] - THERE_AND_BACK.T_world_cam_true[-1, :3, 3]) < 0.4


def back_moved(pose_vec: np.ndarray, sideways_m: float) -> np.ndarray:
    T_world_cam = lie.inverse(lie.pose_vec_to_matrix(pose_vec))
    T_world_cam[0, 3] += sideways_m
    return lie.matrix_to_pose_vec(lie.inverse(T_world_cam))


def test_loops_can_be_switched_off() -> None:
    slam = drive_through(THERE_AND_BACK, enabled=False)
    assert slam.finish().loops == []


def test_a_drive_that_never_comes_back_has_no_loops() -> None:
    slam = drive_through(Drive(Street(), straight(22, 0.6, R=R)))
    assert slam.finish().loops == []


def test_a_row_of_alike_places_is_not_closed() -> None:
    """Seven keyframes on, everything looks exactly as before; the way says that it is another place."""
    path = straight(30, 0.6, R=R)
    street = Street()
    images = {i: street.render(pose(z_m=0.6 * (i % 7), R=R))[0] for i in range(30)}
    drive = replace(Drive(street, path), images=images)
    slam = drive_through(drive, drift=0.5, drift_floor_m=6.0, every=1)
    assert [loop for loop in slam._loops.results() if loop.accepted] == []


def test_a_place_that_stands_twice_in_the_map_is_told() -> None:
    """The later half of the map is moved 10 m on, as if it were another place that looks as the earlier half does."""
    slam = drive_through(Drive(Street(), straight(14, 0.6, R=R)), every=1000)
    store, half = slam._store, len(slam._store) // 2

    def repeating() -> list[bool]:
        centres = np.stack([lie.inverse(lie.pose_vec_to_matrix(k.pose))[:3, 3] for k in store])
        way_m = np.cumsum(np.linalg.norm(np.diff(centres, axis=0, prepend=centres[:1]), axis=1))
        everywhere = np.ones(len(store), bool)
        return [slam._loops._repeats(position, everywhere, way_m, 1.0) for position in (half - 1, half)]

    assert repeating() == [False, False]
    for position in range(half, len(store)):
        T_world_cam = lie.inverse(lie.pose_vec_to_matrix(store[position].pose))
        T_world_cam[2, 3] += 10.0
        store[position].pose = lie.matrix_to_pose_vec(lie.inverse(T_world_cam))
    assert repeating() == [True, True]


def test_segments_are_joined_when_a_loop_allows() -> None:
    """The same street again after darkness: a new submap that finds itself in the old one."""
    black = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    path = [*straight(24, 0.9, R=R), *[pose(R=R)] * 7, *straight(30, 0.6, R=R, start_m=1.2)]
    drive = Drive(Street(), path, images={i: black for i in range(24, 31)})
    slam = drive_through(drive, every=1)
    result = slam.finish()
    assert len(slam._submaps) == 2 and slam._submaps.joined(0, 1) and result.submap_count == 1
    error_m = np.linalg.norm(result.T_world_cam[33:, :3, 3] - drive.T_world_cam_true[33:, :3, 3], axis=1)
    assert error_m[:12].max() < 0.3, "both submaps are in one frame of reference"
    assert error_m.max() < 0.06 * 0.6 * 30, "and half resolution keeps the scale to a few per cent"
