"""Drift, ATE and RPE of two trajectory files against kitti-odom-eval and evo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from metric_slam.errors import EvaluationError, MissingDependencyError
from metric_slam.evaluation import ate_rpe, kitti
from metric_slam.trajectory import read_trajectory
from parity_checks import Fixture, FixtureError, Row, compare

TOLERANCE = 1e-6
"""Of each figure in its own unit (percent, degrees, metres), relative to the figure where it is above 1."""

OUR_NAMES = {
    "t_rel_percent": "t_rel_percent",
    "r_rel_deg_per_100m": "r_rel_deg_per_100m",
    "ate_m": "ate_rmse_m",
    "rpe_m": "rpe_mean_m",
    "rpe_deg": "rpe_mean_deg",
    "n_segment_errors": "n_segments",
}
"""Figure of the fixture and ours."""

DELTAS: dict[str, dict[str, Any]] = {
    "1_frame": {"delta": 1, "unit": "frames"},
    "10_frames": {"delta": 10, "unit": "frames"},
    "10_frames_all_pairs": {"delta": 10, "unit": "frames", "all_pairs": True},
    "100_m": {"delta": 100, "unit": "metres"},
}


def check(data: Fixture) -> list[Row]:
    """Evaluate the trajectories that lie beside the fixture; one row a figure."""
    try:
        truth = read_trajectory(data.path.parent / data["ground_truth"]).T_world_cam
        estimate = read_trajectory(data.path.parent / data["estimate"]).T_world_cam
        rows = [compare("n_poses", len(estimate), data["n_poses"], 0)]
        rows += _kitti_rows(estimate, truth, data["kitti_odom_eval"]["results"])
        return rows + list(_evo_rows(estimate, truth, data["evo"]["results"]))
    except (EvaluationError, MissingDependencyError) as error:
        raise FixtureError(str(error)) from error


def _kitti_rows(estimate: np.ndarray, truth: np.ndarray, results: dict[str, Any]) -> list[Row]:
    rows = []
    for alignment, reference in results.items():
        ours = kitti.kitti_errors(estimate, truth, alignment)
        for theirs, our_name in OUR_NAMES.items():
            rows.append(_row(f"kitti {alignment} {theirs}", [ours[our_name]], [reference[theirs]]))
        pairs = [
            (ours["per_length_m"][length][figure], value)
            for length, figures in reference["per_length"].items()
            for figure, value in figures.items()
        ]
        rows.append(_row(f"kitti {alignment} per length", *zip(*pairs, strict=True)))
    return rows


def _evo_rows(estimate: np.ndarray, truth: np.ndarray, results: dict[str, Any]) -> Iterator[Row]:
    for alignment, reference in results["ape"].items():
        ours = ate_rpe.absolute_error(estimate, truth, alignment)
        yield from _statistics_rows(f"evo ape {alignment}", ours, reference)
    for alignment, by_delta in results["rpe"].items():
        for delta, reference in by_delta.items():
            ours = ate_rpe.relative_error(estimate, truth, alignment, **DELTAS[delta])
            yield from _statistics_rows(f"evo rpe {alignment} {delta}", ours, reference)


def _statistics_rows(name: str, ours: dict[str, Any], reference: dict[str, Any]) -> Iterator[Row]:
    for part in ("translation_m", "rotation_deg"):
        statistics = ours[part]
        yield _row(f"{name} {part}", list(statistics.values()), [reference[part][key] for key in statistics])


def _row(output: str, ours: Any, reference: Any) -> Row:
    unit = np.maximum(1.0, np.abs(np.asarray(reference, dtype=np.float64)))
    return compare(output, np.asarray(ours, dtype=np.float64) / unit, np.asarray(reference) / unit, TOLERANCE)
