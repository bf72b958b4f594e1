from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metric_slam.datasets.synthetic import DriveSpec
from metric_slam.datasets.synthetic.route import LANE_OFFSET_M, STREET_WIDTH_M, drive_poses
from metric_slam.errors import ConfigError


@pytest.fixture(scope="module")
def demo_poses() -> np.ndarray:
    return drive_poses(DriveSpec())


def test_length_and_speeds(demo_poses: np.ndarray) -> None:
    steps = np.linalg.norm(np.diff(demo_poses[:, :2, 3], axis=0), axis=1)
    assert 330 <= len(demo_poses) <= 400
    assert steps.sum() > 400
    assert 0.6 < steps.min() and steps.max() == pytest.approx(2.5, abs=0.02)
    assert (steps > 2.3).sum() >= 10
    town = steps[:60]
    assert 1.0 < np.median(town) < 1.5
    # no more than 6 m/s^2 at 10 Hz
    assert np.abs(np.diff(steps)).max() < 0.06


def test_it_closes_a_loop_and_goes_on(demo_poses: np.ndarray) -> None:
    heading = np.unwrap(np.arctan2(demo_poses[:, 1, 2], demo_poses[:, 0, 2]))
    assert np.degrees(heading[-1] - heading[0]) == pytest.approx(360, abs=2)
    assert np.degrees(np.abs(np.diff(heading)).max()) < 4
    back = np.linalg.norm(demo_poses[100:, :3, 3] - demo_poses[0, :3, 3], axis=1)
    again = 100 + int(np.argmin(back))
    assert back.min() < 0.8 and len(demo_poses) - again > 10
    assert np.degrees(heading[again] - heading[0]) == pytest.approx(360, abs=1)


def test_it_keeps_to_the_right_hand_lane(demo_poses: np.ndarray) -> None:
    spec = DriveSpec()
    x, y = demo_poses[:60, 0, 3], demo_poses[:60, 1, 3]
    straight = (x > 20) & (x < spec.block_length_m - 20)
    np.testing.assert_allclose(y[straight], -STREET_WIDTH_M / 2 - LANE_OFFSET_M, atol=0.05)
    inside = (demo_poses[:, 0, 3] > 0) & (demo_poses[:, 0, 3] < spec.block_length_m)
    inside &= (demo_poses[:, 1, 3] > 0) & (demo_poses[:, 1, 3] < spec.block_depth_m)
    assert not inside.any()


def test_camera_is_a_camera(demo_poses: np.ndarray) -> None:
    R = demo_poses[:, :3, :3]
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1), np.tile(np.eye(3), (len(R), 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(R), 1)
    assert (R[:, 2, 1] < -0.99).all()  # its y axis points down
    assert np.abs(demo_poses[:, 2, 3] - 1.65).max() < 0.05
    pitch_deg = np.degrees(np.arcsin(R[:, 2, 2]))
    assert pitch_deg.mean() == pytest.approx(-1, abs=0.1) and 0.1 < pitch_deg.std() < 0.6
    assert np.abs(np.diff(pitch_deg)).max() < 0.25


def test_options() -> None:
    street = DriveSpec(route="street", body_motion=0.0, camera_height_m=1.2, pitch_deg=2.0)
    poses = drive_poses(street)
    np.testing.assert_allclose(poses[:, 2, 3], 1.2)
    np.testing.assert_allclose(np.degrees(np.arcsin(poses[:, 2, 2])), 2.0)
    np.testing.assert_array_equal(drive_poses(replace(street, frames=5)), poses[:5])
    np.testing.assert_array_equal(drive_poses(replace(street, frames=10_000)), poses)
    shaken = [drive_poses(DriveSpec(route="street", seed=seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(shaken[0], shaken[1])
    assert np.abs(shaken[0] - shaken[2]).max() > 1e-3


def test_turned_shape_of_forward_motion() -> None:
    poses = drive_poses(DriveSpec(route="street", frames=10, body_motion=0.0, pitch_deg=0.0))
    in_first = np.linalg.inv(poses[0]) @ poses[9] @ [0, 0, 0, 1]
    assert in_first[2] > 9 and abs(in_first[1]) < 0.01


@pytest.mark.parametrize("wrong", [{"width": 10}, {"frames": 1}, {"block_length_m": 20.0}])
def test_impossible_specs(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        DriveSpec(**wrong)


def test_key_depends_on_everything() -> None:
    assert DriveSpec().key() == DriveSpec().key()
    assert len({DriveSpec().key(), DriveSpec(seed=1).key(), DriveSpec(pitch_deg=0.0).key()}) == 3
