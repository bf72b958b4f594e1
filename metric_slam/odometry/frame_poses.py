"""The pose of every processed frame, relative to its reference keyframe until the map is finished.

While the video runs, a frame's pose relative to its keyframe is what tracking found then; when the next keyframe comes,
the frames before it are matched with that one too. At the end the keyframes and their depths are better, so frames are
solved again between the keyframes around them (motion-only bundle adjustment over the matches that were kept), and
frames that could not be matched are placed between their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from metric_slam.checkpointable import StateTree, array_in, tree_in
from metric_slam.correspondence.base import packed, unpacked
from metric_slam.disk_store import DiskArray
from metric_slam.geometry import lie
from metric_slam.geometry.grid_array import on_host
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.tracking import FrameTracker, MatchableFrame, TrackedFrame

MIN_INLIERS = 0.5
"""Share of inliers below which a frame keeps the pose that tracking found, because its matches contradict the map."""

FARTHEST_AHEAD = 5.0
"""Frame intervals for which the motion model extrapolates."""


@dataclass
class FrameRecord:
    """A processed frame and its pose relative to its reference keyframe."""

    index: int
    """Frame index in the data set."""

    time_s: float
    keyframe: int
    """Position of its reference keyframe; its own where ``is_keyframe``."""

    T_cam_keyframe: np.ndarray
    """float64 [4, 4]; its translation in the length unit of the map at that moment."""

    length_scale: float
    """``length_scale`` of the reference keyframe at that moment."""

    is_keyframe: bool
    tracked: bool
    inlier_ratio: float
    """Share of the reference keyframe's cells whose match fits the frame's pose, 0..1."""

    matches: dict[int, DiskArray] = field(default_factory=dict)
    """Matches keyframe -> frame by the keyframe's position, float32 [h, w, 3 or 4], of frames that are no keyframes."""


@dataclass(frozen=True)
class WaitingFrame:
    """A frame between keyframes whose features are kept until the next keyframe comes."""

    record: FrameRecord
    features: object
    ignored: np.ndarray | None = None


