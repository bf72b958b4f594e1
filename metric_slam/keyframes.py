"""The keyframe store: the only owner of poses and inverse depths. Everyone else gets copies and hands results back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from metric_slam.geometry import lie
from metric_slam.geometry.camera import PinholeCamera


@dataclass
class Keyframe:
    """One keyframe and its present estimate."""

    index: int
    """Frame index in the data set."""

    time_s: float
    image: np.ndarray
    """uint8 [H, W, 3] RGB at working resolution."""

    features: Any
    """Of the correspondence model; opaque."""

    prior_state: Any
    """Of the depth prior; opaque."""

    pose: np.ndarray
    """T_cam_world: t xyz, q xyzw, float64 [7]."""

    inv_depth: np.ndarray
    """1/m, float64 [h, w]."""

    prior_depth_m: np.ndarray
    """float64 [h, w], 0 where the prior says nothing."""

    prior_confidence: np.ndarray
    """0..1, float64 [h, w]."""

    prior_weight: np.ndarray
    """What the bundle adjustment gives it: confidence over variance, float64 [h, w]; 0 for depth that is only shown."""

    prior_log_scale: float = 0.0
    """s_k."""


class KeyframeStore:
    """An ordered, growing list of keyframes that share one working camera."""

    def __init__(self, camera: PinholeCamera) -> None:
        self.camera = camera
        self._keyframes: list[Keyframe] = []
        self._retired = 0

    def __len__(self) -> int:
        return len(self._keyframes)

    def __getitem__(self, position: int) -> Keyframe:
        return self._keyframes[position]

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._keyframes)

    def append(self, keyframe: Keyframe) -> int:
        """Adds a keyframe and returns its position."""
        grid = self.camera.grid()
        assert keyframe.inv_depth.shape == (grid.height, grid.width), keyframe.inv_depth.shape
        self._keyframes.append(keyframe)
        return len(self._keyframes) - 1

    def show_prior(self, position: int, depth_m: np.ndarray, confidence: np.ndarray) -> None:
        """Notes a prior depth [h, w] that maps and reports use, and the bundle adjustment does not."""
        self._keyframes[position].prior_depth_m = depth_m
        self._keyframes[position].prior_confidence = confidence

    def poses(self, begin: int, end: int) -> np.ndarray:
        """T_cam_world of keyframes begin..end-1, float64 [N, 7]; a copy."""
        return np.array([k.pose for k in self._keyframes[begin:end]]).reshape(-1, 7)

    def stacked(self, field: str, begin: int, end: int) -> np.ndarray:
        """One array field of keyframes begin..end-1, stacked [N, ...]; a copy."""
        return np.stack([getattr(k, field) for k in self._keyframes[begin:end]])

    def update(self, begin: int, poses: np.ndarray, inv_depth: np.ndarray, prior_log_scale: np.ndarray) -> None:
        """Writes results of an optimisation of keyframes begin, begin+1, ... back."""
        for offset in range(len(poses)):
            keyframe = self._keyframes[begin + offset]
            keyframe.pose = poses[offset].copy()
            keyframe.inv_depth = inv_depth[offset].copy()
            keyframe.prior_log_scale = float(prior_log_scale[offset])

    def retire_before(self, position: int) -> None:
        """Lets go of what only matching and measuring need of keyframes before ``position``: features, prior state."""
        while self._retired < min(position, len(self._keyframes)):
            self._keyframes[self._retired].features = None
            self._keyframes[self._retired].prior_state = None
            self._retired += 1

    def rescale(self, factor: float, begin: int = 0) -> None:
        """Multiplies every length of the map from keyframe ``begin`` on; the camera of that one stays where it is."""
        T_world_cam = lie.inverse(lie.pose_vec_to_matrix(self.poses(begin, len(self))))
        centres = T_world_cam[:, :3, 3]
        T_world_cam[:, :3, 3] = centres[0] + factor * (centres - centres[0])
        for keyframe, pose in zip(
            self._keyframes[begin:], lie.matrix_to_pose_vec(lie.inverse(T_world_cam)), strict=True
        ):
            keyframe.pose = pose
            keyframe.inv_depth = keyframe.inv_depth / factor
