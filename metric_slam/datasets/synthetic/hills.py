"""Hilly land: a smooth height field that lifts the world, and how a car stands on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from metric_slam.datasets.synthetic.mesh import Mesh
from metric_slam.datasets.synthetic.spec import DriveSpec

WAVES = ((240.0, 0.20), (170.0, 0.14), (115.0, 0.10), (85.0, 0.06))
"""Wavelengths in metres and their amplitudes as shares of the hills' height; half of each in two directions."""

GROUND_EDGE_M = 3.0
"""Edge of the pieces of ground: at a radius of 150 m a chord of this length is 8 mm below the arc."""

FRONT_AXLE_M, REAR_AXLE_M = 1.0, -1.7
"""Axles of the car, along it from the camera."""

HALF_TRACK_M = 0.75
_CHUNK = 500_000


@dataclass(frozen=True)
class Hills:
    """Height above sea level as a sum of sines."""

    wave_numbers: np.ndarray
    """[K, 2] in radians per metre."""

    phases: np.ndarray
    amplitudes_m: np.ndarray

    @staticmethod
    def of(spec: DriveSpec) -> Hills:
        """The land of ``spec``; between -hills_m / 2 and hills_m / 2."""
        rng = np.random.default_rng([spec.seed, 7])
        length_m, share = np.repeat(np.array(WAVES), 2, axis=0).T
        angle = np.repeat(rng.uniform(0, np.pi / 2, len(WAVES)), 2) + np.tile([0, np.pi / 2], len(WAVES))
        wave_numbers = (2 * np.pi / length_m)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return Hills(wave_numbers, rng.uniform(0, 2 * np.pi, len(angle)), spec.hills_m * share / 2)

    def height(self, xy: np.ndarray) -> np.ndarray:
        """Heights [...] in metres at ``xy`` [..., 2]."""
        return np.sin(xy @ self.wave_numbers.T + self.phases) @ self.amplitudes_m

    def slope(self, xy: np.ndarray) -> np.ndarray:
        """Rise per metre to the east and to the north, [..., 2], at ``xy`` [..., 2]."""
        waves = np.cos(xy @ self.wave_numbers.T + self.phases) * self.amplitudes_m
        return waves @ self.wave_numbers

    def lifted(self, mesh: Mesh) -> Mesh:
        """The mesh with all its corners raised by the height of their places, and its normals turned with it."""
        points, normals = mesh.points_m.copy(), mesh.normals.copy()
        for start in range(0, len(points), _CHUNK):
            part = slice(start, start + _CHUNK)
            xy = points[part, :, :2].astype(np.float64)
            points[part, :, 2] += self.height(xy)
            # z' = z + h(x, y) maps normals by the inverse transpose of its Jacobian
            normals[part, :, :2] -= self.slope(xy) * normals[part, :, 2:]
        return replace(mesh, points_m=points, normals=normals)

    def stand(self, xy: np.ndarray, heading: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How cars at ``xy`` [N, 2] that point to ``heading`` [N] stand on their four wheels.

        Returns pitch and roll [N] in radians (nose up and right side down are positive) and the height [N] in metres
        of the plane through the wheels at ``xy``.
        """
        ahead = np.stack([np.cos(heading), np.sin(heading)], axis=1)
        right = np.stack([ahead[:, 1], -ahead[:, 0]], axis=1)
        front, rear = (self._axle(xy + offset * ahead, right) for offset in (FRONT_AXLE_M, REAR_AXLE_M))
        rise = (front[0] - rear[0]) / (FRONT_AXLE_M - REAR_AXLE_M)
        fall = (front[1] + rear[1]) / 2
        normal = np.stack([-rise, fall, np.ones_like(rise)], axis=1)  # along the car, to its right, up
        pitch = np.arctan(rise)
        # the camera's level right is leant until it lies in the plane; what is up for it is tilted by the pitch
        roll = np.arctan2(normal[:, 1], normal[:, 2] * np.cos(pitch) - normal[:, 0] * np.sin(pitch))
        return pitch, roll, rear[0] - REAR_AXLE_M * rise

    def _axle(self, middle: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Height [N] of the middle of an axle, and its fall to the right [N], a slope."""
        high, low = self.height(middle - HALF_TRACK_M * right), self.height(middle + HALF_TRACK_M * right)
        return (high + low) / 2, (high - low) / (2 * HALF_TRACK_M)
