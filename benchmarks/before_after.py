#!/usr/bin/env python
"""Compare two checkouts of this project: the same cases, seeds and machine, and a verdict for every figure.

    python benchmarks/before_after.py --before CHECKOUT [--after CHECKOUT] --data DIR --out OUT
        [--cases kitti04 ...] [--presets fast accurate] [--seeds 0 1 2] [--fresh] [--table-only] [--markdown FILE]

Each run is a process of its own in its checkout, with that checkout's package and native modules on PYTHONPATH; both
must be built. Results go to OUT/{before,after}/CASE-PRESET/SEED/; a folder that holds metrics.json is not run again,
unless --fresh. The table is printed at the end, also after Ctrl-C, and shows what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import CASES, PRESETS, ROOT, TUNED_LEGEND, Case, executable
from runs import commit, environment, measured_on
from tables import NOTHING, markdown_table, number

from metric_slam.errors import MetricSlamError

SIDES = ("before", "after")

COMPARED = {
    "kitti04": "kitti04",
    "raw0013": "raw0013",
    "7scenes": "7scenes",
    "demo": "demo-ground",
    "kitti39": "kitti39",
    "rpy": "rpy",
    "town": "town",
}
"""Name here -> name in cases.py, without the preset."""

HEADER = ("case", "preset", "figure", "before", "after", "verdict")
PROTOCOL = (
    "Mean ± half of the range over the seeds that ran (count in brackets). Better or worse: the means differ by more "
    "than both half ranges together and by more than the resolution of the figure; else same. With one seed on either "
    "side its spread counts as zero, and the verdict is marked (1 seed).",
    "t_rel, r_rel, end point: no alignment. ATE: evo, RMSE after an SE(3) or Sim(3) fit. Fitted scale: nearer to 1 is "
    "better. frames/s depends on what else the machine does.",
    TUNED_LEGEND,
)

Tree = Mapping[str, object]


def at(tree: Tree, *keys: str) -> float | None:
    """Look up a figure in nested mappings; None where it is missing or null."""
    node: object = tree
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return float(node) if isinstance(node, int | float) else None


@dataclass(frozen=True)
class Figure:
    """One compared figure."""

    name: str
    digits: int
    """Digits behind the point; half of the last is the resolution."""

    read: Callable[[Tree, Tree], float | None]
    """From metrics.json and run.json."""

    cost: Callable[[float], float] | None = lambda value: value
    """Smaller is better; None: shown without a verdict."""


def _kitti(key: str) -> Callable[[Tree, Tree], float | None]:
    return lambda metrics, _: at(metrics, "kitti", "alignments", "none", key)


def _ate(alignment: str) -> Callable[[Tree, Tree], float | None]:
    return lambda metrics, _: at(metrics, "ate", "alignments", alignment, "translation_m", "rmse")


FIGURES = (
    Figure("t_rel %", 2, _kitti("t_rel_percent")),
    Figure("r_rel °/100 m", 3, _kitti("r_rel_deg_per_100m")),
    Figure("end point %", 2, lambda metrics, _: at(metrics, "end_point", "error_percent")),
    Figure("ATE SE(3) m", 4, _ate("se3")),
    Figure("ATE Sim(3) m", 4, _ate("sim3")),
    Figure("fitted scale", 4, lambda metrics, _: at(metrics, "fitted_scale", "value"), lambda value: abs(value - 1.0)),
    Figure("frames lost", 0, lambda _, info: at(info, "frames_not_tracked")),
    Figure("loops closed", 0, lambda _, info: at(info, "loops_closed"), None),
    Figure("frames/s", 1, lambda _, info: at(info, "frames_per_s"), lambda value: -value),
)


@dataclass(frozen=True)
class Verdict:
    """Both sides of a figure in words."""

    before: str
    after: str
    verdict: str


def compare(figure: Figure, before: Sequence[float | None], after: Sequence[float | None]) -> Verdict | None:
    """Compare the values of a figure over seeds; None where neither side has one."""
    sides = [[value for value in values if value is not None] for values in (before, after)]
    if not any(sides):
        return None
    shown = [_mean_and_spread(values, figure.digits) for values in sides]
    if not all(sides) or figure.cost is None:
        return Verdict(*shown, NOTHING)
    costs = [np.array([figure.cost(value) for value in values]) for values in sides]
    difference = costs[1].mean() - costs[0].mean()
    spread = sum(np.ptp(values) / 2 for values in costs)
    verdict = "same"
    if abs(difference) > max(spread, 0.5 * 10.0**-figure.digits):
        verdict = "worse" if difference > 0 else "better"
    single = "" if min(map(len, sides)) > 1 else " (1 seed)"
    return Verdict(*shown, verdict + single)


def _mean_and_spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return NOTHING
    spread = f" ± {number(float(np.ptp(values)) / 2, digits)}" if len(values) > 1 else ""
    return f"{number(float(np.mean(values)), digits)}{spread} ({len(values)})"


def case_of(name: str, preset: str) -> Case:
    """Return the case of cases.py behind a name of COMPARED."""
    return CASES[f"{COMPARED[name]}-{preset}"]


def run(case: Case, checkout: Path, data_root: Path, out: Path, seed: int) -> str | None:
    """Run a case in a checkout with results in ``out``; return the last line of its output if it failed."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").unlink(missing_ok=True)  # figures of an earlier run must not pass for this one
    words = executable(case.command(data_root, str(out.resolve()), absolute=True))
    words += ["--set", f"seed={seed}", "--overwrite"]
    with out.with_suffix(".log").open("w", encoding="utf-8") as log:
        done = subprocess.run(words, cwd=checkout, env=_environment(checkout), stdout=log, stderr=log, check=False)
    if done.returncode == 0:
        return None
    lines = [line for line in out.with_suffix(".log").read_text(encoding="utf-8").splitlines() if line.strip()]
    return f"exit code {done.returncode}, {lines[-1] if lines else 'no output'}"


