#!/usr/bin/env python
"""Accuracy of the trajectories: one row a case, each with the command that gives it.

    python benchmarks/accuracy.py [CASE ...] [--data DIR] [--markdown FILE] [--out DIR] [--quick] [--list]

Every case runs in a process of its own, tracking only (no fusion). CASE may be the front part of names: ``raw0013`` is
``raw0013-fast`` and ``raw0013-accurate``. Cases whose data are absent are left out, with the reason.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cases import TUNED_LEGEND, TUNED_MARK, Case, select
from runs import Outcome, measured_on, run_case
from tables import markdown_table, number

HEADER = (
    "case",
    "frames",
    "path m",
    "t_rel %",
    "r_rel °/100 m",
    "n",
    "covers m",
    "50 m %",
    "end point %",
    "ATE SE(3) m",
    "ATE Sim(3) m",
    "fitted scale",
    "scale end/start",
    "frames/s",
    "peak RSS MB",
    "load",
)
FITTED = " *"
"""Marks a figure that exists only after a Sim(3) fit to the truth."""

PROTOCOL = (
    "t_rel, r_rel: mean over n KITTI segments of 100, 200 .. 800 m of the true path, a start every 10 poses, **no "
    "alignment**; – where the path holds no segment of 100 m. Segments overlap: covers m is the length of path that "
    "lies in at least one. None spans a gap in the truth.",
    "50 m: mean error of segments of 50 m, same protocol; not comparable with published t_rel.",
    "End point: distance of the last position from the true one in % of the path, no alignment.",
    f"Figures with {FITTED.strip()}: the scale is unknown without a prior, so they hold after a Sim(3) (7-dof) fit to "
    "the truth; not comparable with the other rows.",
    TUNED_LEGEND,
    "ATE: evo APE, RMSE of all positions after an SE(3) or Sim(3) Umeyama fit. "
    "Fitted scale: that of the Sim(3) fit, above 1: the estimate is too small.",
    "Scale end/start: local scale (Sim(3) fit over 20 poses) over the last tenth against the first tenth of the poses; "
    "1: no drift of scale.",
    "frames/s: tracking and last optimisation, reading included, fusion and report not. Peak RSS: up to the end of "
    "tracking / of the whole program with evaluation and report. Load: load average of the minute before the start; "
    "near 0 on a quiet machine.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a case that has its data failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names, or the front part of names; default: all")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="data root, default: data")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to this file too")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the results in DIR/CASE")
    parser.add_argument("--quick", action="store_true", help="a dozen frames each: does it work at all?")
    parser.add_argument("--list", action="store_true", help="show names and commands, run nothing")
    options = parser.parse_args(arguments)
    try:
        cases = select(options.cases)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n\n".join(_details(case, case.command(options.data, f"results/{case.name}")) for case in cases))
        return 0
    outcomes = list(_outcomes(cases, options.data, options.out, options.quick))
    text = document(outcomes, quick=options.quick)
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    return int(any(o.problem is not None and o.case.missing(options.data) is None for o in outcomes))


def _outcomes(cases: Sequence[Case], data_root: Path, out: Path | None, quick: bool) -> Iterator[Outcome]:
    """Run the cases one after the other until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="metric_slam_") as temporary:
        for case in cases:
            reason = case.missing(data_root)
            if reason is not None:
                yield Outcome(case, [], 0.0, f"skipped: {reason}")
                continue
            print(f"{case.name} ...", file=sys.stderr, flush=True)
            try:
                outcome = run_case(case, data_root, (out or Path(temporary)) / case.name, quick=quick)
            except KeyboardInterrupt:
                print("interrupted: the table holds what was done", file=sys.stderr)
                return
            print(f"  {_summary(outcome)}", file=sys.stderr, flush=True)
            yield outcome


def _summary(outcome: Outcome) -> str:
    if outcome.problem is not None:
        return outcome.problem
    head = outcome.metrics["headline"]
    end = number(head["end_point_error_percent"], 2)
    return f"t_rel {number(head['t_rel_percent'], 2)} %, end {end} %, {outcome.info['frames_per_s']:.1f} frames/s"


def document(outcomes: Sequence[Outcome], *, quick: bool) -> str:
    """Return everything about these outcomes as a piece of Markdown."""
    parts = ["  \n".join(measured_on())]
    if quick:
        parts.append(f"**Quick look: {len(outcomes)} cases cut to a dozen frames. No figures to quote.**")
    measured = [outcome for outcome in outcomes if outcome.problem is None]
    if measured:
        parts += [markdown_table(HEADER, [row(o) for o in measured]), "\n".join(f"- {line}" for line in PROTOCOL)]
    parts += [_details(o.case, o.command, o) for o in measured]
    parts += [f"- {o.case.name}: {o.problem}" for o in outcomes if o.problem is not None]
    return "\n\n".join(parts)


def row(outcome: Outcome) -> list[str]:
    """Return the cells of one case, in the order of HEADER."""
    metrics, info = outcome.metrics, outcome.info
    fit = "" if metrics["scale_known"] else FITTED
    alignment = metrics["headline"]["alignment"]
    drift = metrics["kitti"]["alignments"][alignment]
    short = metrics["short_segments"]["alignments"][alignment]["per_length_m"] or {}
    ate = {name: _ate_rmse(metrics, name) for name in ("se3", "sim3")}
    return [
        outcome.case.shown_name,
        f"{info['frames']}" + (f" ({info['frames_not_tracked']} lost)" if info["frames_not_tracked"] else ""),
        number(metrics["path_length_m"]["value"], 1),
        _marked(number(drift["t_rel_percent"], 2), fit),
        _marked(number(drift["r_rel_deg_per_100m"], 3), fit),
        number(drift["n_segments"], 0),
        number(drift["covered_m"], 0),
        _marked(number(short.get("50", {}).get("t_rel_percent"), 2), fit),
        _marked(number(metrics["end_point"]["error_percent"], 2), fit),
        number(ate["se3"], 3),
        number(ate["sim3"], 3),
        number(metrics["fitted_scale"]["value"], 4),
        number(outcome.scale_drift, 3),
        number(info["frames_per_s"], 1),
        f"{info['peak_rss_tracking_mb']:.0f} / {info['peak_rss_mb']:.0f}",
        number(outcome.load, 1),
    ]


def _marked(figure: str, mark: str) -> str:
    return figure + mark if figure[0].isdigit() else figure


def _ate_rmse(metrics: dict[str, dict], alignment: str) -> float | None:
    figures = metrics["ate"]["alignments"][alignment]["translation_m"]
    return None if figures is None else figures["rmse"]


def _details(case: Case, command: Sequence[str], outcome: Outcome | None = None) -> str:
    """Describe a case: data, the choices of the program, warnings, commands."""
    lines = [f"**{case.name}**: {case.what}{f' ({TUNED_MARK} tuned on)' if case.tuned_on else ''}."]
    if outcome is not None:
        info = outcome.info
        choices = "; ".join(f"{name} {choice}" for name, choice in info["choices"].items())
        lines += [f"Preset {info['preset']}; {choices}; keyframes: {info['keyframes']}."]
        lines += [f"Warning: {warning}" for warning in info["warnings"]]
    commands = [case.prepare_command, command] if case.prepare_command else [command]
    return "  \n".join(lines) + "\n\n" + "\n".join(f"    {shlex.join(words)}" for words in commands)


if __name__ == "__main__":
    sys.exit(main())
