"""The path of the keyframes in units of the scene: change of the view, and possible drift of the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.ndimage import median_filter

from metric_slam.errors import InputError
from metric_slam.geometry import lie
from metric_slam.loops.limits import LoopLimits
from metric_slam.loops.loop import Loop, LoopState

_NEARBY = 9  # keyframes whose median depth is one of the scene: a lorry that passes changes that of a few


@dataclass(frozen=True)
class Route:
    """A snapshot of all N keyframes."""

    T_world_cam: np.ndarray
    """float64 [N, 4, 4]."""

    submap: np.ndarray
    """Number of the submap of each keyframe, int64 [N]."""

    median_depth: np.ndarray
    """Median depth of each keyframe, lengths of the map, float64 [N]."""

    limits: LoopLimits = field(default_factory=LoopLimits)

    def __post_init__(self) -> None:
        count = len(self.T_world_cam)
        if self.T_world_cam.shape != (count, 4, 4):
            raise InputError(f"T_world_cam must be [N, 4, 4], not {list(self.T_world_cam.shape)}")
        for name in ("submap", "median_depth"):
            if getattr(self, name).shape != (count,):
                raise InputError(f"{name} must be [{count}], not {list(getattr(self, name).shape)}")
        if not (self.median_depth > 0).all():
            raise InputError("median_depth must be positive")

    @property
    def centres(self) -> np.ndarray:
        """Camera centres, [N, 3]."""
        return self.T_world_cam[:, :3, 3]

    @property
    def forward(self) -> np.ndarray:
        """Optical axes, unit vectors [N, 3]."""
        return self.T_world_cam[:, :3, 2]

    @cached_property
    def scene_depth(self) -> np.ndarray:
        """Median depth of the scene around each keyframe: a running median within its submap, [N]."""
        depth = np.empty(len(self.median_depth))
        for submap in np.unique(self.submap):
            members = self.submap == submap
            depth[members] = median_filter(self.median_depth[members], size=_NEARBY, mode="nearest")
        return depth

    @cached_property
    def way(self) -> np.ndarray:
        """Accumulated change of the view up to each keyframe, [N].

        1 is a view that was replaced: by a turn of 1 rad, a sideways move of the median depth, or a forward move of
        ``limits.forward_depths``. A step between submaps counts nothing.
        """
        return _accumulated(self._view_changes(self._motions, self._step_depth) * self._within_submap)

    def detour(self, position: int) -> np.ndarray:
        """Way between ``position`` and every keyframe less the direct change of the view between the two, [N].

        It stays near 0 as long as the camera goes on, and grows when it comes back; infinite between submaps.
        """
        direct = self._view_changes(
            lie.relative(self.T_world_cam[position], self.T_world_cam), self.scene_depth[position]
        )
        detour = np.abs(self.way - self.way[position]) - direct
        return np.where(self.submap == self.submap[position], detour, np.inf)

    @cached_property
    def travel(self) -> np.ndarray:
        """Accumulated length up to each keyframe that drift is a share of, lengths of the map, [N].

        A turn counts like a sideways move that shifts the image as much (angle times median depth): from flow the two
        are hard to tell apart.
        """
        length = np.linalg.norm(self._motions[:, :3, 3], axis=1) + rotation_angles(self._motions) * self._step_depth
        return _accumulated(length * self._within_submap)

    def same_view(self, position: int) -> np.ndarray:
        """Keyframes whose optical axis is near that of ``position``, bool [N]."""
        return self.forward @ self.forward[position] > np.cos(self.limits.same_view_rad)

    def _view_changes(self, T: np.ndarray, depth: np.ndarray | float) -> np.ndarray:
        """Changes of the view [M] by motions T_here_there [M, 4, 4] in scenes of median depth [M]."""
        shift = np.abs(T[:, :3, 3])
        sideways, forward = np.hypot(shift[:, 0], shift[:, 1]), shift[:, 2] / self.limits.forward_depths
        return (sideways + forward) / depth + rotation_angles(T)

    @cached_property
    def _motions(self) -> np.ndarray:
        return lie.relative(self.T_world_cam[:-1], self.T_world_cam[1:])

    @property
    def _step_depth(self) -> np.ndarray:
        return np.sqrt(self.scene_depth[:-1] * self.scene_depth[1:])

    @property
    def _within_submap(self) -> np.ndarray:
        return self.submap[1:] == self.submap[:-1]


class DriftBound:
    """How far a keyframe may be from where the map puts it, relative to another keyframe."""

    def __init__(self, route: Route, loops: Sequence[Loop], share: float, floor_depths: float) -> None:
        """``share`` of the way between the two, plus ``floor_depths`` median depths of the scene.

        Only confirmed loops shorten the way: candidates and rejected ones may be false.
        """
        self._route, self._share, self._floor_depths = route, share, floor_depths
        self._loops = [loop for loop in loops if loop.state is LoopState.CONFIRMED]

    def between(self, query: int) -> np.ndarray:
        """Bound for the distance between the query and every keyframe, lengths of the map, [N]."""
        travel = self._route.travel
        way = np.abs(travel - travel[query])
        for loop in self._loops:
            here = abs(travel[query] - travel[loop.query])
            way = np.minimum(way, here + np.abs(travel - travel[loop.match]))
        return self._floor_depths * self._route.scene_depth[query] + self._share * way


def rotation_angles(T: np.ndarray) -> np.ndarray:
    """Rotation angles [...] of rigid motions [..., 4, 4], rad; unlike arccos of the trace exact for small ones."""
    R = T[..., :3, :3]
    sine = np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], axis=-1)
    return np.arctan2(np.linalg.norm(sine, axis=-1), np.trace(R, axis1=-2, axis2=-1) - 1.0)


def difference(T_a: np.ndarray, T_b: np.ndarray) -> tuple[float, float]:
    """Distance and angle [rad] between two poses [4, 4]."""
    T = lie.inverse(T_a) @ T_b
    return float(np.linalg.norm(T[:3, 3])), float(rotation_angles(T))


def _accumulated(steps: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(steps)])
