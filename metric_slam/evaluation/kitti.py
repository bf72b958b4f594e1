"""Drift as the KITTI odometry benchmark measures it: relative errors over segments of fixed length.

Geiger et al., *Are we ready for autonomous driving?*, CVPR 2012; the alignments are those of the evaluation program
github.com/Huangying-Zhan/kitti-odom-eval. Every trajectory is first expressed relative to its own first pose.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from metric_slam.geometry.alignment import umeyama, uncentred_scale

Alignment = Literal["none", "scale", "6dof", "7dof", "scale_7dof"]

ALIGNMENTS: dict[Alignment, str] = {
    "none": "no alignment, poses relative to the first",
    "scale": "estimate scaled by sum(x.y)/sum(x.x) of its positions",
    "6dof": "SE(3) Umeyama alignment, scale untouched",
    "7dof": "Sim(3) Umeyama alignment",
    "scale_7dof": "estimate scaled by Umeyama's scale, pose untouched",
}
"""Name of each alignment and what it does to the estimate."""

SEGMENT_LENGTHS_M = (100, 200, 300, 400, 500, 600, 700, 800)
SHORT_SEGMENT_LENGTHS_M = (25, 50)
START_STEP = 10
"""A segment starts at every tenth pose."""


def relative_to_first(T_world_cam: np.ndarray) -> np.ndarray:
    """Poses [N, 4, 4] in the frame of the first one (general inverse: the rotations of text files are not exact)."""
    return np.linalg.inv(T_world_cam[0]) @ T_world_cam


def path_distances_m(T_world_cam: np.ndarray) -> np.ndarray:
    """Distance travelled up to each pose, float64 [N], from 0, in the unit of the positions."""
    steps = np.linalg.norm(np.diff(T_world_cam[:, :3, 3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def aligned_poses(estimate: np.ndarray, truth: np.ndarray, alignment: Alignment) -> np.ndarray:
    """The estimate [N, 4, 4] after ``alignment`` to the truth [N, 4, 4]; both relative to their first pose.

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


def segment_errors(estimate: np.ndarray, truth: np.ndarray, lengths_m: tuple[int, ...]) -> np.ndarray:
    """Errors of all segments, float64 [S, 4]: first pose, length [m], translation error [m], rotation error [rad].

    A segment starts at every tenth pose and ends at the first pose whose distance along the truth is *more* than the
    length away. Error pose: inv(relative estimate) @ relative truth.
    """
    distance_m = path_distances_m(truth)
    first, last, length_m = [], [], []
    for start in range(0, len(truth), START_STEP):
        for length in lengths_m:
            end = int(np.searchsorted(distance_m, distance_m[start] + length, side="right"))
            if end < len(truth):
                first.append(start), last.append(end), length_m.append(length)
    if not first:
        return np.zeros((0, 4))
    delta_truth = np.linalg.inv(truth[first]) @ truth[last]
    delta_estimate = np.linalg.inv(estimate[first]) @ estimate[last]
    error = np.linalg.inv(delta_estimate) @ delta_truth
    return np.stack([first, length_m, np.linalg.norm(error[:, :3, 3], axis=1), rotation_angles_rad(error)], axis=1)


def rotation_angles_rad(T: np.ndarray) -> np.ndarray:
    """Rotation angle of each pose [N, 4, 4] by the benchmark's arccos of the trace, float64 [N]."""
    cosine = 0.5 * (np.trace(T[:, :3, :3], axis1=1, axis2=2) - 1.0)
    return np.arccos(np.clip(cosine, -1.0, 1.0))


def drift(estimate: np.ndarray, truth: np.ndarray, lengths_m: tuple[int, ...]) -> dict[str, Any]:
    """Mean drift over all segments of the given lengths, and per length; null with the reason where there is none.

    ``estimate``, ``truth`` [N, 4, 4], relative to their first poses and aligned as wished.
    """
    errors = segment_errors(estimate, truth, lengths_m)
    result = _mean_drift(errors)
    result["n_segments"] = len(errors)
    result["per_length_m"] = {str(length): _mean_drift(errors[errors[:, 1] == length]) for length in lengths_m}
    total_m = float(path_distances_m(truth)[-1])
    too_short = f"the path is {total_m:.1f} m long: it holds no segment of {lengths_m[0]} m"
    result["reason"] = None if len(errors) else too_short
    return result


def _mean_drift(errors: np.ndarray) -> dict[str, Any]:
    if len(errors) == 0:
        return {"t_rel_percent": None, "r_rel_deg_per_100m": None}
    return {
        "t_rel_percent": float(np.mean(errors[:, 2] / errors[:, 1]) * 100.0),
        "r_rel_deg_per_100m": float(np.degrees(np.mean(errors[:, 3] / errors[:, 1])) * 100.0),
    }


def kitti_errors(estimate: np.ndarray, truth: np.ndarray, alignment: Alignment) -> dict[str, Any]:
    """All figures of the evaluator for one alignment.

    ``estimate``, ``truth`` [N, 4, 4] with N >= 2. Returns t_rel_percent, r_rel_deg_per_100m, n_segments, per_length_m,
    reason, ate_rmse_m (RMSE of positions), rpe_mean_m and rpe_mean_deg (means over consecutive poses) and the protocol.
    Raises EvaluationError where the alignment does not exist.
    """
    truth = relative_to_first(truth)
    estimate = aligned_poses(relative_to_first(estimate), truth, alignment)
    result = drift(estimate, truth, SEGMENT_LENGTHS_M)
    position_error_m = np.linalg.norm(estimate[:, :3, 3] - truth[:, :3, 3], axis=1)
    step_truth = np.linalg.inv(truth[:-1]) @ truth[1:]
    step_estimate = np.linalg.inv(estimate[:-1]) @ estimate[1:]
    step_error = np.linalg.inv(step_truth) @ step_estimate
    result["ate_rmse_m"] = float(np.sqrt(np.mean(position_error_m**2)))
    result["rpe_mean_m"] = float(np.mean(np.linalg.norm(step_error[:, :3, 3], axis=1)))
    result["rpe_mean_deg"] = float(np.degrees(np.mean(rotation_angles_rad(step_error))))
    result["protocol"] = ALIGNMENTS[alignment]
    return result
