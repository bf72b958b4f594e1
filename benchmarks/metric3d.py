#!/usr/bin/env python
"""Seconds and peak memory of the Metric3D networks for one image on the CPU. Random weights.

    python benchmarks/metric3d.py [--threads 1 2] [--models convnext_tiny vit_small] [--runs 2]

Best wall time of several runs, because the machine may be busy, and beside it the least processor time of one run,
which suffers less from that. Memory is the most that the process ever held; one process per row, torch and the weights
included. The reference's figures were measured on two cores of another occasion: compare their order, not their digits.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

from metric_slam.depth.metric3d.model import Metric3D
from metric_slam.depth.metric3d.specs import SPECS

SMALL = {32: (640, 192), 28: (1064, 336)}
"""The size beside the published one, by the unit of the network's input: of a wide road camera."""

REFERENCE = {
    ("convnext_tiny", (640, 192)): {1: "0.5", 2: "0.5"},
    ("convnext_tiny", (1216, 544)): {1: "4.1", 2: "2.0-2.7"},
    ("vit_small", (1064, 336)): {1: "5.2", 2: "3.9"},
    ("vit_small", (1064, 616)): {1: "13", 2: "7.7"},
}
"""Seconds of the authors' networks, by threads."""


def measure(name: str, size: tuple[int, int], runs: int) -> tuple[float, float, float]:
    """(wall s, processor s, peak GB) of one image with the threads of this process."""
    network = Metric3D(name).eval()
    width, height = size
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    wall_s, processor_s = [], []
    with torch.inference_mode():
        for _ in range(runs):
            begin, begin_processor = time.perf_counter(), time.process_time()
            network(image)
            wall_s.append(time.perf_counter() - begin)
            processor_s.append(time.process_time() - begin_processor)
    return min(wall_s), min(processor_s), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured_apart(name: str, size: tuple[int, int], threads: int, runs: int) -> list[float]:
    """The same in a process of its own, because OpenMP reads its threads once and memory peaks once."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, __file__, "--models", name, "--runs", str(runs), "--child", *map(str, size)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", choices=SPECS, default=["convnext_tiny", "vit_small"])
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.models[0], tuple(arguments.child), arguments.runs)))
        return 0
    table = Table("network", "input", "threads", "wall s", "processor s", "reference s", "peak GB")
    for name in arguments.models:
        for size in (SMALL[SPECS[name].multiple_px], SPECS[name].input_size):
            for threads in arguments.threads:
                wall_s, processor_s, peak_gb = measured_apart(name, size, threads, arguments.runs)
                reference = REFERENCE.get((name, size), {}).get(threads, "")
                numbers = (f"{wall_s:.2f}", f"{processor_s:.2f}", reference, f"{peak_gb:.2f}")
                table.add_row(name, f"{size[0]}x{size[1]}", str(threads), *numbers)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
