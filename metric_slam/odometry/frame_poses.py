"""The pose of every processed frame: each hangs on its reference keyframe and is finished when the map is.

While the video runs, a frame's pose relative to its keyframe is what tracking found then; when the next keyframe comes,
the frames before it are matched with that one too. At the end the keyframes and their depths are better, so frames are
solved again between the keyframes around them (motion-only bundle adjustment over the matches that were kept), and
frames that could not be matched are placed between their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from metric_slam.correspondence.base import packed, unpacked
from metric_slam.disk_store import DiskArray
from metric_slam.geometry import lie
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.odometry.tracking import FrameTracker, TrackedFrame

_MIN_INLIERS = 0.5  # a frame whose matches do not fit the final map keeps the pose that tracking found


@dataclass
class FrameRecord:
    """A processed frame: where it hangs."""

    index: int
    """Frame index in the data set."""

    time_s: float
    keyframe: int
    """Position of its reference keyframe; its own where ``is_keyframe``."""

    T_cam_keyframe: np.ndarray
    """Pose relative to it, float64 [4, 4]; its translation in the unit of the map at that moment."""

    unit: float
    """Median inverse depth of the reference keyframe at that moment: tells how the map was rescaled since."""

    is_keyframe: bool
    tracked: bool
    inlier_ratio: float
    """Share of the reference keyframe's cells whose match fits the frame's pose, 0..1."""

    matches: dict[int, DiskArray] = field(default_factory=dict)
    """Matches keyframe -> frame by the keyframe's position, float32 [h, w, 3 or 4], of frames that are no keyframes."""


