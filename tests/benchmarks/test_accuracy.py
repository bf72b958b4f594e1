"""benchmarks/accuracy.py on a tiny drive, from the command to the table, and its figures by themselves."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.conftest import ROOT


def call(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    command = [sys.executable, "benchmarks/accuracy.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_one_case_from_command_to_table(tiny_data: Path, tmp_path: Path) -> None:
    markdown, out = tmp_path / "table.md", tmp_path / "out"
    names = ("kitti04-fast", "raw0013-fast")
    done = call(*names, "--quick", "--data", tiny_data, "--markdown", markdown, "--out", out)
    assert done.returncode == 0, done.stderr
    assert markdown.read_text() == done.stdout
    info = json.loads((out / "kitti04-fast" / "run.json").read_text())
    metrics = json.loads((out / "kitti04-fast" / "metrics.json").read_text())
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    row = dict(zip(table[0], table[2], strict=True))
    assert len(table) == 3 and row["case"] == "kitti04-fast ‡" and row["frames"] == "12"
    assert row["n"] == "0" and row["covers m"] == "0" and "‡ tuned on" in done.stdout
    assert float(row["end point %"]) == pytest.approx(metrics["end_point"]["error_percent"], abs=0.005)
    assert float(row["ATE Sim(3) m"]) == pytest.approx(
        metrics["ate"]["alignments"]["sim3"]["translation_m"]["rmse"], abs=5e-4
    )
    assert float(row["frames/s"]) == pytest.approx(info["frames_per_s"], abs=0.05)
    assert row["t_rel %"] == "–", "no segment of 100 m"
    assert "raw0013-fast: skipped" in done.stdout and "No figures to quote" in done.stdout
    assert re.search(r"^\d{4}-\d\d-\d\d, commit \w+", done.stdout) and info["machine"]["processor"] in done.stdout
    shown = next(line for line in done.stdout.splitlines() if "run_kitti.py" in line)
    assert shlex.split(info["command"])[1:7] == shlex.split(shown)[2:8], "the command shown is the one that ran"


def test_a_failed_case_is_told_and_changes_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "kitti_odometry").mkdir()
    done = call("kitti04-fast", "--data", tmp_path)
    assert done.returncode == 1
    assert "kitti04-fast: exit code 2, error: no KITTI odometry data" in done.stdout and "Traceback" not in done.stderr


def test_an_unknown_case_is_refused() -> None:
    done = call("kitti99")
    assert done.returncode == 2 and "no case 'kitti99'" in done.stderr


def test_scale_drift_is_the_growth_of_the_estimate() -> None:
    runs = importlib.import_module("runs")
    truth = np.tile(np.eye(4), (400, 1, 1))
    truth[:, 2, 3] = np.arange(400)
    truth[:, 0, 3] = 5 * np.sin(np.arange(400) / 30)
    assert runs.scale_drift(0.5 * truth + 0.5 * np.eye(4), truth) == pytest.approx(1.0, abs=1e-9)
    grown = truth.copy()
    factor = np.linspace(1.0, 1.25, 400)
    grown[1:, :3, 3] = np.cumsum(np.diff(truth[:, :3, 3], axis=0) * factor[1:, None], axis=0)
    # half a window at each end has no scale; the medians lie in the middle of the next tenth
    assert runs.scale_drift(grown, truth) == pytest.approx(factor[29] / factor[-30], rel=2e-3)
    assert runs.scale_drift(truth[:30], truth[:30]) is None
