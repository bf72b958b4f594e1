"""The frames between keyframes where a recurrent network matches: placed once the keyframes around them will stay.

Each starts on the way between the two, is matched from both, and the updates are followed by motion-only bundle
adjustment (DROID-SLAM, trajectory_filler.py); the matches are kept, so that the final map can move it once more.
A keyframe that is removed becomes such a frame. Where the graph has a CUDA device, updates and solves take place on
its device, and the matches come back when a frame is placed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metric_slam.config.droid import DroidConfig
from metric_slam.correspondence.base import (
    Correspondence,
    EdgeMemory,
    EdgeQuery,
    RecurrentModel,
    confidence_per_axis,
    masked_by_ignored,
    packed,
    unpacked,
)
from metric_slam.geometry import lie
from metric_slam.geometry.grid_array import Array, on_host
from metric_slam.graph.moving_mask import mask_all_moving
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.base import EncodedFrame
from metric_slam.odometry.frame_poses import FARTHEST_AHEAD, FramePoses, FrameRecord, WaitingFrame
from metric_slam.odometry.tracking import FrameTracker
from metric_slam.optimization.bundle_adjustment import BaWindow

_TRACKED_INLIERS = 0.25  # as of a frame that is tracked against a keyframe
_MOST_WAITING = 64  # frames that a standing camera may gather; their features take memory


class DroidFramePoses(FramePoses):
    """All processed frames in order; those that are no keyframes wait until they can be placed."""

    def __init__(self, slam_map: SlamMap, tracker: FrameTracker, model: RecurrentModel, config: DroidConfig) -> None:
        super().__init__(slam_map, tracker)
        self._model, self._config = model, config

    def add_keyframe(self, index: int, time_s: float, *, tracked: bool, inlier_ratio: float) -> None:
        """Add the frame that has just become the last keyframe; the frames before it go on waiting."""
        self._append(index, time_s, np.eye(4), is_keyframe=True, tracked=tracked, inlier_ratio=inlier_ratio)

    def add_waiting(self, frame: EncodedFrame) -> None:
        """Add a frame that moved too little since the last keyframe; until it is placed it has that keyframe's pose."""
        record = self._append(frame.index, frame.time_s, np.eye(4))
        self._waiting.append(WaitingFrame(record, frame.features, frame.ignored))

    def add_lost(self, index: int, time_s: float) -> None:
        """Add a frame that cannot be matched, where the motion of the last keyframes leads."""
        T_cam_keyframe = self.predicted(time_s) @ lie.inverse(self._map[-1].T_cam_world)
        self._append(index, time_s, T_cam_keyframe)

    def predicted(self, time_s: float) -> np.ndarray:
        """T_cam_world [4, 4] at ``time_s`` if the motion between the last two keyframes goes on."""
        last = self._map[-1]
        if len(self._map) < 2 or self._map[-2].submap != last.submap:
            return last.T_cam_world
        before, step_s = self._map[-2], last.time_s - self._map[-2].time_s
        ahead = (time_s - last.time_s) / step_s if step_s > 0 else 1.0
        share = 1.0 + float(np.clip(ahead, 0.0, FARTHEST_AHEAD))
        return lie.interpolate(before.T_cam_world, last.T_cam_world, share)

    @property
    def overflowing(self) -> bool:
        """True if more frames wait for the next keyframe than memory should hold."""
        return len(self._waiting) >= _MOST_WAITING

    def forget_waiting(self) -> None:
        """Drop the features of frames that cannot be placed yet; they are interpolated between their neighbours."""
        self._waiting = []

    def set_inlier_ratio(self, position: int, inlier_ratio: float) -> None:
        """Note the share of a keyframe that the map supports, 0..1."""
        for record in reversed(self.records):
            if record.is_keyframe and record.keyframe == position:
                record.inlier_ratio = inlier_ratio
                return

    def remove_keyframe(self, position: int) -> None:
        """Turn a keyframe into a frame relative to the keyframe before it, and attach its frames there too.

        Called while the keyframe is still in the map.
        """
        assert position > 0
        for record in self.records:
            if record.keyframe == position:
                self._attach(record, position - 1)
            elif record.keyframe > position:
                record.keyframe -= 1
            record.matches = {p - (p > position): m for p, m in record.matches.items() if p != position}

    def _attach(self, record: FrameRecord, position: int) -> None:
        """Make the frame relative to another keyframe; a keyframe becomes a frame that waits to be placed."""
        T_cam_world, reference, before = self.T_cam_world(record), self._map[position], self._map[record.keyframe]
        if record.is_keyframe:
            record.is_keyframe, record.tracked = False, False
            self._waiting.append(WaitingFrame(record, before.features, before.ignored))
            self._waiting.sort(key=lambda waiting: waiting.record.index)
        record.T_cam_keyframe = T_cam_world @ lie.inverse(reference.T_cam_world)
        record.keyframe, record.length_scale = position, reference.length_scale

    # ------------------------------------------------------------------ place

    def place_before(self, position: int) -> None:
        """Place the waiting frames of keyframes before ``position``."""
        due = [w for w in self._waiting if w.record.keyframe < position]
        self._waiting = [w for w in self._waiting if w.record.keyframe >= position]
        for keyframe in dict.fromkeys(w.record.keyframe for w in due):
            group = [w for w in due if w.record.keyframe == keyframe]
            for begin in range(0, len(group), self._config.frames_at_once):
                self._place(keyframe, group[begin : begin + self._config.frames_at_once])

    def _place(self, keyframe: int, group: list[WaitingFrame]) -> None:
        """Place frames between a keyframe and the next one of its submap; after the last one, against that alone."""
        slam_map = self._map
        ends = [keyframe]
        if keyframe + 1 < len(slam_map) and slam_map[keyframe + 1].submap == slam_map[keyframe].submap:
            ends.append(keyframe + 1)
        poses = self._starts(ends, [waiting.record for waiting in group])
        edges = [(n, len(ends) + f) for n in range(len(ends)) for f in range(len(group))]
        memories: list[EdgeMemory] = []
        matches: list[Correspondence] = []
        for _ in range(self._config.frame_updates):
            queries = self._queries(ends, group, poses, edges)
            memories = memories or [self._model.begin(query) for query in queries]
            stepped = self._model.update(queries, memories)
            memories = [memory for _, memory in stepped]
            masks = [slam_map[ends[n]].moving_cells for n, _ in edges]
            matches = mask_all_moving(masked_by_ignored(queries, [match for match, _ in stepped]), masks)
            poses = self._solved(ends, poses, edges, matches)
        matches = _on_host(matches)
        for f, waiting in enumerate(group):
            found = {ends[n]: matches[e] for e, (n, target) in enumerate(edges) if target == len(ends) + f}
            self._note(waiting.record, lie.pose_vec_to_matrix(poses[len(ends) + f]), found)

    def _starts(self, ends: list[int], records: list[FrameRecord]) -> np.ndarray:
        """T_cam_world vectors [N, 7] of the keyframes at the ends, then of the frames, between the ends by time."""
        known = self._map.pose_vectors(ends)
        if len(ends) == 1:
            return np.concatenate([known, np.repeat(known, len(records), axis=0)])
        begin_s, end_s = (self._map[i].time_s for i in ends)
        share = np.array([r.time_s - begin_s for r in records]) / max(end_s - begin_s, 1e-9)
        T_before, T_after = lie.pose_vec_to_matrix(known)
        between = lie.interpolate(T_before, T_after, share.clip(0.0, 1.0))
        return np.concatenate([known, lie.matrix_to_pose_vec(between)])

    def _depths(self, ends: list[int], count: int) -> Array:
        """Inverse depths of the keyframes; nothing starts at a frame, so that its own do not matter."""
        return self._map.graph.stacked("inv_depth", [*ends, *[ends[0]] * (count - len(ends))])

    def _queries(
        self, ends: list[int], group: list[WaitingFrame], poses: np.ndarray, edges: list[tuple[int, int]]
    ) -> list[EdgeQuery]:
        source, target = np.array(edges).T
        predicted = self._map.graph.reprojections(poses, self._depths(ends, len(poses)), source, target)
        return [
            EdgeQuery(
                self._map[ends[n]].features,
                group[f - len(ends)].features,
                predicted[e],
                source_ignored=self._map[ends[n]].ignored,
                target_ignored=group[f - len(ends)].ignored,
            )
            for e, (n, f) in enumerate(edges)
        ]

    def _solved(
        self, ends: list[int], poses: np.ndarray, edges: list[tuple[int, int]], matches: list[Correspondence]
    ) -> np.ndarray:
        source, target = np.array(edges).T
        window = BaWindow(
            intrinsics=self._map.camera.grid().vector(),
            poses=poses,
            inv_depth=self._depths(ends, len(poses)),
            source=np.ascontiguousarray(source),
            target=np.ascontiguousarray(target),
            flow_target=_stacked([match.target for match in matches]),
            confidence=confidence_per_axis(_stacked([match.confidence for match in matches])),
            pose_free=np.arange(len(poses)) >= len(ends),
            depth_free=np.zeros(len(poses), bool),
        )
        solved, _ = self._map.solver.solve(window, iterations=self._config.solver_iterations, motion_only=True)
        return solved.poses

    def _note(self, record: FrameRecord, T_cam_world: np.ndarray, matches: dict[int, Correspondence]) -> None:
        views = [(self._map[position], match) for position, match in matches.items()]
        found, inliers, record.inlier_ratio = self._tracker.refine(views, T_cam_world)
        record.tracked = inliers >= _TRACKED_INLIERS
        if record.tracked:
            record.matches = {p: self._map.disk.put(on_host(packed(match))) for p, match in matches.items()}
            T_cam_world = found
        reference = self._map[record.keyframe]
        record.T_cam_keyframe = T_cam_world @ lie.inverse(reference.T_cam_world)
        record.length_scale = reference.length_scale


def _stacked(maps: list[Array]) -> Array:
    tensors = [m for m in maps if isinstance(m, Tensor)]
    return torch.stack(tensors) if tensors else np.stack([on_host(m) for m in maps])


def _on_host(matches: list[Correspondence]) -> list[Correspondence]:
    """Matches that lie on a device come back in one piece."""
    if not any(isinstance(match.target, Tensor) for match in matches):
        return matches
    return [unpacked(edge) for edge in on_host(_stacked([packed(match) for match in matches]))]
