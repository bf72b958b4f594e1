"""Drift by the method of the KITTI odometry benchmark: relative errors over segments of fixed length.

Geiger et al., *Are we ready for autonomous driving?*, CVPR 2012; the alignments are those of the evaluation program
github.com/Huangying-Zhan/kitti-odom-eval. Every trajectory is first expressed relative to its own first pose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from metric_slam.evaluation.gaps import Gaps, left_out_reason
from metric_slam.geometry.alignment import umeyama, uncentred_scale

Alignment = Literal["none", "scale", "6dof", "7dof", "scale_7dof"]

ALIGNMENTS: dict[Alignment, str] = {
    "none": "no alignment, poses relative to the first",
    "scale": "estimate scaled by sum(x.y)/sum(x.x) of its positions",
    "6dof": "SE(3) Umeyama alignment, scale untouched",
    "7dof": "Sim(3) Umeyama alignment",
    "scale_7dof": "estimate scaled by Umeyama's scale, pose untouched",
}
"""Name of each alignment and its effect on the estimate."""

SEGMENT_LENGTHS_M = (100, 200, 300, 400, 500, 600, 700, 800)
SHORT_SEGMENT_LENGTHS_M = (25, 50)
START_STEP = 10
"""A segment starts at every tenth pose."""


class MeanDrift(TypedDict):
    """Mean errors over some segments; null where there are none."""

    t_rel_percent: float | None
    r_rel_deg_per_100m: float | None
    n_segments: int


class DriftFigures(MeanDrift):
    """Drift over all segments, and over those of each length."""

    n_segments_left_out: int
    """Segments that span a gap."""

    covered_m: float
    """Metres of the true path that lie in at least one segment: segments overlap, so n x length says little."""

    per_length_m: dict[str, MeanDrift]

    reason: str | None
    """Why there is no figure."""


class KittiFigures(DriftFigures):
    """All figures of the evaluator."""

    ate_rmse_m: float
    rpe_mean_m: float | None
    rpe_mean_deg: float | None
    n_rpe_pairs: int
    n_rpe_pairs_left_out: int
    protocol: str


def relative_to_first(T_world_cam: np.ndarray) -> np.ndarray:
    """Express poses [N, 4, 4] in the frame of the first (general inverse: rotations of text files are not exact)."""
    return np.linalg.inv(T_world_cam[0]) @ T_world_cam


def path_distances_m(T_world_cam: np.ndarray) -> np.ndarray:
    """Compute the distance travelled up to each pose, float64 [N], from 0, in the unit of the positions."""
    steps = np.linalg.norm(np.diff(T_world_cam[:, :3, 3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def aligned_poses(estimate: np.ndarray, truth: np.ndarray, alignment: Alignment) -> np.ndarray:
    """Align the estimate [N, 4, 4] to the truth [N, 4, 4]; both relative to their first pose.

    Raises EvaluationError where the alignment does not exist (a path that does not move).
    """
    x, y = estimate[:, :3, 3], truth[:, :3, 3]
    if alignment == "none":
        return estimate
    if alignment in ("6dof", "7dof"):
        return umeyama(x, y, with_scale=alignment == "7dof").apply_to_poses(estimate)
    scale = uncentred_scale(x, y) if alignment == "scale" else umeyama(x, y, with_scale=True).scale
    scaled = estimate.copy()
    scaled[:, :3, 3] *= scale
    return scaled


@dataclass(frozen=True)
class Segments:
    """Segments of fixed length along the true path."""

    first: np.ndarray
    """First pose of each segment, int64 [S]."""

    last: np.ndarray
    """Last pose, int64 [S]."""

    length_m: np.ndarray
    """Nominal length in metres, int64 [S]."""

    left_out: int
    """Segments that are not among them because they span a gap."""


def segments(truth: np.ndarray, lengths_m: tuple[int, ...], gaps: Gaps | None = None) -> Segments:
    """List the segments of the true path [N, 4, 4] that span no gap.

    A segment starts at every tenth pose and ends at the first pose whose distance along the truth is *more* than the
    length away.
    """
    distance_m = path_distances_m(truth)
    found: list[tuple[int, int, int]] = []
    for start in range(0, len(truth), START_STEP):
        for length in lengths_m:
            end = int(np.searchsorted(distance_m, distance_m[start] + length, side="right"))
            if end < len(truth):
                found.append((start, end, length))
    first, last, length_m = np.array(found, np.int64).reshape(-1, 3).T
    kept = np.ones(len(first), bool) if gaps is None else ~gaps.spanned(first, last)
    return Segments(first[kept], last[kept], length_m[kept], int((~kept).sum()))


def covered_m(truth: np.ndarray, parts: Segments) -> float:
    """Sum the metres of the true path [N, 4, 4] that lie in at least one segment."""
    steps_m = np.diff(path_distances_m(truth))
    inside = np.zeros(len(steps_m) + 1, np.int64)
    np.add.at(inside, parts.first, 1)
    np.add.at(inside, parts.last, -1)
    return float(steps_m[np.cumsum(inside)[:-1] > 0].sum())


def segment_errors(estimate: np.ndarray, truth: np.ndarray, parts: Segments) -> np.ndarray:
    """Compute the errors of S segments, float64 [S, 2]: translation [m] and rotation [rad].

    Error pose: inv(relative estimate) @ relative truth.

    ``estimate``, ``truth`` [N, 4, 4].
    """
    delta_truth = np.linalg.inv(truth[parts.first]) @ truth[parts.last]
    delta_estimate = np.linalg.inv(estimate[parts.first]) @ estimate[parts.last]
    error = np.linalg.inv(delta_estimate) @ delta_truth
    return np.stack([np.linalg.norm(error[:, :3, 3], axis=1), rotation_angles_rad(error)], axis=1)


def rotation_angles_rad(T: np.ndarray) -> np.ndarray:
    """Compute the angle of each pose [N, 4, 4] by the benchmark's arccos of the trace, float64 [N], rad."""
    cosine = 0.5 * (np.trace(T[:, :3, :3], axis1=1, axis2=2) - 1.0)
    return np.arccos(np.clip(cosine, -1.0, 1.0))


