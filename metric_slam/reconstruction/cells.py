"""Cells of a keyframe that may be used, and their agreement with the metric prior."""

from __future__ import annotations

import numpy as np

from metric_slam.errors import InputError
from metric_slam.result import KeyframeResult

PRIOR_AGREEMENT = 0.1
"""Log ratio of optimised and prior depth at which their agreement has fallen to 1/e: ten per cent."""


def usable_confidence(keyframe: KeyframeResult) -> np.ndarray:
    """Confidence of the keyframe's inverse depths, float32 [h, w], 0 in cells to be ignored and where it is not finite.

    Raises InputError where the arrays of the keyframe do not have one shape.
    """
    confidence = np.nan_to_num(keyframe.confidence)
    shape = keyframe.inv_depth.shape
    if confidence.shape != shape:
        raise InputError(f"keyframe {keyframe.index}: confidence has shape {confidence.shape}, inv_depth {shape}")
    if keyframe.ignore_cells is None:
        return confidence
    if keyframe.ignore_cells.shape != shape or keyframe.ignore_cells.dtype != np.bool_:
        found = f"{keyframe.ignore_cells.dtype} {keyframe.ignore_cells.shape}"
        raise InputError(f"keyframe {keyframe.index}: ignore_cells is {found}, expected bool {shape}")
    return np.where(keyframe.ignore_cells, np.float32(0.0), confidence)


def prior_agreement(
    inv_depth: np.ndarray, prior_depth_m: np.ndarray, prior_confidence: np.ndarray, prior_log_scale: float
) -> np.ndarray:
    """Confidence of the prior where the optimised depth agrees with it, 0..1, [h, w]; 0 elsewhere.

    ``inv_depth``, ``prior_depth_m`` (0: none) and ``prior_confidence`` are [h, w]. The measure is the residual of the
    prior in the bundle adjustment, log(d z) + s.
    """
    known = (prior_depth_m > 0) & (inv_depth > 0)
    error = np.log(np.where(known, inv_depth * prior_depth_m, 1.0)) + prior_log_scale
    return np.where(known, prior_confidence, 0.0) * np.exp(-((error / PRIOR_AGREEMENT) ** 2))
