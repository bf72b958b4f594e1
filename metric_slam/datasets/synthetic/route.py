"""Where the car drives: a smooth path, a speed profile within the limits of a car, and exact camera poses.

World: x east, y north, z up, road at z = 0, metres. The central block's kerbs are x = 0..length, y = 0..depth; the path
goes around it counter-clockwise on the right-hand lane, so every corner is a left turn.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from metric_slam.datasets.synthetic.spec import DriveSpec

STREET_WIDTH_M = 11.0
LANE_OFFSET_M = 1.65
"""Distance of the lane's middle from the street's middle."""

CORNER_RADIUS_M = 11.0
ACCELERATION_MPS2 = 3.8
BRAKING_MPS2 = 4.8
PATH_STEP_M = 0.05
STREET_LENGTH_M = 120.0
"""Length of the route "street"."""


def drive_poses(spec: DriveSpec) -> np.ndarray:
    """Poses T_world_cam of all frames, float64 [N, 4, 4], in the world above (z up)."""
    path, speed_limit = _path(spec)
    speed = _smooth_speed(speed_limit)
    s_m = _frame_positions(speed, spec)
    grid = np.arange(len(path)) * PATH_STEP_M
    x, y = (np.interp(s_m, grid, path[:, k]) for k in (0, 1))
    tangent = np.gradient(path, PATH_STEP_M, axis=0)
    heading = np.interp(s_m, grid, np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0])))
    acceleration = np.interp(s_m, grid, speed * np.gradient(speed, PATH_STEP_M))
    pitch, roll, heave = _body_motion(len(s_m), acceleration, spec)
    return _camera_poses(x, y, spec.camera_height_m + heave, heading, pitch, roll)[: spec.frames]


def _path(spec: DriveSpec) -> tuple[np.ndarray, np.ndarray]:
    """Path [S, 2] at equal steps of arc length and its speed limit [S]."""
    if spec.route == "street":
        s = np.arange(0.0, STREET_LENGTH_M - 55.0, PATH_STEP_M)
        y = np.full_like(s, -STREET_WIDTH_M / 2 - LANE_OFFSET_M) + 0.25 * np.sin(s / 9.0)
        points, limit = np.stack([s + 5.0, y], axis=1), np.full(len(s), spec.town_speed_mps)
    else:
        points, limit = _around_the_block(spec)
    # rounding off the joints makes the yaw rate rise and fall gradually, as a driver's hands do
    points = gaussian_filter1d(points, 2.0 / PATH_STEP_M, axis=0, mode="nearest")
    s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    even = np.arange(0.0, s[-1], PATH_STEP_M)
    return np.stack([np.interp(even, s, points[:, k]) for k in (0, 1)], axis=1), np.interp(even, s, limit)


def _around_the_block(spec: DriveSpec) -> tuple[np.ndarray, np.ndarray]:
    out = STREET_WIDTH_M / 2 + LANE_OFFSET_M
    corners = np.array([[-out, -out], [spec.block_length_m + out, -out]])
    corners = np.vstack([corners, corners[::-1] + [0.0, spec.block_depth_m + 2 * out]])
    start = np.array([0.3 * spec.block_length_m, -out])
    legs = [(start, corners[1], spec.town_speed_mps)]
    legs += [(corners[1], corners[2], spec.town_speed_mps), (corners[2], corners[3], spec.fast_speed_mps)]
    legs += [(corners[3], corners[0], spec.town_speed_mps)]
    legs += [(corners[0], start + [spec.overlap_m, 0.0], spec.town_speed_mps)]
    points, limits = [], []
    for number, (a, b, limit) in enumerate(legs):
        direction = (b - a) / np.linalg.norm(b - a)
        left = np.array([-direction[1], direction[0]])
        first = a if number == 0 else a + CORNER_RADIUS_M * direction
        last = b if number == len(legs) - 1 else b - CORNER_RADIUS_M * direction
        n = int(np.linalg.norm(last - first) / PATH_STEP_M)
        points.append(first + np.linspace(0, 1, n, endpoint=False)[:, None] * (last - first))
        limits.append(np.full(n, limit))
        if number < len(legs) - 1:
            n = int(CORNER_RADIUS_M * np.pi / 2 / PATH_STEP_M)
            angle = np.linspace(0, np.pi / 2, n, endpoint=False)[:, None]
            arc = np.sin(angle) * direction + (1 - np.cos(angle)) * left
            points.append(last + CORNER_RADIUS_M * arc)
            limits.append(np.full(n, spec.corner_speed_mps))
    return np.concatenate(points), np.concatenate(limits)


def _smooth_speed(limit_mps: np.ndarray) -> np.ndarray:
    """The fastest speed below the limit with bounded acceleration and braking, then softened; [S] in m/s."""
    energy = limit_mps**2
    for k in range(1, len(energy)):
        energy[k] = min(energy[k], energy[k - 1] + 2 * ACCELERATION_MPS2 * PATH_STEP_M)
    for k in range(len(energy) - 2, -1, -1):
        energy[k] = min(energy[k], energy[k + 1] + 2 * BRAKING_MPS2 * PATH_STEP_M)
    return gaussian_filter1d(np.sqrt(energy), 3.0 / PATH_STEP_M, mode="nearest")


def _frame_positions(speed_mps: np.ndarray, spec: DriveSpec) -> np.ndarray:
    """Arc lengths of all frames of the route, float64 [N]."""
    time_s = np.concatenate([[0.0], np.cumsum(PATH_STEP_M * 2 / (speed_mps[1:] + speed_mps[:-1]))])
    frame_times_s = np.arange(int(time_s[-1] * spec.rate_hz) + 1) / spec.rate_hz
    return np.interp(frame_times_s, time_s, np.arange(len(speed_mps)) * PATH_STEP_M)


def _body_motion(
    count: int, acceleration: np.ndarray, spec: DriveSpec
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pitch, roll (radians) and heave (metres) of the camera per frame, [N] each: suspension and uneven road."""
    rng = np.random.default_rng([spec.seed, 1])
    pad = 40

    def wander(period_frames: float) -> np.ndarray:
        noise = gaussian_filter1d(rng.standard_normal(count + 2 * pad), period_frames / 4, mode="wrap")
        return (noise / noise.std())[pad : pad + count]

    nose_dive = np.radians(0.06) * acceleration
    pitch = np.radians(0.16) * wander(14) + np.radians(0.05) * wander(5) + nose_dive
    roll = np.radians(0.22) * wander(16)
    heave = 0.008 * wander(10)
    return np.radians(spec.pitch_deg) + spec.body_motion * pitch, spec.body_motion * roll, spec.body_motion * heave


def _camera_poses(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, heading: np.ndarray, pitch: np.ndarray, roll: np.ndarray
) -> np.ndarray:
    """Poses of cameras that look along ``heading`` (from east to north), nose up by ``pitch``, leaning by ``roll``."""
    forward = np.stack([np.cos(heading) * np.cos(pitch), np.sin(heading) * np.cos(pitch), np.sin(pitch)], axis=1)
    level_right = np.stack([np.sin(heading), -np.cos(heading), np.zeros_like(heading)], axis=1)
    level_down = np.cross(forward, level_right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    poses = np.tile(np.eye(4), (len(x), 1, 1))
    poses[:, :3, 0] = c * level_right + s * level_down
    poses[:, :3, 1] = c * level_down - s * level_right
    poses[:, :3, 2] = forward
    poses[:, :3, 3] = np.stack([x, y, z], axis=1)
    return poses
