"""Trajectory files: what is written is read again, and what cannot be used is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from metric_slam.errors import EvaluationError, InputError, OutputError
from metric_slam.geometry.lie import inverse
from metric_slam.trajectory import (
    Trajectory,
    associate,
    associate_times,
    normalise_rotations,
    read_kitti,
    read_trajectory,
    read_tum,
    to_reference_camera,
    write_kitti,
    write_tum,
)


def random_poses(n: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    T = np.tile(np.eye(4), (n, 1, 1))
    T[:, :3, :3] = Rotation.random(n, random_state=seed).as_matrix()
    T[:, :3, 3] = random.normal(scale=100.0, size=(n, 3))
    return T


def test_tum_round_trip(tmp_path: Path) -> None:
    T, times_s = random_poses(50), 1_305_031_102.175304 + 0.033 * np.arange(50)
    write_tum(tmp_path / "t.tum", times_s, T)
    read = read_trajectory(tmp_path / "t.tum")
    assert read.times_s is not None
    np.testing.assert_allclose(read.times_s, times_s, atol=3e-7)  # float64 has no more digits at unix times
    np.testing.assert_allclose(read.T_world_cam, T, atol=1e-8)


def test_kitti_round_trip(tmp_path: Path) -> None:
    T = random_poses(50)
    write_kitti(tmp_path / "t.txt", T)
    read = read_trajectory(tmp_path / "t.txt")
    assert read.times_s is None and len(read) == 50
    np.testing.assert_allclose(read.T_world_cam, T, rtol=1e-9, atol=1e-9)


def test_tum_columns_are_time_position_xyzw(tmp_path: Path) -> None:
    quarter_turn_left = np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    write_tum(tmp_path / "t.tum", np.array([0.5]), quarter_turn_left[None])
    numbers = (tmp_path / "t.tum").read_text().splitlines()[1].split()
    half = np.sqrt(0.5)
    np.testing.assert_allclose([float(number) for number in numbers], [0.5, 1, 2, 3, 0, 0, half, half], atol=1e-9)


def test_comments_blank_lines_and_commas_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "t.tum").write_text("# comment\n\n0.0, 1 2 3 0 0 0 1  # first\n1.0 1 2 4 0 0 0 1\n")
    np.testing.assert_array_equal(read_tum(tmp_path / "t.tum").T_world_cam[:, :3, 3], [[1, 2, 3], [1, 2, 4]])


IDENTITY_ROW = "1 0 0 0 0 1 0 0 0 0 1 0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pose"),
        ("# only a comment\n", "holds no pose"),
        ("1 2 3\n", r"line 1: 3 numbers, expected 8 \(TUM\) or 12 \(KITTI\)"),
        (f"{IDENTITY_ROW}\n\n1 0 0 0 0 1 0 0 0 0 1\n", "line 3: 11 numbers, expected 12 as in the lines before"),
        ("0 1 2 3 0 0 0 1\n1 nan 2 3 0 0 0 1\n", "line 2: a number is not finite"),
        (f"{IDENTITY_ROW}\n1 0 0 0 0 1 0 inf 0 0 1 0\n", "line 2: a number is not finite"),
        ("0 1 2 three 0 0 0 1\n", "line 1: not a number"),
        ("0 1 2 3 0 0 0 0.5\n", "line 1: the quaternion .* has norm 0.5"),
        ("0 1 2 3 0 0 0 1\n0 1 2 3 0 0 0 1\n", "line 2: the time stamp is not later"),
        (f"{IDENTITY_ROW}\n2 0 0 0 0 1 0 0 0 0 1 0\n", "line 2: the 3x3 part is no rotation"),
        ("-1 0 0 0 0 1 0 0 0 0 1 0\n", "line 1: the 3x3 part is no rotation"),
    ],
)
def test_unusable_files_are_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message) as caught:
        read_trajectory(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_trajectory(tmp_path / "absent.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(EvaluationError, match="not a text file"):
        read_trajectory(tmp_path / "binary.txt")


def test_the_wrong_reader_says_what_it_expects(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(f"{IDENTITY_ROW}\n")
    with pytest.raises(EvaluationError, match=r"12 numbers, expected 8 \(TUM\)"):
        read_tum(tmp_path / "t.txt")
    assert len(read_kitti(tmp_path / "t.txt")) == 1


def test_writing_into_nowhere_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_kitti(tmp_path / "absent" / "t.txt", np.eye(4)[None])


def test_normalised_rotations_are_the_nearest_ones() -> None:
    T = random_poses(20)
    noisy = T.copy()
    noisy[:, :3, :3] += np.random.default_rng(1).normal(scale=1e-4, size=(20, 3, 3))
    R = normalise_rotations(noisy)[:, :3, :3]
    np.testing.assert_allclose(R @ np.swapaxes(R, 1, 2), np.tile(np.eye(3), (20, 1, 1)), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(R), 1.0, atol=1e-14)
    np.testing.assert_allclose(R, T[:, :3, :3], atol=1e-3)


def test_inverse() -> None:
    T = random_poses(10)
    np.testing.assert_allclose(inverse(T) @ T, np.tile(np.eye(4), (10, 1, 1)), atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_reference_camera_moves_as_the_rig_does(seed: int) -> None:
    T_world_ref_true = random_poses(6, seed)
    T_cam_ref = random_poses(1, seed + 1)[0]
    T_world_cam = T_world_ref_true @ np.linalg.inv(T_cam_ref)
    T_world_ref = to_reference_camera(T_world_cam, T_cam_ref)
    np.testing.assert_array_equal(T_world_ref[0], np.eye(4))
    np.testing.assert_allclose(T_world_ref, np.linalg.inv(T_world_ref_true[0]) @ T_world_ref_true, atol=1e-9)


def test_times_pair_with_the_nearest_one_only_once() -> None:
    a_rows, b_rows = associate_times(np.array([0.0, 0.1, 0.2, 0.9]), np.array([0.001, 0.119, 0.121, 0.2, 5.0]), 0.02)
    assert a_rows.tolist() == [0, 1, 2] and b_rows.tolist() == [0, 1, 3]


def test_the_tolerance_includes_its_bound() -> None:
    for start_s in (0.0, 1_305_031_102.0, 1_700_000_000.0):
        assert len(associate_times(start_s + np.array([0.1]), start_s + np.array([0.12]), 0.02)[0]) == 1
    assert len(associate_times(np.array([0.1]), np.array([0.12]), 0.02)[0]) == 1
    assert len(associate_times(np.array([0.1]), np.array([0.1201]), 0.02)[0]) == 0


def test_stamped_trajectories_pair_by_time() -> None:
    estimate = Trajectory(np.array([1.0, 2.0, 3.0]), random_poses(3))
    truth = Trajectory(np.array([0.0, 2.01, 3.0, 4.0]), random_poses(4))
    pairs = associate(estimate, truth)
    assert pairs.estimate_rows.tolist() == [1, 2] and pairs.truth_rows.tolist() == [1, 2]
    assert "2 of 3" in pairs.protocol


def test_trajectories_of_different_recordings_do_not_pair() -> None:
    estimate = Trajectory(np.array([1.0, 2.0]), random_poses(2))
    with pytest.raises(EvaluationError, match="check that both are of the same recording"):
        associate(estimate, Trajectory(np.array([100.0, 101.0]), random_poses(2)))


def test_rows_pair_by_number_without_stamps() -> None:
    pairs = associate(Trajectory(None, random_poses(3)), Trajectory(np.arange(5.0), random_poses(5)))
    assert pairs.estimate_rows.tolist() == pairs.truth_rows.tolist() == [0, 1, 2]
    with pytest.raises(EvaluationError, match="the estimate has 5 poses, the reference 3"):
        associate(Trajectory(None, random_poses(5)), Trajectory(None, random_poses(3)))


def test_shapes_that_are_no_path_are_refused(tmp_path: Path) -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    with pytest.raises(InputError, match=r"T_world_cam has shape \(3, 3, 4\), expected \(N, 4, 4\)"):
        write_kitti(tmp_path / "a.txt", poses[:, :3])
    with pytest.raises(InputError, match=r"times_s has shape \(2,\), expected \(3,\)"):
        write_tum(tmp_path / "a.txt", np.arange(2.0), poses)
    poses[1, 0, 3] = np.nan
    with pytest.raises(InputError, match="pose 1 for .*a.txt is not finite"):
        write_tum(tmp_path / "a.txt", np.arange(3.0), poses)
    assert not (tmp_path / "a.txt").exists()
