#!/usr/bin/env python
"""Milliseconds of the bundle adjustment kernel and of its torch twin on the same window, measured in one run.

    python benchmarks/bench_ba.py [--threads 1 2]

One Levenberg-Marquardt iteration with an accepted step: linearise, eliminate depths, solve, apply, evaluate. Windows
of 10 keyframes with edges to both neighbours on either side (34 directed edges) and a metric prior with scales. Both
sides compute in float64 and must end at the same cost. Best of several runs, because the machine may be busy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from metric_slam.bundle_adjustment import BaWindow, native_options, reproject, solve_window
from metric_slam.config import BundleAdjustmentConfig
from metric_slam.geometry import dense_ba_twin as twin
from metric_slam.geometry.lie import matrix_to_pose_vec

GRIDS = ((36, 120), (24, 80))
N_KEYFRAMES, RADIUS = 10, 2
SCALE_SIGMA = 0.03
KERNEL_RUNS, TWIN_RUNS = 20, 2


def drive(height: int, width: int, n_keyframes: int = N_KEYFRAMES, radius: int = RADIUS) -> BaWindow:
    """A drive straight ahead, 1 m per keyframe, past random smooth depths; flow is true up to 0.05 cells.

    The start is off by some centimetres, tenths of a degree and 10 % of depth; the first pose is fixed.
    """
    rng = np.random.default_rng(0)
    true_depth_m = 12.0 + 6.0 * np.sin(np.linspace(0, 9, width) + rng.uniform(0, 6, (n_keyframes, height, 1)))
    T_cam_world = np.tile(np.eye(4), (n_keyframes, 1, 1))
    T_cam_world[:, 2, 3] = -np.arange(n_keyframes)
    poses = matrix_to_pose_vec(T_cam_world)
    pairs = [(i, j) for i in range(n_keyframes) for j in range(n_keyframes) if 0 < abs(i - j) <= radius]
    source, target = np.array(pairs, np.int64).T.copy()
    intrinsics = np.array([0.6 * width, 0.6 * width, (width - 1) / 2, (height - 1) / 2])
    flow, _, valid = reproject(poses, 1.0 / true_depth_m, intrinsics, source, target)
    confidence = np.repeat(rng.uniform(0.1, 1.0, (*valid.shape, 1)) * valid[..., None], 2, axis=-1)
    start = poses + np.pad(rng.normal(0, 0.02, (n_keyframes - 1, 7)), ((1, 0), (0, 0))) * [1, 1, 1, 0.1, 0.1, 0.1, 0]
    start[:, 3:] /= np.linalg.norm(start[:, 3:], axis=1, keepdims=True)
    return BaWindow(
        intrinsics=intrinsics,
        poses=start,
        inv_depth=1.0 / (true_depth_m * rng.normal(1.0, 0.1, true_depth_m.shape)),
        source=source,
        target=target,
        flow_target=flow + rng.normal(0, 0.05, flow.shape),
        confidence=confidence,
        pose_free=np.arange(n_keyframes) > 0,
        depth_free=np.ones(n_keyframes, bool),
        prior_depth_m=true_depth_m * 1.02,
        prior_weight=100.0 * rng.uniform(0, 1, true_depth_m.shape),
        scale_sigma=SCALE_SIGMA,
    )


def best_ms(run: Callable[[], object], runs: int) -> float:
    """Shortest time of several runs, in milliseconds; one more goes before."""
    run()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return 1000.0 * min(times)


def measure(height: int, width: int) -> tuple[float, float]:
    """(kernel, twin) milliseconds of one iteration."""
    window, config = drive(height, width), BundleAdjustmentConfig()
    options = native_options(config, has_prior=True, scale_sigma=SCALE_SIGMA)
    options.iterations = 1
    ours = solve_window(window, config, iterations=1)[1]
    theirs = twin.solve(window, options)[1]
    assert ours.status == theirs.status == "max_iterations" and theirs.trials == 1, (ours, theirs)
    assert abs(ours.cost_final - theirs.cost_final) < 1e-9 * ours.cost_initial, (ours, theirs)
    kernel_ms = best_ms(lambda: solve_window(window, config, iterations=1), KERNEL_RUNS)
    return kernel_ms, best_ms(lambda: twin.solve(window, options), TWIN_RUNS)


def chain_ms(n_keyframes: int) -> float:
    """Milliseconds of one iteration over a long chain on a tiny grid, where the reduced system would dominate."""
    window = drive(4, 8, n_keyframes)
    window = replace(window, prior_depth_m=None, prior_weight=None, scale_sigma=0.0)
    return best_ms(lambda: solve_window(window, BundleAdjustmentConfig(), iterations=1), 5)


def report() -> None:
    """Prints the table for the threads of this process."""
    threads = os.environ["OMP_NUM_THREADS"]
    table = Table("window", "threads", "kernel ms", "twin ms", "ratio", title="one accepted iteration")
    for height, width in GRIDS:
        kernel_ms, twin_ms = measure(height, width)
        grid = f"{N_KEYFRAMES} keyframes, {height} x {width}"
        table.add_row(grid, threads, f"{kernel_ms:.2f}", f"{twin_ms:.0f}", f"{twin_ms / kernel_ms:.0f}x")
    for n_keyframes in (100, 200, 400):
        table.add_row(f"chain of {n_keyframes} keyframes, 4 x 8", threads, f"{chain_ms(n_keyframes):.2f}", "", "")
    Console().print(table)


def main() -> int:
    """One process for each number of threads, because OpenMP reads it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        report()
        return 0
    for threads in arguments.threads:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        subprocess.run([sys.executable, __file__, "--child"], env=environment, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
