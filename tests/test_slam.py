"""The whole spine on drives whose images, depths and poses are exact; no alignment anywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metric_slam.config.schema import Config
from metric_slam.result import SlamResult
from metric_slam.slam import Slam
from tests.scene import CAMERA, Drive, Street, pose, rotation, run, straight

R = rotation(0.01, 0.005)
STREET = Street()
BLACK = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
STRAIGHT = Drive(STREET, straight(18, 0.6, R=R))


def error_m(result: SlamResult, drive: Drive) -> np.ndarray:
    """Distance of every frame's position from the truth."""
    return np.linalg.norm(result.T_world_cam[:, :3, 3] - drive.T_world_cam_true[:, :3, 3], axis=1)


def check_every_frame(result: SlamResult, drive: Drive) -> None:
    """Whatever happened: one finite rigid pose for every frame, and keyframes that belong to them."""
    n = len(drive)
    assert result.T_world_cam.shape == (n, 4, 4) and np.isfinite(result.T_world_cam).all()
    rotations = result.T_world_cam[:, :3, :3]
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (n, 1, 1)), atol=1e-9)
    np.testing.assert_array_equal(result.frame_indices, np.arange(n))
    np.testing.assert_allclose(result.times_s, drive.times_s)
    np.testing.assert_allclose(result.T_world_cam[0], np.eye(4), atol=1e-12)
    assert [k.index for k in result.keyframes] == np.flatnonzero(result.is_keyframe).tolist()
    for keyframe in result.keyframes:
        np.testing.assert_allclose(keyframe.T_world_cam, result.T_world_cam[keyframe.index], atol=1e-12)
        assert np.isfinite(keyframe.inv_depth).all() and (keyframe.inv_depth > 0).all()
        assert ((keyframe.confidence >= 0) & (keyframe.confidence <= 1)).all()


@pytest.fixture(scope="module")
def straight_result() -> SlamResult:
    return run(STRAIGHT)


# ---------------------------------------------------------------- drives


