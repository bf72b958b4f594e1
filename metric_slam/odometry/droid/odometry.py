"""Odometry around a recurrent network, as DROID-SLAM works: keyframes first, frames between them afterwards.

frame -> motion filter (one update against the last keyframe) -> waits, or wants to become a keyframe
does it show what the last keyframe shows? -> becomes one, or is lost
keyframe -> sliding window -> is the one before it superfluous? -> frames between are placed
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.checkpointable import StateTree, array_in, tree_in
from metric_slam.config.droid import DroidConfig
from metric_slam.correspondence.base import Correspondence, EdgeQuery, RecurrentModel, confidence_per_cell, in_memory
from metric_slam.geometry.camera import FEATURE_STRIDE
from metric_slam.geometry.grid_array import on_host
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.base import EncodedFrame, FeaturesOf, Timed, TrackState
from metric_slam.odometry.droid.active_edges import ActiveEdges
from metric_slam.odometry.droid.frame_poses import DroidFramePoses
from metric_slam.odometry.droid.global_updates import GlobalUpdates
from metric_slam.odometry.droid.sliding_window import DroidSlidingWindow
from metric_slam.odometry.flow_odometry import LossRule
from metric_slam.odometry.frame_poses import FramePoses
from metric_slam.odometry.sliding_window import ScaleParts
from metric_slam.odometry.tracking import FrameTracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FollowLimits:
    """When a frame shows what the last keyframe shows."""

    texture: float = 1.0
    """RMS gradient of a cell from which it can be matched, grey levels a pixel."""

    textured_share: float = 0.1
    """Share of such cells from which an image can be matched at all."""

    forward_backward_cells: float = 1.0
    """A cell is found again where the matches there and back end within this distance, cells."""

    min_confidence: float = 0.1
    """Least confidence of such a cell: the network's is never 0."""

    found_again_share: float = 0.12
    """Share of cells found again below which tracking is lost; as for flow odometry."""

    check_every: int = 8
    """Frames that seem to have moved little are checked this often: unrelated images may seem so, too."""


_LIMITS = FollowLimits()


