"""Metric scale from motion: measurements of keyframe pairs by a prior that needs no depth image, such as the road.

Each pair of consecutive keyframes is measured in a worker while the next frame is matched; the answer becomes a
baseline factor. A measurement that a second look does not confirm is withdrawn.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from metric_slam.checkpointable import StateTree, array_in, tree_in
from metric_slam.depth.base import DepthPrior, MotionObservation
from metric_slam.graph.baselines import BaselineFactor
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.keyframe_prior import KeyframePrior
from metric_slam.result import ScaleObservation


@dataclass(frozen=True)
class ScaleLimits:
    """When the scale of a map counts as known."""

    calibration_keyframes: int = 60
    """Latest pairs from which a prior calibrates itself (pitch over the road)."""

    confirmations: int = 3
    """Measurements in force from which the scale is known: a single one may fit by chance."""

    min_used_share: float = 0.1
    """Least share of measurements in force among all that were made. A pair without a road fits by chance in about one
    of a hundred cases; on hilly drives a third is in force."""

    path_ahead_keyframes: int = 100
    """Keyframes of the path driven afterwards that a revision may look at."""


class _Pending(NamedTuple):
    """A measurement in progress."""

    position: int
    length: float
    """Length of the pair's baseline in the map when the measurement began."""

    future: Future[MotionObservation | None]