class FramePoses:
    """All processed frames in order."""

    def __init__(self, store: KeyframeStore, tracker: FrameTracker) -> None:
        self._store, self._tracker = store, tracker
        self._waiting: list[tuple[FrameRecord, Any]] = []  # and their features, until the next keyframe comes
        self.records: list[FrameRecord] = []

    def add_keyframe(self, index: int, time_s: float, *, tracked: bool, inlier_ratio: float) -> None:
        """The frame that has just become the last keyframe of the store."""
        position = len(self._store) - 1
        if tracked:
            self._match_waiting(position)
        self._waiting = []
        self.records.append(
            FrameRecord(
                index,
                time_s,
                position,
                np.eye(4),
                self._unit(position),
                is_keyframe=True,
                tracked=tracked,
                inlier_ratio=inlier_ratio,
            )
        )

    def add(self, index: int, time_s: float, features: Any, frame: TrackedFrame, *, moved: bool) -> None:
        """A frame that stays none, tracked against the last keyframe of the store; ``moved``: not where that was."""
        position = len(self._store) - 1
        T_cam_world = lie.pose_vec_to_matrix(frame.pose)
        T_keyframe_world = lie.pose_vec_to_matrix(self._store[position].pose)
        record = FrameRecord(
            index,
            time_s,
            position,
            T_cam_world @ lie.inverse(T_keyframe_world),
            self._unit(position),
            is_keyframe=False,
            tracked=frame.tracked,
            inlier_ratio=frame.inlier_ratio,
        )
        if frame.tracked:
            record.matches[position] = self._store.disk.put(packed(frame.forward))
            if moved:
                self._waiting.append((record, features))
        self.records.append(record)

    def _match_waiting(self, position: int) -> None:
        """The frames since the last keyframe, seen from the keyframe that ends the stretch."""
        for record, features in self._waiting:
            pose = lie.matrix_to_pose_vec(self.T_cam_world(record))
            match = self._tracker.match(self._store[position], features, pose)
            record.matches[position] = self._store.disk.put(packed(match))

    def predicted(self, time_s: float) -> np.ndarray:
        """T_cam_world [7] at ``time_s`` if the motion between the last two frames goes on."""
        last = self.T_cam_world(self.records[-1])
        if len(self.records) < 2:
            return lie.matrix_to_pose_vec(last)
        before = self.T_cam_world(self.records[-2])
        step_s = self.records[-1].time_s - self.records[-2].time_s
        ahead = (time_s - self.records[-1].time_s) / step_s if step_s > 0 else 1.0
        return lie.matrix_to_pose_vec(lie.interpolate(before, last, 1.0 + float(np.clip(ahead, 0.0, 5.0))))

    def T_cam_world(self, record: FrameRecord) -> np.ndarray:
        """Present pose of a frame, float64 [4, 4]."""
        keyframe = self._store[record.keyframe]
        T_cam_keyframe = record.T_cam_keyframe.copy()
        T_cam_keyframe[:3, 3] *= record.unit / self._unit(record.keyframe)
        return T_cam_keyframe @ lie.pose_vec_to_matrix(keyframe.pose)

    def final(self) -> np.ndarray:
        """T_world_cam of all frames with the map as it is now, float64 [N, 4, 4]."""
        poses = np.array([self._solved_again(record) for record in self.records])
        return lie.inverse(self._between_neighbours(poses))

    def _solved_again(self, record: FrameRecord) -> np.ndarray:
        start = self.T_cam_world(record)
        if not record.matches:
            return start
        views = [(self._store[position], unpacked(stored.load())) for position, stored in record.matches.items()]
        pose, inliers, _ = self._tracker.refine(views, lie.matrix_to_pose_vec(start))
        return lie.pose_vec_to_matrix(pose) if inliers >= _MIN_INLIERS else start

    def _between_neighbours(self, poses: np.ndarray) -> np.ndarray:
        """Runs of unmatched frames with matched ones on both sides move along the geodesic between those; T_cam_world.

        A run that ends at the start of a new submap stays: nothing ties its two sides together.
        """
        known = np.flatnonzero([r.tracked for r in self.records])
        poses = poses.copy()
        for before, after in zip(known[:-1], known[1:], strict=True):
            if after == before + 1 or any(r.is_keyframe for r in self.records[before + 1 : after]):
                continue
            times_s = np.array([r.time_s for r in self.records[before : after + 1]])
            if times_s[-1] <= times_s[0]:  # a data set without times
                times_s = np.arange(len(times_s))
            share = (times_s - times_s[0]) / (times_s[-1] - times_s[0])
            poses[before + 1 : after] = lie.interpolate(poses[before], poses[after], share[1:-1])
        return poses

    def _unit(self, position: int) -> float:
        return float(np.median(self._store[position].inv_depth))

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> dict[str, np.ndarray]:
        """Everything as plain arrays."""
        waiting = {id(record) for record, _ in self._waiting}
        rows, matches = [], []
        for n, r in enumerate(self.records):
            rows.append(
                (r.index, r.time_s, r.keyframe, r.unit, r.is_keyframe, r.tracked, r.inlier_ratio, id(r) in waiting)
            )
            matches += [(n, position, s.offset, s.checksum, s.shape[-1]) for position, s in r.matches.items()]
        return {
            "records": np.array(rows, np.float64).reshape(-1, 8),
            "T_cam_keyframe": np.array([r.T_cam_keyframe for r in self.records]),
            "matches": np.array(matches, np.int64).reshape(-1, 5),
        }

    def restore(self, state: Mapping[str, np.ndarray], features_of: Callable[[int], Any]) -> None:
        """Takes over a :meth:`state`; ``features_of(index)`` gives the features of a recent frame."""
        for row, T_cam_keyframe in zip(state["records"].tolist(), state["T_cam_keyframe"], strict=True):
            index, time_s, keyframe, unit, is_keyframe, tracked, inlier_ratio, waits = row
            record = FrameRecord(
                int(index),
                time_s,
                int(keyframe),
                T_cam_keyframe.copy(),
                unit,
                bool(is_keyframe),
                bool(tracked),
                inlier_ratio,
            )
            self.records.append(record)
            if waits:
                self._waiting.append((record, features_of(record.index)))
        grid = self._store.camera.grid()
        for n, position, offset, checksum, channels in state["matches"].tolist():
            stored = DiskArray(self._store.disk, offset, "<f4", (grid.height, grid.width, channels), checksum)
            self.records[n].matches[position] = stored
