"""evaluate(): complete, honest about what is undefined, and writable as JSON."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.spatial.transform import Rotation

from metric_slam.errors import EvaluationError, InputError, MissingDependencyError, OutputError
from metric_slam.evaluation import evaluate, evaluate_files, format_table, write_metrics
from metric_slam.evaluation.metrics import UNDEFINED_WITHOUT_SCALE
from metric_slam.trajectory import write_kitti, write_tum


def curved_path(n: int, step_m: float = 1.0) -> np.ndarray:
    heading = 0.01 * np.arange(n)
    T = np.tile(np.eye(4), (n, 1, 1))
    T[:, :3, :3] = Rotation.from_euler("y", heading[:, None]).as_matrix()
    forward = step_m * np.stack([np.sin(heading), 0.05 * np.sin(9 * heading), np.cos(heading)], axis=1)
    T[1:, :3, 3] = np.cumsum(forward[:-1], axis=0)
    return T


def as_text(metrics: dict) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(format_table(metrics))
    return console.export_text()


def numbers(node: object) -> list[float]:
    if isinstance(node, dict):
        return [value for child in node.values() for value in numbers(child)]
    return [node] if isinstance(node, float) else []


def test_a_known_scale_is_judged_without_alignment() -> None:
    metrics = evaluate(curved_path(150, 1.05), curved_path(150), times_s=0.1 * np.arange(150), scale_known=True)
    headline = metrics["headline"]
    assert headline["alignment"] == "none" and "no alignment" in headline["protocol"]
    assert headline["t_rel_percent"] == pytest.approx(5.0, rel=0.06)  # a little less: the path bends
    assert headline["fitted_scale"] == pytest.approx(1 / 1.05)
    assert headline["end_point_error_percent"] == metrics["end_point"]["error_percent"] > 0
    assert metrics["duration_s"] == pytest.approx(14.9)
    assert metrics["path_length_m"]["value"] == pytest.approx(149.0, rel=1e-2)


def test_an_unknown_scale_is_judged_after_sim3_and_has_no_metres_before() -> None:
    metrics = evaluate(curved_path(150, 0.01), curved_path(150), scale_known=False)
    assert metrics["scale_known"] is False
    assert metrics["headline"]["alignment"] == "7dof" and "scale unknown" in metrics["headline"]["protocol"]
    assert metrics["headline"]["t_rel_percent"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["headline"]["fitted_scale"] == pytest.approx(100.0)
    for section, alignment, figure in [
        ("kitti", "none", "t_rel_percent"),
        ("kitti", "6dof", "ate_rmse_m"),
        ("short_segments", "none", "t_rel_percent"),
        ("ate", "se3", "translation_m"),
        ("rpe_1_frame", "none", "translation_m"),
    ]:
        entry = metrics[section]["alignments"][alignment]
        assert entry[figure] is None and entry["reason"] == UNDEFINED_WITHOUT_SCALE


def test_every_alignment_states_its_protocol_and_its_reason() -> None:
    metrics = evaluate(curved_path(40), curved_path(40), scale_known=True)
    for section in ("kitti", "short_segments", "ate", "rpe_1_frame", "rpe_100_m"):
        assert metrics[section]["protocol"]
        for entry in metrics[section]["alignments"].values():
            assert entry["protocol"] and "reason" in entry


def test_a_short_sequence_has_null_and_reason_and_short_segments() -> None:
    metrics = evaluate(curved_path(60, 1.02), curved_path(60), scale_known=True)
    assert metrics["headline"]["t_rel_percent"] is None and "no segment of 100 m" in metrics["headline"]["reason"]
    assert metrics["short_segments"]["alignments"]["none"]["t_rel_percent"] > 1.9
    reason = metrics["rpe_100_m"]["alignments"]["none"]["reason"]
    assert "no pair 100 m apart" in reason


def test_rows_without_truth_are_left_out() -> None:
    truth, estimate = curved_path(60), curved_path(60, 1.02)
    truth[::7] = np.nan
    metrics = evaluate(estimate, truth, scale_known=True)
    known = np.isfinite(truth[:, 0, 0])
    only_known = evaluate(estimate[known], truth[known], scale_known=True)
    assert metrics["n_poses"] == 60 and metrics["n_poses_compared"] == int(known.sum())
    for figure in ("ate_rmse_m", "end_point_error_percent", "fitted_scale", "path_length_m"):
        assert metrics["headline"][figure] == only_known["headline"][figure]
    assert metrics["gaps"]["frames_without_truth"] == 9 and metrics["gaps"]["missing_truth"] == 8
    assert "8 pairs of neighbouring poses span a gap" in metrics["headline"]["left_out"]


def with_a_jump(n: int, at: int, jump_m: float) -> np.ndarray:
    """A path that is off by a step from one pose on."""
    T = curved_path(n)
    T[at:, 0, 3] += jump_m
    return T


@pytest.mark.parametrize("kind", ["missing truth", "lost time"])
def test_no_pair_and_no_segment_spans_a_gap(kind: str) -> None:
    """The estimate jumps by 5 m in the gap: only figures that bridge the gap can see it."""
    pytest.importorskip("evo", reason="evo is optional")
    truth, times_s = curved_path(300), 0.1 * np.arange(300)
    if kind == "missing truth":
        truth[150:160] = np.nan
    else:
        times_s[150:] += 2.0
    metrics = evaluate(with_a_jump(300, 150, 5.0), truth, times_s=times_s, scale_known=True)
    closed = evaluate(with_a_jump(300, 150, 5.0), curved_path(300), scale_known=True)
    gap = metrics["gaps"]
    assert (gap["missing_truth"], gap["lost_time"]) == ((1, 0) if kind == "missing truth" else (0, 1))
    assert gap["longest_s"] == pytest.approx(1.1 if kind == "missing truth" else 2.1)
    kitti, ours = (m["kitti"]["alignments"]["none"] for m in (closed, metrics))
    assert kitti["t_rel_percent"] > 1.0 and ours["t_rel_percent"] == pytest.approx(0.0, abs=1e-6)
    assert ours["n_segments"] > 0 and ours["n_segments_left_out"] > 0 and kitti["n_segments_left_out"] == 0
    assert ours["rpe_mean_m"] == pytest.approx(0.0, abs=1e-9) and ours["n_rpe_pairs_left_out"] == 1
    one_frame, closed_frame = (m["rpe_1_frame"]["alignments"]["none"] for m in (metrics, closed))
    assert closed_frame["translation_m"]["max"] == pytest.approx(5.0, abs=0.1)
    assert one_frame["translation_m"]["max"] == pytest.approx(0.0, abs=1e-9)
    assert (one_frame["n_pairs"], one_frame["n_pairs_left_out"]) == (len(truth) - gap["frames_without_truth"] - 2, 1)
    far = metrics["rpe_100_m"]["alignments"]["none"]
    assert (far["n_pairs"], far["n_pairs_left_out"]) == (2, 1) and far["translation_m"]["max"] < 1e-9
    assert "segments span a gap" in metrics["headline"]["left_out"] and "left out: " in as_text(metrics)
    assert metrics["path_length_m"]["bridged_m"] > 0


def test_where_every_segment_spans_a_gap_there_is_no_drift_but_a_reason() -> None:
    truth = curved_path(150)
    truth[::7] = np.nan
    headline = evaluate(curved_path(150), truth, scale_known=True)["headline"]
    assert headline["t_rel_percent"] is None and headline["n_segments"] == 0
    assert "segments span a gap" in headline["reason"]


def test_times_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="times_s has shape"):
        evaluate(curved_path(20), curved_path(20), times_s=np.arange(19.0), scale_known=True)


@pytest.mark.parametrize("n_known", [0, 1])
def test_too_little_truth_gives_null_and_reason_everywhere(n_known: int) -> None:
    truth = curved_path(5)
    truth[n_known:] = np.nan
    metrics = evaluate(curved_path(5), truth, scale_known=True)
    assert numbers(metrics) == []
    assert f"{n_known} poses with ground truth" in metrics["headline"]["reason"]
    assert "–" in as_text(metrics)


def test_a_truth_that_does_not_move() -> None:
    metrics = evaluate(curved_path(20), np.tile(np.eye(4), (20, 1, 1)), scale_known=True)
    assert metrics["fitted_scale"]["value"] is None and "does not move" in metrics["fitted_scale"]["reason"]
    assert metrics["end_point"]["error_percent"] is None and metrics["end_point"]["error_m"] > 0
    json.dumps(metrics, allow_nan=False)


def test_impossible_pairs_are_refused() -> None:
    with pytest.raises(EvaluationError, match="4 estimated poses against 5"):
        evaluate(curved_path(4), curved_path(5), scale_known=True)
    broken = curved_path(5)
    broken[3, 0, 3] = np.inf
    with pytest.raises(EvaluationError, match="pose 3 of the estimate is not finite"):
        evaluate(broken, curved_path(5), scale_known=True)


def test_written_metrics_are_strict_json(tmp_path: Path) -> None:
    metrics = evaluate(curved_path(60), curved_path(60), scale_known=True)
    write_metrics(tmp_path / "metrics.json", metrics)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    with pytest.raises(OutputError, match="cannot be written"):
        write_metrics(tmp_path / "absent" / "metrics.json", metrics)


def test_the_table_fits_one_screen_and_shows_the_numbers() -> None:
    metrics = evaluate(curved_path(150, 1.05), curved_path(150), scale_known=True)
    text = as_text(metrics)
    assert len(text.splitlines()) <= 24
    headline = metrics["headline"]
    assert headline["n_segments"] == 5 and headline["covered_m"] == pytest.approx(141, abs=1)
    assert {"n", "covers", "r_rel"} <= set(text.split()) and f"{headline['r_rel_deg_per_100m']:.3f}" in text
    assert f"true path {headline['path_length_m']:.1f} m" in text
    assert f"{metrics['headline']['t_rel_percent']:.2f}" in text and "fitted scale 0.9524" in text


def test_evo_agrees_with_our_own_ate_and_scale() -> None:
    pytest.importorskip("evo", reason="evo is optional")
    random = np.random.default_rng(0)
    estimate = curved_path(150, 1.05)
    estimate[1:, :3, 3] += random.normal(scale=0.1, size=(149, 3))
    metrics = evaluate(estimate, curved_path(150), scale_known=True)
    for ours, evos in (("none", "origin"), ("6dof", "se3"), ("7dof", "sim3")):
        evo_rmse_m = metrics["ate"]["alignments"][evos]["translation_m"]["rmse"]
        assert evo_rmse_m == pytest.approx(metrics["kitti"]["alignments"][ours]["ate_rmse_m"], rel=1e-9)
    statistics = {"rmse", "mean", "median", "std", "min", "max", "sse"}
    assert set(metrics["ate"]["alignments"]["se3"]["rotation_deg"]) == statistics


def test_without_evo_a_run_still_gets_its_drift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_spec = importlib.util.find_spec
    without_evo = {"evo": None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: without_evo.get(name, find_spec(name, *rest)))
    metrics = evaluate(curved_path(150), curved_path(150), scale_known=True)
    assert metrics["headline"]["t_rel_percent"] is not None
    entry = metrics["ate"]["alignments"]["se3"]
    assert entry["translation_m"] is None and "pip install evo" in entry["reason"]
    with pytest.raises(MissingDependencyError, match="pip install evo"):
        evaluate_files(tmp_path / "a", tmp_path / "b")


def test_files_are_paired_and_the_pairing_is_told(tmp_path: Path) -> None:
    pytest.importorskip("evo", reason="evo is optional")
    times_s = 0.1 * np.arange(60)
    write_tum(tmp_path / "estimate.tum", times_s[10:40] + 0.004, curved_path(60, 1.02)[10:40])
    write_tum(tmp_path / "truth.tum", times_s, curved_path(60))
    metrics = evaluate_files(tmp_path / "estimate.tum", tmp_path / "truth.tum")
    assert metrics["n_poses_compared"] == 30 and "30 of 30" in metrics["association"]
    # matching moments: only the 2 % of scale are left
    assert metrics["kitti"]["alignments"]["none"]["rpe_mean_m"] == pytest.approx(0.02, rel=1e-3)
    write_kitti(tmp_path / "estimate.txt", curved_path(20))
    write_kitti(tmp_path / "truth.txt", curved_path(60))
    assert "row by row" in evaluate_files(tmp_path / "estimate.txt", tmp_path / "truth.txt")["association"]
