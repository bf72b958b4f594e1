"""Odometry by dense flow: each frame is tracked against the last keyframe, keyframes enter a sliding window.

frame -> track against the last keyframe -> motion filter -> keyframe -> sliding window
                                                          -> frame between keyframes
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from metric_slam.checkpointable import StateTree, array_in, tree_in
from metric_slam.config.schema import MotionFilterConfig
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.base import EncodedFrame, FeaturesOf, Timed, TrackState
from metric_slam.odometry.frame_poses import FramePoses
from metric_slam.odometry.keyframe_prior import KeyframePrior
from metric_slam.odometry.motion_filter import MotionFilter
from metric_slam.odometry.sliding_window import SlidingWindow
from metric_slam.odometry.tracking import FrameTracker, TrackedFrame

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossRule:
    """When a lost camera begins a new submap."""

    max_lost: int
    """Frames in a row that may be lost before."""


class FlowOdometry:
    """Follows :class:`metric_slam.odometry.base.Odometry`."""

    def __init__(
        self,
        slam_map: SlamMap,
        tracker: FrameTracker,
        window: SlidingWindow,
        prior: KeyframePrior,
        filter_config: MotionFilterConfig,
        loss: LossRule,
        *,
        timed: Timed,
    ) -> None:
        self._map, self._tracker, self._window, self._prior, self._loss = slam_map, tracker, window, prior, loss
        self._filter, self._still_flow_px = MotionFilter(filter_config), filter_config.still_flow_px
        self.frames = FramePoses(slam_map, tracker)
        self._timed = timed
        self._lost_for = 0
        self._settled = 0

    def begin(self, frame: EncodedFrame, T_cam_world: np.ndarray) -> None:
        """Begin a submap with this frame; see :class:`metric_slam.odometry.base.Odometry`."""
        self._window.begin(frame, self._prepared(frame), T_cam_world)
        first = not self.frames.records
        self.frames.add_keyframe(frame.index, frame.time_s, tracked=first, inlier_ratio=float(first))
        self._lost_for = 0

    def track(self, frame: EncodedFrame) -> TrackState:
        """Take the next frame; see :class:`metric_slam.odometry.base.Odometry`."""
        if not self.frames.records:
            self.begin(frame, np.eye(4))
            return self._state_of_last()
        if self._filter.likely_keyframe:
            self._prior.prefetch(frame.frame)
        with self._timed("track"):
            T_predicted = self.frames.predicted(frame.time_s)
            tracked = self._tracker.track(frame, T_predicted, depth_known=self._window.depth_known)
        self._lost_for = 0 if tracked.tracked else self._lost_for + 1
        if self._lost_for > self._loss.max_lost and self._tracker.is_textured(frame.features):
            log.warning("frame %d: tracking was lost, a new submap begins here", frame.index)
            self.begin(frame, T_predicted)
        else:
            self._add(frame, tracked)
        return self._state_of_last()

    def _add(self, frame: EncodedFrame, tracked: TrackedFrame) -> None:
        is_keyframe = self._filter.wants(tracked)
        if is_keyframe:
            prior_state = self._prepared(frame)
            with self._timed("sliding_window"):
                is_keyframe = self._window.add(frame, prior_state, tracked)
        with self._timed("frames_between"):
            if is_keyframe:
                self.frames.add_keyframe(frame.index, frame.time_s, tracked=True, inlier_ratio=tracked.inlier_ratio)
            else:
                moved = tracked.mean_flow_px >= self._still_flow_px
                self.frames.add(frame.index, frame.time_s, frame, tracked, moved=moved)

    def _prepared(self, frame: EncodedFrame) -> object:
        with self._timed("prior"):
            return self._prior.prepare(frame.frame)

    def _state_of_last(self) -> TrackState:
        record = self.frames.records[-1]
        return TrackState(self.frames.T_cam_world(record), record.tracked, record.is_keyframe, record.inlier_ratio)

    def settled(self) -> range:
        """New keyframes; flow never removes one."""
        found = range(self._settled, len(self._map))
        self._settled = len(self._map)
        return found

    def finish(self) -> None:
        """Nothing waits."""

    def refine_globally(self, global_ba: GlobalBundleAdjustment) -> None:
        """Flow is not refined."""

    def state(self) -> StateTree:
        """Arrays for a checkpoint."""
        return {
            "frames": self.frames.state(),
            "filter": self._filter.state(),
            "lost_for": np.array(self._lost_for),
            "settled": np.array(self._settled),
        }

    def restore(self, state: StateTree, features_of: FeaturesOf) -> None:
        """Replace everything by what :meth:`state` returned."""
        self.frames.restore(tree_in(state, "frames"), features_of)
        self._filter.restore(tree_in(state, "filter"))
        self._lost_for, self._settled = int(array_in(state, "lost_for")), int(array_in(state, "settled"))
