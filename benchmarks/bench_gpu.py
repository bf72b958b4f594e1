#!/usr/bin/env python
"""The CUDA kernels, the C++ kernels for the CPU, and the torch twins on both, measured in one run on one machine.

    python benchmarks/bench_gpu.py [--device cuda|cpu] [--quick] [--markdown FILE]

Bundle adjustment of a window of 25 keyframes, correlation, group operations and distances between keyframes. All sides
of a row get the same problem and must give the same result. On the GPU a time is the median of at least 20 calls
between two events, after a warm-up, with what Python takes to make the call; on the CPU the best of several. `floor` is
the time in which the bytes of ``benchmarks/kernel_floors.py`` could be copied at the measured bandwidth of the device
(of the CPU where there is no GPU), `reached` its share of the time of our kernels there. What cannot be measured here
is a dash, and a line below the table says why.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from gpu_cases import all_cases, memory_rows
from gpu_machine import SIDES, Case, Machine, NotHere, this_machine
from tables import NOTHING, markdown_table

WARM_UP = 3


# ---- time


def gpu_ms(run: Callable[[], object], runs: int) -> float:
    """Median milliseconds between two events around a call."""
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def cpu_ms(run: Callable[[], object], budget_s: float, most: int = 20) -> float:
    """Shortest milliseconds of several calls; a call that alone takes the budget is made once."""
    taken_s: list[float] = []
    while not taken_s or (sum(taken_s) < budget_s and len(taken_s) < most):
        begin = time.perf_counter()
        run()
        taken_s.append(time.perf_counter() - begin)
    return 1000.0 * min(taken_s)


def call_ms(run: Callable[[], object], device: torch.device, machine: Machine) -> float:
    """Milliseconds of a call whose work is on a device."""
    return gpu_ms(run, machine.gpu_runs()) if device.type == "cuda" else cpu_ms(run, machine.cpu_budget_s())


def copy_bytes_per_s(device: torch.device, machine: Machine) -> float:
    """Bytes read and written by copying a large tensor, per second; torch copies by memcpy on the CPU."""
    size = 2**30 if device.type == "cuda" else 2**28
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / call_ms(lambda: target.copy_(source), device, machine) * 1000.0


# ---- rows


@dataclass
class Row:
    """What was measured of a case."""

    case: Case
    ms: dict[str, float]
    missing: dict[str, str]
    """side -> why."""


def measure(case: Case, machine: Machine) -> Row:
    """All sides of a case, one after the other, so that only one holds memory."""
    row, first = Row(case, {}, {}), None
    for side in SIDES:
        try:
            row.ms[side], result = measure_side(case, side, machine)
        except NotHere as reason:
            row.missing[side] = str(reason)
            continue
        if result is not None:
            first = result if first is None else first
            worst = float((result - first).abs().max() / first.abs().max().clamp(min=1e-300))
            assert worst < case.tolerance, f"{case.name}: {side} differs from the others by {worst:.1e}"
    return row


def measure_side(case: Case, side: str, machine: Machine) -> tuple[float, torch.Tensor | None]:
    """(milliseconds, result if it is to be compared)."""
    device = machine.need(side)
    if side not in case.sides:
        raise NotHere("left out to save time")
    run, results = case.sides[side](), []

    def run_and_keep_one() -> None:
        result = run()
        if case.tolerance is not None and not results:
            results.append(torch.as_tensor(result).double().cpu())

    ms = call_ms(run_and_keep_one, device, machine)
    if side in case.less:
        ms -= call_ms(case.less[side](), device, machine)
    return ms / case.calls, results[0] if results else None


def times(value: float | None) -> str:
    """Milliseconds or a ratio with three digits that count."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.3g}"


def cells(row: Row, machine: Machine, bytes_per_s: float) -> list[str]:
    """One line of the table."""
    ms = row.ms

    def ratio(slow: str, fast: str) -> str:
        return times(ms[slow] / ms[fast]) + "x" if slow in ms and fast in ms else NOTHING

    floor_ms = 1000.0 * row.case.floor_bytes / bytes_per_s
    reached = f"{100.0 * floor_ms / ms[machine.ours]:.0f} %" if machine.ours in ms else NOTHING
    pairs = (("C++", "CUDA"), ("torch GPU", "CUDA"), ("torch CPU", "C++"))
    figures = [times(ms.get(side)) for side in SIDES]
    return [row.case.name, *figures, *(ratio(*pair) for pair in pairs), times(floor_ms), reached]


HEADER = ("ms of a call", *SIDES, "C++ / CUDA", "torch GPU / CUDA", "torch CPU / C++", "floor", "reached")


def reasons(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each reason of a dash."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for side, why in row.missing.items():
            found.setdefault((side, why), []).append(row.case.name)
    for (side, why), names in found.items():
        where = "everywhere" if len(names) == len(rows) else "; ".join(names)
        yield f"- {NOTHING} {side}: {why} ({where})"


def describe(machine: Machine, bytes_per_s: float) -> str:
    """The line above the table."""
    gpu = torch.cuda.get_device_name(machine.gpu) if machine.gpu is not None else "none"
    where = "device" if machine.gpu is not None else "CPU"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return (
        f"GPU: {gpu}; CPU: {torch.get_num_threads()} threads, load {load:.2f}; torch {torch.__version__}; copying on "
        f"the {where} moves {bytes_per_s / 1e9:.0f} GB/s, read and written."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The table, and that of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--quick", action="store_true", help="small problems, few calls: does it work at all?")
    parser.add_argument("--markdown", type=Path, help="write it to a file as well")
    options = parser.parse_args(arguments)
    machine = this_machine(options.device, options.quick)
    bytes_per_s = copy_bytes_per_s(machine.gpu or torch.device("cpu"), machine)
    parts = [describe(machine, bytes_per_s)]
    rows = []
    for case in all_cases(machine):
        with torch.inference_mode():
            rows.append(measure(case, machine))
        print(f"{case.name} done", file=sys.stderr, flush=True)
    parts.append(markdown_table(HEADER, [cells(row, machine, bytes_per_s) for row in rows]))
    parts.append("\n".join(reasons(rows)))
    with torch.inference_mode():
        parts.append(markdown_table(("correlation, MB", "stored", "peak on the GPU"), list(memory_rows(machine))))
    text = "\n\n".join(part for part in parts if part) + "\n"
    print(text, end="")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
