#!/usr/bin/env python
"""Frames per second of the whole pipeline without fusion, and where the time goes.

    python benchmarks/speed.py [--data DIR] [--runs N] [--warm-up N] [--presets fast accurate] [--case NAME]

KITTI raw drive 0013, or the rendered drive where that is absent. Each run is a process of its own; the figures are
medians over the runs after the warm-up, taken from run.json.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from cases import CASES, PRESETS, Case
from runs import Outcome, measured_on, run_case
from tables import markdown_table, number

OUTSIDE = ("setup", "write", "evaluation", "fusion", "picture", "report", "total")
"""Stages of run.json that do not count for its frames per second."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="data root, default: data")
    parser.add_argument("--runs", type=int, default=3, help="runs that count, default 3")
    parser.add_argument("--warm-up", type=int, default=1, help="runs before them, default 1")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--case", choices=sorted(names_without_preset()), help="default: raw0013, else demo-ground")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to this file too")
    parser.add_argument("--quick", action="store_true", help="a dozen frames each: does it work at all?")
    options = parser.parse_args(arguments)
    if options.runs < 1 or options.warm_up < 0:
        parser.error("at least one run has to count")
    name = options.case or ("raw0013" if CASES["raw0013-fast"].missing(options.data) is None else "demo-ground")
    parts = ["  \n".join(measured_on())]
    for preset in options.presets:
        case = CASES[f"{name}-{preset}"]
        outcomes = _measure(case, options)
        if outcomes is None:
            return 1
        parts.append(document(case, outcomes, options.warm_up))
    if options.quick:
        parts.append("**Quick look: cut to a dozen frames. No figures to quote.**")
    text = "\n\n".join(parts)
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    return 0


def names_without_preset() -> set[str]:
    """Names of the cases that exist in both presets, without the preset."""
    return {name.removesuffix("-fast") for name in CASES if name.endswith("-fast")}


def _measure(case: Case, options: argparse.Namespace) -> list[Outcome] | None:
    """All runs of one case, warm-up included; None after one that failed, which is told on stderr."""
    reason = case.missing(options.data)
    if reason is not None:
        print(f"{case.name}: {reason}", file=sys.stderr)
        return None
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="metric_slam_") as temporary:
        for number_of_run in range(options.warm_up + options.runs):
            folder = Path(temporary) / str(number_of_run)
            outcome = run_case(case, options.data, folder, quick=options.quick)
            if not outcome.info.get("frames_per_s"):
                print(f"{case.name}: {outcome.problem}", file=sys.stderr)
                return None
            print(f"{case.name}, {_run_text(outcome)}", file=sys.stderr, flush=True)
            outcomes.append(outcome)
    return outcomes


def _run_text(outcome: Outcome) -> str:
    return f"load {outcome.load:.2f} before: {outcome.info['frames_per_s']:.2f} frames/s"


def document(case: Case, outcomes: Sequence[Outcome], warm_up: int) -> str:
    """Frames per second and the split by stage of one case as a piece of Markdown."""
    counted = outcomes[warm_up:]
    rates = [outcome.info["frames_per_s"] for outcome in counted]
    info = counted[0].info
    peak_rss_mb = median(outcome.info["peak_rss_tracking_mb"] for outcome in counted)
    title = (
        f"**{case.name}: {median(rates):.1f} frames/s** (median of {len(rates)} runs, {min(rates):.1f} to "
        f"{max(rates):.1f}; {warm_up} before them not counted). {info['frames']} frames, {info['keyframes']} "
        f"keyframes, size {info['choices']['size']}, peak RSS of tracking {peak_rss_mb:.0f} MB."
    )
    runs = [f"- run {i}{' (warm-up)' if i < warm_up else ''}: {_run_text(o)}" for i, o in enumerate(outcomes)]
    table = markdown_table(("stage", "s", "ms a frame", "share %"), stage_rows(counted))
    outside = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages(counted, outside=True).items())
    rest = f"Not in frames/s: {outside}."
    return "\n\n".join([title, f"    {shlex.join(counted[0].command)}", "\n".join(runs), table, rest])


def stage_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """The table's rows, longest stage first, with their sum: seconds of a run, milliseconds a frame, share."""
    seconds = stages(outcomes, outside=False)
    total_s, frames = sum(seconds.values()), outcomes[0].info["frames"]
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return [
        [name, number(s, 2), number(1000.0 * s / frames, 1), number(100.0 * s / total_s, 1)]
        for name, s in [*ordered, ("sum", total_s)]
    ]


def stages(outcomes: Sequence[Outcome], *, outside: bool) -> dict[str, float]:
    """Median seconds per stage: those that count for frames per second, or those ``outside`` of it but the total."""
    names = outcomes[0].info["timings_s"]
    wanted = [name for name in names if (name in OUTSIDE) == outside and name != "total"]
    return {name: median(outcome.info["timings_s"].get(name, 0.0) for outcome in outcomes) for name in wanted}


if __name__ == "__main__":
    sys.exit(main())
