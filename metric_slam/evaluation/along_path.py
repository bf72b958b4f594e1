"""Error and scale along the path: curves for the report, no figures to quote."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metric_slam.errors import InputError
from metric_slam.evaluation import kitti
from metric_slam.geometry.alignment import umeyama

SCALE_WINDOW = 20
"""Poses over which the local scale is fitted."""

MIN_WINDOW_PATH_M = 1.0
"""Shortest true path of a window whose scale is fitted, metres."""


@dataclass(frozen=True)
class PathComparison:
    """Estimate and truth in one world: that of the first pose with known truth."""

    estimate: np.ndarray
    """Aligned ``T_world_cam``, float64 [N, 4, 4]."""

    truth: np.ndarray
    """``T_world_cam``, float64 [N, 4, 4]; NaN where unknown."""

    known: np.ndarray
    """bool [N]: rows with truth."""

    protocol: str
    """Alignment of the estimate, in words."""

    fitted: bool
    """True if the estimate was fitted to the truth (unknown scale); else the two only start at the same pose."""


def compare_paths(estimate: np.ndarray, truth: np.ndarray, *, scale_known: bool) -> PathComparison | None:
    """Transform both [N, 4, 4] into the world of the first known pose; Sim(3)-aligned only where the scale is unknown.

    None with fewer than two known poses. Raises EvaluationError where the scale is unknown and no fit exists, and
    InputError for other shapes.
    """
    if estimate.shape != truth.shape or truth.shape[1:] != (4, 4):
        raise InputError(
            f"estimate and truth have shapes {estimate.shape} and {truth.shape}, expected [N, 4, 4] of both"
        )
    known = np.isfinite(truth).all(axis=(1, 2))
    if known.sum() < 2:
        return None
    first = int(np.flatnonzero(known)[0])
    estimate, truth = np.linalg.inv(estimate[first]) @ estimate, np.linalg.inv(truth[first]) @ truth
    alignment: kitti.Alignment = "none"
    if not scale_known:
        alignment = "7dof"
        fit = umeyama(estimate[known, :3, 3], truth[known, :3, 3], with_scale=True)
        estimate = fit.apply_to_poses(estimate)
    return PathComparison(estimate, truth, known, kitti.ALIGNMENTS[alignment], fitted=not scale_known)


def position_error_m(paths: PathComparison) -> tuple[np.ndarray, np.ndarray]:
    """Return distance along the truth [M] and position error there [M], metres, for the M poses with truth."""
    truth, estimate = paths.truth[paths.known], paths.estimate[paths.known]
    return kitti.path_distances_m(truth), np.linalg.norm(estimate[:, :3, 3] - truth[:, :3, 3], axis=1)


def local_scale(estimate: np.ndarray, truth: np.ndarray, window: int = SCALE_WINDOW) -> np.ndarray:
    """Fit Umeyama's scale truth/estimate in a sliding window centred on each pose, float64 [N].

    ``estimate``, ``truth`` [N, 4, 4]. NaN at the ends, where truth is unknown in the window, and where the true path
    in the window is shorter than a metre. Above 1: the estimate is too small there.
    """
    scale = np.full(len(truth), np.nan)
    for start in range(len(truth) - window + 1):
        y = truth[start : start + window, :3, 3]
        x = estimate[start : start + window, :3, 3]
        moved_m = np.linalg.norm(np.diff(y, axis=0), axis=1).sum()
        # NaN compares false, so a window that touches unknown truth is skipped too
        if moved_m >= MIN_WINDOW_PATH_M and np.ptp(x, axis=0).max() > 0.0:
            scale[start + window // 2] = umeyama(x, y, with_scale=True).scale
    return scale