class MetricScale:
    """Measures keyframe pairs and keeps the baseline factors of those in force."""

    def __init__(
        self, slam_map: SlamMap, prior: DepthPrior, depth: KeyframePrior, limits: ScaleLimits | None = None
    ) -> None:
        self._map, self._prior, self._depth = slam_map, prior, depth
        self._limits = limits or ScaleLimits()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prior")
        self._closed = False
        self._pending: _Pending | None = None
        self._in_force: dict[int, tuple[float, MotionObservation]] = {}
        """Measurements in force by position, with the length of the baseline in the map when each was made."""

        self.first_used: int | None = None
        """Position of the first measurement of the present submap."""

        self._observations: dict[int, ScaleObservation] = {}

    @property
    def measures_motion(self) -> bool:
        """True if the prior measures keyframe pairs at all."""
        return self._prior.measures_motion

    @property
    def cell_sigma(self) -> float:
        """Standard deviation of the relative error of one cell of the prior's depth."""
        return self._depth.cell_sigma

    @property
    def measured(self) -> bool:
        """True if any measurement, or metric depth, supports the present scale."""
        return self._depth.gave_depth or bool(self._in_force)

    @property
    def known(self) -> bool:
        """True while enough measurements in force, or metric depth, make the scale of the map metric."""
        if self._depth.gave_depth:
            return True
        count, limits = len(self._in_force), self._limits
        return count >= limits.confirmations and count >= limits.min_used_share * len(self._observations)

    @property
    def observations(self) -> list[ScaleObservation]:
        """Every measurement of the scale, in the order of the video."""
        return [self._observations[index] for index in sorted(self._observations)]

    def in_force_after(self, position: int) -> int:
        """Number of measurements in force of keyframes after ``position``."""
        return sum(p > position for p in self._in_force)

    def begin_submap(self) -> None:
        """Forget when the scale was first measured: the keyframes to come are not tied to those before."""
        self.collect()
        self.first_used = None

    def observe(self, position: int) -> None:
        """Start the measurement of a keyframe and the one before it in the worker; collect() adds the result."""
        if not self.measures_motion:
            return
        self.collect()
        self.calibrate()
        T = self._map.motion(position - 1, position)
        self._pending = _Pending(position, float(np.linalg.norm(T[:3, 3])), self._begun(position, T))

    def _begun(self, position: int, T_current_previous: np.ndarray) -> Future[MotionObservation | None]:
        """The measurement in the worker, or done at once where :meth:`close` has ended that."""
        if self._closed:
            done: Future[MotionObservation | None] = Future()
            done.set_result(self.measure(position, T_current_previous, search=False))
            return done
        return self._worker.submit(self.measure, position, T_current_previous, search=False)

    def measure(self, position: int, T_current_previous: np.ndarray, *, search: bool) -> MotionObservation | None:
        """Measure the pair that ends at ``position``; ``search``: the present scale may be wrong by a factor."""
        previous, current = self._map[position - 1], self._map[position]
        return self._prior.observe(
            previous.prior_state,
            current.prior_state,
            T_current_previous,
            self._map.camera,
            search=search,
            current_depth=previous.current_depth,
        )

    def calibrate(self, T_next: np.ndarray | None = None) -> None:
        """Let the prior calibrate itself by the latest motions of the submap, and by one [4, 4] that comes next."""
        end = len(self._map)
        begin = max(self._map.submaps.current_begin, end - self._limits.calibration_keyframes)
        T = self._map.T_cam_world(slice(begin, end))
        motions = T[1:] @ np.linalg.inv(T[:-1])
        if T_next is not None:
            motions = np.concatenate([motions, T_next[None]])
        self._prior.calibrate(motions)

    def collect(self) -> None:
        """Wait for the measurement in progress and add its result to the graph.

        Called at fixed points of the schedule, so that results do not depend on the speed of the worker.
        """
        if self._pending is None:
            return
        position, length, future = self._pending
        self._pending = None
        observation = future.result()
        if observation is not None:
            self._note(position, length, observation)

    def _note(self, position: int, length: float, observation: MotionObservation) -> None:
        index = self._map[position].index
        self._observations[index] = ScaleObservation(index, observation.log_ratio, observation.sigma, observation.used)
        if not observation.used:
            self._withdraw(position)
            return
        if self.first_used is None:
            self.first_used = position
        self._in_force[position] = length, replace(observation, previous_depth_m=None)
        self._set_baseline(position, length, observation)
        if observation.previous_depth_m is not None:
            self._map.set_road(position - 1, observation.previous_depth_m)

    def _withdraw(self, position: int) -> None:
        """Remove a measurement that does not hold in a second look, with better poses and a better pitch."""
        if self._in_force.pop(position, None) is not None:
            self._map.graph.baselines.remove(position - 1, position)
            self._map.set_road(position - 1, None)

    def _set_baseline(self, position: int, length: float, observation: MotionObservation) -> None:
        length_m = length * float(np.exp(observation.log_ratio))
        self._map.graph.set_baseline(BaselineFactor(position - 1, position, length_m, observation.sigma))

    def remove_keyframe(self, position: int) -> None:
        """Forget the measurements of a keyframe after it has left the map; later positions decrease by one."""
        assert self._pending is None
        kept = {p: value for p, value in self._in_force.items() if p not in (position, position + 1)}
        self._in_force = {p - (p > position): value for p, value in kept.items()}
        if self.first_used is not None:
            self.first_used -= self.first_used > position

    def revise(self) -> bool:
        """Correct the measurements by the path that was driven afterwards; False if there are none."""
        T_world_cam = self._map.T_world_cam()
        ends = [*self._map.submaps.begins[1:], len(self._map)]
        for position, (length, observation) in self._in_force.items():
            previous = position - 1
            end = next(e for e in ends if e > previous)
            ahead = T_world_cam[previous : min(end, position + self._limits.path_ahead_keyframes), :3, 3]
            path = (ahead - ahead[0]) @ T_world_cam[previous, :3, :3]
            self._set_baseline(position, length, self._prior.revised(observation, path))
        return bool(self._in_force)

    def close(self) -> None:
        """End the worker; what is measured afterwards is measured at once."""
        self.collect()
        self._worker.shutdown()
        self._closed = True

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> StateTree:
        """Arrays for a checkpoint, after :meth:`collect`."""
        assert self._pending is None
        in_force = [(position, length, o.log_ratio, o.sigma) for position, (length, o) in self._in_force.items()]
        observations = [(o.index, o.log_ratio, o.sigma, o.used) for o in self._observations.values()]
        return {
            "in_force": np.array(in_force, np.float64).reshape(-1, 4),
            "in_force_detail": np.array([o.detail for _, o in self._in_force.values()], np.float64),
            "observations": np.array(observations, np.float64).reshape(-1, 4),
            "first_used": np.array(-1 if self.first_used is None else self.first_used),
            "gave_depth": np.array(self._depth.gave_depth),
            "prior": self._prior.state(),
        }

    def restore(self, state: StateTree) -> None:
        """Replace everything by what :meth:`state` returned."""
        details = array_in(state, "in_force_detail").tolist()
        rows = array_in(state, "in_force").tolist()
        for (position, length, log_ratio, sigma), detail in zip(rows, details, strict=True):
            self._in_force[int(position)] = length, MotionObservation(log_ratio, sigma, True, tuple(detail))
        for index, log_ratio, sigma, used in array_in(state, "observations").tolist():
            self._observations[int(index)] = ScaleObservation(int(index), log_ratio, sigma, bool(used))
        first_used = int(array_in(state, "first_used"))
        self.first_used = None if first_used < 0 else first_used
        self._depth.gave_depth = bool(array_in(state, "gave_depth"))
        self._prior.restore({name: array_in(tree_in(state, "prior"), name) for name in tree_in(state, "prior")})
