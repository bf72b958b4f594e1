"""The spine: frames in, metric trajectory and keyframes out.

    frame -> track against the last keyframe -> motion filter -> keyframe store <- depth prior
                                                                     |
                                              factor graph <- correspondence
                                                                     |
                                              frontend: dense bundle adjustment of a sliding window
    finish -> global bundle adjustment -> pose of every frame
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from metric_slam.choices import choose_correspondence, choose_prior, working_camera
from metric_slam.config import Config
from metric_slam.correspondence.base import CorrespondenceModel
from metric_slam.datasets.base import Dataset
from metric_slam.depth.base import DepthPrior
from metric_slam.factor_graph import FactorGraph
from metric_slam.frame import Frame
from metric_slam.frame_poses import FramePoses
from metric_slam.frontend import Frontend, View
from metric_slam.geometry import lie
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.keyframes import KeyframeStore
from metric_slam.motion_filter import MotionFilter
from metric_slam.result import KeyframeResult, SlamResult
from metric_slam.tracking import FrameTracker

log = logging.getLogger(__name__)

_ORIGIN = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def build_slam(config: Config, dataset: Dataset) -> MetricSlam:
    """The system for one data set; what was chosen automatically is logged and stands in ``choices``."""
    prior, prior_reason = choose_prior(config, dataset)
    model, model_reason = choose_correspondence(config)
    camera = working_camera(config.input, dataset.camera)
    slam = MetricSlam(config, camera, prior, model)
    slam.choices = {
        "prior": f"{prior.name}: {prior_reason}",
        "correspondence": f"{model.name}: {model_reason}",
        "size": f"{camera.width}x{camera.height} from {dataset.camera.width}x{dataset.camera.height}",
    }
    for what, choice in slam.choices.items():
        log.info("%s: %s", what, choice)
    return slam


class MetricSlam:
    """Monocular dense SLAM in metres; give it frames in order, then call :meth:`finish`."""

    def __init__(
        self, config: Config, camera: PinholeCamera, prior: DepthPrior, correspondence: CorrespondenceModel
    ) -> None:
        self.camera = camera
        """Working camera: every frame is resized to it."""
        self.choices: dict[str, str] = {}
        self.timings_s: dict[str, float] = {}
        self._config, self._prior, self._model = config, prior, correspondence
        self._store = KeyframeStore(camera)
        self._graph = FactorGraph(self._store, correspondence, config.bundle_adjustment, prior.scale_sigma)
        self._tracker = FrameTracker(self._store, correspondence, config.bundle_adjustment)
        self._filter = MotionFilter(config.motion_filter)
        self._frontend = Frontend(self._store, self._graph, prior, config.frontend)
        self._frames = FramePoses(self._store, self._tracker)
        self._lost_for = 0

    def process(self, frame: Frame) -> None:
        """Take one frame in: track it, and if the view changed enough make it a keyframe."""
        with self._timed("encode"):
            image = cv2.resize(frame.image, self.camera.size, interpolation=cv2.INTER_AREA)
            features = self._model.encode(image, self.camera)
        if not self._frames.records:
            self._start_segment(frame, image, features, _ORIGIN)
            return
        with self._timed("track"):
            predicted = self._frames.predicted(frame.time_s)
            tracked = self._tracker.track(features, predicted, depth_known=self._frontend.depth_known)
        self._lost_for = 0 if tracked.tracked else self._lost_for + 1
        if self._lost_for > self._config.frontend.max_lost and self._tracker.is_textured(features):
            log.warning("frame %d: tracking was lost, a new segment of the map starts here", frame.index)
            self._start_segment(frame, image, features, predicted)
            return
        is_keyframe = self._filter.wants(tracked)
        if is_keyframe:
            view = View(frame.index, frame.time_s, image, features, self._prepared(frame))
            with self._timed("frontend"):
                is_keyframe = self._frontend.add(view, tracked)
        if is_keyframe:
            self._frames.add_keyframe(frame.index, frame.time_s, tracked=True)
        else:
            self._frames.add(frame.index, frame.time_s, tracked)

    def finish(self) -> SlamResult:
        """Optimise the whole trajectory once more and hand everything out."""
        with self._timed("global_bundle_adjustment"):
            self._frontend.optimise_all()
        with self._timed("frame_poses"):
            T_world_cam = self._frames.final()
        T_world_keyframe = lie.inverse(lie.pose_vec_to_matrix(self._store.poses(0, len(self._store))))
        records = self._frames.records
        return SlamResult(
            frame_indices=np.array([r.index for r in records], np.int64),
            times_s=np.array([r.time_s for r in records]),
            T_world_cam=T_world_cam,
            is_keyframe=np.array([r.is_keyframe for r in records]),
            tracked=np.array([r.tracked for r in records]),
            keyframes=[self._keyframe_result(i, T_world_keyframe[i]) for i in range(len(self._store))],
            scale_source=self._scale_source(),
            scale_observations=sorted(self._frontend.scale.observations, key=lambda o: o.index),
            solver_status_counts=dict(self._graph.status_counts),
            timings_s=dict(self.timings_s),
        )

    # ------------------------------------------------------------------ private

    def _start_segment(self, frame: Frame, image: np.ndarray, features: object, pose: np.ndarray) -> None:
        self._frontend.start(View(frame.index, frame.time_s, image, features, self._prepared(frame)), pose)
        self._frames.add_keyframe(frame.index, frame.time_s, tracked=not self._frames.records)
        self._lost_for = 0

    def _prepared(self, frame: Frame) -> object:
        with self._timed("prior"):
            return self._prior.prepare(frame, self.camera)

    def _scale_source(self) -> str:
        """The prior's name if it has said anything that counts, else ``unknown``."""
        if self._frontend.scale.known:
            return self._prior.name
        if self._prior.metric:
            log.warning("prior %s never measured anything: the scale of this run is unknown", self._prior.name)
        return "unknown"

    def _keyframe_result(self, position: int, T_world_cam: np.ndarray) -> KeyframeResult:
        keyframe = self._store[position]
        has_prior = bool(keyframe.prior_confidence.any())
        return KeyframeResult(
            index=keyframe.index,
            time_s=keyframe.time_s,
            T_world_cam=T_world_cam,
            camera=self.camera,
            image=keyframe.image,
            inv_depth=keyframe.inv_depth.astype(np.float32),
            confidence=self._graph.confidence_of(position).astype(np.float32),
            prior_depth_m=keyframe.prior_depth_m.astype(np.float32) if has_prior else None,
            prior_confidence=keyframe.prior_confidence.astype(np.float32) if has_prior else None,
            prior_log_scale=keyframe.prior_log_scale,
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[stage] = self.timings_s.get(stage, 0.0) + time.perf_counter() - start
