"""All figures of one run against its ground truth, each with its protocol; null with a reason where undefined."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from metric_slam.errors import EvaluationError, InputError, MissingDependencyError, OutputError
from metric_slam.evaluation import ate_rpe, gaps, kitti
from metric_slam.evaluation.gaps import Gaps, find_gaps, left_out_reason
from metric_slam.evaluation.kitti import path_distances_m, relative_to_first
from metric_slam.geometry.alignment import umeyama
from metric_slam.trajectory import MAX_TIME_DIFFERENCE_S, associate, read_trajectory

KITTI_PROTOCOL = (
    "KITTI odometry benchmark: mean over all segments of 100, 200 .. 800 m of the true path, a start every 10 poses, "
    "end at the first pose past the length, none across a gap; covered: distinct metres of the true path in segments; "
    "ATE: RMSE of positions; RPE: mean over neighbouring poses; all poses relative to the first"
)
SHORT_PROTOCOL = "as KITTI's, but segments of 25 and 50 m; not comparable with published t_rel"
SCALE_PROTOCOL = "c of the Sim(3) Umeyama fit: truth = c R estimate + t; above 1: the estimate is too small"
ATE_PROTOCOL = "evo APE, all poses; rmse is what papers call ATE"
RPE_PROTOCOL = "evo RPE over successive pairs, chosen along the estimate, none across a gap"

UNDEFINED_WITHOUT_SCALE = "the scale is unknown: metres exist only after a scale was fitted to the truth"

_EVO_ALIGNMENTS: tuple[ate_rpe.EvoAlignment, ...] = ("none", "origin", "se3", "sim3")
_RPE_ALIGNMENTS: tuple[ate_rpe.EvoAlignment, ...] = ("none", "sim3")
_HEADLINE_ALIGNMENT: dict[bool, kitti.Alignment] = {True: "none", False: "7dof"}
"""Alignment of the headline where the scale is known, and where it is not."""

_KEEPS_SCALE = ("none", "6dof", "origin", "se3")
"""Alignments that leave the estimate's own scale in place."""

_DRIFT_KEYS = (
    *("t_rel_percent", "r_rel_deg_per_100m", "n_segments", "n_segments_left_out", "covered_m", "per_length_m"),
)
_RPE_COUNTS = ("n_rpe_pairs", "n_rpe_pairs_left_out")
_KITTI_KEYS = (*_DRIFT_KEYS, "ate_rmse_m", "rpe_mean_m", "rpe_mean_deg", *_RPE_COUNTS)
_EVO_KEYS = ("translation_m", "rotation_deg")
_PAIR_KEYS = (*_EVO_KEYS, "n_pairs", "n_pairs_left_out")

Figures = dict[str, Any]
"""A tree of figures as JSON has it."""

_Name = TypeVar("_Name", bound=str)


def evaluate(
    estimate: np.ndarray, truth: np.ndarray, *, times_s: np.ndarray | None = None, scale_known: bool
) -> Figures:
    """Compare two trajectories pose by pose; the result can be written as JSON as it is.

    ``estimate``, ``truth`` [N, 4, 4] are ``T_world_cam`` of the same camera at the same moments, each in its own world;
    rows of NaN in ``truth`` are unknown and left out. ``times_s`` [N] in seconds gives the duration and shows where
    time was lost. No segment and no pair of poses spans a gap (see :mod:`metric_slam.evaluation.gaps`); how many are
    left out stands beside each figure. ``scale_known`` False: the estimate has no metres, the headline is
    Sim(3)-aligned and figures that need metres are null.
    Raises EvaluationError if the two do not have one row for each other or the estimate is not finite, and InputError
    for times that do not fit.
    """
    estimate, truth = np.asarray(estimate, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    _check(estimate, truth)
    known = np.isfinite(truth).all(axis=(1, 2))
    found = find_gaps(known, times_s)
    result: Figures = {
        "scale_known": bool(scale_known),
        "n_poses": len(estimate),
        "n_poses_compared": int(known.sum()),
        "duration_s": None if times_s is None or not len(times_s) else float(times_s[-1] - times_s[0]),
        "gaps": {
            "protocol": gaps.PROTOCOL,
            "count": found.count,
            "missing_truth": found.missing_truth,
            "lost_time": found.lost_time,
            "frames_without_truth": found.frames_without_truth,
            "longest_s": found.longest_s,
        },
    }
    result.update(_figures(estimate[known], truth[known], scale_known, found))
    result["headline"] = _headline(result, _HEADLINE_ALIGNMENT[scale_known])
    return result


def evaluate_files(
    estimate_path: Path | str,
    truth_path: Path | str,
    *,
    scale_known: bool = True,
    max_difference_s: float = MAX_TIME_DIFFERENCE_S,
) -> Figures:
    """Compare two trajectory files (TUM or KITTI) as :func:`evaluate` does; ``association`` holds how rows were paired.

    Poses of the estimate without a partner count as frames without ground truth.
    Raises EvaluationError for unusable files, and MissingDependencyError without evo: an evaluation on request is
    complete or refused.
    """
    ate_rpe.require_evo()
    estimate, truth = read_trajectory(estimate_path), read_trajectory(truth_path)
    pairs = associate(estimate, truth, max_difference_s)
    paired = np.full_like(estimate.T_world_cam, np.nan)
    paired[pairs.estimate_rows] = truth.T_world_cam[pairs.truth_rows]
    result = evaluate(estimate.T_world_cam, paired, times_s=estimate.times_s, scale_known=scale_known)
    return {"estimate": str(estimate_path), "truth": str(truth_path), "association": pairs.protocol, **result}


def write_metrics(path: Path | str, metrics: Figures) -> None:
    """Write the figures as JSON. Raises OutputError if the file cannot be written."""
    try:
        Path(path).write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): choose another results folder") from error


