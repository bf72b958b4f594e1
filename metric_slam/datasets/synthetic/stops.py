"""A car that stops on its way: the positions of the frames when it brakes to a standstill, waits and starts again."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from metric_slam.datasets.synthetic.spec import DriveSpec

WAIT_S = (2.0, 4.0)
BRAKING_MPS2, STARTING_MPS2 = 2.6, 2.2
FINE_S = 0.01
SOFTENING_S, SOFTENING_REACH = 0.25, 2.0
"""Deviation of the smoothing over time that makes braking begin and end gradually; its reach in deviations."""

FULL_MOTION_MPS = 4.0
"""From this speed on the road shakes the car as much as it ever does."""


def positions_with_stops(speed_mps: np.ndarray, stops_m: np.ndarray, step_m: float, spec: DriveSpec) -> np.ndarray:
    """Arc lengths of all frames, float64 [N], of a car that drives at ``speed_mps`` [S] but waits at ``stops_m``."""
    s = np.arange(len(speed_mps)) * step_m
    at = np.searchsorted(s, stops_m)
    speed = speed_mps.copy()
    for k in at:
        limit = np.where(s < s[k], BRAKING_MPS2, STARTING_MPS2)
        speed = np.minimum(speed, np.sqrt(2 * limit * np.abs(s - s[k])))
    time_s = np.concatenate([[0.0], np.cumsum(2 * step_m / (speed[1:] + speed[:-1]))])
    # the softening moves the car for some of the wait: that much longer it waits
    waits_s = np.random.default_rng([spec.seed, 6]).uniform(*WAIT_S, len(at)) + 2 * SOFTENING_REACH * SOFTENING_S
    for k, wait_s in zip(at, waits_s, strict=True):
        time_s[k + 1 :] += wait_s
    time_s, s = np.insert(time_s, at + 1, time_s[at] + waits_s), np.insert(s, at + 1, s[at])
    fine_s = np.arange(0.0, time_s[-1], FINE_S)
    # without an even motion at the speed of the start, so that the filter's constant padding fits there
    even = speed[0] * fine_s
    offset = gaussian_filter1d(
        np.interp(fine_s, time_s, s) - even, SOFTENING_S / FINE_S, mode="nearest", truncate=SOFTENING_REACH
    )
    frame_times_s = np.arange(int(time_s[-1] * spec.rate_hz)) / spec.rate_hz
    return np.interp(frame_times_s, fine_s, even + offset)


def moving_share(s_m: np.ndarray, rate_hz: float) -> np.ndarray:
    """How much of the road's shaking is felt at every frame, [N] in 0..1: none where the car stands."""
    speed = np.abs(np.gradient(s_m)) * rate_hz
    return np.clip(speed / FULL_MOTION_MPS, 0, 1)
