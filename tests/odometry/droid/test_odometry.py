"""Droid odometry, end to end around an oracle: as good as true flow, whatever comes and goes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from metric_slam.config.schema import Config
from metric_slam.depth.ground_plane.prior import GroundPlane
from metric_slam.depth.no_prior import NoPrior
from metric_slam.frame import CameraMount
from tests.oracle import DROID, REMOVING, ExactDrive, config, oracle_slam, rmse_m, run, sensor, winding
from tests.scene import HEIGHT_M, Drive, Street, feed, pose, rotation, slam_of, straight

DRIVE = Drive(Street(waves=10), winding(20, 0.25), with_depth=True)
PLAIN = {"solver": "gauss_newton", "flow_sigma_px": 253.0, "flow_loss": "none", "prior_mode": "droid"}
"""Bundle adjustment as DROID-SLAM has it."""


@lru_cache(maxsize=2)
def with_true_flow(has_sensor: bool) -> np.ndarray:
    """Poses of all frames from the same drive with true flow, in the usual way of working."""
    slam = slam_of(config(), sensor() if has_sensor else NoPrior(), ExactDrive(DRIVE))
    feed(slam, DRIVE)
    return slam.finish().T_world_cam


@pytest.mark.parametrize("solver", [{}, PLAIN], ids=["levenberg_marquardt", "as DROID-SLAM"])
def test_with_a_depth_sensor_it_is_as_good_as_true_flow(solver: dict[str, object]) -> None:
    result, _, _ = run(config(bundle_adjustment=solver), sensor(), DRIVE)
    assert result.scale_source == "sensor" and result.tracked.all()
    assert rmse_m(result.T_world_cam, DRIVE) < rmse_m(with_true_flow(True), DRIVE) + 0.01
    assert rmse_m(result.T_world_cam, DRIVE, scale=True) < 0.002
    assert 6 < result.is_keyframe.sum() < len(DRIVE)


@pytest.mark.parametrize("solver", [{}, PLAIN], ids=["levenberg_marquardt", "as DROID-SLAM"])
def test_without_a_prior_the_shape_is_right(solver: dict[str, object]) -> None:
    result, _, _ = run(config(bundle_adjustment=solver), NoPrior(), DRIVE)
    assert result.scale_source == "unknown"
    assert rmse_m(result.T_world_cam, DRIVE, scale=True) < rmse_m(with_true_flow(False), DRIVE, scale=True) + 0.003


def test_the_road_gives_metres() -> None:
    drive = Drive(Street(waves=10), straight(18, 0.35, R=rotation(0.01, 0.0)))
    result, _, _ = run(config(), GroundPlane(Config().ground_plane, CameraMount(HEIGHT_M)), drive)
    assert result.scale_source == "ground_plane" and len(result.scale_observations) > 5
    assert rmse_m(result.T_world_cam, drive) < 0.02 * 17 * 0.35


@pytest.mark.parametrize("prior", ["sensor", "road"])
def test_superfluous_keyframes_go_and_become_frames(prior: str) -> None:
    road = GroundPlane(Config().ground_plane, CameraMount(HEIGHT_M))
    result, slam, _ = run(config(droid=REMOVING), sensor() if prior == "sensor" else road, DRIVE)
    kept, _, _ = run(config(), sensor(), DRIVE)
    assert result.is_keyframe.sum() < 0.75 * kept.is_keyframe.sum()
    assert result.tracked.all() and result.inlier_ratio.min() > 0.5
    slam_map, records = slam._parts.slam_map, slam._parts.odometry.frames.records
    keyframes = [r for r in records if r.is_keyframe]
    assert [slam_map[r.keyframe].index for r in keyframes] == [r.index for r in keyframes]
    assert len(keyframes) == len(slam_map)
    for record in records:
        assert slam_map[record.keyframe].index <= record.index
        assert record.is_keyframe or len(record.matches) >= 1
    assert rmse_m(result.T_world_cam, DRIVE, scale=True) < 0.003


def test_updates_over_the_whole_trajectory_mend_it() -> None:
    cfg = config(global_ba={"updates": [2, 1], "iterations": 0}, droid={**DROID, "features_in_memory": 3})
    slam, network = oracle_slam(cfg, DRIVE, sensor())
    feed(slam, DRIVE)
    encoded, refined = network.encoded, network.updated
    slam_map = slam._parts.slam_map
    for position in range(2, len(slam_map)):  # a bend that no edge of the window has seen
        T_cam_world = pose(0.02, 0.03) @ slam_map[position].T_cam_world
        slam_map.move([position], np.linalg.inv(T_cam_world) @ slam_map[position].T_cam_world)
    result = slam.finish()
    assert network.encoded > encoded and network.updated > refined + 3 * len(slam_map)
    assert rmse_m(result.T_world_cam, DRIVE, scale=True) < 0.004


def test_more_edges_than_memory_may_hold_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(global_ba={"updates": [1, 0]}, droid={**DROID, "global_max_edges": 20})
    with caplog.at_level("WARNING"):
        result, _, _ = run(cfg, sensor(), DRIVE)
    assert "droid.global_max_edges is 20" in caplog.text and result.tracked.all()