class DroidOdometry:
    """Follows :class:`metric_slam.odometry.base.Odometry`."""

    def __init__(
        self,
        slam_map: SlamMap,
        model: RecurrentModel,
        tracker: FrameTracker,
        scale: ScaleParts,
        config: DroidConfig,
        loss: LossRule,
        *,
        updates: tuple[int, int],
        timed: Timed,
    ) -> None:
        """``updates`` of the network over the whole trajectory at the end, in two rounds."""
        self._map, self._model, self._scale, self._config, self._loss = slam_map, model, scale, config, loss
        self._active = ActiveEdges(slam_map, model)
        self._window = DroidSlidingWindow(slam_map, self._active, scale, config)
        self._global_updates = GlobalUpdates(slam_map, model, config, updates)
        self._timed = timed
        self._frames = DroidFramePoses(slam_map, tracker, model, config)
        self.frames: FramePoses = self._frames
        self._lost_for = 0
        self._final = 0
        """Keyframes that stay for good and whose frames are placed."""

        self._reported = 0
        self._unchecked = 0
        """Frames since the last one that was checked against the last keyframe."""

    def begin(self, frame: EncodedFrame, T_cam_world: np.ndarray) -> None:
        """Begin a submap with this frame; see :class:`metric_slam.odometry.base.Odometry`."""
        self._window.begin(frame, self._prepared(frame), T_cam_world)
        first = not self._frames.records
        self._frames.add_keyframe(frame.index, frame.time_s, tracked=first, inlier_ratio=float(first))
        self._lost_for = 0

    def track(self, frame: EncodedFrame) -> TrackState:
        """Take the next frame; see :class:`metric_slam.odometry.base.Odometry`."""
        if not self._frames.records:
            self.begin(frame, np.eye(4))
        else:
            self._follow(frame)
        record = self._frames.records[-1]
        lost = not record.tracked and not record.is_keyframe and self._lost_for > 0
        return TrackState(self._frames.T_cam_world(record), not lost, record.is_keyframe, record.inlier_ratio)

    def _follow(self, frame: EncodedFrame) -> None:
        textured = is_textured(frame.image)
        wanted = textured and self._wants(frame.features)
        if textured and self._shows_last_keyframe(frame.features, wanted=wanted):
            self._lost_for = 0
            if wanted:
                self._add(frame)
            else:
                self._wait(frame)
            return
        self._lost_for += 1
        if textured and self._lost_for > self._loss.max_lost:
            self.finish()
            log.warning("frame %d: tracking was lost, a new submap begins here", frame.index)
            self.begin(frame, self._frames.predicted(frame.time_s))
        else:
            self._frames.add_lost(frame.index, frame.time_s)

    def _wants(self, features: object) -> bool:
        """True if the view changed enough since the last keyframe."""
        with self._timed("track"):
            moved_px = self._model.motion_px(self._map[-1].features, features)
        return moved_px > self._config.motion_threshold_cells * FEATURE_STRIDE

    def _shows_last_keyframe(self, features: object, *, wanted: bool) -> bool:
        """True if matches with the last keyframe lead there and back; poses are not needed.

        Matches between unrelated images do not lead back to where they began, however confident the network is. Unless
        the frame is ``wanted`` as a keyframe, only every few frames are checked.
        """
        self._unchecked += 1
        if not wanted and self._unchecked < _LIMITS.check_every:
            return True
        last = self._map[-1].features
        with self._timed("track"):
            there, back = self._model.track([EdgeQuery(last, features), EdgeQuery(features, last)])
        found = forward_backward_share(there, back) >= _LIMITS.found_again_share
        self._unchecked = 0 if found else _LIMITS.check_every
        return found

    def _wait(self, frame: EncodedFrame) -> None:
        """Take a frame that becomes no keyframe."""
        self._frames.add_waiting(frame)
        if not self._frames.overflowing:
            return
        with self._timed("frames_between"):
            if self._window.ready:
                self._frames.place_before(len(self._map))
            else:
                self._frames.forget_waiting()

    def _add(self, frame: EncodedFrame) -> None:
        """Take a frame that becomes a keyframe, for the time being at least."""
        prior_state = self._prepared(frame)
        with self._timed("sliding_window"):
            superfluous = self._window.add(frame, prior_state)
            self._frames.add_keyframe(frame.index, frame.time_s, tracked=True, inlier_ratio=0.0)
            if superfluous is not None:
                self.remove_keyframe(superfluous)
                self._window.after_removal()
        if self._window.ready:
            self._place(len(self._map) - 1)  # the newest one may still be removed

    def _prepared(self, frame: EncodedFrame) -> object:
        with self._timed("prior"):
            return self._scale.depth.prepare(frame.frame)

    def settled(self) -> range:
        """Keyframes whose frames were placed since the last call; see :class:`metric_slam.odometry.base.Odometry`."""
        found = range(self._reported, self._final)
        self._reported = self._final
        return found

    def finish(self) -> None:
        """End of the video, or of a submap: no keyframe is removed any more, and no edge is refined further."""
        if not self._window.ready:
            with self._timed("sliding_window"):
                self._window.initialise()
        if len(self._map) > 1:
            self._place(len(self._map))
        with self._timed("frames_between"):
            self._frames.place_before(len(self._map))
        self._active.retire(self._active.pairs())

    def refine_globally(self, global_ba: GlobalBundleAdjustment) -> None:
        """Rounds of network updates over the whole trajectory."""
        self._scale.measured.collect()
        self._global_updates.run(global_ba)

    def remove_keyframe(self, position: int) -> None:
        """Remove a keyframe of the window from everything that counts keyframes."""
        assert position >= self._final, (position, self._final)
        self._scale.measured.collect()
        self._frames.remove_keyframe(position)
        self._active.remove_keyframe(position)
        self._map.remove(position)
        self._scale.measured.remove_keyframe(position)

    def _place(self, count: int) -> None:
        """Place the frames of keyframes before ``count``, which stay."""
        with self._timed("frames_between"):
            self._frames.place_before(count - 1)
        for position in range(self._final, count):
            self._frames.set_inlier_ratio(position, float(self._map.graph.confidence_of(position).mean()))
        self._final = max(count, self._final)

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> StateTree:
        """Arrays for a checkpoint."""
        numbers = self._final, self._reported, self._window.ready, self._unchecked, self._lost_for
        return {
            "frames": self._frames.state(),
            "active": self._active.state(),
            "numbers": np.array(numbers, np.int64),
        }

    def restore(self, state: StateTree, features_of: FeaturesOf) -> None:
        """Replace everything by what :meth:`state` returned, after the map was restored."""
        self._frames.restore(tree_in(state, "frames"), features_of)
        self._active.restore(tree_in(state, "active"))
        self._final, self._reported, ready, self._unchecked, self._lost_for = array_in(state, "numbers").tolist()
        self._window.ready = bool(ready)


def is_textured(image: np.ndarray) -> bool:
    """True if an image [H, W, 3] RGB shows enough to be matched at all."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    gx, gy = (cv2.Scharr(grey, cv2.CV_32F, dx, 1 - dx, scale=1 / 32) for dx in (1, 0))
    size = image.shape[1] // FEATURE_STRIDE, image.shape[0] // FEATURE_STRIDE
    energy = cv2.resize(gx * gx + gy * gy, size, interpolation=cv2.INTER_AREA)
    return bool((energy > _LIMITS.texture**2).mean() >= _LIMITS.textured_share)


def forward_backward_share(there: Correspondence, back: Correspondence) -> float:
    """Share of the cells of an image whose matches ``there`` lead to where those ``back`` return from."""
    target, confidence = in_memory(there)
    back_target, back_confidence = in_memory(back)
    u, v = (target[..., k].astype(np.float32) for k in (0, 1))
    outside = (-1e4, -1e4)
    returned = cv2.remap(
        back_target.astype(np.float32), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
    )
    there_back = on_host(confidence_per_cell(back_confidence))
    sure = cv2.remap(there_back, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    y, x = np.mgrid[0 : u.shape[0], 0 : u.shape[1]]
    near = np.hypot(returned[..., 0] - x, returned[..., 1] - y) < _LIMITS.forward_backward_cells
    confident = np.minimum(sure, on_host(confidence_per_cell(confidence))) > _LIMITS.min_confidence
    return float((near & confident).mean())
