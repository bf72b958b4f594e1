"""The scale of a fresh submap: its first keyframes start at a guess, and are rescaled as soon as it is measured."""

from __future__ import annotations

import numpy as np

from metric_slam.checkpointable import StateTree, array_in
from metric_slam.depth.base import CurrentDepth, DepthPrior
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.metric_scale import MetricScale, ScaleLimits


class ScaleStartup:
    """Finds the scale of the first keyframes of a submap by a wide search and rescales the submap."""

    def __init__(
        self, slam_map: SlamMap, prior: DepthPrior, scale: MetricScale, warm_up: int, limits: ScaleLimits | None = None
    ) -> None:
        """``warm_up``: keyframes for which recent pairs are measured again with a wide search."""
        self._map, self._prior, self._scale, self._warm_up = slam_map, prior, scale, warm_up
        self._limits = limits or ScaleLimits()
        self._resumed = False
        """True if the present submap began with the speed of the one before."""

    @property
    def converged(self) -> bool:
        """True once the scale of the present submap is more than a first guess, as far as this prior measures it."""
        scale = self._scale
        if not scale.measures_motion:
            return True
        if scale.first_used is None or len(self._map) - 1 - scale.first_used < self._warm_up:
            return False
        return scale.in_force_after(self._begin) >= self._limits.confirmations

    @property
    def _begin(self) -> int:
        return self._map.submaps.current_begin

    def first_pair(
        self,
        first_state: object,
        second_state: object,
        T_second_first: np.ndarray,
        current_depth: CurrentDepth,
        usual_step: float | None,
    ) -> float | None:
        """Metric length of the unit in the first motion [4, 4] of a submap; None if the prior cannot measure it.

        ``current_depth`` of the first keyframe in that unit. ``usual_step``: distance of keyframes before tracking was
        lost; a vehicle still moves about as fast, so no other scale is searched. None: unknown.
        """
        T, unit = T_second_first.copy(), 1.0 if usual_step is None else usual_step
        T[:3, 3] *= unit
        self._resumed = usual_step is not None
        self._scale.calibrate(T)
        observation = self._prior.observe(
            first_state,
            second_state,
            T,
            self._map.camera,
            search=not self._resumed,
            current_depth=CurrentDepth(current_depth.inv_depth / unit, current_depth.moving),
        )
        if observation is None or not observation.used:
            return None
        return unit * float(np.exp(observation.log_ratio))

    def rescale_submap(self) -> bool:
        """While the scale has not converged, measure the recent pairs again and rescale; True if anything changed."""
        newest, scale = len(self._map) - 1, self._scale
        if not scale.measures_motion or self.converged:
            return False
        scale.collect()
        scale.calibrate()
        early = newest - self._begin <= 2 * self._warm_up  # later, a road that is nowhere is not searched everywhere
        reach = self._warm_up if early or scale.first_used is not None else 1
        positions = range(max(self._begin + 1, newest + 1 - reach), newest + 1)
        found = [scale.measure(p, self._map.motion(p - 1, p), search=self._search_widely(p)) for p in positions]
        log_ratios = [o.log_ratio for o in found if o is not None and o.used]
        if not log_ratios:
            return False
        self._map.rescale(float(np.exp(np.median(log_ratios))), self._begin)
        for position in positions:
            scale.observe(position)
        scale.collect()
        return True

    def _search_widely(self, position: int) -> bool:
        return not (self._resumed and position - self._begin <= self._warm_up)

    def state(self) -> StateTree:
        """Arrays for a checkpoint."""
        return {"resumed": np.array(self._resumed)}

    def restore(self, state: StateTree) -> None:
        """Replace everything by what :meth:`state` returned."""
        self._resumed = bool(array_in(state, "resumed"))
