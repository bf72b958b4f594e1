"""The named cases of docs/results.md: data, options, and the command that a reader can repeat.

Paths in commands are relative to the top of the checkout, where they are run. Recorded data lie below one data root
(folders as in benchmarks/README.md); rendered drives are made here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from degraded_prior import TOWN, default_folder, write_degraded_depth

from metric_slam.datasets import open_dataset
from metric_slam.datasets.base import Dataset
from metric_slam.datasets.synthetic import DriveSpec, cache_folder, open_demo
from metric_slam.datasets.synthetic.route import drive_poses

ROOT = Path(__file__).resolve().parents[1]
QUICK_FRAMES = 12
MOTORWAY_SHARE = 0.9
"""The motorway begins and ends where the rendered car does this share of its top speed."""

PRESETS = ("fast", "accurate")
RAW_0013 = "kitti_raw/2011_09_26/2011_09_26_drive_0013_sync"
SEVEN_SCENES = "seven_scenes_redkitchen"
RPY = "rgbd_dataset_freiburg1_rpy_200"

TUNED_MARK = "‡"
TUNED_LEGEND = f"{TUNED_MARK} tuned on: constants were chosen with this sequence in view; expect others to be worse."


@dataclass(frozen=True)
class Case:
    """One run that is measured."""

    name: str
    what: str
    program: tuple[str, ...]
    """``metric-slam run`` or ``python scripts/run_kitti.py``, word by word."""

    options: tuple[str | Path, ...]
    """The options that make the case; paths are shown relative to the top of the checkout."""

    data: str | None = None
    """Folder below the data root; None: a rendered drive."""

    drive: DriveSpec | None = None
    """Rendered drive whose folder the command takes; None: the demo, which the command renders itself."""

    tuned_on: bool = False
    """Whether a constant of the program was chosen with this sequence in view."""

    data_option: str | None = None
    """Option that takes that folder; None: it is the argument."""

    open_data: Callable[[Path | None], Dataset] = lambda _: open_demo()
    """Opens the data at its folder (None: the demo) for the truth."""

    frames: Callable[[], tuple[int, int]] | None = None
    """First frame and one past the last; None: all of them."""

    prepare: Callable[[], None] | None = None
    """Prepares what the command needs; see also ``prepare_command``."""

    prepare_command: tuple[str, ...] = ()
    """The command that does the same."""

    def missing(self, data_root: Path) -> str | None:
        """Return the reason why the case cannot run here; None if it can."""
        if self.data is None or (data_root / self.data).is_dir():
            return None
        return f"{self.data} is not below the data root {shown_path(data_root)} (option --data)"

    def folder(self, data_root: Path) -> Path | None:
        """Return the folder of the data; None for the demo."""
        if self.drive is not None:
            return cache_folder() / f"drive_{self.drive.key()}" / "sequences" / "demo"
        return None if self.data is None else data_root / self.data

    @property
    def shown_name(self) -> str:
        """Name in tables, marked where the case was tuned on."""
        return f"{self.name} {TUNED_MARK}" if self.tuned_on else self.name

    def selection(self, quick: bool) -> tuple[int, int | None]:
        """Return the first frame and one past the last (None: to the end)."""
        start, end = (0, None) if self.frames is None else self.frames()
        return start, start + QUICK_FRAMES if quick else end

    def command(self, data_root: Path, out: str, *, quick: bool = False, absolute: bool = False) -> list[str]:
        """Return the command as a user types it at the top of the checkout, results in ``out``.

        ``absolute``: with absolute paths to the data, so that the command also runs in another checkout.
        """
        folder = self.folder(data_root)
        shown: Callable[[Path], str] = (lambda path: str(path.resolve())) if absolute else shown_path
        words = list(self.program)
        if folder is not None:
            words += [*([self.data_option] if self.data_option else []), shown(folder)]
        words += [shown(word) if isinstance(word, Path) else word for word in self.options]
        start, end = self.selection(quick)
        words += ["--start", str(start)] if start else []
        words += ["--end", str(end)] if end is not None else []
        return [*words, "--no-fusion", "--out", out]


def shown_path(path: Path) -> str:
    """Return ``path`` relative to the top of the checkout."""
    return os.path.relpath(path.resolve(), ROOT)


def executable(words: Sequence[str]) -> list[str]:
    """Replace the program of a command of :meth:`Case.command` by this Python and the checkout it is run in."""
    program = {"python": [sys.executable], "metric-slam": [sys.executable, "-m", "metric_slam"]}
    return [*program[words[0]], *words[1:]]


def motorway_frames() -> tuple[int, int]:
    """Return the stretch of the rendered drive at top speed, from its true poses: first frame and one past the last."""
    spec = DriveSpec()
    step_m = np.linalg.norm(np.diff(drive_poses(spec)[:, :3, 3], axis=0), axis=1)
    fast = np.flatnonzero(step_m >= MOTORWAY_SHARE * spec.fast_speed_mps / spec.rate_hz)
    return int(fast[0]), int(fast[-1]) + 2


def _run_kitti(*words: str) -> tuple[str, ...]:
    return ("python", "scripts/run_kitti.py", *words)


def _presets(case: Case) -> list[Case]:
    """Return the case once for each preset, ``-fast`` and ``-accurate`` added to its name."""
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
        tuned_on=True,
        open_data=lambda folder: open_dataset(folder or "", kind="kitti_raw"),
    )
    odometry = Case(
        name="kitti04",
        what="KITTI odometry sequence 04, the frames that are there",
        program=_run_kitti("--seq", "04"),
        options=("--correspondence", "dis", "--prior", "ground_plane"),
        data="kitti_odometry",
        data_option="--data",
        tuned_on=True,
        open_data=lambda folder: open_dataset(folder or "", kind="kitti", sequence="04"),
    )
    other = replace(
        odometry,
        name="kitti39",
        what="KITTI odometry layout, sequence 39",
        program=_run_kitti("--seq", "39"),
        data="kitti_odometry_39",
        tuned_on=False,
        open_data=lambda folder: open_dataset(folder or "", kind="kitti", sequence="39"),
    )
    return [case for kind in (raw, odometry, other) for case in _presets(kind)]


def _hand_held() -> list[Case]:
    scenes = Case(
        name="7scenes",
        what="7-Scenes redkitchen, hand-held, depth camera as prior",
        program=("metric-slam", "run"),
        options=(
            *("--camera", "525,525,320,240", "--depth-scale", "1000"),
            *("--correspondence", "dis", "--prior", "sensor"),
        ),
        data=SEVEN_SCENES,
        tuned_on=True,
        open_data=lambda folder: open_dataset(
            folder or "", kind="tum", camera=(525.0, 525.0, 320.0, 240.0), depth_scale=1000.0
        ),
    )
    small_options = (*scenes.options, "--preset", "accurate", "--size", "320x240")
    small = replace(scenes, name="7scenes-320x240-accurate", options=small_options)
    rotation = Case(
        name="rpy",
        what="TUM RGB-D freiburg1_rpy, first 200 frames, mostly rotation, depth camera as prior",
        program=("metric-slam", "run"),
        options=("--correspondence", "dis", "--prior", "sensor"),
        data=RPY,
        open_data=lambda folder: open_dataset(folder or "", kind="tum"),
    )
    return [*_presets(scenes), small, *_presets(rotation)]


def _rendered() -> list[Case]:
    drive = Case(
        name="demo-ground",
        what="rendered drive, once around a block (the blur of the road alignment was chosen on it, nothing else)",
        program=_run_kitti("--seq", "demo"),
        options=("--correspondence", "dis", "--prior", "ground_plane"),
        tuned_on=True,
    )
    folder = default_folder()
    degraded = replace(
        drive,
        name="demo-degraded-prior",
        what="rendered drive, prior = true depth with a smooth error of 10 % and one of 3 % common to each frame",
        options=("--correspondence", "dis", "--prior", "precomputed", "--precomputed-depth", folder),
        tuned_on=False,
        prepare=lambda: write_degraded_depth(open_demo(), default_folder()),
        prepare_command=("python", "benchmarks/degraded_prior.py", shown_path(folder)),
    )
    no_prior = replace(
        drive,
        name="demo-no-prior",
        what="rendered drive, images alone",
        options=("--correspondence", "dis", "--prior", "none"),
        tuned_on=False,
    )
    motorway = replace(
        drive,
        name="motorway",
        what="rendered drive, the stretch at 2.25 to 2.5 m a frame",
        frames=motorway_frames,
    )
    maps = default_folder(TOWN)
    town = Case(
        name="town",
        what="rendered town, once around a block and 110 m of it again, same kind of prior",
        program=("metric-slam", "run"),
        options=("--correspondence", "dis", "--prior", "precomputed", "--precomputed-depth", maps),
        drive=TOWN,
        open_data=lambda _: open_demo(TOWN),
        prepare=lambda: write_degraded_depth(open_demo(TOWN), maps),
        prepare_command=("python", "benchmarks/degraded_prior.py", "--town"),
    )
    return [case for kind in (drive, degraded, no_prior, motorway, town) for case in _presets(kind)]


CASES = {case.name: case for case in [*_kitti(), *_hand_held(), *_rendered()]}
"""Name -> case, in the order of the table."""


def select(names: Sequence[str]) -> list[Case]:
    """Return the cases of these names; the front part of names stands for all of them, no name for every case.

    Raises ValueError for a name that fits none.
    """
    for name in names:
        if not any(_fits(case, name) for case in CASES):
            raise ValueError(f"no case '{name}': choose from {', '.join(CASES)}")
    return [case for key, case in CASES.items() if not names or any(_fits(key, name) for name in names)]


def _fits(case_name: str, name: str) -> bool:
    return case_name == name or case_name.startswith(f"{name}-")