def _check(estimate: np.ndarray, truth: np.ndarray) -> None:
    for name, poses in (("estimate", estimate), ("ground truth", truth)):
        if poses.ndim != 3 or poses.shape[1:] != (4, 4):
            raise InputError(f"the {name} has shape {poses.shape}, expected [N, 4, 4]")
    if len(estimate) != len(truth):
        raise EvaluationError(f"{len(estimate)} estimated poses against {len(truth)} true ones: pair them first")
    if not np.isfinite(estimate).all():
        row = int(np.flatnonzero(~np.isfinite(estimate).all(axis=(1, 2)))[0])
        raise EvaluationError(f"pose {row} of the estimate is not finite: the run failed there, nothing to compare")


def _figures(estimate: np.ndarray, truth: np.ndarray, scale_known: bool, found: Gaps) -> Figures:
    """Sections of the metrics, from M poses that are all known, with the gaps between them."""
    too_few = f"{len(truth)} poses with ground truth: at least 2 are needed" if len(truth) < 2 else None

    def section(
        aligned: Mapping[_Name, str], keys: tuple[str, ...], compute: Callable[[_Name], Mapping[str, object]]
    ) -> Figures:
        """One entry an alignment: its protocol and its figures."""

        def entry(name: _Name, text: str) -> Figures:
            no_metres = UNDEFINED_WITHOUT_SCALE if not scale_known and name in _KEEPS_SCALE else None
            return {"protocol": text, **_defined(lambda: compute(name), keys, too_few, no_metres)}

        return {name: entry(name, text) for name, text in aligned.items()}

    pair, evo_aligned = (estimate, truth), {name: ate_rpe.ALIGNMENTS[name] for name in _EVO_ALIGNMENTS}
    rpe_aligned: dict[ate_rpe.EvoAlignment, str] = {name: ate_rpe.ALIGNMENTS[name] for name in _RPE_ALIGNMENTS}
    evo, end_alignment = _evo_version(), _HEADLINE_ALIGNMENT[scale_known]
    return {
        "path_length_m": _path_length(truth, too_few, found),
        "fitted_scale": {"protocol": SCALE_PROTOCOL, **_defined(lambda: _fitted_scale(*pair), ("value",), too_few)},
        "end_point": _end_point(*pair, end_alignment, too_few),
        "kitti": {
            "protocol": KITTI_PROTOCOL,
            "alignments": section(kitti.ALIGNMENTS, _KITTI_KEYS, lambda name: kitti.kitti_errors(*pair, name, found)),
        },
        "short_segments": {
            "protocol": SHORT_PROTOCOL,
            "alignments": section(kitti.ALIGNMENTS, _DRIFT_KEYS, lambda name: _short_drift(*pair, name, found)),
        },
        "ate": {
            "tool": evo,
            "protocol": ATE_PROTOCOL,
            "alignments": section(evo_aligned, _EVO_KEYS, lambda name: ate_rpe.absolute_error(*pair, name)),
        },
        "rpe_1_frame": {
            "tool": evo,
            "protocol": RPE_PROTOCOL,
            "alignments": section(rpe_aligned, _PAIR_KEYS, lambda name: _rpe(*pair, name, 1, "frames", found)),
        },
        "rpe_100_m": {
            "tool": evo,
            "protocol": RPE_PROTOCOL,
            "alignments": section(rpe_aligned, _PAIR_KEYS, lambda name: _rpe(*pair, name, 100, "metres", found)),
        },
    }


