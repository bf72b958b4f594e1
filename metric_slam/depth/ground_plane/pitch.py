"""Self-calibration of the camera's pitch: a car drives parallel to its road, so the road's normal is perpendicular to
the mean direction of travel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metric_slam.errors import InputError


@dataclass(frozen=True)
class PitchSettings:
    """Which motions count as straight travel, and how many of them are averaged."""

    motions: int = 10
    """Straight motions that are averaged: braking and accelerating tilt the body by tenths of a degree for about a
    second, and a change of slope has to be followed."""

    min_length_share: float = 0.25
    """Shortest motion, as a share of the median one: a standing car has no direction of travel."""

    min_forward: float = 0.9
    """Least forward component of the unit direction of travel, 26 degrees: excludes sideways motion."""

    max_turn_rad: float = float(np.radians(3.0))
    """Largest rotation between two keyframes: in a turn a camera ahead of the rear axle moves sideways."""

    initial_sigma_rad: float = float(np.radians(0.6))
    """Uncertainty before any motion; it shrinks with the square root of their number."""


class PitchCalibration:
    """Pitch of the camera against its direction of travel: the median over the latest straight motions."""

    def __init__(self, sigma_rad: float, settings: PitchSettings | None = None) -> None:
        """``sigma_rad``: deviation of one keyframe's pitch from the calibrated one (the body's own movement)."""
        if not sigma_rad > 0:
            raise InputError(f"sigma_rad is {sigma_rad}: it must be positive")
        self._sigma_rad, self._settings = sigma_rad, settings or PitchSettings()
        self.measured = np.zeros(0)
        """Pitch of the latest straight motions, rad."""

    def update(self, motions: np.ndarray) -> None:
        """Measure the pitch from ``motions``, T_next_previous [M, 4, 4] up to scale, oldest first.

        Turns and standstill are left out. Without any straight motion the last calibration stays.
        """
        limits = self._settings
        R, t = motions[:, :3, :3], motions[:, :3, 3]
        length = np.linalg.norm(t, axis=1)
        moved = length > limits.min_length_share * np.median(length) if len(length) else np.zeros(0, bool)
        R, t = R[moved], t[moved] / length[moved, None]
        travel = 0.5 * (-np.einsum("mji,mj->mi", R, t) - t)  # mean of the directions in the two cameras
        travel *= np.sign(travel[:, 2:])  # a reversing car travels along the same line
        turn = np.arccos(np.clip((np.trace(R, axis1=1, axis2=2) - 1.0) / 2.0, -1.0, 1.0))
        straight = (travel[:, 2] > limits.min_forward) & (turn < limits.max_turn_rad)
        if straight.any():  # in a long turn the last straight stretch still counts
            self.measured = np.arctan2(travel[straight, 1], travel[straight, 2])[-limits.motions :]

    @property
    def pitch_rad(self) -> float:
        """Best estimate; 0 before any measurement. Positive: the direction of travel lies below the optical axis."""
        return float(np.median(self.measured)) if len(self.measured) else 0.0

    @property
    def sigma_rad(self) -> float:
        """Uncertainty of one keyframe's pitch: the body's movement and the error of the calibration."""
        return float(np.hypot(self._sigma_rad, self._settings.initial_sigma_rad / np.sqrt(len(self.measured) + 1)))
