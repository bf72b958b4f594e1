"""Where the car drives: a smooth path, a speed profile within the limits of a car, and exact camera poses.

World: x east, y north, z up, metres; the road is at z = 0 where there are no hills. Route "block": the kerbs of the
block are x = 0..length, y = 0..depth; the path goes around it counter-clockwise on the right-hand lane, so every corner
is a left turn. Route "town": see ``town_route``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from metric_slam.datasets.synthetic.hills import Hills
from metric_slam.datasets.synthetic.spec import DriveSpec
from metric_slam.datasets.synthetic.stops import moving_share, positions_with_stops
from metric_slam.datasets.synthetic.town_route import stop_positions, town_line

STREET_WIDTH_M = 11.0
LANE_OFFSET_M = 1.65
"""Distance of the lane's middle from the street's middle."""

CORNER_RADIUS_M = 11.0
ACCELERATION_MPS2 = 3.8
BRAKING_MPS2 = 4.8
PATH_STEP_M = 0.05
STREET_LENGTH_M = 120.0
"""Length of the route "street"."""


@dataclass(frozen=True)
class Motion:
    """The drive as a motion along a line; N frames, S points of the line."""

    path: np.ndarray
    """[S, 2]: points ``PATH_STEP_M`` apart, in metres of the world; goes on behind the last frame where it can."""

    s_m: np.ndarray
    """[N]: arc length of every frame."""

    poses: np.ndarray
    """[N, 4, 4]: T_world_cam in the world above (z up)."""


def drive_poses(spec: DriveSpec) -> np.ndarray:
    """Poses T_world_cam of all frames, float64 [N, 4, 4], in the world above (z up)."""
    return drive_motion(spec).poses


def drive_motion(spec: DriveSpec) -> Motion:
    """Line, positions and poses of all frames of ``spec``."""
    path, speed_limit = _path(spec)
    speed = _smooth_speed(speed_limit)
    if spec.stops:
        s_m = positions_with_stops(speed, stop_positions(spec, path, PATH_STEP_M), PATH_STEP_M, spec)
    else:
        s_m = _frame_positions(speed, spec)
    if spec.route == "town":
        s_m = s_m[s_m <= spec.length_m]
    grid = np.arange(len(path)) * PATH_STEP_M
    x, y = (np.interp(s_m, grid, path[:, k]) for k in (0, 1))
    tangent = np.gradient(path, PATH_STEP_M, axis=0)
    heading = np.interp(s_m, grid, np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0])))
    if spec.stops:
        moving, acceleration = moving_share(s_m, spec.rate_hz), np.gradient(np.gradient(s_m)) * spec.rate_hz**2
    else:
        moving, acceleration = None, np.interp(s_m, grid, speed * np.gradient(speed, PATH_STEP_M))
    pitch, roll, heave = _body_motion(len(s_m), acceleration, spec, moving)
    z, up = np.zeros_like(x), np.array([0.0, 0.0, 1.0])
    if spec.hills_m:
        slope, lean, z = Hills.of(spec).stand(np.stack([x, y], axis=1), heading)
        # columns of a camera without body motion: its y axis is the way down to the road
        up = -camera_poses(x, y, z, heading, slope, lean)[:, :3, 1]
        pitch, roll = pitch + slope, roll + lean
    poses = camera_poses(x, y, z, heading, pitch, roll)
    poses[:, :3, 3] += (spec.camera_height_m + heave)[:, None] * up
    count = spec.frames if spec.frames is not None else len(s_m)
    return Motion(path, s_m[:count], poses[:count])


def _path(spec: DriveSpec) -> tuple[np.ndarray, np.ndarray]:
    """Path [S, 2] at equal steps of arc length and its speed limit [S]."""
    if spec.route == "street":
        s = np.arange(0.0, STREET_LENGTH_M - 55.0, PATH_STEP_M)
        y = np.full_like(s, -STREET_WIDTH_M / 2 - LANE_OFFSET_M) + 0.25 * np.sin(s / 9.0)
        points, limit = np.stack([s + 5.0, y], axis=1), np.full(len(s), spec.town_speed_mps)
    elif spec.route == "town":
        points, limit = town_line(spec, LANE_OFFSET_M, PATH_STEP_M)
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
    count: int, acceleration: np.ndarray, spec: DriveSpec, moving: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pitch, roll (radians) and heave (metres) of the camera per frame, [N] each: suspension and uneven road.

    ``moving`` [N] in 0..1 fades out the road where the car stands, and leaves the shaking of its engine (None: ones).
    """
    rng = np.random.default_rng([spec.seed, 1])
    pad = 40

    def wander(period_frames: float) -> np.ndarray:
        noise = gaussian_filter1d(rng.standard_normal(count + 2 * pad), period_frames / 4, mode="wrap")
        return (noise / noise.std())[pad : pad + count]

    nose_dive = np.radians(0.06) * acceleration
    pitch = np.radians(0.16) * wander(14) + np.radians(0.05) * wander(5) + nose_dive
    roll = np.radians(0.22) * wander(16)
    heave = 0.008 * wander(10)
    if moving is not None:
        idle = (1 - moving) * rng.standard_normal((3, count))
        pitch = moving * (pitch - nose_dive) + nose_dive + np.radians(0.004) * idle[0]
        roll, heave = moving * roll + np.radians(0.004) * idle[1], moving * heave + 0.0003 * idle[2]
    return np.radians(spec.pitch_deg) + spec.body_motion * pitch, spec.body_motion * roll, spec.body_motion * heave


def camera_poses(
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
