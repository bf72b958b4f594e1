"""The spine: frames in, metric trajectory and keyframes out.

frame -> track against the last keyframe -> motion filter -> keyframe store <- depth prior
                                                                 |
                                          factor graph <- correspondence
                                                                 |
                                          frontend: dense bundle adjustment of a sliding window
                                                                 |
                  loop closure: place seen before? -> pose graph -> backend: global bundle adjustment
finish -> global bundle adjustment -> pose of every frame
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import cv2
import numpy as np

from metric_slam.config.schema import Config
from metric_slam.correspondence.base import CorrespondenceModel, RecurrentModel
from metric_slam.datasets.base import Dataset
from metric_slam.depth.base import DepthPrior
from metric_slam.disk_store import DiskStore
from metric_slam.factory import choose_accelerator, choose_correspondence, choose_prior, working_camera
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.graph.submaps import Submaps
from metric_slam.loops.closure import LoopClosure
from metric_slam.odometry.droid.active_edges import ActiveEdges
from metric_slam.odometry.droid.frame_poses import DroidFramePoses
from metric_slam.odometry.droid.global_updates import GlobalUpdates
from metric_slam.odometry.droid.odometry import DroidOdometry, is_textured
from metric_slam.odometry.droid.sliding_window import DroidSlidingWindow
from metric_slam.odometry.frame_poses import FramePoses
from metric_slam.odometry.motion_filter import MotionFilter
from metric_slam.odometry.sliding_window import KeyframeCandidate, SlidingWindow
from metric_slam.odometry.tracking import FrameTracker
from metric_slam.optimization.cuda.kernels import Accelerator
from metric_slam.reconstruction.keyframe_results import keyframe_results
from metric_slam.result import SlamResult

log = logging.getLogger(__name__)

_ORIGIN = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def build_slam(config: Config, dataset: Dataset, disk: DiskStore | None = None) -> MetricSlam:
    """The system for one data set; what was chosen automatically is logged and stands in ``choices``.

    ``disk`` takes images and matches that leave memory; None: a temporary file.
    """
    prior, prior_reason = choose_prior(config, dataset)
    model, model_reason = choose_correspondence(config)
    accelerator, kernels = choose_accelerator(config)
    camera = working_camera(config.input, dataset.camera)
    slam = MetricSlam(config, camera, prior, model, disk, accelerator)
    slam.choices = {
        "prior": f"{prior.name}: {prior_reason}",
        "correspondence": f"{model.name}: {model_reason}",
        "bundle_adjustment": kernels,
        "size": f"{camera.width}x{camera.height} from {dataset.camera.width}x{dataset.camera.height}",
    }
    for what, choice in slam.choices.items():
        log.info("%s: %s", what, choice)
    return slam


class MetricSlam:
    """Monocular dense SLAM in metres; give it frames in order, then call :meth:`finish`."""

    def __init__(
        self,
        config: Config,
        camera: PinholeCamera,
        prior: DepthPrior,
        correspondence: CorrespondenceModel,
        disk: DiskStore | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        """``accelerator`` takes bundle adjustment over; None: the CPU keeps it."""
        self.camera = camera
        """Working camera: every frame is resized to it."""
        self.choices: dict[str, str] = {}
        self.timings_s: dict[str, float] = {}
        solver = config.bundle_adjustment
        self._config, self._prior, self._model = config, prior, correspondence
        self._store = KeyframeStore(camera, disk)
        self._submaps = Submaps()
        self._graph = FactorGraph(self._store, correspondence, solver, prior.scale_sigma, accelerator)
        self._tracker = FrameTracker(self._store, correspondence, solver)
        self._filter = MotionFilter(config.motion_filter)
        self._frontend: SlidingWindow | DroidSlidingWindow
        self._backend: GlobalBundleAdjustment
        self._frames: FramePoses
        if correspondence.recurrent:
            active = self._make_recurrent_parts(cast(RecurrentModel, correspondence))
        else:
            self._frontend = SlidingWindow(self._store, self._graph, prior, self._submaps, config.sliding_window)
            self._backend = GlobalBundleAdjustment(self._store, self._graph, self._submaps, config.global_ba, solver)
            self._frames = FramePoses(self._store, self._tracker)
        self._loops = LoopClosure(
            self._store,
            self._graph,
            self._tracker,
            correspondence,
            self._submaps,
            self._frontend.scale,
            self._backend,
            config.loop,
        )
        self._recurrent = self._make_recurrent_path(active) if correspondence.recurrent else None
        self._lost_for = 0

    def process(self, frame: Frame) -> None:
        """Take one frame in: track it, and if the view changed enough make it a keyframe."""
        if self._filter.likely_keyframe:
            self._prior.prefetch(frame, self.camera)
        with self._timed("encode"):
            image = self._resized(frame)
            features = self._model.encode(image, self.camera)
        if not self._frames.records:
            self._start_submap(frame, image, features, _ORIGIN)
            return
        if self._recurrent is not None:
            self._process_recurrent(self._recurrent, frame, image, features)
            return
        with self._timed("track"):
            predicted = self._frames.predicted(frame.time_s)
            tracked = self._tracker.track(features, predicted, depth_known=self._frontend.depth_known)
        self._lost_for = 0 if tracked.tracked else self._lost_for + 1
        if self._lost_for > self._config.sliding_window.max_lost and self._tracker.is_textured(features):
            self._start_again(frame, image, features, predicted)
            return
        is_keyframe = self._filter.wants(tracked)
        if is_keyframe:
            view = KeyframeCandidate(frame.index, frame.time_s, image, features, self._prepared(frame))
            with self._timed("frontend"):
                is_keyframe = self._frontend.add(view, tracked)
        with self._timed("frames_between"):
            if is_keyframe:
                self._frames.add_keyframe(frame.index, frame.time_s, tracked=True, inlier_ratio=tracked.inlier_ratio)
            else:
                moved = tracked.mean_flow_px >= self._config.motion_filter.still_flow_px
                self._frames.add(frame.index, frame.time_s, features, tracked, moved=moved)
        if is_keyframe:
            with self._timed("loops"):
                self._loops.look(len(self._store) - 1)

    def finish(self) -> SlamResult:
        """Optimise the whole trajectory once more and hand everything out."""
        if self._recurrent is not None:
            self._recurrent.finish()
        with self._timed("global_bundle_adjustment"):
            self._loops.finish()
            self._backend.finish(self._frontend.scale)
        with self._timed("frame_poses"):
            T_world_cam = self._frames.final()
        records = self._frames.records
        return SlamResult(
            frame_indices=np.array([r.index for r in records], np.int64),
            times_s=np.array([r.time_s for r in records]),
            T_world_cam=T_world_cam,
            is_keyframe=np.array([r.is_keyframe for r in records]),
            tracked=np.array([r.tracked for r in records]),
            keyframes=keyframe_results(self._store, self._graph, self._model, self._timed),
            scale_source=self._scale_source(),
            scale_observations=self._frontend.scale.observations,
            solver_status_counts=dict(self._graph.status_counts),
            inlier_ratio=np.array([r.inlier_ratio for r in records]),
            submap=np.array([self._submaps.component(self._store[r.keyframe].submap) for r in records], np.int64),
            loops=self._loops.results(),
            timings_s=dict(self.timings_s),
        )

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next frame needs, as plain arrays; what is large goes to the disk first."""
        self._frontend.scale.collect()  # an answer that is due changes store and graph
        parts = {
            "store": self._store.state(),
            "graph": self._graph.state(),
            "submaps": self._submaps.state(),
            "scale": self._frontend.scale.state(),
            "loops": self._loops.state(),
            "frames": self._frames.state(),
            "filter": self._filter.state(),
            **({"recurrent": self._recurrent.state()} if self._recurrent is not None else {}),
        }
        state = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
        state["lost_for"] = np.array(self._lost_for)
        state["timing_names"] = np.array(list(self.timings_s), np.str_)
        state["timings_s"] = np.array(list(self.timings_s.values()))
        return state

    def restore(self, state: Mapping[str, np.ndarray], read_frame: Callable[[int], Frame]) -> None:
        """Takes over a :meth:`state`; recent frames are read again."""

        def part(name: str) -> dict[str, np.ndarray]:
            return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}/")}

        def features_of(index: int) -> object:
            return self._model.encode(self._resized(read_frame(index)), self.camera)

        self._store.restore(
            part("store"), lambda index: (features_of(index), self._prior.prepare(read_frame(index), self.camera))
        )
        self._graph.restore(part("graph"))
        if self._recurrent is not None:
            self._recurrent.restore(part("recurrent"))
        self._submaps.restore(part("submaps"))
        self._frontend.scale.restore(part("scale"))
        self._loops.restore(part("loops"))
        self._frames.restore(part("frames"), features_of)
        self._filter.restore(part("filter"))
        self._lost_for = int(state["lost_for"])
        self.timings_s = dict(zip(state["timing_names"].tolist(), state["timings_s"].tolist(), strict=True))

    # ------------------------------------------------------------------ private

    def _make_recurrent_parts(self, model: RecurrentModel) -> ActiveEdges:
        """What stands in for the usual parts where a recurrent network matches."""
        config, solver = self._config, self._config.bundle_adjustment
        active = ActiveEdges(self._store, self._graph, model)
        self._frontend = DroidSlidingWindow(self._store, self._graph, active, self._prior, self._submaps, config.droid)
        self._backend = GlobalUpdates(
            self._store, self._graph, self._submaps, config.global_ba, solver, model, config.droid
        )
        self._frames = DroidFramePoses(self._store, self._graph, self._tracker, model, solver, config.droid)
        return active

    def _make_recurrent_path(self, active: ActiveEdges) -> DroidOdometry:
        assert isinstance(self._frontend, DroidSlidingWindow) and isinstance(self._frames, DroidFramePoses)
        model = cast(RecurrentModel, self._model)
        return DroidOdometry(
            self._store,
            self._graph,
            model,
            active,
            self._frontend,
            self._frames,
            self._loops,
            self._config.droid,
            self._timed,
        )

    def _process_recurrent(self, path: DroidOdometry, frame: Frame, image: np.ndarray, features: object) -> None:
        textured = is_textured(image)
        wanted = textured and path.wants(features)
        if textured and path.follows(features, wanted=wanted):
            self._lost_for = 0
            if wanted:
                path.add(KeyframeCandidate(frame.index, frame.time_s, image, features, self._prepared(frame)))
            else:
                path.wait(frame.index, frame.time_s, features)
            return
        self._lost_for += 1
        if textured and self._lost_for > self._config.sliding_window.max_lost:
            path.finish()
            self._start_again(frame, image, features, self._frames.predicted(frame.time_s))
        else:
            path.lose(frame.index, frame.time_s)

    def _start_again(self, frame: Frame, image: np.ndarray, features: object, pose: np.ndarray) -> None:
        log.warning("frame %d: tracking was lost, a new submap of the map starts here", frame.index)
        self._start_submap(frame, image, features, pose)

    def _resized(self, frame: Frame) -> np.ndarray:
        return cv2.resize(frame.image, self.camera.size, interpolation=cv2.INTER_AREA)

    def _start_submap(self, frame: Frame, image: np.ndarray, features: object, pose: np.ndarray) -> None:
        self._frontend.start(KeyframeCandidate(frame.index, frame.time_s, image, features, self._prepared(frame)), pose)
        first = not self._frames.records
        self._frames.add_keyframe(frame.index, frame.time_s, tracked=first, inlier_ratio=float(first))
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

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[stage] = self.timings_s.get(stage, 0.0) + time.perf_counter() - start
