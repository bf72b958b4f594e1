"""The line that the car drives through the town: straight lanes and arcs at the crossings, with speed limits."""

from __future__ import annotations

import numpy as np

from metric_slam.datasets.synthetic.spec import DriveSpec
from metric_slam.datasets.synthetic.town_plan import START_M, TownPlan, town_plan

LEFT_RADIUS_M, RIGHT_RADIUS_M = 11.0, 9.0
CORNER_ACCELERATION_MPS2 = 4.2
"""Sideways; limits the speed in the tighter turns to the right."""

STOP_LINE_M = 8.0
"""Distance of a waiting car's camera from the middle of the crossing."""


def town_line(spec: DriveSpec, lane_offset_m: float, step_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Points [S, 2] about ``step_m`` apart on the right-hand lane, and the speed limit [S] at each."""
    plan = town_plan(spec)
    middles = np.array([plan.place(crossing) for crossing in plan.drive])
    directions = np.diff(middles, axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rights = np.stack([directions[:, 1], -directions[:, 0]], axis=1)
    position = middles[0] + lane_offset_m * rights[0] + START_M * directions[0]
    points, limits = [], []
    for k, (direction, right) in enumerate(zip(directions, rights, strict=True)):
        turn = 0.0 if k + 1 == len(directions) else float(-right @ directions[k + 1])  # 1 left, -1 right
        if turn:
            radius = LEFT_RADIUS_M if turn > 0 else RIGHT_RADIUS_M
            corner = middles[k + 1] + lane_offset_m * (right + rights[k + 1])
            end = corner - radius * direction
        else:
            end = middles[k + 1] + lane_offset_m * right
        count = max(1, round(float(np.linalg.norm(end - position)) / step_m))
        points.append(position + np.linspace(0, 1, count, endpoint=False)[:, None] * (end - position))
        limits.append(np.full(count, spec.town_speed_mps))
        position = end
        if turn:
            angle = np.linspace(0, np.pi / 2, round(radius * np.pi / 2 / step_m), endpoint=False)[:, None]
            points.append(end + radius * (np.sin(angle) * direction - turn * (1 - np.cos(angle)) * right))
            speed = min(spec.corner_speed_mps, float(np.sqrt(CORNER_ACCELERATION_MPS2 * radius)))
            limits.append(np.full(len(angle), speed))
            position = corner + radius * directions[k + 1]
    return np.concatenate(points), np.concatenate(limits)


def stop_positions(spec: DriveSpec, path: np.ndarray, step_m: float) -> np.ndarray:
    """Arc lengths, ascending, at which the car stops: in front of crossings spread over the drive, float64 [stops]."""
    plan: TownPlan = town_plan(spec)
    middles = np.array([plan.place(crossing) for crossing in plan.drive[1:-1]])
    passes, start = [], 0
    for middle in middles:  # in the order of the drive, because it comes to some crossings several times
        near = start + np.flatnonzero(np.linalg.norm(path[start:] - middle, axis=1) < STOP_LINE_M)
        if len(near) == 0:
            break
        passes.append(near[0] * step_m - 2.0)
        start = int(near[0] + 2 * STOP_LINE_M / step_m)
    lines = np.array([s for s in passes if 30.0 < s < spec.length_m - 30.0])
    rng = np.random.default_rng([spec.seed, 5])
    if len(lines) >= spec.stops:
        return np.sort(rng.choice(lines, spec.stops, replace=False))
    # more stops than crossings: a pedestrian here and there
    return (np.arange(spec.stops) + 0.5) / spec.stops * (spec.length_m - 60.0) + 30.0
