"""Builds the parts of the system from a configuration; what was chosen automatically comes with its reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metric_slam.checkpointable import Checkpointable, StateTree, tree_in
from metric_slam.choices import InputFacts, choose_correspondence, choose_prior, choose_solver, working_camera
from metric_slam.config.resolve import Setting, resolve_config
from metric_slam.config.schema import Config
from metric_slam.correspondence.base import CorrespondenceModel, RecurrentModel
from metric_slam.depth.base import DepthPrior
from metric_slam.disk_store import DiskStore
from metric_slam.errors import InputError
from metric_slam.frame import Frame, described
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.slam_map import SlamMap
from metric_slam.loops.closure import LoopClosure
from metric_slam.odometry.base import FrameEncoder, Odometry, StageTimes
from metric_slam.odometry.droid.odometry import DroidOdometry
from metric_slam.odometry.flow_odometry import FlowOdometry, LossRule
from metric_slam.odometry.keyframe_prior import KeyframePrior
from metric_slam.odometry.metric_scale import MetricScale
from metric_slam.odometry.moving_cells import MovingCellDetector
from metric_slam.odometry.prior_noise import PriorNoise
from metric_slam.odometry.scale_startup import ScaleStartup
from metric_slam.odometry.sliding_window import ScaleParts, SlidingWindow
from metric_slam.odometry.tracking import FrameTracker
from metric_slam.optimization.solver import CpuSolver, Solver
from metric_slam.reconstruction.keyframe_results import keyframe_results
from metric_slam.result import LoopResult, SlamResult

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlamParts:
    """The parts of one system, built from one configuration."""

    encode: FrameEncoder
    slam_map: SlamMap
    model: CorrespondenceModel
    prior: KeyframePrior
    scale: MetricScale
    startup: ScaleStartup
    odometry: Odometry
    loops: LoopClosure
    global_ba: GlobalBundleAdjustment
    times: StageTimes
    choices: dict[str, str]
    """What was chosen automatically, and why."""

    def result(self, T_world_cam: np.ndarray) -> SlamResult:
        """Everything that a finished run found; ``T_world_cam`` [N, 4, 4] of all its frames."""
        records, slam_map = self.odometry.frames.records, self.slam_map
        if (summary := self.prior.summary()) is not None:
            log.warning("prior %s: %s", self.prior.name, summary)
        component = [slam_map.submaps.component(slam_map[r.keyframe].submap) for r in records]
        return SlamResult(
            frame_indices=np.array([r.index for r in records], np.int64),
            times_s=np.array([r.time_s for r in records]),
            T_world_cam=T_world_cam,
            is_keyframe=np.array([r.is_keyframe for r in records]),
            tracked=np.array([r.tracked for r in records]),
            keyframes=keyframe_results(slam_map, self.model, self.times),
            scale_source=self._scale_source(),
            scale_observations=self.scale.observations,
            solver_status_counts=dict(slam_map.graph.status_counts),
            inlier_ratio=np.array([r.inlier_ratio for r in records]),
            submap=np.array(component, np.int64),
            loops=self.loops.results(),
            timings_s=dict(self.times.seconds),
        )

    def _scale_source(self) -> str:
        """Name of the prior if its measurements make the map metric, else ``unknown``."""
        if self.scale.known:
            return self.prior.name
        if self.prior.metric:
            log.warning("prior %s did not measure the scale often enough: it is unknown", self.prior.name)
        return "unknown"

    def state(self) -> StateTree:
        """Everything that the next frame needs; what is large goes to the disk first."""
        self.scale.collect()  # a measurement that is due changes map and graph
        own = {name: part.state() for name, part in self._small().items()}
        return {**own, "map": self.slam_map.state(), "odometry": self.odometry.state()}

    def restore(self, state: StateTree, read_frame: Callable[[int], Frame]) -> None:
        """Continue where :meth:`state` was taken; recent frames are read and encoded again."""

        def rebuild(index: int) -> tuple[object, object]:
            frame = read_frame(index)
            return self.encode(frame).features, self.prior.prepare(frame)

        self.slam_map.restore(tree_in(state, "map"), rebuild)
        self.odometry.restore(tree_in(state, "odometry"), lambda index: self.encode(read_frame(index)).features)
        for name, part in self._small().items():
            part.restore(tree_in(state, name))

    def _small(self) -> dict[str, Checkpointable]:
        return {"scale": self.scale, "startup": self.startup, "loops": self.loops, "times": self.times}


def check_arguments(camera: object, config: object, prior: object, correspondence: object, **callbacks: object) -> None:
    """Refuse arguments of another type than :class:`metric_slam.slam.Slam` states with an InputError that names one."""
    if not isinstance(camera, PinholeCamera):
        raise InputError(f"camera is {described(camera)}, expected a metric_slam.PinholeCamera")
    if config is not None and not isinstance(config, Config):
        raise InputError(f"config is {described(config)}, expected a metric_slam.Config")
    if prior is not None and not isinstance(prior, str | DepthPrior):
        raise InputError(f"prior is {described(prior)}, expected a name or an object of a subclass of DepthPrior")
    matches = all(callable(getattr(correspondence, name, None)) for name in ("encode", "track"))
    if not (correspondence is None or isinstance(correspondence, str) or matches) or isinstance(correspondence, type):
        raise InputError(
            f"correspondence is {described(correspondence)}, expected a name or an object with the attributes and "
            "methods of CorrespondenceModel"
        )
    for name, callback in callbacks.items():
        if callback is not None and not callable(callback):
            raise InputError(f"{name} is {described(callback)}, expected a function of one argument")


def library_config(
    config: Config | None,
    preset: str | None,
    prior: str | DepthPrior | None,
    correspondence: str | CorrespondenceModel | None,
    camera_height_m: float | None,
) -> Config:
    """The configuration of a :class:`metric_slam.slam.Slam` built from Python.

    Raises InputError where ``config`` comes with names that it holds itself, ConfigError for an unknown name.
    """
    named = {
        "preset": preset,
        "prior": prior if isinstance(prior, str) else None,
        "correspondence": correspondence if isinstance(correspondence, str) else None,
        "ground_plane.camera_height_m": camera_height_m,
    }
    given = {key: value for key, value in named.items() if value is not None}
    if config is None:
        return resolve_config(options={key: Setting(value, f"Slam({key}=...)") for key, value in given.items()})
    if given:
        raise InputError(f"Slam: config is given, so set {', '.join(given)} there and not beside it")
    return config


def build_parts(
    config: Config,
    camera: PinholeCamera,
    facts: InputFacts,
    *,
    prior: DepthPrior | None = None,
    model: CorrespondenceModel | None = None,
    solver: Solver | None = None,
    disk: DiskStore | None = None,
    on_loop: Callable[[LoopResult], None] | None = None,
) -> SlamParts:
    """All parts for images of ``camera``; a ``prior``, ``model`` or ``solver`` given here replaces the configured one.

    ``disk`` takes images and matches that leave memory; None: a temporary file. Choices are logged.
    """
    prior, prior_reason = choose_prior(config, facts) if prior is None else (prior, "as given")
    model, model_reason = choose_correspondence(config) if model is None else (model, "as given")
    solver, solver_reason = choose_solver(config) if solver is None else (solver, f"{solver.name}: as given")
    working = working_camera(config.input, camera)
    choices = {
        "prior": f"{prior.name}: {prior_reason}",
        "correspondence": f"{model.name}: {model_reason}",
        "bundle_adjustment": solver_reason,
        "size": f"{working.width}x{working.height} from {camera.width}x{camera.height}",
    }
    for what, choice in choices.items():
        log.info("%s: %s", what, choice)
    slam_map = SlamMap(working, model, solver, scale_sigma=prior.scale_sigma, disk=disk)
    tracker = FrameTracker(slam_map, model, CpuSolver(config.bundle_adjustment))
    depth, times = KeyframePrior(prior, working), StageTimes()
    measured = MetricScale(slam_map, prior, depth)
    droid = isinstance(model, RecurrentModel)
    startup = ScaleStartup(slam_map, prior, measured, (config.droid if droid else config.sliding_window).warm_up)
    moving, noise = MovingCellDetector(slam_map, prior, measured), PriorNoise(slam_map, depth.cell_sigma)
    scale = ScaleParts(depth, measured, startup, moving, noise)
    global_ba = GlobalBundleAdjustment(slam_map, config.global_ba)
    odometry = _make_odometry(config, slam_map, model, tracker, scale, times)
    loops = LoopClosure(slam_map, tracker, model, scale, global_ba, config.loop, on_loop=on_loop)
    return SlamParts(
        encode=FrameEncoder(model, working),
        slam_map=slam_map,
        model=model,
        prior=depth,
        scale=measured,
        startup=startup,
        odometry=odometry,
        loops=loops,
        global_ba=global_ba,
        times=times,
        choices=choices,
    )


def _make_odometry(
    config: Config,
    slam_map: SlamMap,
    model: CorrespondenceModel,
    tracker: FrameTracker,
    scale: ScaleParts,
    times: StageTimes,
) -> Odometry:
    loss = LossRule(config.sliding_window.max_lost)
    if isinstance(model, RecurrentModel):
        return DroidOdometry(
            slam_map, model, tracker, scale, config.droid, loss, updates=config.global_ba.updates, timed=times
        )
    window = SlidingWindow(slam_map, scale, config.sliding_window)
    return FlowOdometry(slam_map, tracker, window, scale.depth, config.motion_filter, loss, timed=times)
