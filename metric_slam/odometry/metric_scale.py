"""Where the depth prior meets the map: depth of keyframes, and metric baselines from what the prior sees in motion.

A prior that learns from motion (the road) looks at every pair of keyframes on the side, while the next frame is being
matched; its answer becomes a measured baseline in the factor graph. The first keyframes of a submap start at a guess:
from there until some keyframes after the first answer, the recent pairs are measured again with a wide search and the
submap is rescaled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from metric_slam.correspondence.base import Correspondence
from metric_slam.depth.base import CurrentDepth, DepthPrior, MotionObservation
from metric_slam.geometry import lie
from metric_slam.graph.factor_graph import BaselineFactor, FactorGraph
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.graph.moving_mask import detect_moving
from metric_slam.graph.submaps import Submaps
from metric_slam.result import ScaleObservation

log = logging.getLogger(__name__)

_CALIBRATION_KEYFRAMES = 60
_CONFIRMATIONS = 3  # observations in use before a scale is believed: a single one may have been chance
_KEYFRAMES_AHEAD = 100  # more than a prior needs to see of the path that followed


class PriorMaps(NamedTuple):
    """What the prior says about one keyframe, each float64 [h, w]."""

    depth_m: np.ndarray
    confidence: np.ndarray
    weight: np.ndarray


class _Pending(NamedTuple):
    """An observation that is being made."""

    position: int
    length: float
    """Of the pair's baseline in the map when the observation was asked for."""

    future: Future[MotionObservation | None]