def test_a_straight_drive_ends_where_it_should_in_metres(straight_result: SlamResult) -> None:
    check_every_frame(straight_result, STRAIGHT)
    assert straight_result.tracked.all() and straight_result.scale_source == "ground_plane"
    length_m = np.linalg.norm(STRAIGHT.T_world_cam_true[-1, :3, 3])
    error = error_m(straight_result, STRAIGHT)
    assert error[-1] < 0.015 * length_m
    assert error[2:].max() < 0.02 * length_m
    angle = np.arccos(np.clip((np.trace(straight_result.T_world_cam[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert angle.max() < np.radians(0.3)


def test_the_scale_was_observed(straight_result: SlamResult) -> None:
    observed = straight_result.scale_observations
    keyframes = np.flatnonzero(straight_result.is_keyframe)
    assert [o.index for o in observed] == keyframes[1:].tolist() and all(o.used for o in observed)
    assert abs(np.mean([o.log_ratio for o in observed])) < 0.02
    assert sum(straight_result.solver_status_counts.values()) >= len(keyframes)
    assert set(straight_result.solver_status_counts) <= {"converged", "max_iterations", "no_progress"}
    assert {"track", "sliding_window", "global_bundle_adjustment"} <= set(straight_result.timings_s)


def test_depth_is_metric(straight_result: SlamResult) -> None:
    for keyframe in straight_result.keyframes[2:-2]:
        depth_m = STREET.render(STRAIGHT.path[keyframe.index], CAMERA.grid())[1]
        good = (keyframe.confidence > 0.7) & (depth_m > 0) & (depth_m < 12)
        ratio = keyframe.inv_depth[good] * depth_m[good]
        assert good.sum() > 80 and np.median(ratio) == pytest.approx(1.0, abs=0.04)


def test_two_runs_are_the_same_to_the_last_bit(straight_result: SlamResult) -> None:
    again = run(STRAIGHT)
    np.testing.assert_array_equal(again.T_world_cam, straight_result.T_world_cam)
    for one, other in zip(again.keyframes, straight_result.keyframes, strict=True):
        np.testing.assert_array_equal(one.inv_depth, other.inv_depth)
        np.testing.assert_array_equal(one.confidence, other.confidence)
    assert again.scale_observations == straight_result.scale_observations
    assert again.solver_status_counts == straight_result.solver_status_counts


def test_a_turn() -> None:
    path, x, z, yaw = [], 0.0, 0.0, 0.0
    for i in range(20):
        path.append(pose(x, z, R=rotation(0.01, 0.0, yaw)))
        yaw += 0.025 if 6 <= i < 14 else 0.0
        x, z = x + 0.6 * np.sin(yaw), z + 0.6 * np.cos(yaw)
    drive = Drive(Street(half_width_m=8.0, end_m=45.0), path)
    result = run(drive)
    check_every_frame(result, drive)
    assert result.tracked.all() and error_m(result, drive)[2:].max() < 0.3
    turn = np.linalg.inv(drive.T_world_cam_true[-1, :3, :3]) @ result.T_world_cam[-1, :3, :3]
    assert np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)) < np.radians(0.5)


def test_reversing() -> None:
    drive = Drive(STREET, straight(12, -0.6, R=R, start_m=20.0))
    result = run(drive, coarse=True)
    check_every_frame(result, drive)
    assert result.tracked.all() and result.T_world_cam[-1, 2, 3] == pytest.approx(-0.6 * 11, rel=0.08)


def test_a_red_light() -> None:
    moving = straight(8, 0.6, R=R)
    path = moving + [moving[-1]] * 20 + straight(7, 0.6, R=R, start_m=0.6 * 8)
    drive = Drive(STREET, path)
    result = run(drive)
    check_every_frame(result, drive)
    assert result.tracked.all() and error_m(result, drive)[2:].max() < 0.1
    assert not result.is_keyframe[9:28].any(), "a standing camera adds nothing"
    standing = result.T_world_cam[8:28, :3, 3]
    assert np.abs(standing - standing[0]).max() < 0.02, "and does not drift"


def standing_start() -> Drive:
    """Eight frames at rest, then away at half a metre per second squared."""
    travelled_m = np.cumsum(np.minimum(0.05 * np.arange(1, 15), 0.6))
    return Drive(STREET, [pose(R=R)] * 8 + [pose(z_m=z, R=R) for z in travelled_m])


def test_driving_off_from_rest() -> None:
    drive = standing_start()
    result = run(drive)
    check_every_frame(result, drive)
    assert result.tracked.all() and not result.is_keyframe[1:8].any()
    np.testing.assert_allclose(result.T_world_cam[:8, :3, 3], 0.0, atol=1e-9)
    second = int(np.flatnonzero(result.is_keyframe)[1])
    assert error_m(result, drive)[second:].max() < 0.15
    speeds = np.diff(result.T_world_cam[second:, 2, 3])
    np.testing.assert_allclose(speeds, np.diff(drive.T_world_cam_true[second:, 2, 3]), atol=0.06)


def test_frames_before_the_second_keyframe_move_too() -> None:
    drive = standing_start()
    assert error_m(run(drive, coarse=True), drive).max() < 0.3


@pytest.mark.parametrize("road_from", [4, 31])
def test_frames_between_keyframes_follow_a_later_correction_of_the_scale(road_from: int) -> None:
    """The road shows only after some keyframes, up to fifteen, whose scale was a guess."""
    drive = Drive(Street(road=False), straight(road_from + 12, 0.5, R=R), streets={road_from: STREET})
    result = run(drive, coarse=True)
    check_every_frame(result, drive)
    assert result.is_keyframe[:road_from].sum() >= road_from // 2 and result.scale_source == "ground_plane"
    steps_m = np.diff(result.T_world_cam[2:, 2, 3])
    assert (np.abs(steps_m - 0.5) < 0.1).all(), np.round(steps_m, 2)
    assert np.median(steps_m) == pytest.approx(0.5, rel=0.04)


# ---------------------------------------------------------------- images that show nothing


def test_empty_images_are_bridged() -> None:
    drive = replace(STRAIGHT, images={6: BLACK, 12: np.full_like(BLACK, 128), 13: BLACK})
    result = run(drive)
    check_every_frame(result, drive)
    assert np.flatnonzero(~result.tracked).tolist() == [6, 12, 13] and not result.is_keyframe[[6, 12, 13]].any()
    assert error_m(result, drive)[2:].max() < 0.25, "empty frames go on at the speed of before"


def test_an_end_in_the_dark_goes_on_at_the_last_speed() -> None:
    drive = replace(STRAIGHT, images={i: BLACK for i in range(9, 18)})
    result = run(drive, coarse=True)
    check_every_frame(result, drive)
    assert not result.tracked[9:].any() and error_m(result, drive)[2:].max() < 0.4


def test_nothing_to_see_at_all() -> None:
    drive = Drive(STREET, straight(9, 0.6), images={i: BLACK for i in range(9)})
    result = run(drive, coarse=True)
    check_every_frame(result, drive)
    assert not result.tracked[1:].any() and len(result.keyframes) == 1
    assert not result.keyframes[0].confidence.any()


def test_a_dark_start_begins_when_it_gets_light() -> None:
    drive = replace(STRAIGHT, images={i: BLACK for i in range(4)})
    result = run(drive, coarse=True)
    check_every_frame(result, drive)
    travelled_m = result.T_world_cam[-1, 2, 3] - result.T_world_cam[8, 2, 3]
    assert result.tracked[8:].all() and travelled_m == pytest.approx(0.6 * 9, rel=0.05)


def cut(*, dark_frames: int) -> Drive:
    """Two streets joined, with or without darkness between them."""
    path = straight(8, 0.6, R=R) + [pose(R=R)] * dark_frames + straight(12, 0.6, R=R, start_m=100.0)
    images = {i: BLACK for i in range(8, 8 + dark_frames)}
    return Drive(STREET, path, images=images, streets={8 + dark_frames: Street(seed=77, half_width_m=8.0)})


def test_another_street_after_darkness_is_a_new_submap(caplog: pytest.LogCaptureFixture) -> None:
    drive = cut(dark_frames=7)
    result = run(drive, coarse=True)
    check_every_frame(result, drive)
    assert "tracking was lost, a new submap begins here" in caplog.text
    assert not result.tracked[8:16].any() and result.is_keyframe[15]
    for begin, end in ((2, 7), (17, 26)):
        travelled_m = np.linalg.norm(result.T_world_cam[end, :3, 3] - result.T_world_cam[begin, :3, 3])
        assert travelled_m == pytest.approx(0.6 * (end - begin), rel=0.04), "both in metres"


def test_a_cut_is_survived() -> None:
    drive = cut(dark_frames=0)
    result = run(drive, coarse=True)
    check_every_frame(result, drive)
    steps_m = np.linalg.norm(np.diff(result.T_world_cam[:, :3, 3], axis=0), axis=1)
    assert steps_m.max() < 5.0, "nothing is flung away"


def test_a_cut_is_a_new_submap(caplog: pytest.LogCaptureFixture) -> None:
    result = run(cut(dark_frames=0), coarse=True)
    assert "tracking was lost, a new submap begins here" in caplog.text and not result.tracked[8]


# ---------------------------------------------------------------- priors and lengths


def test_without_a_prior_the_shape_is_right_and_the_scale_is_called_unknown() -> None:
    result = run(STRAIGHT, prior="none")
    check_every_frame(result, STRAIGHT)
    assert result.scale_source == "unknown" and result.scale_observations == []
    truth_m, found = STRAIGHT.T_world_cam_true[:, :3, 3], result.T_world_cam[:, :3, 3]
    scale = (truth_m[2:] * found[2:]).sum() / (found[2:] ** 2).sum()
    assert np.linalg.norm(scale * found - truth_m, axis=1)[2:].max() < 0.1
    assert all(k.prior_depth_m is None and k.prior_confidence is None for k in result.keyframes)


def test_a_depth_sensor_gives_metres_from_the_first_frame() -> None:
    drive = replace(STRAIGHT, with_depth=True)
    result = run(drive, prior="sensor", sensor={"max_depth_m": 80.0})
    check_every_frame(result, drive)
    assert result.scale_source == "sensor" and error_m(result, drive).max() < 0.08
    keyframe = result.keyframes[1]
    assert keyframe.prior_depth_m is not None and keyframe.prior_confidence is not None
    assert keyframe.prior_depth_m.max() <= 80.0 and 0 < keyframe.prior_confidence.max() <= 1.0 + 1e-6


def test_a_road_that_was_never_seen_is_no_source_of_scale() -> None:
    result = run(Drive(Street(road=False), straight(10, 0.6, R=R)), coarse=True)
    assert not any(o.used for o in result.scale_observations), "this is what makes the scale unknown"
    assert result.scale_source == "unknown"


@pytest.mark.parametrize("prior", ["ground_plane", "none"])
@pytest.mark.parametrize("step_m", [0.0, 0.9])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_very_short_videos(frames: int, step_m: float, prior: str) -> None:
    drive = Drive(STREET, straight(frames, step_m, R=R))
    result = run(drive, prior=prior)
    check_every_frame(result, drive)
    if step_m == 0:
        np.testing.assert_allclose(result.T_world_cam, np.broadcast_to(np.eye(4), (frames, 4, 4)), atol=1e-9)
    elif prior == "ground_plane":
        assert error_m(result, drive).max() < 0.07 * max(step_m * (frames - 1), 0.1)


def test_what_was_chosen_is_told() -> None:
    slam = Slam.for_dataset(STRAIGHT, Config())
    assert slam.choices["prior"].startswith("ground_plane: ") and slam.choices["correspondence"].startswith("dis: ")
    assert slam.choices["size"] == "320x96 from 320x96"
    assert "CPU" in slam.choices["bundle_adjustment"] or "CUDA on" in slam.choices["bundle_adjustment"]
