"""How the camera's exposure wanders along a drive: slowly, and quickly in and out of shade."""

from __future__ import annotations

import numpy as np

from metric_slam.datasets.synthetic.spec import DriveSpec

SLOW_SHARE = 0.6
SHADE_SHARE = (0.5, 0.9)
SHADE_S, BETWEEN_SHADES_S = (1.0, 4.0), (3.0, 12.0)
RAMP_FRAMES = (3, 5)


def exposure_gains(spec: DriveSpec, count: int) -> np.ndarray:
    """Factor on the light of each of the first ``count`` frames, [count], within exp(-+exposure_change)."""
    rng = np.random.default_rng([spec.seed, 8])
    time_s = np.arange(count) / spec.rate_hz
    slow = np.zeros(count)
    for weight, period_s in ((0.6, rng.uniform(18, 30)), (0.4, rng.uniform(7, 11))):
        slow += weight * np.sin(2 * np.pi * (time_s / period_s + rng.random()))
    shade, begin = np.zeros(count), 0
    while True:
        begin += int(rng.uniform(*BETWEEN_SHADES_S) * spec.rate_hz)
        if begin >= count:
            break
        frames, ramp = int(rng.uniform(*SHADE_S) * spec.rate_hz), int(rng.integers(RAMP_FRAMES[0], RAMP_FRAMES[1] + 1))
        frame = np.arange(count) - begin
        inside = np.clip(np.minimum(frame / ramp, (frames + ramp - frame) / ramp), 0, 1)
        shade = np.maximum(shade, inside * rng.uniform(*SHADE_SHARE))
        begin += frames + 2 * ramp
    return np.exp(spec.exposure_change * np.clip(SLOW_SHARE * slow - shade, -1, 1))
