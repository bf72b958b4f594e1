#!/usr/bin/env python
"""Milliseconds of the bundle adjustment kernel and of its torch twin on the same window, measured in one run.

    python benchmarks/bench_ba.py [--threads 1 2]
    python benchmarks/bench_ba.py --global [--keyframes 250 500 1000 2000]

One Levenberg-Marquardt iteration with an accepted step: linearise, eliminate depths, solve, apply, evaluate. Windows
of 10 keyframes with edges to both neighbours on either side (34 directed edges) and a metric prior with scales. Both
sides compute in float64 and must end at the same cost. Best of several runs, because the machine may be busy.

With ``--global``: seconds of one iteration over all keyframes of a drive that comes through the same tenth of its way
four times, with loop edges at every fifth keyframe there, in the order of the video and in the order of
``keyframe_order``; and how large the envelope of the reduced system is, in blocks of one keyframe.
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

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.geometry.lie import matrix_to_pose_vec
from metric_slam.optimization.bundle_adjustment import BaWindow, native_options, reproject, solve_window
from metric_slam.optimization.ordering import coupled_keyframes, envelope_size, narrow_order
from metric_slam.optimization.reference import dense_ba as reference

GRIDS = ((36, 120), (24, 80))
N_KEYFRAMES, RADIUS = 10, 2
SCALE_SIGMA = 0.03
KERNEL_RUNS, TWIN_RUNS = 20, 2

GLOBAL_GRID = (9, 30)
GLOBAL_ITERATIONS, GLOBAL_RUNS = 3, 3
PASSES, PASS_SHARE, LOOP_EVERY = 4, 0.1, 5


def neighbours(n_keyframes: int, radius: int = RADIUS) -> np.ndarray:
    """Directed edges [E, 2] between keyframes at most ``radius`` apart."""
    pairs = [(i, j) for i in range(n_keyframes) for j in range(max(i - radius, 0), min(i + radius + 1, n_keyframes))]
    return np.array([(i, j) for i, j in pairs if i != j], np.int64)


def straight_m(n_keyframes: int) -> np.ndarray:
    """Camera centres [N, 3], 1 m ahead per keyframe."""
    return np.arange(n_keyframes)[:, None] * np.array([0.0, 0.0, 1.0])


def circuit(n_keyframes: int) -> tuple[np.ndarray, np.ndarray]:
    """(camera centres [N, 3], edges [E, 2]) of a drive through the same straight stretch again and again.

    The cameras look the same way all the time, so the ways back between need no overlap with anything else.
    """
    length = round(PASS_SHARE * n_keyframes)
    begins = np.linspace(0, n_keyframes - length, PASSES).astype(int)
    centres_m = np.zeros((n_keyframes, 3))
    for begin, end in zip(begins[:-1] + length, begins[1:], strict=True):  # ways back, bowed to the side
        share = np.linspace(0.0, 1.0, end - begin + 2)[1:-1]
        centres_m[begin:end, 2] = length * (1.0 - share)
        centres_m[begin:end, 0] = 0.2 * length * np.sin(np.pi * share)
    for begin in begins:
        centres_m[begin : begin + length, 2] = np.arange(length)
    loops = [(begins[0] + n, begin + n) for begin in begins[1:] for n in range(0, length, LOOP_EVERY)]
    return centres_m, np.concatenate([neighbours(n_keyframes), loops, np.flip(loops, axis=1)])


def drive(height: int, width: int, centres_m: np.ndarray, pairs: np.ndarray) -> BaWindow:
    """A drive past random smooth depths with edges [E, 2]; flow is true up to 0.05 cells.

    The start is off by some centimetres, tenths of a degree and 10 % of depth; the first pose is fixed.
    """
    rng, n_keyframes = np.random.default_rng(0), len(centres_m)
    true_depth_m = 12.0 + 6.0 * np.sin(np.linspace(0, 9, width) + rng.uniform(0, 6, (n_keyframes, height, 1)))
    T_cam_world = np.tile(np.eye(4), (n_keyframes, 1, 1))
    T_cam_world[:, :3, 3] = -centres_m
    poses = matrix_to_pose_vec(T_cam_world)
    source, target = pairs.T.copy()
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
    window = drive(height, width, straight_m(N_KEYFRAMES), neighbours(N_KEYFRAMES))
    config = BundleAdjustmentConfig()
    options = native_options(config, has_prior=True, scale_sigma=SCALE_SIGMA, grid=window.inv_depth.shape[1:])
    options.iterations = 1
    ours = solve_window(window, config, iterations=1)[1]
    theirs = reference.solve(window, options)[1]
    assert ours.status == theirs.status == "max_iterations" and theirs.trials == 1, (ours, theirs)
    assert abs(ours.cost_final - theirs.cost_final) < 1e-9 * ours.cost_initial, (ours, theirs)
    kernel_ms = best_ms(lambda: solve_window(window, config, iterations=1), KERNEL_RUNS)
    return kernel_ms, best_ms(lambda: reference.solve(window, options), TWIN_RUNS)


def chain_ms(n_keyframes: int) -> float:
    """Milliseconds of one iteration over a long chain on a tiny grid, where the reduced system would dominate."""
    window = drive(4, 8, straight_m(n_keyframes), neighbours(n_keyframes))
    window = replace(window, prior_depth_m=None, prior_weight=None, scale_sigma=0.0)
    return best_ms(lambda: solve_window(window, BundleAdjustmentConfig(), iterations=1), 5)


def in_order(window: BaWindow, order: np.ndarray) -> BaWindow:
    """The same problem with keyframes in another order [N], new place -> keyframe; scales coupled as in the video."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    names = ("poses", "inv_depth", "pose_free", "depth_free", "prior_depth_m", "prior_weight")
    return replace(
        window,
        **{name: getattr(window, name)[order] for name in names},
        source=place[window.source],
        target=place[window.target],
        scale_previous=np.where(order > 0, place[order - 1], -1),
    )