def _environment(checkout: Path) -> dict[str, str]:
    """The caller's, but with the package and the native modules of this checkout."""
    native = checkout / "thirdparty"
    folders = (checkout, native / "lietorch", native / "droid_backends")
    return {**environment(), "PYTHONPATH": os.pathsep.join(str(folder.resolve()) for folder in folders)}


def figures_in(folder: Path) -> tuple[Tree, Tree] | None:
    """Return metrics.json and run.json of a results folder; None where a run did not get that far."""
    paths = [folder / name for name in ("metrics.json", "run.json")]
    if not all(path.is_file() for path in paths):
        return None
    metrics, info = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    return metrics, info


def seeds_in(folder: Path, seeds: Sequence[int]) -> list[tuple[Tree, Tree]]:
    """Return the figures of the seeds that ran."""
    found = [figures_in(folder / str(seed)) for seed in seeds]
    return [pair for pair in found if pair is not None]


def rows(out: Path, names: Sequence[str], presets: Sequence[str], seeds: Sequence[int]) -> list[list[str]]:
    """Return one row for each case, preset and figure that at least one side has."""
    table = []
    for name in names:
        for preset in presets:
            case = case_of(name, preset)
            sides = [seeds_in(out / side / f"{name}-{preset}", seeds) for side in SIDES]
            for figure in FIGURES:
                values = [[figure.read(*pair) for pair in side] for side in sides]
                verdict = compare(figure, *values)
                if verdict is not None:
                    label = name + case.shown_name.removeprefix(case.name)
                    table.append([label, preset, figure.name, verdict.before, verdict.after, verdict.verdict])
    return table


def lengths(out: Path, names: Sequence[str], presets: Sequence[str], seeds: Sequence[int]) -> list[list[str]]:
    """Return what stands behind t_rel: frames, path, KITTI segments and the metres they cover, of either side."""
    table = []
    for name in names:
        found = [
            pair for side in reversed(SIDES) for p in presets for pair in seeds_in(out / side / f"{name}-{p}", seeds)
        ]
        if found:
            metrics, info = found[0]
            table.append(
                [
                    case_of(name, presets[0]).shown_name.replace(f"{COMPARED[name]}-{presets[0]}", name),
                    number(at(info, "frames"), 0),
                    number(at(metrics, "path_length_m", "value"), 1),
                    number(_kitti("n_segments")(metrics, info), 0),
                    number(_kitti("covered_m")(metrics, info), 0),
                ]
            )
    return table


def document(options: argparse.Namespace, problems: Sequence[str]) -> str:
    """Return the table with its protocol as Markdown."""
    chosen = (options.out, options.cases, options.presets, options.seeds)
    compared = rows(*chosen)
    header = [*measured_on()[1:], *(f"{side}: {commit(getattr(options, side))}" for side in SIDES)]
    parts = ["  \n".join(header)]
    if compared:
        behind = ("case", "frames", "path m", "n segments", "covers m")
        parts += [markdown_table(behind, lengths(*chosen)), markdown_table(HEADER, compared)]
        parts.append("\n".join(f"- {line}" for line in PROTOCOL))
        worse = [row for row in compared if row[-1].startswith("worse")]
        parts.append(f"{len(worse)} of {len(compared)} figures are worse.")
    parts += [f"- {problem}" for problem in problems]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, metavar="CHECKOUT", help="checkout of the older commit")
    parser.add_argument("--after", type=Path, default=ROOT, metavar="CHECKOUT", help="default: the one of this script")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="data root, default: data")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder of all results")
    parser.add_argument("--cases", nargs="+", choices=COMPARED, default=list(COMPARED), metavar="CASE")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), metavar="PRESET")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="sides that are run")
    parser.add_argument("--fresh", action="store_true", help="run again what is there")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to this file too")
    options = parser.parse_args(arguments)
    problems: list[str] = []
    try:
        if not options.table_only:
            _run_all(options, problems)
    except KeyboardInterrupt:
        print("interrupted: the table holds what was done", file=sys.stderr)
    text = document(options, problems)
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    return int(any(not problem.startswith("skipped") for problem in problems))


def _run_all(options: argparse.Namespace, problems: list[str]) -> None:
    """Run what is missing, seed by seed and both sides of a case one after the other, so that they share the load."""
    for name in options.cases:
        reason = case_of(name, options.presets[0]).missing(options.data)
        if reason is not None:
            problems.append(f"skipped: {name}, {reason}")
    skipped = {problem.split()[1].rstrip(",") for problem in problems}
    for seed in options.seeds:
        for name in options.cases:
            for preset in options.presets if name not in skipped else ():
                for side in options.sides:
                    folder = options.out / side / f"{name}-{preset}" / str(seed)
                    if figures_in(folder) is None or options.fresh:
                        problem = _run_one(case_of(name, preset), getattr(options, side), options.data, folder, seed)
                        if problem is not None:
                            problems.append(f"{side} {name}-{preset}, seed {seed}: {problem}")


def _run_one(case: Case, checkout: Path, data_root: Path, folder: Path, seed: int) -> str | None:
    print(f"{folder} (load {os.getloadavg()[0]:.1f}) ...", file=sys.stderr, flush=True)
    try:
        if case.prepare is not None:
            case.prepare()
    except MetricSlamError as error:
        return str(error)
    problem = run(case, checkout, data_root, folder, seed)
    print(f"  {problem or 'done'}", file=sys.stderr, flush=True)
    return problem


if __name__ == "__main__":
    sys.exit(main())