def _defined(compute: Callable[[], Mapping[str, object]], keys: tuple[str, ...], *reasons: str | None) -> Figures:
    """The computed figures, ``reason`` null unless they bring one; or ``keys`` null and the first reason against."""
    for reason in reasons:
        if reason is not None:
            return {**dict.fromkeys(keys), "reason": reason}
    try:
        return {"reason": None, **compute()}
    except (EvaluationError, MissingDependencyError) as error:
        return {**dict.fromkeys(keys), "reason": str(error)}


def _path_length(truth: np.ndarray, too_few: str | None, found: Gaps) -> Figures:
    def compute() -> Figures:
        steps_m = np.diff(path_distances_m(truth))
        bridged = np.diff(found.stretch) > 0
        return {"value": float(steps_m.sum()), "bridged_m": float(steps_m[bridged].sum())}

    protocol = (
        "sum of the distances between successive known poses of the truth; bridged_m: the part of it that lies in "
        "gaps, each counted as a straight line"
    )
    return {"protocol": protocol, **_defined(compute, ("value", "bridged_m"), too_few)}


def _fitted_scale(estimate: np.ndarray, truth: np.ndarray) -> Figures:
    return {"value": umeyama(estimate[:, :3, 3], truth[:, :3, 3], with_scale=True).scale}


def _short_drift(
    estimate: np.ndarray, truth: np.ndarray, alignment: kitti.Alignment, found: Gaps
) -> kitti.DriftFigures:
    truth = relative_to_first(truth)
    aligned = kitti.aligned_poses(relative_to_first(estimate), truth, alignment)
    return kitti.drift(aligned, truth, kitti.SHORT_SEGMENT_LENGTHS_M, found)


def _end_point(estimate: np.ndarray, truth: np.ndarray, alignment: kitti.Alignment, too_few: str | None) -> Figures:
    def compute() -> Figures:
        relative_truth = relative_to_first(truth)
        aligned = kitti.aligned_poses(relative_to_first(estimate), relative_truth, alignment)
        error_m = float(np.linalg.norm(aligned[-1, :3, 3] - relative_truth[-1, :3, 3]))
        length_m = float(path_distances_m(relative_truth)[-1])
        if length_m <= 0.0:
            return {"error_m": error_m, "error_percent": None, "reason": "the true path does not move"}
        return {"error_m": error_m, "error_percent": 100.0 * error_m / length_m}

    protocol = f"distance of the last position from the true one, in % of the true path; {kitti.ALIGNMENTS[alignment]}"
    return {"protocol": protocol, **_defined(compute, ("error_m", "error_percent"), too_few)}


def _rpe(
    estimate: np.ndarray,
    truth: np.ndarray,
    alignment: ate_rpe.EvoAlignment,
    delta: float,
    unit: ate_rpe.DeltaUnit,
    found: Gaps,
) -> ate_rpe.PairErrors:
    if unit == "metres":
        length_m = float(path_distances_m(estimate)[-1])
        if alignment == "sim3":
            length_m *= umeyama(estimate[:, :3, 3], truth[:, :3, 3], with_scale=True).scale
        if length_m < delta:
            raise EvaluationError(f"the estimated path is {length_m:.1f} m long: it holds no pair {delta:g} m apart")
    return ate_rpe.relative_error(estimate, truth, alignment, delta=delta, unit=unit, gaps=found)


def _evo_version() -> str | None:
    try:
        return f"evo {importlib.metadata.version('evo')}"
    except importlib.metadata.PackageNotFoundError:
        return None


def _headline(metrics: Figures, alignment: kitti.Alignment) -> Figures:
    """The figures to quote, repeated from their sections, with the one protocol that covers them."""
    figures = metrics["kitti"]["alignments"][alignment]
    protocol = f"{kitti.ALIGNMENTS[alignment]}; {KITTI_PROTOCOL}"
    if not metrics["scale_known"]:
        protocol = f"scale unknown, so Sim(3)-aligned to the truth; {KITTI_PROTOCOL}"
    left_out = [
        left_out_reason(figures[key] or 0, what)
        for key, what in (("n_segments_left_out", "segments"), ("n_rpe_pairs_left_out", "pairs of neighbouring poses"))
    ]
    return {
        "alignment": alignment,
        "protocol": protocol,
        "path_length_m": metrics["path_length_m"]["value"],
        **{
            key: figures[key]
            for key in ("t_rel_percent", "r_rel_deg_per_100m", "n_segments", "covered_m", "ate_rmse_m")
        },
        "end_point_error_percent": metrics["end_point"]["error_percent"],
        "fitted_scale": metrics["fitted_scale"]["value"],
        "left_out": "; ".join(filter(None, left_out)) or None,
        "reason": figures["reason"],
    }
