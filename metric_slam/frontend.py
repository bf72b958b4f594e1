"""The sliding window: takes tracked keyframes in, keeps poses, inverse depths and the metric scale of the recent ones.

New keyframe -> edges -> bundle adjustment of the window -> the prior looks at the motion (road) -> metric baselines
enter the graph -> the next solve pulls the scale. The first keyframes start from matches alone and are given their
scale as soon as a prior has one.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metric_slam.config import FrontendConfig
from metric_slam.depth.base import DepthPrior, MotionObservation
from metric_slam.edge_selection import new_keyframe_pairs
from metric_slam.factor_graph import BaselineFactor, FactorGraph
from metric_slam.geometry import lie
from metric_slam.keyframes import Keyframe, KeyframeStore
from metric_slam.result import ScaleObservation
from metric_slam.tracking import TrackedFrame, carry_depth, motion_from_matches

log = logging.getLogger(__name__)

_CALIBRATION_KEYFRAMES = 60  # enough to average the body's pitching, few enough to follow a change of load
_START_DEPTH = 10.0  # of cells nobody knows anything about, metres or units


@dataclass(frozen=True)
class View:
    """A frame on its way to become a keyframe."""

    index: int
    time_s: float
    image: np.ndarray
    """uint8 [H, W, 3] RGB at working resolution."""

    features: Any
    prior_state: Any

    def keyframe(
        self, pose: np.ndarray, inv_depth: np.ndarray, prior_depth_m: np.ndarray, prior_weight: np.ndarray
    ) -> Keyframe:
        """The keyframe with its first estimate; see :class:`metric_slam.keyframes.Keyframe`."""
        return Keyframe(
            self.index,
            self.time_s,
            self.image,
            self.features,
            self.prior_state,
            pose,
            inv_depth,
            prior_depth_m,
            prior_weight,
        )


class _Pending(NamedTuple):
    """An observation that is being made."""

    position: int
    length: float
    """Of the pair's baseline in the map when the observation was asked for."""

    future: Future[MotionObservation | None]


