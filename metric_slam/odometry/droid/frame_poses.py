"""The frames between keyframes where a recurrent network matches: placed once the keyframes around them will stay.

Each starts on the way between the two, is matched from both, and the updates are followed by motion-only bundle
adjustment (DROID-SLAM, trajectory_filler.py); the matches are kept, so that the final map can move it once more.
A keyframe that is removed becomes such a frame. Where the graph has an accelerator, updates and solves take place on
its device, and the matches come back when a frame is placed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metric_slam.config.droid import DroidConfig
from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.correspondence.base import (
    Correspondence,
    EdgeMemory,
    EdgeQuery,
    RecurrentModel,
    confidence_per_axis,
    packed,
    unpacked,
)
from metric_slam.geometry import lie
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.graph.moving_mask import mask_all_moving
from metric_slam.odometry.frame_poses import FramePoses, FrameRecord
from metric_slam.odometry.tracking import FrameTracker
from metric_slam.optimization.bundle_adjustment import BaWindow, solve_window
from metric_slam.optimization.cuda.arrays import Array, on_host

_TRACKED_INLIERS = 0.25  # as of a frame that is tracked against a keyframe
_FARTHEST_AHEAD = 5.0  # steps between keyframes for which their motion is believed to go on
_MOST_WAITING = 64  # frames that a standing camera may gather; their features take memory

_Waiting = tuple[FrameRecord, Any]


class DroidFramePoses(FramePoses):
    """All processed frames in order; those that are no keyframes wait until they can be placed."""

    def __init__(
        self,
        store: KeyframeStore,
        graph: FactorGraph,
        tracker: FrameTracker,
        model: RecurrentModel,
        solver: BundleAdjustmentConfig,
        config: DroidConfig,
    ) -> None:
        super().__init__(store, tracker)
        self._graph, self._model, self._solver, self._config = graph, model, solver, config

    def add_keyframe(self, index: int, time_s: float, *, tracked: bool, inlier_ratio: float) -> None:
        """The frame that has just become the last keyframe of the store; the frames before it go on waiting."""
        position = len(self._store) - 1
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

    def add_waiting(self, index: int, time_s: float, features: Any) -> None:
        """A frame that moved too little since the last keyframe of the store; until it is placed it hangs there."""
        position = len(self._store) - 1
        record = FrameRecord(
            index, time_s, position, np.eye(4), self._unit(position), is_keyframe=False, tracked=False, inlier_ratio=0.0
        )
        self.records.append(record)
        self._waiting.append((record, features))

    def add_lost(self, index: int, time_s: float) -> None:
        """A frame that cannot be matched: it is where the motion of the last keyframes leads."""
        position = len(self._store) - 1
        T_keyframe_world, T_cam_world = lie.pose_vec_to_matrix(
            np.stack([self._store[position].pose, self.predicted(time_s)])
        )
        T_cam_keyframe = T_cam_world @ lie.inverse(T_keyframe_world)
        self.records.append(
            FrameRecord(
                index,
                time_s,
                position,
                T_cam_keyframe,
                self._unit(position),
                is_keyframe=False,
                tracked=False,
                inlier_ratio=0.0,
            )
        )

    def predicted(self, time_s: float) -> np.ndarray:
        """T_cam_world [7] at ``time_s`` if the motion between the last two keyframes goes on."""
        last = self._store[-1]
        if len(self._store) < 2 or self._store[-2].submap != last.submap:
            return last.pose.copy()
        before, step_s = self._store[-2], last.time_s - self._store[-2].time_s
        ahead = (time_s - last.time_s) / step_s if step_s > 0 else 1.0
        T_before, T_last = lie.pose_vec_to_matrix(np.stack([before.pose, last.pose]))
        between = lie.interpolate(T_before, T_last, 1.0 + float(np.clip(ahead, 0.0, _FARTHEST_AHEAD)))
        return lie.matrix_to_pose_vec(between)

    @property
    def overflowing(self) -> bool:
        """Do more frames wait for the next keyframe than memory should hold?"""
        return len(self._waiting) >= _MOST_WAITING

    def forget_waiting(self) -> None:
        """Lets frames go that cannot be placed yet: they end up between their neighbours."""
        self._waiting = []

    def set_inlier_ratio(self, position: int, inlier_ratio: float) -> None:
        """How well the map supports a keyframe, 0..1."""
        for record in reversed(self.records):
            if record.is_keyframe and record.keyframe == position:
                record.inlier_ratio = inlier_ratio
                return

    def remove_keyframe(self, position: int) -> None:
        """The keyframe becomes a frame that hangs on the one before it, as do the frames that hung on it. Called while
        it is still in the store."""
        assert position > 0
        for record in self.records:
            if record.keyframe == position:
                self._hang_on(record, position - 1)
            elif record.keyframe > position:
                record.keyframe -= 1
            record.matches = {p - (p > position): m for p, m in record.matches.items() if p != position}

    def _hang_on(self, record: FrameRecord, position: int) -> None:
        T_keyframe_world = lie.pose_vec_to_matrix(self._store[position].pose)
        T_cam_world = self.T_cam_world(record)
        if record.is_keyframe:
            record.is_keyframe, record.tracked = False, False
            self._waiting.append((record, self._store[record.keyframe].features))
            self._waiting.sort(key=lambda waiting: waiting[0].index)
        record.T_cam_keyframe, record.unit = T_cam_world @ lie.inverse(T_keyframe_world), self._unit(position)
        record.keyframe = position

    # ------------------------------------------------------------------ place

    def place_before(self, position: int) -> None:
        """Places the frames that hang on keyframes before ``position``."""
        due = [w for w in self._waiting if w[0].keyframe < position]
        self._waiting = [w for w in self._waiting if w[0].keyframe >= position]
        for keyframe in dict.fromkeys(record.keyframe for record, _ in due):
            group = [w for w in due if w[0].keyframe == keyframe]
            for begin in range(0, len(group), self._config.frames_at_once):
                self._place(keyframe, group[begin : begin + self._config.frames_at_once])

    def _place(self, keyframe: int, group: list[_Waiting]) -> None:
        """Frames between a keyframe and the next one of its submap; after the last one, against that alone."""
        store = self._store
        ends = [keyframe]
        if keyframe + 1 < len(store) and store[keyframe + 1].submap == store[keyframe].submap:
            ends.append(keyframe + 1)
        poses = self._starts(ends, [record for record, _ in group])
        edges = [(n, len(ends) + f) for n in range(len(ends)) for f in range(len(group))]
        memories: list[EdgeMemory] = []
        matches: list[Correspondence] = []
        for _ in range(self._config.frame_updates):
            queries = self._queries(ends, group, poses, edges)
            memories = memories or [self._model.begin(query) for query in queries]
            stepped = self._model.update(queries, memories)
            memories = [memory for _, memory in stepped]
            masks = [store[ends[n]].moving_cells for n, _ in edges]
            matches = mask_all_moving([match for match, _ in stepped], masks)
            poses = self._solved(ends, poses, edges, matches)
        matches = _on_host(matches)
        for f, (record, _) in enumerate(group):
            found = {ends[n]: matches[e] for e, (n, target) in enumerate(edges) if target == len(ends) + f}
            self._note(record, poses[len(ends) + f], found)

    def _starts(self, ends: list[int], records: list[FrameRecord]) -> np.ndarray:
        """T_cam_world [7] of the keyframes at the ends, then of the frames, on the way between the ends by time."""
        known = np.array([self._store[i].pose for i in ends])
        if len(ends) == 1:
            return np.concatenate([known, np.repeat(known, len(records), axis=0)])
        begin_s, end_s = (self._store[i].time_s for i in ends)
        share = np.array([r.time_s - begin_s for r in records]) / max(end_s - begin_s, 1e-9)
        T_before, T_after = lie.pose_vec_to_matrix(known)
        between = lie.interpolate(T_before, T_after, share.clip(0.0, 1.0))
        return np.concatenate([known, lie.matrix_to_pose_vec(between)])

    def _depths(self, ends: list[int], count: int) -> Array:
        """Inverse depths of the keyframes; nothing starts at a frame, so that its own do not matter."""
        return self._graph.stacked("inv_depth", [*ends, *[ends[0]] * (count - len(ends))])

    def _queries(
        self, ends: list[int], group: list[_Waiting], poses: np.ndarray, edges: list[tuple[int, int]]
    ) -> list[EdgeQuery]:
        source, target = np.array(edges).T
        predicted = self._graph.reprojections(poses, self._depths(ends, len(poses)), source, target)
        return [
            EdgeQuery(self._store[ends[n]].features, group[f - len(ends)][1], predicted[e])
            for e, (n, f) in enumerate(edges)
        ]

    def _solved(
        self, ends: list[int], poses: np.ndarray, edges: list[tuple[int, int]], matches: list[Correspondence]
    ) -> np.ndarray:
        source, target = np.array(edges).T
        window = BaWindow(
            intrinsics=self._store.camera.grid().vector(),
            poses=poses,
            inv_depth=self._depths(ends, len(poses)),
            source=np.ascontiguousarray(source),
            target=np.ascontiguousarray(target),
            flow_target=_stacked([match.target for match in matches]),
            confidence=confidence_per_axis(_stacked([match.confidence for match in matches])),
            pose_free=np.arange(len(poses)) >= len(ends),
            depth_free=np.zeros(len(poses), bool),
        )
        solved, _ = solve_window(
            window,
            self._solver,
            iterations=self._config.solver_iterations,
            motion_only=True,
            accelerator=self._graph.accelerator,
        )
        return solved.poses

    def _note(self, record: FrameRecord, pose: np.ndarray, matches: dict[int, Correspondence]) -> None:
        views = [(self._store[position], match) for position, match in matches.items()]
        found, inliers, record.inlier_ratio = self._tracker.refine(views, pose)
        record.tracked = inliers >= _TRACKED_INLIERS
        if record.tracked:
            record.matches = {p: self._store.disk.put(packed(match)) for p, match in matches.items()}
            pose = found
        T_keyframe_world = lie.pose_vec_to_matrix(self._store[record.keyframe].pose)
        record.T_cam_keyframe = lie.pose_vec_to_matrix(pose) @ lie.inverse(T_keyframe_world)
        record.unit = self._unit(record.keyframe)


def _stacked(maps: list[Array]) -> Array:
    return torch.stack(maps) if isinstance(maps[0], Tensor) else np.stack(maps)


def _on_host(matches: list[Correspondence]) -> list[Correspondence]:
    """Matches that lie on a device come back in one piece."""
    if not any(isinstance(match.target, Tensor) for match in matches):
        return matches
    return [unpacked(edge) for edge in on_host(torch.stack([packed(match) for match in matches]))]
