"""Moving traffic: a vehicle ahead in the own lane and oncoming ones, rigid bodies that follow the line of the drive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from metric_slam.datasets.synthetic.hills import Hills
from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.datasets.synthetic.mesh import Mesh, MeshBuilder
from metric_slam.datasets.synthetic.route import LANE_OFFSET_M, PATH_STEP_M, Motion, camera_poses
from metric_slam.datasets.synthetic.spec import DriveSpec
from metric_slam.datasets.synthetic.vehicles import Vehicle, make_vehicles

DISTANCE_M = (5.0, 15.0)
"""From the camera to the back of the vehicle ahead."""

WANDER, WANDER_LENGTH_M = 0.18, 25.0
"""Deviation of the distance's logarithm, and the way over which it changes."""

COMFORTABLE_M = 6.5
"""The smallest kind of vehicle is taken that covers enough from this far."""

ONCOMING_MPS = 9.0
MEETINGS_S = (3.0, 6.0)
SEEN_M = (-8.0, 80.0)
ONCOMING_SHARE, ALL_OVER_BACK = 0.03, 1.17
"""Measured: what oncoming vehicles cover on average, and the cover of the whole vehicle ahead over that of its back."""

WHEELBASE_M = 2.7


@dataclass(frozen=True)
class _Oncoming:
    vehicle: Vehicle
    frame: float
    """When it meets the camera."""


class Traffic:
    """Where every vehicle is in every frame."""

    def __init__(self, kit: Kit, spec: DriveSpec, motion: Motion) -> None:
        """Paints the vehicles into the atlas of ``kit``, which must not be finished yet."""
        rng = np.random.default_rng([spec.seed, 9])
        self._vehicles = make_vehicles(kit)
        self._hills = Hills.of(spec) if spec.hills_m else None
        self._motion, self._rate_hz = motion, spec.rate_hz
        grid_m = np.arange(len(motion.path)) * PATH_STEP_M
        self._grid_m, self._reach_m = grid_m, float(grid_m[-1])
        self._tangent = np.gradient(motion.path, axis=0)
        self._tangent /= np.linalg.norm(self._tangent, axis=1, keepdims=True)
        noise = gaussian_filter1d(rng.standard_normal(int(self._reach_m) + 200), WANDER_LENGTH_M / 2)
        wander = np.exp(WANDER * noise / noise.std())
        self._ahead, base_m = _choose(self._vehicles, spec, wander)
        self._distance_m = np.clip(base_m * wander, *DISTANCE_M)
        self._oncoming, frame = [], float(rng.uniform(1, 4)) * spec.rate_hz
        while frame < len(motion.s_m) + SEEN_M[1]:
            kind = int(rng.choice(3, p=[0.6, 0.25, 0.15]))
            self._oncoming.append(_Oncoming(self._vehicles[kind], frame))
            frame += float(rng.uniform(*MEETINGS_S)) * spec.rate_hz

    def at(self, index: int) -> Mesh:
        """All vehicles near the camera of frame ``index``, in the world."""
        builder, own_m = MeshBuilder(), float(self._motion.s_m[index])
        distance_m = float(np.interp(own_m, np.arange(len(self._distance_m)), self._distance_m))
        builder.stamp(self._ahead.mesh, self._frame(own_m + distance_m + self._ahead.length_m / 2, 0.0))
        for other in self._oncoming:
            met_m = np.interp(other.frame, np.arange(len(self._motion.s_m)), self._motion.s_m)
            s_m = float(met_m) + ONCOMING_MPS * (other.frame - index) / self._rate_hz
            if SEEN_M[0] < s_m - own_m < SEEN_M[1] and 0 < s_m < self._reach_m:
                turned = self._frame(s_m, 2 * LANE_OFFSET_M) @ np.diag([-1.0, -1.0, 1.0, 1.0])
                builder.stamp(other.vehicle.mesh, turned)
        return builder.build()

    def _frame(self, s_m: float, left_m: float) -> np.ndarray:
        """Rigid motion [4, 4] of a vehicle on the line at ``s_m``, ``left_m`` beside it, with x along the line."""
        front, rear = (self._place(s_m + offset, left_m) for offset in (WHEELBASE_M / 2, -WHEELBASE_M / 2))
        middle = ((front + rear) / 2)[None]
        heading = np.arctan2(*(front - rear)[::-1])[None]
        pitch, roll, z = np.zeros((3, 1)) if self._hills is None else self._hills.stand(middle, heading)
        pose = camera_poses(middle[:, 0], middle[:, 1], z, heading, pitch, roll)[0]
        return np.column_stack([pose[:, 2], -pose[:, 0], -pose[:, 1], pose[:, 3]])

    def _place(self, s_m: float, left_m: float) -> np.ndarray:
        inside = np.clip(s_m, 0, self._reach_m)
        point, tangent = (
            np.array([np.interp(inside, self._grid_m, values[:, k]) for k in (0, 1)])
            for values in (self._motion.path, self._tangent)
        )
        return point + (s_m - inside) * tangent + left_m * np.array([-tangent[1], tangent[0]])


def _choose(vehicles: tuple[Vehicle, ...], spec: DriveSpec, wander: np.ndarray) -> tuple[Vehicle, float]:
    """The vehicle ahead, and the distance whose multiples ``wander`` make it cover what is wanted on average."""
    wanted = max(spec.moving_cars - ONCOMING_SHARE, 0.0) / ALL_OVER_BACK
    fitting = [v for v in vehicles if _cover(v, spec, np.array([COMFORTABLE_M])).mean() >= wanted]
    vehicle = fitting[0] if fitting else vehicles[-1]
    low, high = DISTANCE_M[0] / 2, 2 * DISTANCE_M[1]
    for _ in range(40):
        middle = (low + high) / 2
        too_much = _cover(vehicle, spec, np.clip(middle * wander, *DISTANCE_M)).mean() > wanted
        low, high = (middle, high) if too_much else (low, middle)
    return vehicle, high


def _cover(vehicle: Vehicle, spec: DriveSpec, distance_m: np.ndarray) -> np.ndarray:
    """Share of the image that the back of ``vehicle`` covers at ``distance_m`` [...] straight ahead."""
    camera = spec.camera
    width = np.minimum(vehicle.width_m * camera.fx / distance_m, camera.width)
    below = np.minimum((spec.camera_height_m - 0.3) * camera.fy / distance_m, camera.height / 2)
    above = np.clip((vehicle.height_m - spec.camera_height_m) * camera.fy / distance_m, -below, camera.height / 2)
    return width * (below + above) / (camera.width * camera.height)
