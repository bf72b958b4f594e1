#!/usr/bin/env python
"""Sensitivity of the results to the constants that were chosen by looking at results: each 30 % lower and higher.

    python benchmarks/sensitivity.py --out OUT [--data DIR] [--constants NAME ...] [--on NAME ...] [--seeds 0 1 2]
        [--frames 120] [--preset fast] [--factor 0.3] [--quick] [--list] [--table-only] [--markdown FILE]

Data: short rendered drives, one for each seed, and the recorded sequences below the data root. A run is a process of
its own; its figures go to OUT/PRESET/DATA/CONSTANT/{low,high}/SEED.json (or default/SEED.json), and what is there is
not run again. A constant that is moved elsewhere in the program is reported as not found.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import CASES, PRESETS, ROOT, TUNED_LEGEND, TUNED_MARK
from override import Number, overridden
from runs import commit, environment, measured_on
from tables import NOTHING, markdown_table, number
from tuned_constants import CONSTANTS, Constant, Kind

from metric_slam.config.resolve import Setting, resolve_config
from metric_slam.datasets.base import Dataset
from metric_slam.datasets.synthetic import DriveSpec, open_demo
from metric_slam.errors import MetricSlamError

SIDES = ("low", "high")
SAME, WORSE, BETTER = "=", "▲", "▼"

T_REL, END_POINT, ATE = "t_rel %", "end point %", "ATE SE(3) cm"
DIGITS = {T_REL: 3, END_POINT: 3, ATE: 2}

PROTOCOL = (
    "Mean over the seeds; ± half of their range. t_rel: KITTI segments, no alignment; end point: % of the path, no "
    "alignment; ATE: after an SE(3) fit.",
    f"{WORSE} worse, {BETTER} better than the default by more than that half range; recorded sequences have one seed "
    f"and no mark. {SAME}: the same figure to the last digit with every seed, so the constant does not act there.",
    TUNED_LEGEND,
)


@dataclass(frozen=True)
class Data:
    """One source of images with truth."""

    name: str
    kinds: tuple[Kind, ...]
    """Kinds of constants that can matter there."""

    prior: str
    figure: str
    open: Callable[[int], Dataset]
    """Opens it for a seed."""

    tuned_on: bool = False
    rendered: bool = False

    @property
    def shown_name(self) -> str:
        """Name in the table."""
        return f"{self.name} {TUNED_MARK}" if self.tuned_on else self.name


def rendered_data(frames: int, width: int = 640) -> list[Data]:
    """Return the rendered drives: streets, streets with vehicles in motion, and a small block that is closed."""
    size = {"width": width, "height": width * 3 // 10 // 8 * 8}

    def drive(name: str, kinds: tuple[Kind, ...], figure: str, spec: Callable[[int], DriveSpec]) -> Data:
        return Data(name, kinds, "ground_plane", figure, lambda seed: open_demo(spec(seed)), rendered=True)

    return [
        drive(
            f"streets, {frames} frames",
            ("any", "road"),
            T_REL,
            lambda seed: DriveSpec(route="town", length_m=1.5 * frames + 200.0, frames=frames, seed=seed, **size),
        ),
        drive(
            f"traffic, {frames} frames",
            ("traffic",),
            T_REL,
            lambda seed: DriveSpec(
                route="town", length_m=1.5 * frames + 200.0, frames=frames, moving_cars=0.15, seed=seed, **size
            ),
        ),
        drive(
            "small block, closed",
            ("loop",),
            END_POINT,
            lambda seed: DriveSpec(block_length_m=80.0, block_depth_m=30.0, overlap_m=40.0, seed=seed, **size),
        ),
    ]


def recorded_data(root: Path) -> list[Data]:
    """Return the recorded sequences that are there."""
    road: tuple[Kind, ...] = ("any", "road", "traffic")
    hand: tuple[Kind, ...] = ("any", "loop")
    wanted = (
        ("raw0013", road, "ground_plane", T_REL),
        ("kitti04", road, "ground_plane", END_POINT),
        ("kitti39", road, "ground_plane", T_REL),
        ("7scenes", hand, "sensor", ATE),
        ("rpy", hand, "sensor", ATE),
    )

    def of(name: str, kinds: tuple[Kind, ...], prior: str, figure: str) -> Data:
        case = CASES[f"{name}-fast"]
        return Data(name, kinds, prior, figure, lambda _: case.open_data(case.folder(root)), case.tuned_on)

    return [of(*row) for row in wanted if CASES[f"{row[0]}-fast"].missing(root) is None]


@dataclass(frozen=True)
class Job:
    """One run: a constant (None: all at their defaults) on some data with a seed."""

    data: Data
    constant: Constant | None
    side: str | None
    seed: int

    def file(self, out: Path, preset: str) -> Path:
        """Return the file of its figures."""
        parts = ("default",) if self.constant is None else (self.constant.name, str(self.side))
        return out.joinpath(preset, *(part.replace(" ", "_").replace(",", "") for part in (self.data.name, *parts))) / (
            f"{self.seed}.json"
        )


def jobs(data: Sequence[Data], constants: Sequence[Constant], seeds: Sequence[int]) -> Iterator[Job]:
    """Yield all runs, those at the defaults first."""
    for source in data:
        used = [constant for constant in constants if constant.kind in source.kinds]
        choices: list[tuple[Constant | None, str | None]] = [(None, None)]
        choices += [(constant, side) for constant in used for side in SIDES]
        for constant, side in choices if used else ():
            for seed in seeds if source.rendered else seeds[:1]:
                yield Job(source, constant, side, seed)


def measure(job: Job, preset: str, value: Number | None, target: str | None) -> dict[str, float | None]:
    """Run in this process, with ``value`` for the constant at ``target``, and return its figures."""
    settings = {"preset": preset, "prior": job.data.prior, "correspondence": "dis", "fusion.enabled": False}
    settings["seed"] = job.seed
    is_key = target is not None and ":" not in target
    if is_key:
        settings[str(target)] = value
    from metric_slam.run import pipeline

    with (
        tempfile.TemporaryDirectory(prefix="metric_slam_") as folder,
        nullcontext() if target is None or is_key or value is None else overridden(target, value),
    ):
        config = resolve_config(None, (), {key: Setting(item, "benchmark") for key, item in settings.items()})
        metrics = pipeline.run(config, job.data.open(job.seed), Path(folder) / "run").metrics
    assert metrics is not None, job.data.name
    ate = metrics["ate"]["alignments"]["se3"]["translation_m"]
    return {
        T_REL: metrics["kitti"]["alignments"]["none"]["t_rel_percent"],
        END_POINT: metrics["end_point"]["error_percent"],
        ATE: None if ate is None else 100.0 * ate["rmse"],
    }


def run_in_process(job: Job, options: argparse.Namespace, file: Path) -> str | None:
    """Run a job in a process of its own, which writes ``file``; return what went wrong."""
    constant = "" if job.constant is None else job.constant.name
    one = (job.data.name, constant, job.side or "", str(job.seed))
    words = [sys.executable, str(Path(__file__).resolve()), *options.arguments, "--one", *one]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode == 0 and file.is_file():
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
    return f"exit code {done.returncode}, {lines[-1]}"


def _run_one(options: argparse.Namespace) -> int:
    """Run the job of ``--one`` in this process and write its figures."""
    name, constant, side, seed = options.one
    chosen = next((c for c in CONSTANTS if c.name == constant), None)
    job = Job(next(d for d in options.sources if d.name == name), chosen, side or None, int(seed))
    target = value = None
    if job.constant is not None:
        target = job.constant.target(options.preset)
        value = job.constant.varied(options.preset, _factor(job.side, options.factor))
    file = job.file(options.out, options.preset)
    try:
        figures = measure(job, options.preset, value, target)
    except MetricSlamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".part")
    content = {"target": target, "value": value, "commit": commit(), "figures": figures}
    scratch.write_text(json.dumps(content) + "\n", encoding="utf-8")
    scratch.replace(file)
    return 0


def _factor(side: str | None, change: float) -> float:
    return 1.0 - change if side == "low" else 1.0 + change


def read(file: Path) -> Mapping[str, float | None] | None:
    """Return the figures of a run that is done."""
    if not file.is_file():
        return None
    figures: Mapping[str, float | None] = json.loads(file.read_text(encoding="utf-8"))["figures"]
    return figures


def rows(options: argparse.Namespace) -> list[list[str]]:
    """Return one row for each constant and data set of which the default and one side are there."""
    table = []
    for constant in options.chosen:
        for data in options.sources:
            if constant.kind not in data.kinds:
                continue
            seeds = options.seeds if data.rendered else options.seeds[:1]

            def values(
                side: str | None, of: Constant | None, data: Data = data, seeds: list[int] = seeds
            ) -> list[float]:
                found = [read(Job(data, of, side, seed).file(options.out, options.preset)) for seed in seeds]
                return figures_of(data, [figures for figures in found if figures is not None])

            default, low, high = values(None, None), values("low", constant), values("high", constant)
            if default and (low or high):
                value = constant.default(options.preset)
                cells = [changed(low, default, data), default_cell(default, data), changed(high, default, data)]
                table.append([f"{constant.name} = {value:g}", data.shown_name, data.figure, *cells])
    return table


def figures_of(data: Data, found: Sequence[Mapping[str, float | None]]) -> list[float]:
    """Return the figure of the data of every run; the end point where a path is too short for t_rel."""
    values = [run[data.figure] if run[data.figure] is not None else run[END_POINT] for run in found]
    return [value for value in values if value is not None]


def default_cell(default: Sequence[float], data: Data) -> str:
    """Return the mean at the default and half of the range over seeds."""
    digits = DIGITS[data.figure]
    spread = f" ± {np.ptp(default) / 2:.{digits}f}" if len(default) > 1 else ""
    return f"{np.mean(default):.{digits}f}{spread}"


def changed(values: Sequence[float], default: Sequence[float], data: Data) -> str:
    """Return the mean with another value, marked where it leaves the range that the seeds span."""
    if not values:
        return NOTHING
    mean = float(np.mean(values))
    shown = number(mean, DIGITS[data.figure])
    if len(values) == len(default) and all(a == b for a, b in zip(values, default, strict=True)):
        return f"{shown} {SAME}"
    change = mean - float(np.mean(default))
    if len(default) < 2 or abs(change) <= np.ptp(default) / 2:
        return shown
    return f"{shown} {WORSE if change > 0 else BETTER}"


def document(options: argparse.Namespace, problems: Sequence[str]) -> str:
    """Return the table with its protocol as Markdown."""
    percent = f"{100 * options.factor:.0f} %"
    header = ("constant", "data", "figure", f"−{percent}", "default", f"+{percent}")
    lines = [*measured_on(), f"Preset {options.preset}, correspondence dis, seeds {', '.join(map(str, options.seeds))}"]
    parts = ["  \n".join(lines)]
    if options.quick:
        parts.append("**Quick look: a dozen frames. No figures to quote.**")
    table = rows(options)
    files = sorted((options.out / options.preset).rglob("*.json"))
    commits = sorted({json.loads(file.read_text(encoding="utf-8"))["commit"] for file in files})
    if len(commits) > 1:
        parts.append(f"**The figures in {options.out.name} come from several commits: {', '.join(commits)}.**")
    if table:
        parts += [markdown_table(header, table), "\n".join(f"- {line}" for line in PROTOCOL)]
    return "\n\n".join([*parts, *(f"- {problem}" for problem in problems)])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options; ``chosen`` and ``sources`` hold what they select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder of all figures")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data root; none: rendered drives alone")
    parser.add_argument("--constants", nargs="+", metavar="NAME", help="names or parts of them; default: all")
    parser.add_argument("--on", nargs="+", metavar="NAME", help="data, by the front part of the name; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--frames", type=int, default=120, help="length of rendered street and traffic, default: 120")
    parser.add_argument("--width", type=int, default=640, help="width of rendered images in pixels, default: 640")
    parser.add_argument("--preset", choices=PRESETS, default="fast")
    parser.add_argument("--factor", type=float, default=0.3, help="relative change, default: 0.3")
    parser.add_argument("--quick", action="store_true", help="a dozen small frames, one seed: does it work at all?")
    parser.add_argument("--list", action="store_true", help="show constants, values and data, run nothing")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to this file too")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # data, constant, side, seed: in a process of its own
    options = parser.parse_args(arguments)
    if not 0 < options.factor < 1 or not math.isfinite(options.factor):
        parser.error(f"--factor {options.factor}: give a share between 0 and 1")
    if options.quick:
        options.frames, options.width, options.seeds = 12, 416, options.seeds[:1]
    given = list(sys.argv[1:] if arguments is None else arguments)
    options.arguments = given[: given.index("--one")] if "--one" in given else given
    options.out = options.out.resolve()
    wanted = options.constants or [""]
    options.chosen = [c for c in CONSTANTS if any(part in c.name for part in wanted)]
    every = rendered_data(options.frames, options.width) + (recorded_data(options.data) if options.data else [])
    options.sources = [d for d in every if any(d.name.startswith(name) for name in options.on or [""])]
    if not options.chosen or not options.sources:
        parser.error("no constant or no data of that name: see --list")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a run failed or a constant is not found."""
    options = parse(arguments)
    if options.one is not None:
        return _run_one(options)
    problems: list[str] = []
    found = []
    for constant in options.chosen:
        try:
            constant.default(options.preset)
        except LookupError as error:
            problems.append(f"{constant.name}: not found, {error}")
        else:
            found.append(constant)
    options.chosen = found
    if options.list:
        lines = [f"{c.name} = {c.default(options.preset):g}  ({c.kind}: {c.target(options.preset)})" for c in found]
        print("\n".join([*lines, *(f"{d.name}: {', '.join(d.kinds)}; {d.figure}" for d in options.sources), *problems]))
        return int(bool(problems))
    try:
        if not options.table_only:
            _run_missing(options, problems)
    except KeyboardInterrupt:
        print("interrupted: the table holds what was done", file=sys.stderr)
    text = document(options, problems)
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    return int(bool(problems))


def _run_missing(options: argparse.Namespace, problems: list[str]) -> None:
    todo = list(jobs(options.sources, options.chosen, options.seeds))
    for n, job in enumerate(todo, start=1):
        file = job.file(options.out, options.preset)
        if file.is_file():
            continue
        what = "defaults" if job.constant is None else f"{job.constant.name} {job.side}"
        print(
            f"{n} of {len(todo)}: {job.data.name}, {what}, seed {job.seed} (load {os.getloadavg()[0]:.1f})",
            file=sys.stderr,
            flush=True,
        )
        problem = run_in_process(job, options, file)
        if problem is not None:
            problems.append(f"{job.data.name}, {what}, seed {job.seed}: {problem}")


if __name__ == "__main__":
    sys.exit(main())
