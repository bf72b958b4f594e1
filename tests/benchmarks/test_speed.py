"""benchmarks/speed.py: one run from the command to the table, and its medians and shares by themselves."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks.conftest import ROOT


@pytest.fixture
def speed() -> ModuleType:
    """benchmarks/speed.py."""
    return importlib.import_module("speed")


def outcome(speed: ModuleType, frames_per_s: float, **timings_s: float) -> object:
    """A run of ten frames."""
    info = {"frames": 10, "keyframes": 5, "frames_per_s": frames_per_s, "timings_s": timings_s}
    info |= {"peak_rss_tracking_mb": 100.0 * frames_per_s, "choices": {"size": "64x64 from 64x64"}}
    return speed.Outcome(speed.CASES["kitti04-fast"], ["python", "x"], 0.5, None, info)


def test_stages_are_medians_and_those_outside_do_not_count(speed: ModuleType) -> None:
    runs = [outcome(speed, 1, track=t, read=1.0, report=7.0, total=t + 8.0) for t in (3.0, 1.0, 2.0)]
    assert speed.stage_rows(runs) == [
        ["track", "2.00", "200.0", "66.7"],
        ["read", "1.00", "100.0", "33.3"],
        ["sum", "3.00", "300.0", "100.0"],
    ]
    assert speed.stages(runs, outside=True) == {"report": 7.0}


def test_the_warm_up_does_not_count(speed: ModuleType) -> None:
    runs = [outcome(speed, rate, track=1.0) for rate in (100.0, 4.0, 5.0, 9.0)]
    text = speed.document(runs[0].case, runs, warm_up=1)
    assert "5.0 frames/s** (median of 3 runs, 4.0 to 9.0; 1 before them not counted)" in text
    assert text.count("load 0.50 before") == 4 and "tracking 500 MB" in text


def test_one_run_from_command_to_table(tiny_data: Path, tmp_path: Path) -> None:
    markdown = tmp_path / "speed.md"
    words = ["--case", "kitti04", "--presets", "fast", "--runs", "1", "--warm-up", "0", "--quick"]
    command = [sys.executable, "benchmarks/speed.py", "--data", str(tiny_data), *words, "--markdown", str(markdown)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert markdown.read_text() == done.stdout and "load " in done.stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    seconds = {row[0]: float(row[1]) for row in rows[2:]}
    rate = float(done.stdout.split("kitti04-fast: ")[1].split()[0])
    assert {"track", "sliding_window", "sum"} <= set(seconds) and "report" not in seconds
    assert 12 / seconds["sum"] == pytest.approx(rate, rel=0.05, abs=0.1), "the stages account for the frames per second"