class Frontend:
    """Owns the order of work on keyframes; state lives in the store and the graph."""

    def __init__(
        self, store: KeyframeStore, graph: FactorGraph, prior: DepthPrior, config: FrontendConfig
    ) -> None:
        self._store, self._graph, self._prior, self._config = store, graph, prior, config
        self.scale_observations: list[ScaleObservation] = []
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prior")
        self._pending: _Pending | None = None
        self.segments: list[int] = []
        """Positions of the keyframes at which the chain of matches begins: 0, and more where tracking was lost."""

    def start(self, view: View, pose: np.ndarray) -> None:
        """The first keyframe of the video, or of a new segment after a loss: ``pose`` T_cam_world [7] is given."""
        depth, weight = self._prior_maps(view.prior_state)
        position = self._store.append(view.keyframe(pose, self._filled(depth, weight), depth, weight))
        self.segments.append(position)

    @property
    def depth_known(self) -> bool:
        """Can a new frame be tracked against the last keyframe's depth?"""
        position = len(self._store) - 1
        return position > self._segment or bool(self._store[position].prior_weight.any())

    @property
    def _segment(self) -> int:
        return self.segments[-1]

    def add(self, view: View, frame: TrackedFrame) -> bool:
        """A further keyframe; False if the start of a segment shows too little parallax to begin with it."""
        store, graph, cfg = self._store, self._graph, self._config
        pose = frame.pose
        if not self.depth_known:
            start_pose = self._triangulate_start(view.prior_state, frame)
            if start_pose is None:
                return False
            pose = start_pose
        last = store[-1]
        depth, weight = self._prior_maps(view.prior_state)
        inv_depth = carry_depth(last, pose, frame.backward, store.camera)
        position = store.append(view.keyframe(pose, inv_depth, depth, weight))
        graph.add_matched(position - 1, position, frame.forward)
        graph.add_matched(position, position - 1, frame.backward)
        graph.match_pairs([p for p in new_keyframe_pairs(position, cfg) if min(p) >= self._segment])
        self._collect_observation()
        self._solve(position)
        self._prior.calibrate(self._recent_motions())
        self._observe(position)
        if len(self.segments) == 1 and len(store) <= cfg.warm_up:
            self._collect_observation()
            self._repeat_observations()
        store.retire_before(position - max(cfg.radius, cfg.warm_up))
        return True

    def _solve(self, position: int) -> None:
        cfg = self._config
        end = position + 1
        begin = max(self._segment, end - cfg.window)
        carries_scale = begin > self._segment and not self._graph.is_metric(begin, end)
        fixed = cfg.fixed if carries_scale else 1
        self._graph.solve(begin, end, set(range(begin, begin + fixed)), cfg.iterations)

    def optimise_all(self) -> None:
        """Bundle adjustment over the whole trajectory; the first pose of every segment stays."""
        self._collect_observation()
        iterations = self._config.final_iterations
        if len(self._store) > 2 and iterations > 0:
            self._graph.solve(0, len(self._store), set(self.segments), iterations, thorough=True)

    # ------------------------------------------------------------------ start

    def _triangulate_start(self, prior_state: Any, frame: TrackedFrame) -> np.ndarray | None:
        """Two views without depth: relative pose up to scale; the second keyframe's motion is the unit of length,
        until a prior measures it."""
        store = self._store
        motion = motion_from_matches(frame.forward, store.camera)
        if motion is None:
            return None
        T_second_first, inv_depth = motion
        first = store[-1]
        known = np.isfinite(inv_depth)
        first.inv_depth = np.where(known, inv_depth, np.nanmedian(inv_depth))
        self._prior.calibrate(np.concatenate([self._recent_motions(), T_second_first[None]]))
        observation = self._prior.observe(first.prior_state, prior_state, T_second_first, search=True)
        scale = float(np.exp(observation.log_ratio)) if observation is not None else self._usual_step()
        if self._prior.metric and observation is None:
            log.warning("keyframe %d does not show the road: the scale of its segment starts at a guess", len(store))
        first.inv_depth = first.inv_depth / scale
        T_second_first[:3, 3] *= scale
        return lie.matrix_to_pose_vec(T_second_first @ lie.pose_vec_to_matrix(first.pose))

    def _usual_step(self) -> float:
        """Median distance between recent keyframes: the best guess of the next one; 1 at the start of the video."""
        centres = lie.inverse(lie.pose_vec_to_matrix(self._store.poses(0, len(self._store))))[:, :3, 3]
        steps = np.linalg.norm(np.diff(centres[-20:], axis=0), axis=1)
        return float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0

    def _repeat_observations(self) -> None:
        """While the start settles, the pitch and the poses still change: measure every pair again and rescale."""
        store = self._store
        self._prior.calibrate(self._recent_motions())
        ratios = []
        for position in range(1, len(store)):
            observation = self._measure(position, search=True)
            if observation is not None and observation.used:
                ratios.append((observation.log_ratio, observation.sigma))
        if not ratios:
            return
        correction = float(np.median([r for r, _ in ratios]))
        store.rescale(float(np.exp(correction)))
        for position in range(1, len(store)):
            self._observe(position)
            self._collect_observation()
        self._solve(len(store) - 1)

    def _recent_motions(self) -> np.ndarray:
        """T_next_previous of the latest pairs of keyframes, float64 [M, 4, 4]."""
        T = lie.pose_vec_to_matrix(self._store.poses(max(0, len(self._store) - _CALIBRATION_KEYFRAMES), len(self._store)))
        return T[1:] @ lie.inverse(T[:-1])

    # ------------------------------------------------------------------ prior

    def _prior_maps(self, prior_state: Any) -> tuple[np.ndarray, np.ndarray]:
        """Depth [h, w] in metres and weight [h, w] = confidence / variance; zeros where nothing is known."""
        grid = self._store.camera.grid()
        prediction = self._prior.predict(prior_state, self._store.camera)
        if prediction is None:
            return np.zeros((grid.height, grid.width)), np.zeros((grid.height, grid.width))
        return prediction.depth_m, prediction.confidence / self._prior.relative_sigma**2

    def _filled(self, depth_m: np.ndarray, weight: np.ndarray) -> np.ndarray:
        known = weight > 0
        fill = float(np.median(depth_m[known])) if known.any() else _START_DEPTH
        return 1.0 / np.where(known, np.maximum(depth_m, 0.1), fill)

    def _measure(self, position: int, *, search: bool) -> MotionObservation | None:
        previous, current = self._store[position - 1], self._store[position]
        return self._prior.observe(previous.prior_state, current.prior_state, self._motion(position), search=search)

    def _motion(self, position: int) -> np.ndarray:
        """T_current_previous of a keyframe and the one before it, float64 [4, 4]."""
        previous, current = lie.pose_vec_to_matrix(self._store.poses(position - 1, position + 1))
        return current @ lie.inverse(previous)

    def _observe(self, position: int) -> None:
        """Lets the prior look at the motion to a keyframe, on the side: the next frame is matched meanwhile."""
        previous, current, T = self._store[position - 1], self._store[position], self._motion(position)
        future = self._worker.submit(
            self._prior.observe, previous.prior_state, current.prior_state, T, search=False
        )
        self._pending = _Pending(position, float(np.linalg.norm(T[:3, 3])), future)

    def _collect_observation(self) -> None:
        """What the prior learnt becomes a metric baseline in the graph. Always before the next solve, so that the
        result does not depend on how fast the worker was."""
        if self._pending is None:
            return
        position, length, future = self._pending
        self._pending = None
        observation = future.result()
        if observation is None:
            return
        index = self._store[position].index
        self.scale_observations = [o for o in self.scale_observations if o.index != index]
        self.scale_observations.append(
            ScaleObservation(index, observation.log_ratio, observation.sigma, observation.used)
        )
        if observation.used:
            length_m = length * float(np.exp(observation.log_ratio))
            self._graph.set_baseline(BaselineFactor(position - 1, position, length_m, observation.sigma))