def drift(
    estimate: np.ndarray, truth: np.ndarray, lengths_m: tuple[int, ...], gaps: Gaps | None = None
) -> DriftFigures:
    """Average the drift over all segments of the given lengths, and per length; null with the reason without any.

    ``estimate``, ``truth`` [N, 4, 4], relative to their first poses and aligned as wished.
    """
    parts = segments(truth, lengths_m, gaps)
    errors = segment_errors(estimate, truth, parts)
    reason = None
    if not len(errors):
        total_m = float(path_distances_m(truth)[-1])
        reason = f"the path is {total_m:.1f} m long: it holds no segment of {lengths_m[0]} m"
        reason = f"no segment is left: {left_out_reason(parts.left_out, 'segments')}" if parts.left_out else reason
    per_length = {
        str(m): _mean_drift(errors[parts.length_m == m], parts.length_m[parts.length_m == m]) for m in lengths_m
    }
    return {
        **_mean_drift(errors, parts.length_m),
        "n_segments": len(errors),
        "n_segments_left_out": parts.left_out,
        "covered_m": covered_m(truth, parts),
        "per_length_m": per_length,
        "reason": reason,
    }


def _mean_drift(errors: np.ndarray, length_m: np.ndarray) -> MeanDrift:
    if len(errors) == 0:
        return {"t_rel_percent": None, "r_rel_deg_per_100m": None, "n_segments": 0}
    return {
        "t_rel_percent": float(np.mean(errors[:, 0] / length_m) * 100.0),
        "r_rel_deg_per_100m": float(np.degrees(np.mean(errors[:, 1] / length_m)) * 100.0),
        "n_segments": len(errors),
    }


def kitti_errors(
    estimate: np.ndarray, truth: np.ndarray, alignment: Alignment, gaps: Gaps | None = None
) -> KittiFigures:
    """Compute all figures of the evaluator for one alignment.

    ``estimate``, ``truth`` [N, 4, 4] with N >= 2; ``gaps`` of these N poses, None: there are none. ATE is the RMSE of
    positions; RPE is the mean over neighbouring poses, null where a gap separates all of them.
    Raises EvaluationError where the alignment does not exist.
    """
    truth = relative_to_first(truth)
    estimate = aligned_poses(relative_to_first(estimate), truth, alignment)
    position_error_m = np.linalg.norm(estimate[:, :3, 3] - truth[:, :3, 3], axis=1)
    first = np.arange(len(truth) - 1)
    kept = first if gaps is None else first[~gaps.spanned(first, first + 1)]
    step_truth = np.linalg.inv(truth[kept]) @ truth[kept + 1]
    step_estimate = np.linalg.inv(estimate[kept]) @ estimate[kept + 1]
    step_error = np.linalg.inv(step_truth) @ step_estimate
    return {
        **drift(estimate, truth, SEGMENT_LENGTHS_M, gaps),
        "ate_rmse_m": float(np.sqrt(np.mean(position_error_m**2))),
        "rpe_mean_m": float(np.mean(np.linalg.norm(step_error[:, :3, 3], axis=1))) if len(kept) else None,
        "rpe_mean_deg": float(np.degrees(np.mean(rotation_angles_rad(step_error)))) if len(kept) else None,
        "n_rpe_pairs": len(kept),
        "n_rpe_pairs_left_out": len(first) - len(kept),
        "protocol": ALIGNMENTS[alignment],
    }
