"""The KITTI evaluator on a path whose errors are known by hand; the reference figures are in tests/scripts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from metric_slam.evaluation.gaps import find_gaps
from metric_slam.evaluation.kitti import (
    SEGMENT_LENGTHS_M,
    SHORT_SEGMENT_LENGTHS_M,
    Alignment,
    covered_m,
    drift,
    kitti_errors,
    path_distances_m,
    relative_to_first,
    segments,
)


def straight_path(n: int, step_m: float = 1.0) -> np.ndarray:
    T = np.tile(np.eye(4), (n, 1, 1))
    T[:, 2, 3] = step_m * np.arange(n)
    return T


def test_segments_start_every_tenth_pose_and_end_past_the_length() -> None:
    parts = segments(straight_path(131), (100,))
    # "more than 100 m away" is pose start + 101, so starts 0, 10, 20 fit into 131 poses and 30 does not
    assert parts.first.tolist() == [0, 10, 20] and parts.last.tolist() == [101, 111, 121]
    assert covered_m(straight_path(131), parts) == 121.0


def test_a_segment_does_not_span_a_gap() -> None:
    truth = straight_path(400)
    known = np.ones(400, bool)
    known[150:155] = False
    gaps = find_gaps(known)
    estimate = truth.copy()
    estimate[155:, 0, 3] += 30.0  # whatever happened in the gap
    result = kitti_errors(estimate[known], truth[known], "none", gaps)
    # of the segments of 100 m, starts at rows 0..40 end before the gap, rows 50..140 span it, rows 150..290 lie behind
    assert result["per_length_m"]["100"]["n_segments"] == 5 + 15
    assert result["per_length_m"]["200"]["n_segments"] == 5 and result["per_length_m"]["300"]["n_segments"] == 0
    all_of_them = kitti_errors(truth[known], truth[known], "none")
    assert result["n_segments"] + result["n_segments_left_out"] == all_of_them["n_segments"]
    assert result["t_rel_percent"] == pytest.approx(0.0, abs=1e-9)
    assert result["rpe_mean_m"] == pytest.approx(0.0, abs=1e-9) and result["n_rpe_pairs_left_out"] == 1
    assert result["covered_m"] == 141.0 + 241.0


def test_covered_metres_are_counted_once() -> None:
    truth = straight_path(131)
    result = kitti_errors(truth, truth, "none")
    assert result["n_segments"] == 3 and result["covered_m"] == pytest.approx(121.0)


def test_a_scale_error_is_its_percentage_times_the_overshoot() -> None:
    result = kitti_errors(straight_path(400, 1.02), straight_path(400), "none")
    # a segment of L spans L + 1 m of true path here
    starts = {length: len(range(0, 400 - length - 1, 10)) for length in SEGMENT_LENGTHS_M if length < 399}
    expected = sum(n * 2.0 * (length + 1) / length for length, n in starts.items()) / sum(starts.values())
    assert result["n_segments"] == sum(starts.values())
    assert result["t_rel_percent"] == pytest.approx(expected, rel=1e-9)
    assert result["r_rel_deg_per_100m"] == pytest.approx(0.0, abs=1e-5)
    assert result["per_length_m"]["100"]["t_rel_percent"] == pytest.approx(2.02, rel=1e-9)
    assert result["per_length_m"]["800"]["t_rel_percent"] is None
    assert result["rpe_mean_m"] == pytest.approx(0.02)
    assert result["ate_rmse_m"] == pytest.approx(np.sqrt(np.mean((0.02 * np.arange(400)) ** 2)))


@pytest.mark.parametrize("alignment", ["scale", "7dof", "scale_7dof"])
def test_alignments_with_scale_remove_a_scale_error(alignment: Alignment) -> None:
    result = kitti_errors(straight_path(300, 0.5), straight_path(300), alignment)
    assert result["t_rel_percent"] == pytest.approx(0.0, abs=1e-9)
    assert result["ate_rmse_m"] == pytest.approx(0.0, abs=1e-9)


def test_six_dof_keeps_the_scale_error() -> None:
    result = kitti_errors(straight_path(300, 1.02), straight_path(300), "6dof")
    assert result["per_length_m"]["100"]["t_rel_percent"] == pytest.approx(2.02, rel=1e-9)
    assert result["ate_rmse_m"] < kitti_errors(straight_path(300, 1.02), straight_path(300), "none")["ate_rmse_m"]


def test_a_constant_turn_is_its_rate() -> None:
    truth = straight_path(250)
    estimate = truth.copy()
    estimate[:, :3, :3] = Rotation.from_euler("z", 0.01 * np.arange(250)[:, None], degrees=True).as_matrix()
    result = kitti_errors(estimate, truth, "none")
    # 0.01 degrees a metre over L + 1 m
    assert result["per_length_m"]["100"]["r_rel_deg_per_100m"] == pytest.approx(1.01, rel=1e-6)
    assert result["per_length_m"]["100"]["t_rel_percent"] == pytest.approx(0.0, abs=1e-9)
    assert result["rpe_mean_deg"] == pytest.approx(0.01, rel=1e-4)


def test_the_worlds_of_the_two_do_not_matter() -> None:
    truth, estimate = straight_path(150), straight_path(150, 1.03)
    T_other_world = np.eye(4)
    T_other_world[:3, :3] = Rotation.random(random_state=0).as_matrix()
    T_other_world[:3, 3] = [5.0, -3.0, 2.0]
    moved, still = kitti_errors(T_other_world @ estimate, truth, "none"), kitti_errors(estimate, truth, "none")
    assert moved["t_rel_percent"] == pytest.approx(still["t_rel_percent"], rel=1e-9)
    assert moved["ate_rmse_m"] == pytest.approx(still["ate_rmse_m"], rel=1e-9)


def test_a_short_path_has_no_drift_but_a_reason() -> None:
    path = relative_to_first(straight_path(60))
    assert path_distances_m(path)[-1] == 59.0
    assert drift(path, path, SEGMENT_LENGTHS_M)["t_rel_percent"] is None
    assert drift(path, path, SEGMENT_LENGTHS_M)["reason"] == "the path is 59.0 m long: it holds no segment of 100 m"
    short = drift(path, path, SHORT_SEGMENT_LENGTHS_M)
    assert short["t_rel_percent"] == pytest.approx(0.0, abs=1e-9) and short["reason"] is None
