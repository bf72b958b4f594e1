"""Around droid odometry: frames between keyframes, short and standing videos, loops, going on after a stop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from metric_slam.checkpointable import flattened, nested
from metric_slam.config.schema import Config, SensorConfig
from metric_slam.depth.base import DepthPrior
from metric_slam.depth.ground_plane.prior import GroundPlane
from metric_slam.depth.no_prior import NoPrior
from metric_slam.depth.sensor import SensorDepth
from metric_slam.disk_store import DiskStore
from metric_slam.frame import CameraMount
from tests.oracle import DROID, REMOVING, config, oracle_slam, rmse_m, run, sensor, winding
from tests.scene import HEIGHT_M, Drive, Street, feed

DRIVE = Drive(Street(waves=10), winding(20, 0.25), with_depth=True)


def test_frames_between_are_matched_from_both_sides() -> None:
    _, slam, _ = run(config(), sensor(), DRIVE)
    frames = slam._parts.odometry.frames
    between = [r for r in frames.records if not r.is_keyframe and r.keyframe + 1 < len(slam._parts.slam_map)]
    assert between
    for record in between:
        assert set(record.matches) == {record.keyframe, record.keyframe + 1}
        assert all(stored.shape == (12, 40, 4) for stored in record.matches.values())
        found = np.linalg.inv(frames.T_cam_world(record))
        np.testing.assert_allclose(found[:3, 3], DRIVE.path[record.index][:3, 3], atol=0.06)


def test_a_standing_camera_does_not_gather_frames() -> None:
    moving = winding(10, 0.25)
    drive = Drive(Street(waves=10), [*moving, *[moving[-1]] * 70], with_depth=True)
    slam, _ = oracle_slam(config(), drive, sensor())
    most = 0
    for index in range(len(drive)):
        slam.process_frame(drive[index])
        most = max(most, len(slam._parts.odometry.frames._waiting))
    result = slam.finish()
    assert most < 66 and result.tracked.all() and not result.is_keyframe[10:].any()
    np.testing.assert_allclose(result.T_world_cam[11:, :3, 3], result.T_world_cam[[-1], :3, 3].repeat(69, 0), atol=0.01)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_video_shorter_than_the_warm_up_has_poses(frames: int) -> None:
    drive = Drive(Street(waves=10), winding(frames, 0.4), with_depth=True)
    result, slam, _ = run(config(), sensor(), drive)
    assert len(result.T_world_cam) == frames and len(slam._parts.slam_map) <= 5 and result.tracked.all()
    np.testing.assert_allclose(result.T_world_cam[:, :3, 3], drive.T_world_cam_true[:, :3, 3], atol=0.03)


def test_memory_of_the_standing_first_frames_is_bounded() -> None:
    path = winding(12, 0.25)
    drive = Drive(Street(waves=10), [*[path[0]] * 70, *path], with_depth=True)
    result, slam, _ = run(config(), sensor(), drive)
    assert len(slam._parts.odometry.frames._waiting) == 0
    np.testing.assert_allclose(result.T_world_cam[:70, :3, 3], 0.0, atol=0.02)


def road() -> GroundPlane:
    return GroundPlane(Config().ground_plane, CameraMount(HEIGHT_M))


@pytest.mark.parametrize(("at", "prior"), [(1, sensor), (4, sensor), (9, sensor), (17, sensor), (13, road)])
def test_a_restored_system_goes_on_to_the_last_bit(at: int, prior: Callable[[], DepthPrior]) -> None:
    cfg, disk = config(droid=REMOVING), DiskStore()
    first, _ = oracle_slam(cfg, DRIVE, prior(), disk)
    feed(first, DRIVE, range(at))
    state = flattened(first.state())
    assert all(isinstance(value, np.ndarray) and value.dtype != object for value in state.values())
    second, _ = oracle_slam(cfg, DRIVE, prior(), disk)
    second.restore(nested(state), DRIVE.__getitem__)
    for slam in (first, second):
        feed(slam, DRIVE, range(at, len(DRIVE)))
    np.testing.assert_array_equal(second.finish().T_world_cam, first.finish().T_world_cam)


def test_loops_are_looked_for_among_keyframes_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    slam, _ = oracle_slam(config(droid=REMOVING), DRIVE, sensor())
    slam_map, looked = slam._parts.slam_map, list[tuple[int, int]]()
    monkeypatch.setattr(slam._loops, "look", lambda p: looked.append((p, slam_map[p].index)))
    feed(slam, DRIVE)
    slam.finish()
    assert looked == [(p, k.index) for p, k in enumerate(slam_map)]


def test_the_first_keyframes_start_from_the_prior_and_else_from_one() -> None:
    near = SensorDepth(SensorConfig(max_depth_m=20.0))  # which leaves cells without depth
    for prior in (near, NoPrior()):
        slam, _ = oracle_slam(config(), DRIVE, prior)
        slam_map = slam._parts.slam_map
        while len(slam_map) < 4:
            slam.process_frame(DRIVE[len(slam._parts.odometry.frames.records)])
        for keyframe in slam_map:
            known = keyframe.prior_weight > 0
            np.testing.assert_allclose(keyframe.inv_depth[known], 1.0 / keyframe.prior_depth_m[known])
            assert len(np.unique(keyframe.inv_depth[~known])) == 1
        assert known.mean() > 0.5 if prior.name == "sensor" else (keyframe.inv_depth == 1.0).all()


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_a_keyframe_may_start_beyond_the_last_one(damping: float) -> None:
    slam, _ = oracle_slam(config(droid={**DROID, "motion_damping": damping}), DRIVE, sensor())
    shares: list[float] = []
    slam_map, window = slam._parts.slam_map, slam._parts.odometry._window
    refine = window._refine

    def spy(newest: int) -> None:
        z = slam_map.T_world_cam(range(newest - 2, newest + 1))[:, 2, 3]
        shares.append((z[2] - z[1]) / (z[1] - z[0]))
        refine(newest)

    window._refine = spy  # type: ignore[method-assign]
    feed(slam, DRIVE)
    assert len(shares) > 3
    np.testing.assert_allclose(shares, damping, atol=0.01)
    assert rmse_m(slam.finish().T_world_cam, DRIVE, scale=True) < 0.002


def test_a_later_keyframe_starts_where_the_last_ones_are() -> None:
    slam, _ = oracle_slam(config(), DRIVE, NoPrior())
    started: list[np.ndarray] = []
    slam_map, window = slam._parts.slam_map, slam._parts.odometry._window
    refine = window._refine
    window._refine = lambda newest: (started.append(slam_map[newest].inv_depth), refine(newest))  # type: ignore
    feed(slam, DRIVE, range(12))
    assert started
    for inv_depth in started:
        assert (inv_depth == inv_depth[0, 0]).all() and 0.02 < inv_depth[0, 0] < 10.0 and inv_depth[0, 0] != 1.0
