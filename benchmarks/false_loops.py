#!/usr/bin/env python
"""Pose graphs with false loops: how many of them are believed, and how many true ones are lost?

    python benchmarks/false_loops.py [--drives 25] [--keyframes 1500]

Drives through a grid of streets; steps scatter, and besides have a steady error of length and heading that all of them
share. True loops tie keyframes that are at one place; false ones say the same of two keyframes that the drifted map
puts near enough to each other to be plausible, alone or as a row of three that agree.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.spatial.transform import Rotation

from metric_slam.geometry import lie
from metric_slam.loops.links import chain_links, loop_link
from metric_slam.loops.pose_graph import PoseLink, optimise_pose_graph
from metric_slam.loops.route import DriftBound, Route

STEP_M, BLOCK_M = 1.2, 72.0
TURN_STEPS = 10
"""Keyframes over which the heading follows a corner: 12 m, no vehicle turns on the spot."""

AGAIN = 50
"""Keyframes between two visits of a place."""

DRIFTS = {
    "none": (0.0, 0.0),
    "1 %, 0.1 deg/100 m": (0.01, 0.1),
    "2 %, 0.3 deg/100 m": (0.02, 0.3),
    "3 %, 0.5 deg/100 m": (0.03, 0.5),
}
"""Standard deviations of the steady errors: of length, and of heading about each axis."""

SCATTER, SCATTER_RAD = 0.01, 0.0005
LOOP_M, LOOP_RAD = 0.04, 0.002
DEPTH_M = 12.5
"""Median depth of the scene, as on a road."""

DRIFT, DRIFT_FLOOR = 0.03, 0.15
"""Share of the way and median depths: the defaults of the configuration."""


def drive(count: int, rng: np.random.Generator) -> np.ndarray:
    """True poses T_world_cam [N, 4, 4]: straight on, left or right at every crossing, three blocks wide."""
    place, ahead, T = np.zeros(2), np.array([0.0, 1.0]), []
    steps, heading = round(BLOCK_M / STEP_M), 0.0
    while len(T) < count:
        turn = np.angle(np.exp(1j * (np.arctan2(ahead[0], ahead[1]) - heading)))
        for k in range(steps):
            pose = np.eye(4)
            angle = heading + turn * min(k / TURN_STEPS, 1.0)
            pose[:3, :3] = Rotation.from_euler("y", angle).as_matrix()
            pose[[0, 2], 3] = place + k * STEP_M * ahead
            T.append(pose)
        heading, place = heading + turn, place + BLOCK_M * ahead
        turns = [np.array([ahead[1] * s, -ahead[0] * s]) if s else ahead for s in (0, 1, -1)]
        inside = [t for t in turns if (np.abs(place + BLOCK_M * t) <= 1.5 * BLOCK_M).all()]
        ahead = inside[rng.integers(len(inside))]
    return np.array(T[:count])


def drifted(T: np.ndarray, steady: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """What odometry makes of it."""
    scale = np.exp(rng.normal(0, steady[0]))
    turn = rng.normal(0, np.radians(steady[1]) / 100 * STEP_M, 3) * (0.3, 1.0, 0.3)
    out = T.copy()
    for i in range(1, len(T)):
        step = lie.relative(T[i - 1], T[i])
        step[:3, 3] = step[:3, 3] * scale + rng.normal(0, SCATTER * STEP_M, 3)
        error = np.eye(4)
        error[:3, :3] = Rotation.from_rotvec(turn + rng.normal(0, SCATTER_RAD, 3)).as_matrix()
        out[i] = out[i - 1] @ step @ error
    return lie.renormalise(out)


def noisy(T_query_match: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A measured motion."""
    error = np.eye(4)
    error[:3, :3] = Rotation.from_rotvec(rng.normal(0, LOOP_RAD, 3)).as_matrix()
    error[:3, 3] = rng.normal(0, LOOP_M, 3)
    return error @ T_query_match


def pairs_of(T: np.ndarray, limit_m: np.ndarray | float, rng: np.random.Generator) -> np.ndarray:
    """Pairs (query, match) nearer than ``limit_m`` [N, N] with the same view, in random order."""
    apart_m = np.linalg.norm(T[:, None, :3, 3] - T[:, :3, 3], axis=2)
    near = (apart_m < limit_m) & (T[:, :3, 2] @ T[:, :3, 2].T > 0.9)
    near &= np.subtract.outer(np.arange(len(T)), np.arange(len(T))) > AGAIN
    return rng.permutation(np.argwhere(near))


def route_of(T_world_cam: np.ndarray) -> Route:
    """One submap in a scene of constant depth."""
    return Route(T_world_cam, np.zeros(len(T_world_cam), int), np.full(len(T_world_cam), DEPTH_M))


def loops_of(truth: np.ndarray, start: np.ndarray, rng: np.random.Generator) -> tuple[list[PoseLink], np.ndarray]:
    """Up to 24 true loops and some seven false ones, and which are true."""
    loops, true = [], []
    bound = DriftBound(route_of(start), [], DRIFT, DRIFT_FLOOR)
    allowed_m = np.stack([bound.between(q) for q in range(len(start))])
    apart_m = np.linalg.norm(truth[:, None, :3, 3] - truth[:, :3, 3], axis=2)
    for query, match in pairs_of(truth, 3.0, rng):
        off_m = np.linalg.norm(start[query, :3, 3] - (start[match] @ lie.relative(truth[match], truth[query]))[:3, 3])
        if off_m < allowed_m[query, match] and len(loops) < 24:
            T = noisy(lie.relative(truth[query], truth[match]), rng)
            loops.append(loop_link(int(match), int(query), T, DEPTH_M))
            true.append(True)
    candidates = [p for p in pairs_of(start, allowed_m, rng) if apart_m[tuple(p)] > 8.0 and p[0] < len(start) - 9]
    for n, (query, match) in enumerate(candidates[:5]):
        alike = np.eye(4)
        alike[:3, 3] = rng.normal(0, 1.0, 3) * (1.0, 0.1, 1.0)
        for k in (0, 4, 8) if n == 0 else (0,):
            moved = lie.relative(start[query + k], start[query]) @ alike @ lie.relative(start[match], start[match + k])
            loops.append(loop_link(int(match + k), int(query + k), noisy(moved, rng), DEPTH_M))
            true.append(False)
    return loops, np.array(true, bool)


def counts(steady: tuple[float, float], drives: int, keyframes: int) -> tuple[int, int, int, int]:
    """(true loops lost, true loops, false ones kept, false ones) over so many drives."""
    total = np.zeros(4, int)
    for seed in range(drives):
        rng = np.random.default_rng(seed)
        truth = drive(keyframes, rng)
        start = drifted(truth, steady, rng)
        loops, true = loops_of(truth, start, rng)
        result = optimise_pose_graph(start, chain_links(route_of(start)), loops, {0}, scale_known=True)
        believed = result.loop_weights >= 0.5
        total += [(true & ~believed).sum(), true.sum(), (~true & believed).sum(), (~true).sum()]
    lost, n_true, kept, n_false = total.tolist()
    return lost, n_true, kept, n_false


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drives", type=int, default=25)
    parser.add_argument("--keyframes", type=int, default=1500)
    arguments = parser.parse_args()
    for name, steady in DRIFTS.items():
        lost, n_true, kept, n_false = counts(steady, arguments.drives, arguments.keyframes)
        found = f"{lost} of {n_true} true loops lost, {kept} of {n_false} false ones kept"
        print(f"steady drift {name}: {found}", flush=True)


if __name__ == "__main__":
    main()