class FramePoses:
    """All processed frames in order."""

    def __init__(self, slam_map: SlamMap, tracker: FrameTracker) -> None:
        self._map, self._tracker = slam_map, tracker
        self._waiting: list[WaitingFrame] = []
        self.records: list[FrameRecord] = []

    def add_keyframe(self, index: int, time_s: float, *, tracked: bool, inlier_ratio: float) -> None:
        """Add the frame that has just become the last keyframe of the map."""
        if tracked:
            self._match_waiting(len(self._map) - 1)
        self._waiting = []
        self._append(index, time_s, np.eye(4), is_keyframe=True, tracked=tracked, inlier_ratio=inlier_ratio)

    def add(self, index: int, time_s: float, frame: MatchableFrame, tracked: TrackedFrame, *, moved: bool) -> None:
        """Add a frame between keyframes, tracked against the last keyframe; ``moved``: the camera was not standing."""
        position = len(self._map) - 1
        T_cam_keyframe = tracked.T_cam_world @ lie.inverse(self._map[position].T_cam_world)
        record = self._append(index, time_s, T_cam_keyframe, tracked=tracked.tracked, inlier_ratio=tracked.inlier_ratio)
        if tracked.tracked:
            record.matches[position] = self._map.disk.put(on_host(packed(tracked.forward)))
            if moved:
                self._waiting.append(WaitingFrame(record, frame.features, frame.ignored))

    def _append(
        self,
        index: int,
        time_s: float,
        T_cam_keyframe: np.ndarray,
        *,
        is_keyframe: bool = False,
        tracked: bool = False,
        inlier_ratio: float = 0.0,
    ) -> FrameRecord:
        """A record relative to the last keyframe of the map."""
        position = len(self._map) - 1
        scale = self._map[position].length_scale
        self.records.append(
            FrameRecord(index, time_s, position, T_cam_keyframe, scale, is_keyframe, tracked, inlier_ratio)
        )
        return self.records[-1]

    def _match_waiting(self, position: int) -> None:
        """Match the frames since the last keyframe with the keyframe that ends the stretch."""
        for waiting in self._waiting:
            match = self._tracker.match(self._map[position], waiting, self.T_cam_world(waiting.record))
            waiting.record.matches[position] = self._map.disk.put(on_host(packed(match)))

    def predicted(self, time_s: float) -> np.ndarray:
        """T_cam_world [4, 4] at ``time_s`` if the motion between the last two frames goes on."""
        last = self.T_cam_world(self.records[-1])
        if len(self.records) < 2:
            return last
        before = self.T_cam_world(self.records[-2])
        step_s = self.records[-1].time_s - self.records[-2].time_s
        ahead = (time_s - self.records[-1].time_s) / step_s if step_s > 0 else 1.0
        return lie.interpolate(before, last, 1.0 + float(np.clip(ahead, 0.0, FARTHEST_AHEAD)))

    def T_cam_world(self, record: FrameRecord) -> np.ndarray:
        """Present pose of a frame, float64 [4, 4]."""
        keyframe = self._map[record.keyframe]
        T_cam_keyframe = record.T_cam_keyframe.copy()
        T_cam_keyframe[:3, 3] *= keyframe.length_scale / record.length_scale
        return np.asarray(T_cam_keyframe @ keyframe.T_cam_world)

    def current(self) -> np.ndarray:
        """T_world_cam of all frames as tracking and the present map have them, float64 [N, 4, 4]."""
        poses = np.array([self.T_cam_world(record) for record in self.records]).reshape(-1, 4, 4)
        return lie.inverse(poses)

    def final(self) -> np.ndarray:
        """T_world_cam of all frames, solved again with the map as it is now, float64 [N, 4, 4]."""
        poses = np.array([self._solved_again(record) for record in self.records])
        return lie.inverse(self._between_neighbours(poses))

    def _solved_again(self, record: FrameRecord) -> np.ndarray:
        start = self.T_cam_world(record)
        if not record.matches:
            return start
        views = [(self._map[position], unpacked(stored.load())) for position, stored in record.matches.items()]
        pose, inliers, _ = self._tracker.refine(views, start)
        return pose if inliers >= MIN_INLIERS else start

    def _between_neighbours(self, poses: np.ndarray) -> np.ndarray:
        """Move runs of unmatched frames onto the geodesic between the matched frames on both sides; T_cam_world.

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

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> StateTree:
        """Arrays for a checkpoint."""
        waiting = {id(w.record): w.ignored for w in self._waiting}
        rows, matches = [], []
        for n, r in enumerate(self.records):
            numbers = r.index, r.time_s, r.keyframe, r.length_scale, r.is_keyframe, r.tracked, r.inlier_ratio
            rows.append((*numbers, id(r) in waiting))
            matches += [(n, position, s.offset, s.checksum, s.shape[-1]) for position, s in r.matches.items()]
        ignored = [w.ignored if w.ignored is not None else np.zeros(0, bool) for w in self._waiting]
        return {
            "records": np.array(rows, np.float64).reshape(-1, 8),
            "T_cam_keyframe": np.array([r.T_cam_keyframe for r in self.records]),
            "matches": np.array(matches, np.int64).reshape(-1, 5),
            "ignored": {f"{n:06d}": mask for n, mask in enumerate(ignored)},
        }

    def restore(self, state: StateTree, features_of: Callable[[int], object]) -> None:
        """Replace everything by what :meth:`state` returned; ``features_of(index)`` encodes a recent frame again."""
        ignored, rows = tree_in(state, "ignored"), array_in(state, "records").tolist()
        for row, T_cam_keyframe in zip(rows, array_in(state, "T_cam_keyframe"), strict=True):
            index, time_s, keyframe, length_scale, is_keyframe, tracked, inlier_ratio, waits = row
            record = FrameRecord(
                int(index),
                time_s,
                int(keyframe),
                T_cam_keyframe.copy(),
                length_scale,
                bool(is_keyframe),
                bool(tracked),
                inlier_ratio,
            )
            self.records.append(record)
            if waits:
                mask = array_in(ignored, f"{len(self._waiting):06d}")
                self._waiting.append(WaitingFrame(record, features_of(record.index), mask if mask.size else None))
        grid = self._map.camera.grid()
        for n, position, offset, checksum, channels in array_in(state, "matches").tolist():
            stored = DiskArray(self._map.disk, offset, "<f4", (grid.height, grid.width, channels), checksum)
            self.records[n].matches[position] = stored
