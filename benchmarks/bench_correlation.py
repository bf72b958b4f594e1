#!/usr/bin/env python
"""Time and memory of the correlation lookup: stored volume against on the fly, kernels against torch.

    python benchmarks/bench_correlation.py [--threads 1 2] [--edges 48] [--no-twin]

A grid of 30 x 100 cells with 128 channels, 48 edges among 12 keyframes, four levels, radius 3; positions are where
smooth flow of some cells leads. Every row is a process of its own, because memory is its peak: `stored` is what the
correlation keeps, `peak` what the process grew by while building it and looking up once, output (113 MB) included.
Torch gathers the features of all edges first, which counts as well. Times are the best of several runs of the kernels
and of one run of torch; all rows must give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from metric_slam.correspondence.droid import correlation, correlation_reference

HEIGHT, WIDTH, CHANNELS, N_KEYFRAMES = 30, 100, 128, 12
KERNEL_RUNS, TWIN_RUNS = 7, 1
FORMS = ("volume", "on the fly")


def problem(
    n_edges: int, height: int = HEIGHT, width: int = WIDTH
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [N, C, h, w], source [E], target [E], coords [E, h, w, 2]."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N_KEYFRAMES, CHANNELS, height, width, generator=generator)
    source = torch.arange(n_edges) % N_KEYFRAMES
    target = (source + 1 + torch.arange(n_edges) // N_KEYFRAMES) % N_KEYFRAMES
    flow = F.interpolate(4.0 * torch.randn(n_edges, 2, 3, 6, generator=generator), (height, width), mode="bilinear")
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return features, source, target, torch.stack([u, v], dim=-1) + flow.permute(0, 2, 3, 1)


def build(form: str, side: str, features: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> Any:
    """One of the four things that are compared."""
    if side == "torch":
        of_form = (
            correlation_reference.CorrelationVolume if form == "volume" else correlation_reference.CorrelationOnTheFly
        )
        return of_form(features[source], features[target])
    if form == "volume":
        return correlation.CorrelationVolume(features[source], features[target])
    return correlation.CorrelationOnTheFly(features, source, target)


def stored_bytes(built: Any) -> int:
    """What a correlation keeps between lookups."""
    if isinstance(built, correlation_reference.CorrelationVolume):
        return sum(volume.nbytes for volume in built.volumes)
    if isinstance(built, correlation_reference.CorrelationOnTheFly):
        return sum(maps.nbytes for maps in (built.source, *built.targets))
    return built.stored_bytes


def peak_bytes() -> int:
    """Largest resident memory that this process had so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def best_ms(run: Callable[[], object], runs: int) -> float:
    """Shortest time of several runs, in milliseconds."""
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return 1000.0 * min(times)


@torch.inference_mode()
def measure(form: str, side: str, n_edges: int) -> dict[str, float]:
    """Figures of one row, with a number that must be the same in all rows."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    features, source, target, coords = problem(n_edges)
    before = peak_bytes()
    begin = time.perf_counter()
    built = build(form, side, features, source, target)
    build_ms = 1000.0 * (time.perf_counter() - begin)
    out = built.lookup(coords)
    peak = peak_bytes() - before
    lookup_ms = best_ms(lambda: built.lookup(coords), KERNEL_RUNS if side == "kernel" else TWIN_RUNS)
    return {
        "build_ms": build_ms,
        "lookup_ms": lookup_ms,
        "stored_mb": stored_bytes(built) / 1e6,
        "peak_mb": peak / 1e6,
        "check": float((out.double() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()),
    }


def report(threads: list[int], n_edges: int, sides: list[str]) -> None:
    """Prints the table; every row is measured in a process of its own."""
    table = Table("form", "by", "threads", "build ms", "lookup ms", "stored MB", "peak MB")
    table.title = f"correlation of {n_edges} edges, {HEIGHT} x {WIDTH} cells"
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for count in threads:
        environment = {**os.environ, "OMP_NUM_THREADS": str(count), "OMP_WAIT_POLICY": "PASSIVE"}
        for form in FORMS:
            for side in sides:
                command = [sys.executable, __file__, "--child", form, side, "--edges", str(n_edges)]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                row = rows[form, side] = json.loads(done.stdout)
                figures = [f"{row[name]:.0f}" for name in ("build_ms", "lookup_ms", "stored_mb", "peak_mb")]
                table.add_row(form, side, str(count), *figures)
                expected = rows["volume", "kernel"]["check"]
                assert abs(row["check"] - expected) < 1e-4 * abs(expected), (form, side, row, expected)
    Console().print(table)
    volume, on_the_fly = rows["volume", "kernel"], rows["on the fly", "kernel"]
    shares = [f"{on_the_fly[name] / volume[name]:.3f} {name[:-3]}" for name in ("stored_mb", "peak_mb")]
    Console().print(f"memory on the fly over that of the volume: {', '.join(shares)}")


def main() -> int:
    """The table, or one row of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--edges", type=int, default=48)
    parser.add_argument("--no-twin", action="store_true", help="the kernels alone")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*arguments.child, arguments.edges)))
    else:
        report(arguments.threads, arguments.edges, ["kernel"] if arguments.no_twin else ["kernel", "torch"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
