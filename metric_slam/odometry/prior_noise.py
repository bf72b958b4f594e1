"""Noise of the prior's depth, measured where matches alone determine the depth.

A prior that is noisier than its assumed sigma outweighs the flow of each cell, and cells whose depth follows their own
noise bias the motion towards zero (errors in variables: the pose regresses on depths that are off at random). With the
measured variance in the weights the bias vanishes; see benchmarks/prior_noise.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from metric_slam.correspondence.base import Correspondence, confidence_per_cell, unpacked
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from metric_slam.geometry.triangulation import triangulate
from metric_slam.graph.keyframes import Keyframe
from metric_slam.graph.slam_map import PriorGrids, SlamMap

_MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class NoiseLimits:
    """Which cells show the noise of the prior."""

    flow_sigma_px: float = 1.0
    """Standard deviation of one cell's flow, pixels."""

    max_flow_share: float = 0.5
    """Largest error of the triangulated depth, as a share of the assumed sigma; a larger one hides the prior's."""

    min_cells: int = 50
    """Fewer cells do not measure the noise: the error of a standard deviation is 1/sqrt(2 n)."""

    min_confidence: float = 0.5
    """Least confidence of the prior and of the match."""

    inflation: float = 2.0
    """Factor from the measured to the used standard deviation: like the errors of flow, those of neighbouring cells are
    not independent. On the rendered drive, noise of 10 to 30 % changes the scale by up to 0.32 % with 1."""


class PriorNoise:
    """Sets the prior weights of keyframes to confidence over measured variance, at most those of the assumed sigma."""

    def __init__(self, slam_map: SlamMap, sigma: float, limits: NoiseLimits | None = None) -> None:
        """``sigma``: assumed standard deviation of one cell's log depth, the least that is used."""
        self._map, self._sigma, self._limits = slam_map, sigma, limits or NoiseLimits()

    def weighted(self, grids: PriorGrids) -> PriorGrids:
        """The grids of a new keyframe with the noise of the latest keyframe, until its own is measured."""
        if not len(self._map):
            return grids
        latest = self._map[-1]
        weight = np.asarray(latest.prior_weight)
        known = weight > 0
        if not known.any():
            return grids
        variance = float(np.median(np.asarray(latest.prior_confidence)[known] / weight[known]))
        return replace(grids, weight=grids.confidence / max(variance, self._sigma**2))

    def update(self, position: int) -> None:
        """Measure the noise of a keyframe against its matches with the one before it, and set its weights."""
        self._measure(position, position - 1)
        if position - 1 == self._map.submaps.current_begin:
            self._measure(position - 1, position)

    def _measure(self, position: int, other: int) -> None:
        if not self._map.has_prior(position) or (position, other) not in self._map.graph:
            return
        keyframe = self._map[position]
        match = unpacked(self._map.graph.matches_of(position, other))
        motion = self._map.motion(position, other)
        variance = log_depth_variance(keyframe, match, motion, self._map.camera.grid(), self._sigma, self._limits)
        if variance is not None:
            variance = max(self._limits.inflation**2 * variance, self._sigma**2)
            self._map.set_prior_weight(position, np.asarray(keyframe.prior_confidence) / variance)


def log_depth_variance(
    keyframe: Keyframe,
    match: Correspondence,
    T_target_source: np.ndarray,
    grid: PinholeCamera,
    sigma: float,
    limits: NoiseLimits,
) -> float | None:
    """Variance of log prior depth about the triangulated depth, less that of the matches; None: too few cells.

    The median is removed, so neither the scale of the map nor that of the prior counts.
    """
    target = np.asarray(match.target, np.float64)
    inv_depth, cells_per_inv_depth = triangulate(target, T_target_source, grid)
    parallax_px = cells_per_inv_depth * FEATURE_STRIDE * keyframe.inv_depth
    flow_error = limits.flow_sigma_px / np.maximum(parallax_px, 1e-9)
    used = (flow_error < limits.max_flow_share * sigma) & (inv_depth > 0) & (keyframe.moving_cells == 0)
    used &= np.asarray(keyframe.prior_confidence) > limits.min_confidence
    used &= np.asarray(confidence_per_cell(match.confidence)) > limits.min_confidence
    if used.sum() < limits.min_cells:
        return None
    log_ratio = np.log(inv_depth[used] * np.asarray(keyframe.prior_depth_m)[used])
    scatter = _MAD_TO_SIGMA * float(np.median(np.abs(log_ratio - np.median(log_ratio))))
    return max(scatter**2 - float(np.mean(flow_error[used] ** 2)), 0.0)