def global_s(window: BaWindow) -> tuple[float, float]:
    """(seconds of one iteration, final cost) of a bundle adjustment over everything."""
    config, seconds, cost = BundleAdjustmentConfig(), np.inf, 0.0
    for _ in range(GLOBAL_RUNS):
        begin = time.perf_counter()
        _, end = solve_window(window, config, iterations=GLOBAL_ITERATIONS, tight_convergence=True)
        seconds = min(seconds, (time.perf_counter() - begin) / GLOBAL_ITERATIONS)
        assert end.status == "max_iterations", end
        cost = end.cost_final
    return seconds, cost


def report_global(sizes: list[int]) -> None:
    """Prints the table of whole drives."""
    table = Table("keyframes", "edges", "order", "envelope", "s", "against the size before")
    table.title = f"one iteration over a whole drive, {GLOBAL_GRID[0]} x {GLOBAL_GRID[1]} cells"
    before: dict[str, float] = {}
    for n_keyframes in sizes:
        centres_m, pairs = circuit(n_keyframes)
        window, coupling = drive(*GLOBAL_GRID, centres_m, pairs), coupled_keyframes(n_keyframes, pairs)
        costs = []
        for name, order in (("video", np.arange(n_keyframes)), ("narrow", narrow_order(n_keyframes, pairs))):
            seconds, cost = global_s(in_order(window, order))
            costs.append(cost)
            ratio = f"{seconds / before[name]:.2f}x" if name in before else ""
            envelope = str(envelope_size(coupling, order))
            table.add_row(str(n_keyframes), str(len(pairs)), name, envelope, f"{seconds:.3f}", ratio)
            before[name] = seconds
        assert abs(costs[0] - costs[1]) < 1e-6 * costs[0], costs
    Console().print(table)


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
    parser.add_argument("--global", dest="whole", action="store_true", help="whole drives with loops")
    parser.add_argument("--keyframes", type=int, nargs="+", default=[250, 500, 1000, 2000])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.whole:
        report_global(arguments.keyframes)
        return 0
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
