"""The named cases of docs/results.md: which data, which options, and the very command that a reader can repeat.

Paths in commands are relative to the top of the checkout, where they are run. Three data sets are looked for below one
data root (``kitti_raw/``, ``kitti_odometry/``, ``seven_scenes_redkitchen/``); the rendered drive is made here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from degraded_prior import default_folder, write_degraded_depth

from metric_slam.datasets import open_dataset
from metric_slam.datasets.base import Dataset
from metric_slam.datasets.synthetic import DriveSpec, open_demo
from metric_slam.datasets.synthetic.route import drive_poses

ROOT = Path(__file__).resolve().parents[1]
QUICK_FRAMES = 12
MOTORWAY_SHARE = 0.9
"""The motorway begins and ends where the rendered car does this share of its top speed."""

PRESETS = ("fast", "accurate")
RAW_0013 = "kitti_raw/2011_09_26/2011_09_26_drive_0013_sync"
SEVEN_SCENES = "seven_scenes_redkitchen"


@dataclass(frozen=True)
class Case:
    """One run that is measured."""

    name: str
    what: str
    program: tuple[str, ...]
    """``metric-slam run`` or ``python scripts/run_kitti.py``, word by word."""

    options: tuple[str, ...]
    """The options that make the case, the words of its name included."""

    data: str | None = None
    """Folder below the data root; None: the rendered drive."""

    data_option: str | None = None
    """Option that takes that folder; None: it is the argument."""

    open_data: Callable[[Path | None], Dataset] = lambda _: open_demo()
    """Opens the data at its folder (None: the rendered drive) for the truth."""

    frames: Callable[[], tuple[int, int]] | None = None
    """First frame and one past the last; None: all of them."""

    prepare: Callable[[], None] | None = None
    """What has to be done before the command; see also ``prepare_command``."""

    prepare_command: tuple[str, ...] = ()
    """The command that does the same."""

    def missing(self, data_root: Path) -> str | None:
        """Why the case cannot run here; None if it can."""
        if self.data is None or (data_root / self.data).is_dir():
            return None
        return f"{self.data} is not below the data root {shown_path(data_root)} (option --data)"

    def folder(self, data_root: Path) -> Path | None:
        """Where its data lie; None for the rendered drive."""
        return None if self.data is None else data_root / self.data

    def selection(self, quick: bool) -> tuple[int, int | None]:
        """First frame and one past the last (None: to the end)."""
        start, end = (0, None) if self.frames is None else self.frames()
        return start, start + QUICK_FRAMES if quick else end

    def command(self, data_root: Path, out: str, *, quick: bool = False) -> list[str]:
        """The command as a user types it at the top of the checkout, results in ``out``."""
        folder = self.folder(data_root)
        words = list(self.program)
        if folder is not None:
            words += [*([self.data_option] if self.data_option else []), shown_path(folder)]
        words += self.options
        start, end = self.selection(quick)
        words += ["--start", str(start)] if start else []
        words += ["--end", str(end)] if end is not None else []
        return [*words, "--no-fusion", "--out", out]


def shown_path(path: Path) -> str:
    """``path`` relative to the top of the checkout."""
    return os.path.relpath(path.resolve(), ROOT)


def executable(words: Sequence[str]) -> list[str]:
    """A command of :meth:`Case.command` with this Python and this checkout in place of the names."""
    program = {"python": [sys.executable], "metric-slam": [sys.executable, "-m", "metric_slam"]}
    return [*program[words[0]], *words[1:]]


def motorway_frames() -> tuple[int, int]:
    """The stretch of the rendered drive at top speed, from its true poses: first frame and one past the last."""
    spec = DriveSpec()
    step_m = np.linalg.norm(np.diff(drive_poses(spec)[:, :3, 3], axis=0), axis=1)
    fast = np.flatnonzero(step_m >= MOTORWAY_SHARE * spec.fast_speed_mps / spec.rate_hz)
    return int(fast[0]), int(fast[-1]) + 2


def _run_kitti(*words: str) -> tuple[str, ...]:
    return ("python", "scripts/run_kitti.py", *words)


def _presets(case: Case) -> list[Case]:
    """The case once for each preset, ``-fast`` and ``-accurate`` added to its name."""
    return [
        replace(case, name=f"{case.name}-{preset}", options=(*case.options, "--preset", preset)) for preset in PRESETS
    ]


def _kitti() -> list[Case]:
    raw = Case(
        name="raw0013",
        what="KITTI raw drive 2011_09_26_drive_0013",
        program=("metric-slam", "run"),
        options=("--correspondence", "dis", "--prior", "ground_plane"),
        data=RAW_0013,
        open_data=lambda folder: open_dataset(folder or "", kind="kitti_raw"),
    )
    odometry = Case(
        name="kitti04",
        what="KITTI odometry sequence 04, the frames that are there",
        program=_run_kitti("--seq", "04"),
        options=("--correspondence", "dis", "--prior", "ground_plane"),
        data="kitti_odometry",
        data_option="--data",
        open_data=lambda folder: open_dataset(folder or "", kind="kitti", sequence="04"),
    )
    return [*_presets(raw), *_presets(odometry)]


def _seven_scenes() -> list[Case]:
    case = Case(
        name="7scenes-sensor",
        what="7-Scenes redkitchen, hand-held, depth camera as prior",
        program=("metric-slam", "run"),
        options=(
            *("--camera", "525,525,320,240", "--depth-scale", "1000"),
            *("--correspondence", "dis", "--prior", "sensor", "--preset", "accurate"),
        ),
        data=SEVEN_SCENES,
        open_data=lambda folder: open_dataset(
            folder or "", kind="tum", camera=(525.0, 525.0, 320.0, 240.0), depth_scale=1000.0
        ),
    )
    small = replace(case, name="7scenes-sensor-320x240", options=(*case.options, "--size", "320x240"))
    return [small, replace(case, name="7scenes-sensor-default-size")]


def _rendered() -> list[Case]:
    drive = Case(
        name="demo-ground",
        what="rendered drive, once around a block",
        program=_run_kitti("--seq", "demo"),
        options=("--correspondence", "dis", "--prior", "ground_plane"),
    )
    folder = shown_path(default_folder())
    degraded = replace(
        drive,
        name="demo-degraded-prior",
        what="rendered drive, prior = true depth with a smooth error of 10 % and one of 3 % common to each frame",
        options=("--correspondence", "dis", "--prior", "precomputed", "--precomputed-depth", folder),
        prepare=lambda: write_degraded_depth(open_demo(), default_folder()),
        prepare_command=("python", "benchmarks/degraded_prior.py", folder),
    )
    no_prior = replace(
        drive,
        name="demo-no-prior",
        what="rendered drive, images alone",
        options=("--correspondence", "dis", "--prior", "none"),
    )
    motorway = replace(
        drive,
        name="motorway",
        what="rendered drive, the stretch at 2.25 to 2.5 m a frame",
        frames=motorway_frames,
    )
    return [case for kind in (drive, degraded, no_prior, motorway) for case in _presets(kind)]


CASES = {case.name: case for case in [*_kitti(), *_seven_scenes(), *_rendered()]}
"""Name -> case, in the order of the table."""


def select(names: Sequence[str]) -> list[Case]:
    """The cases of these names; the front part of names stands for all of them, no name for every case.

    Raises ValueError for a name that fits none.
    """
    for name in names:
        if not any(_fits(case, name) for case in CASES):
            raise ValueError(f"no case '{name}': choose from {', '.join(CASES)}")
    return [case for key, case in CASES.items() if not names or any(_fits(key, name) for name in names)]


def _fits(case_name: str, name: str) -> bool:
    return case_name == name or case_name.startswith(f"{name}-")
