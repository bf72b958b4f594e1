"""The spine: frames in, metric trajectory and keyframes out.

frame -> encode -> odometry: track -> motion filter -> keyframe <- depth prior
                                                          |
                                   map: keyframes, factor graph, submaps <- correspondence
                                                          |
                                   odometry: dense bundle adjustment of a sliding window
                                                          |
                   loops: place seen before? -> pose graph -> global bundle adjustment
finish -> loops -> global bundle adjustment -> pose of every frame
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import numpy as np

from metric_slam.checkpointable import StateTree, array_in, tree_in
from metric_slam.choices import InputFacts
from metric_slam.config.schema import Config
from metric_slam.correspondence.base import CorrespondenceModel
from metric_slam.datasets.base import Dataset
from metric_slam.depth.base import DepthPrior
from metric_slam.disk_store import DiskStore
from metric_slam.errors import InputError
from metric_slam.factory import SlamParts, build_parts, check_arguments, library_config
from metric_slam.frame import CameraMount, Frame
from metric_slam.geometry import lie
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.reconstruction.keyframe_results import keyframe_results
from metric_slam.reconstruction.point_cloud import PointCloud, point_cloud
from metric_slam.result import FrameState, KeyframeResult, LoopResult, SlamResult
from metric_slam.trajectory import Trajectory


class Slam:
    """Monocular dense SLAM in metres: call :meth:`process` for each image in order, then :meth:`finish`."""

    def __init__(
        self,
        camera: PinholeCamera,
        config: Config | None = None,
        *,
        preset: str | None = None,
        prior: str | DepthPrior | None = None,
        correspondence: str | CorrespondenceModel | None = None,
        camera_height_m: float | None = None,
        disk: DiskStore | None = None,
        on_keyframe: Callable[[FrameState], None] | None = None,
        on_loop: Callable[[LoopResult], None] | None = None,
    ) -> None:
        """Build the system for one calibrated camera.

        Args:
            camera: intrinsics of the images that will be processed.
            config: every option; None: the defaults of ``preset``.
            preset: "fast" or "accurate", where no ``config`` is given.
            prior: source of the metric scale by name, or a depth prior of your own.
            correspondence: matcher by name, or a correspondence model of your own.
            camera_height_m: height of the camera above the road in metres, for the prior "ground_plane".
            disk: takes what leaves memory; None: a temporary file that ends with this object.
            on_keyframe: called with the state of every new keyframe.
            on_loop: called with every loop that is closed.

        Raises ConfigError, WeightsError or InputError in one line where these do not fit together.
        """
        check_arguments(camera, config, prior, correspondence, on_keyframe=on_keyframe, on_loop=on_loop)
        config = library_config(config, preset, prior, correspondence, camera_height_m)
        facts = InputFacts(None if camera_height_m is None else CameraMount(camera_height_m), lambda: False)
        own_prior = None if isinstance(prior, str) else prior
        own_model = None if isinstance(correspondence, str) else correspondence
        parts = build_parts(config, camera, facts, prior=own_prior, model=own_model, disk=disk, on_loop=on_loop)
        self._set_up(camera, parts, on_keyframe)

    @classmethod
    def for_dataset(cls, dataset: Dataset, config: Config, disk: DiskStore | None = None) -> Slam:
        """The system for a data set, whose mount and depth images decide what ``auto`` means."""
        return cls.from_parts(dataset.camera, build_parts(config, dataset.camera, InputFacts.of(dataset), disk=disk))

    @classmethod
    def from_parts(cls, camera: PinholeCamera, parts: SlamParts) -> Slam:
        """The system of parts that were built, or replaced, elsewhere; ``camera`` of the images as they come in."""
        slam = cls.__new__(cls)
        slam._set_up(camera, parts, None)
        return slam

    def _set_up(
        self, camera: PinholeCamera, parts: SlamParts, on_keyframe: Callable[[FrameState], None] | None
    ) -> None:
        self.input_camera, self.camera, self.choices = camera, parts.slam_map.camera, parts.choices
        self._parts, self._times, self._on_keyframe = parts, parts.times, on_keyframe
        self._odometry, self._loops, self._scale = parts.odometry, parts.loops, parts.scale
        self._next_index = 0
        self._result: SlamResult | None = None

    # ------------------------------------------------------------------ the diagram

    def process(
        self, image: np.ndarray, time_s: float, *, mask: np.ndarray | None = None, depth_m: np.ndarray | None = None
    ) -> FrameState:
        """Take the next image, uint8 [H, W, 3] RGB, at ``time_s`` seconds.

        ``mask`` bool [H, W] is True where pixels must not be used (the vehicle itself, a logo); ``depth_m`` [H, W] is
        measured depth in metres for the prior "sensor", 0 where there is none. Raises InputError in one line for a
        wrong size, type or time.
        """
        frame = Frame(self._next_index, time_s, image, self.input_camera, depth_m=depth_m, mask=mask)
        return self.process_frame(frame)

    def process_frame(self, frame: Frame) -> FrameState:
        """Take the next frame of a data set; its index must be greater than those before."""
        self._check_order(frame)
        with self._times("encode"):
            encoded = self._parts.encode(frame)
        tracked = self._odometry.track(encoded)
        self._look_for_loops()
        state = FrameState(
            index=frame.index,
            time_s=frame.time_s,
            T_world_cam=lie.inverse(tracked.T_cam_world),
            tracked=tracked.tracked,
            is_keyframe=tracked.is_keyframe,
            scale_known=self._scale.known,
            inlier_ratio=tracked.inlier_ratio,
        )
        if tracked.is_keyframe and self._on_keyframe is not None:
            self._on_keyframe(state)
        return state

    def finish(self) -> SlamResult:
        """Optimise the whole trajectory once more and return everything; no frame can be processed afterwards."""
        if self._result is None:
            self._odometry.finish()
            self._look_for_loops()
            with self._times("global_bundle_adjustment"):
                self._loops.finish()
                self._odometry.refine_globally(self._parts.global_ba)
                self._parts.global_ba.finish(self._scale)
            with self._times("frame_poses"):
                T_world_cam = self._odometry.frames.final()
            self._result = self._parts.result(T_world_cam)
        return self._result

    def _look_for_loops(self) -> None:
        with self._times("loops"):
            for position in self._odometry.settled():
                self._loops.look(position)

    # ------------------------------------------------------------------ at any moment

    def trajectory(self) -> Trajectory:
        """Times and T_world_cam [N, 4, 4] of all frames so far, as the present map has them."""
        if self._result is not None:
            return Trajectory(self._result.times_s, self._result.T_world_cam)
        frames = self._odometry.frames
        return Trajectory(np.array([record.time_s for record in frames.records]), frames.current())

    def keyframes(self) -> list[KeyframeResult]:
        """All keyframes with pose, inverse depth and confidence, as the present map has them."""
        if self._result is not None:
            return list(self._result.keyframes)
        self._scale.collect()
        return keyframe_results(self._parts.slam_map, self._parts.model, self._times)

    def point_cloud(self, min_consistent_views: int = 1) -> PointCloud:
        """Points and colours of the cells whose depth at least so many other keyframes agree with."""
        return point_cloud(self.keyframes(), min_consistent_views)

    @property
    def timings_s(self) -> dict[str, float]:
        """Seconds spent in each stage."""
        return self._times.seconds

    def __enter__(self) -> Slam:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._scale.close()

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> StateTree:
        """Everything that the next frame needs; what is large goes to the disk first."""
        return {"parts": self._parts.state(), "next_index": np.array(self._next_index)}

    def restore(self, state: StateTree, read_frame: Callable[[int], Frame]) -> None:
        """Continue where :meth:`state` was taken; recent frames are read and encoded again."""
        self._parts.restore(tree_in(state, "parts"), read_frame)
        self._next_index = int(array_in(state, "next_index"))

    def _check_order(self, frame: Frame) -> None:
        if self._result is not None:
            raise InputError(f"frame {frame.index}: finish() was called; build a new Slam for another sequence")
        if frame.index < self._next_index:
            raise InputError(f"frame {frame.index}: frames must come in order, the next index is {self._next_index}")
        self._next_index = frame.index + 1
