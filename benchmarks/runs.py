"""One case in a process of its own: running it, reading its results, and naming what the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cases import ROOT, Case, executable

from metric_slam.errors import MetricSlamError
from metric_slam.evaluation.along_path import SCALE_WINDOW, local_scale
from metric_slam.run.run_info import machine, package_versions
from metric_slam.trajectory import read_kitti

THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
END_SHARE = 0.1
"""Share of the poses that counts as the start, and as the end, of a path."""


@dataclass(frozen=True)
class Outcome:
    """Result of a case."""

    case: Case
    command: list[str]
    """As a reader types it."""

    load: float
    """Load average of the last minute before it started."""

    problem: str | None = None
    """Why there are no figures; None if there are."""

    info: dict[str, Any] = field(default_factory=dict)
    """Content of run.json."""

    metrics: dict[str, Any] = field(default_factory=dict)
    """Content of metrics.json."""

    scale_drift: float | None = None
    """See :func:`scale_drift`."""


def run_case(case: Case, data_root: Path, out: Path, *, quick: bool = False) -> Outcome:
    """Prepare and run ``case`` with its results in ``out``, which must not hold results yet."""
    shown = case.command(data_root, f"results/{case.name}", quick=quick)
    try:
        if case.prepare is not None:
            case.prepare()
    except MetricSlamError as error:
        return Outcome(case, shown, 0.0, str(error))
    words = executable(case.command(data_root, str(out.resolve()), quick=quick))
    load = os.getloadavg()[0]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        return Outcome(case, shown, load, f"exit code {done.returncode}, {lines[-1]}")
    info, metrics = (json.loads((out / name).read_text(encoding="utf-8")) for name in ("run.json", "metrics.json"))
    if metrics.get("headline") is None:
        return Outcome(case, shown, load, f"no figures: {metrics.get('reason')}", info)
    return Outcome(case, shown, load, None, info, metrics, _scale_drift_of(case, data_root, out, quick))


def environment() -> dict[str, str]:
    """Return the environment of the runs: idle OpenMP threads sleep unless the caller decides otherwise."""
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}


def _scale_drift_of(case: Case, data_root: Path, out: Path, quick: bool) -> float | None:
    dataset = case.open_data(case.folder(data_root))
    estimate = read_kitti(out / "trajectory_kitti.txt").T_world_cam
    assert dataset.T_world_cam_true is not None, case.name
    first = case.selection(quick)[0]
    truth = dataset.T_world_cam_true[first : first + len(estimate)] @ dataset.T_cam_ref
    return scale_drift(estimate, truth)


def scale_drift(estimate: np.ndarray, truth: np.ndarray) -> float | None:
    """Compute the scale at the end of a path over that at its start, from ``T_world_cam`` [N, 4, 4] of both.

    The scale is truth/estimate of a Sim(3) fit over 20 poses; start and end are the medians over the first and the last
    tenth. Below 1: the estimate has grown against the truth. None for paths too short to hold two such parts.
    """
    scale = local_scale(estimate, truth)
    scale = scale[np.isfinite(scale)]
    if len(scale) < 2 * SCALE_WINDOW:
        return None
    part = max(1, round(END_SHARE * len(scale)))
    return float(np.median(scale[-part:]) / np.median(scale[:part]))


def measured_on() -> list[str]:
    """Return lines with date and commit, processor and thread settings, and versions."""
    computer, versions = machine(), package_versions()
    threads = ", ".join(f"{name}={environment().get(name, 'not set')}" for name in THREADS)
    return [
        f"{date.today().isoformat()}, commit {commit()}",
        f"{computer['processor']}, {computer['cores']} cores; {threads}",
        f"Python {versions['python']}, numpy {versions['numpy']}, OpenCV {cv2.__version__}, torch {versions['torch']}, "
        f"evo {versions['evo'] or 'absent'}, metric-slam {importlib.metadata.version('metric-slam')}",
    ]


def commit(checkout: Path = ROOT) -> str:
    """Return the commit that is checked out, ``+changes`` where files differ from it; "unknown" outside git."""
    head = _git(checkout, "rev-parse", "--short", "HEAD")
    if head is None:
        return "unknown"
    return head + ("+changes" if _git(checkout, "status", "--porcelain") else "")


def _git(checkout: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