class MetricScale:
    """Keeps the map metric."""

    def __init__(
        self, store: KeyframeStore, graph: FactorGraph, prior: DepthPrior, submaps: Submaps, warm_up: int
    ) -> None:
        self._store, self._graph, self._prior, self._submaps = store, graph, prior, submaps
        self._warm_up = warm_up
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prior")
        self._pending: _Pending | None = None
        self._taken: dict[int, tuple[float, MotionObservation]] = {}
        """Observations in use by position, with the length of the baseline in the map when each was made."""

        self._first_used: int | None = None
        self.known = False
        """Has the prior said anything that counts?"""

        self._resumed = False
        """Did the present submap begin with the speed of the one before?"""

        self._observations: dict[int, ScaleObservation] = {}

    @property
    def cell_sigma(self) -> float:
        """Believed relative error of one cell of the prior's depth."""
        return self._prior.relative_sigma

    @property
    def observations(self) -> list[ScaleObservation]:
        """Every measurement of the scale, in the order of the video."""
        return [self._observations[index] for index in sorted(self._observations)]

    def begin_submap(self) -> None:
        """What comes now is not tied to the keyframes before; its scale has to be found anew."""
        self.collect()
        self._first_used = None

    @property
    def settled(self) -> bool:
        """Is the scale of the present submap more than a first guess, as far as this prior can tell?"""
        if not self._prior.measures_motion:
            return True
        if self._first_used is None or len(self._store) - 1 - self._first_used < self._warm_up:
            return False
        return sum(position > self._submap for position in self._taken) >= _CONFIRMATIONS

    @property
    def _submap(self) -> int:
        return self._submaps.current_begin

    def maps(self, prior_state: Any) -> PriorMaps:
        """Prior depth of a keyframe; zeros where nothing is known."""
        camera = self._store.camera
        prediction = self._prior.predict(prior_state, camera)
        if prediction is None:
            zeros = np.zeros((camera.grid().height, camera.grid().width))
            return PriorMaps(zeros, zeros, zeros)
        self.known = self.known or bool(prediction.confidence.any())
        weight = prediction.confidence / self._prior.relative_sigma**2
        return PriorMaps(prediction.depth_m, prediction.confidence, weight)

    def road_inv_depth(self, current_depth: CurrentDepth, baseline: float | None = None) -> np.ndarray | None:
        """Inverse depth [h, w] of the road in every cell of a keyframe, as far as the prior knows it.

        ``baseline``: length of a motion of the keyframe, where the unit of the map may be wrong by a factor.
        """
        return self._prior.road_inv_depth(current_depth, self._store.camera, baseline)

    def detect_moving_cells(self, position: int, expected: np.ndarray, backward: Correspondence) -> None:
        """Notes which cells of a keyframe move, and takes them out of its matches, as far as the road betrays them.

        ``expected`` [h, w]: inverse depths as the keyframe before has them; ``backward``: the matches with that one.
        """
        keyframe, grid = self._store[position], self._store.camera.grid()
        T_before_new = lie.inverse(self._motion(position))
        baseline = None if self.known else float(np.linalg.norm(T_before_new[:3, 3]))
        road = self.road_inv_depth(keyframe.current_depth, baseline)
        if road is None:
            return
        keyframe.moving, keyframe.inv_depth = detect_moving(
            keyframe.moving_cells, keyframe.inv_depth, expected, backward, T_before_new, road, grid
        )
        self._graph.mask_moving_cells(position)

    def of_start(
        self,
        first_state: Any,
        second_state: Any,
        T_second_first: np.ndarray,
        current_depth: CurrentDepth,
        usual_step: float | None,
    ) -> float | None:
        """Metric length of the unit in the first motion [4, 4] of a submap; None where the prior does not see it.

        ``current_depth`` of the first keyframe in that unit. ``usual_step``: what keyframes were apart before
        tracking was lost; a vehicle still moves about as fast, so nothing else is believed. None: nobody knows.
        """
        T, unit = T_second_first.copy(), 1.0 if usual_step is None else usual_step
        T[:3, 3] *= unit
        self._resumed = usual_step is not None
        self._prior.calibrate(np.concatenate([self._recent_motions(), T[None]]))
        observation = self._prior.observe(
            first_state,
            second_state,
            T,
            self._store.camera,
            search=not self._resumed,
            current_depth=CurrentDepth(current_depth.inv_depth / unit, current_depth.moving),
        )
        if observation is None or not observation.used:
            return None
        self.known = True
        return unit * float(np.exp(observation.log_ratio))

    def observe(self, position: int) -> None:
        """Lets the prior look at the motion to a keyframe; :meth:`collect` takes the answer."""
        if not self._prior.measures_motion:
            return
        self.collect()
        self._prior.calibrate(self._recent_motions())
        previous, current, T = self._store[position - 1], self._store[position], self._motion(position)
        future = self._worker.submit(
            self._prior.observe,
            previous.prior_state,
            current.prior_state,
            T,
            self._store.camera,
            search=False,
            current_depth=previous.current_depth,
        )
        self._pending = _Pending(position, float(np.linalg.norm(T[:3, 3])), future)

    def collect(self) -> None:
        """Waits for the answer and puts it into the graph. Called at fixed points, so that results do not depend on how
        fast the worker was."""
        if self._pending is None:
            return
        position, length, future = self._pending
        self._pending = None
        observation = future.result()
        if observation is not None:
            self._note(position, length, observation)

    def _note(self, position: int, length: float, observation: MotionObservation) -> None:
        index = self._store[position].index
        self._observations[index] = ScaleObservation(index, observation.log_ratio, observation.sigma, observation.used)
        if not observation.used:
            self._withdraw(position)
            return
        self.known = True
        if self._first_used is None:
            self._first_used = position
        self._taken[position] = length, replace(observation, previous_depth_m=None)
        self._set_baseline(position, length, observation)
        if observation.previous_depth_m is not None:
            depth_m = observation.previous_depth_m
            self._store.set_shown_prior(position - 1, depth_m, (depth_m > 0).astype(np.float64))

    def _withdraw(self, position: int) -> None:
        """What was believed of a pair does not hold in a second look, with better poses and a better pitch."""
        if self._taken.pop(position, None) is not None:
            self._graph.remove_baseline(position - 1, position)
            nothing = np.zeros_like(self._store[position - 1].inv_depth)
            self._store.set_shown_prior(position - 1, nothing, nothing.copy())

    def _set_baseline(self, position: int, length: float, observation: MotionObservation) -> None:
        length_m = length * float(np.exp(observation.log_ratio))
        self._graph.set_baseline(BaselineFactor(position - 1, position, length_m, observation.sigma))

    def remove_keyframe(self, position: int) -> None:
        """Forgets what was measured to and from a keyframe of the window; those behind it move up by one. Called after
        it has left the store and the graph."""
        assert self._pending is None
        taken = {p: value for p, value in self._taken.items() if p not in (position, position + 1)}
        self._taken = {p - (p > position): value for p, value in taken.items()}
        if self._first_used is not None:
            self._first_used -= self._first_used > position

    def revise(self) -> bool:
        """Lets the prior correct its observations by the path that was driven afterwards; True if there are any."""
        T_world_cam = lie.inverse(lie.pose_vec_to_matrix(self._store.poses(0, len(self._store))))
        ends = [*self._submaps.begins[1:], len(self._store)]
        for position, (length, observation) in self._taken.items():
            previous = position - 1
            end = next(e for e in ends if e > previous)
            ahead = T_world_cam[previous : min(end, position + _KEYFRAMES_AHEAD), :3, 3]
            path = (ahead - ahead[0]) @ T_world_cam[previous, :3, :3]
            self._set_baseline(position, length, self._prior.revised(observation, path))
        return bool(self._taken)

    def settle(self) -> bool:
        """While the scale of a submap is fresh: measure the recent pairs again and rescale; True if anything moved."""
        newest = len(self._store) - 1
        if not self._prior.measures_motion or self.settled:
            return False
        self.collect()
        self._prior.calibrate(self._recent_motions())
        early = newest - self._submap <= 2 * self._warm_up  # a road that is nowhere is not looked for everywhere
        reach = self._warm_up if early or self._first_used is not None else 1
        positions = range(max(self._submap + 1, newest + 1 - reach), newest + 1)
        found = [o for o in (self._search(p) for p in positions) if o is not None and o.used]
        if not found:
            return False
        self.known = True
        self._store.rescale(float(np.exp(np.median([o.log_ratio for o in found]))), self._submap)
        for position in positions:
            self.observe(position)
        self.collect()
        return True

    def _search(self, position: int) -> MotionObservation | None:
        previous, current = self._store[position - 1], self._store[position]
        return self._prior.observe(
            previous.prior_state,
            current.prior_state,
            self._motion(position),
            self._store.camera,
            search=not (self._resumed and position - self._submap <= self._warm_up),
            current_depth=previous.current_depth,
        )

    def _motion(self, position: int) -> np.ndarray:
        """T_current_previous of a keyframe and the one before it, float64 [4, 4]."""
        previous, current = lie.pose_vec_to_matrix(self._store.poses(position - 1, position + 1))
        return current @ lie.inverse(previous)

    def _recent_motions(self) -> np.ndarray:
        """T_next_previous of the latest pairs of keyframes of the submap, float64 [M, 4, 4]."""
        end = len(self._store)
        T = lie.pose_vec_to_matrix(self._store.poses(max(self._submap, end - _CALIBRATION_KEYFRAMES), end))
        return T[1:] @ lie.inverse(T[:-1])

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> dict[str, np.ndarray]:
        """Everything as plain arrays, after :meth:`collect`."""
        assert self._pending is None
        taken = [(position, length, o.log_ratio, o.sigma) for position, (length, o) in self._taken.items()]
        seen = [(o.index, o.log_ratio, o.sigma, o.used) for o in self._observations.values()]
        return {
            "taken": np.array(taken, np.float64).reshape(-1, 4),
            "taken_detail": np.array([o.detail for _, o in self._taken.values()], np.float64),
            "observations": np.array(seen, np.float64).reshape(-1, 4),
            "first_used": np.array(-1 if self._first_used is None else self._first_used),
            "known": np.array(self.known),
            "resumed": np.array(self._resumed),
            **{f"prior/{name}": value for name, value in self._prior.state().items()},
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over a :meth:`state`."""
        details = state["taken_detail"].tolist()
        for (position, length, log_ratio, sigma), detail in zip(state["taken"].tolist(), details, strict=True):
            self._taken[int(position)] = length, MotionObservation(log_ratio, sigma, True, tuple(detail))
        for index, log_ratio, sigma, used in state["observations"].tolist():
            self._observations[int(index)] = ScaleObservation(int(index), log_ratio, sigma, bool(used))
        self._first_used = None if state["first_used"] < 0 else int(state["first_used"])
        self.known, self._resumed = bool(state["known"]), bool(state["resumed"])
        self._prior.restore({key[6:]: value for key, value in state.items() if key.startswith("prior/")})
