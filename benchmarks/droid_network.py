#!/usr/bin/env python
"""Seconds of the DROID network's parts on the CPU: features, correlation lookup, updates. Random weights.

    python benchmarks/droid_network.py [--threads 1 2] [--size 640x192] [--frames 4] [--edges 10] [--bfloat16]

Best wall time of several runs, because the machine may be busy, and beside it the least processor time of one run,
which suffers less from that. The reference's figures were measured on two cores of another occasion, 640 x 192, 4
frames and 10 edges: compare their order, not their digits.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from metric_slam.correspondence.droid.correlation_reference import CorrelationOnTheFly, CorrelationVolume
from metric_slam.correspondence.droid.network import DroidNetwork, motion_features, pixel_grid
from metric_slam.correspondence.droid.upsample import upsample_inv_depth

REFERENCE = {
    "features and context, all frames": {1: "1.18", 2: "0.70"},
    "lookup in the volume": {1: "0.155", 2: "0.139"},
    "update, all edges": {1: "0.88", 2: "0.69"},
    "per edge and update": {1: "0.09", 2: "0.07"},
}
"""Seconds of DROID-SLAM's network in torch at 640 x 192, 4 frames, 10 edges, by threads."""


def best_s(run: Callable[[], object], runs: int) -> tuple[float, float]:
    """(wall, processor) seconds of the shortest of several runs; one more goes before."""
    run()
    wall_s, processor_s = [], []
    for _ in range(runs):
        begin, begin_processor = time.perf_counter(), time.process_time()
        run()
        wall_s.append(time.perf_counter() - begin)
        processor_s.append(time.process_time() - begin_processor)
    return min(wall_s), min(processor_s)


def parts(arguments: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    torch.manual_seed(0)
    width, height = arguments.size
    network = DroidNetwork(precision=torch.bfloat16 if arguments.bfloat16 else torch.float32).eval()
    images = torch.randint(0, 256, (arguments.frames, 3, height, width), dtype=torch.uint8)
    source = torch.arange(arguments.edges) % arguments.frames
    target = (source + 1) % arguments.frames
    features = network.encode(images)
    hidden, context = (maps[source] for maps in network.encode_context(images))
    gates = network.context_gates(context)
    grid = pixel_grid(*features.shape[2:])
    coords = grid + 4.0 * torch.randn(arguments.edges, *grid.shape)
    ends = features[source], features[target]
    volume, on_the_fly = CorrelationVolume(*ends), CorrelationOnTheFly(*ends)
    correlation, motion = volume.lookup(coords), motion_features(coords, grid, coords + 0.1)
    result = network.refine(hidden, context, correlation, motion, source)
    inv_depth = torch.rand(len(result.depth_damping), *grid.shape[:2])
    return {
        "features and context, all frames": lambda: (network.encode(images), network.encode_context(images)),
        "volume": lambda: CorrelationVolume(*ends),
        "lookup in the volume": lambda: volume.lookup(coords),
        "lookup without volume": lambda: on_the_fly.lookup(coords),
        "update, all edges": lambda: network.refine(hidden, context, correlation, motion, source),
        "update, context gates at hand": lambda: network.refine(
            hidden, None, correlation, motion, source, context_gates=gates
        ),
        "upsampling": lambda: upsample_inv_depth(inv_depth, result.upsample_weights),
    }


def report(arguments: argparse.Namespace) -> None:
    """Prints the table for the threads of this process."""
    threads = torch.get_num_threads()
    width, height = arguments.size
    title = f"{arguments.frames} frames {width} x {height}, {arguments.edges} edges, threads: {threads}"
    table = Table("part", "wall s", "processor s", "reference s", title=title)

    def add(name: str, *seconds: float) -> None:
        table.add_row(name, *(f"{s:.3f}" for s in seconds), REFERENCE.get(name, {}).get(threads, ""))

    with torch.inference_mode():
        times = {name: best_s(run, arguments.runs) for name, run in parts(arguments).items()}
    for name, seconds in times.items():
        add(name, *seconds)
    add("features and context, per frame", *(s / arguments.frames for s in times["features and context, all frames"]))
    add("per edge and update", *(s / arguments.edges for s in times["update, all edges"]))
    add("the same, gates at hand", *(s / arguments.edges for s in times["update, context gates at hand"]))
    Console().print(table)


def size(text: str) -> tuple[int, int]:
    """``640x192`` -> (640, 192)."""
    width, height = text.split("x")
    return int(width), int(height)


def main() -> int:
    """One process for each number of threads, because OpenMP reads it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=size, default=(640, 192), metavar="WIDTHxHEIGHT")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--edges", type=int, default=10)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--bfloat16", action="store_true", help="convolutions in half precision")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        report(arguments)
        return 0
    for threads in arguments.threads:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--child"], env=environment, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
