"""benchmarks/sensitivity.py: constants are found, cells are marked by the spread, one quick run to the table."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks.conftest import ROOT


@pytest.fixture
def sensitivity() -> ModuleType:
    """benchmarks/sensitivity.py."""
    return importlib.import_module("sensitivity")


@pytest.fixture
def constants() -> ModuleType:
    """benchmarks/tuned_constants.py."""
    return importlib.import_module("tuned_constants")


@pytest.mark.parametrize("preset", ["fast", "accurate"])
def test_every_constant_is_found_and_varies(constants: ModuleType, preset: str) -> None:
    names = [constant.name for constant in constants.CONSTANTS]
    assert len(set(names)) == len(names) >= 25
    for constant in constants.CONSTANTS:
        default = constant.default(preset)
        low, high = constant.varied(preset, 0.7), constant.varied(preset, 1.3)
        assert low < default < high, constant.name
        assert type(low) is type(high) is type(default), constant.name


def test_a_preset_has_its_own_default(constants: ModuleType) -> None:
    window = next(c for c in constants.CONSTANTS if c.name == "sliding_window.window")
    assert window.default("fast") < window.default("accurate")


def test_a_constant_that_moved_is_looked_for_in_its_places(constants: ModuleType) -> None:
    moved = constants.Constant("x", "any", ("absent.key", "metric_slam.absent:X", "motion_filter.min_flow_px"))
    assert moved.target("fast") == "motion_filter.min_flow_px"
    with pytest.raises(LookupError, match="no constant is called"):
        constants.Constant("x", "any", ("absent.key", "metric_slam.absent:X")).default("fast")


def test_marks_follow_the_spread_over_seeds(sensitivity: ModuleType) -> None:
    data = sensitivity.Data("x", ("any",), "sensor", sensitivity.T_REL, lambda seed: None)
    default = [0.9, 1.0, 1.1]
    assert sensitivity.default_cell(default, data) == "1.000 ± 0.100"
    assert sensitivity.changed([0.95, 1.0, 1.2], default, data) == "1.050"
    assert sensitivity.changed([1.1, 1.2, 1.3], default, data) == "1.200 ▲"
    assert sensitivity.changed([0.7, 0.8, 0.9], default, data) == "0.800 ▼"
    assert sensitivity.changed(default, default, data) == "1.000 ="
    assert sensitivity.changed([2.0], [1.0], data) == "2.000", "one seed has no spread"
    assert sensitivity.changed([], default, data) == "–"


def test_recorded_sequences_have_one_seed(sensitivity: ModuleType) -> None:
    rendered = sensitivity.Data("a", ("any",), "sensor", sensitivity.T_REL, lambda seed: None, rendered=True)
    recorded = sensitivity.Data("b", ("any",), "sensor", sensitivity.T_REL, lambda seed: None)
    constant = next(c for c in sensitivity.CONSTANTS if c.kind == "any")
    found = list(sensitivity.jobs([rendered, recorded], [constant], [0, 1, 2]))
    assert sum(job.data is rendered for job in found) == 9 and sum(job.data is recorded for job in found) == 3
    assert len({job.file(Path("out"), "fast") for job in found}) == 12


@pytest.mark.soak
def test_two_constants_from_command_to_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRIC_SLAM_CACHE", str(tmp_path / "cache"))
    command = [
        sys.executable,
        "benchmarks/sensitivity.py",
        "--out",
        str(tmp_path / "out"),
        "--quick",
        "--on",
        "streets",
    ]
    command += ["--constants", "min_flow_px", "distinctness"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted((tmp_path / "out" / "fast" / "streets_12_frames").rglob("0.json"))
    assert len(files) == 5
    stored = {str(file.relative_to(tmp_path / "out" / "fast" / "streets_12_frames")): file for file in files}
    high = json.loads(stored["motion_filter.min_flow_px/high/0.json"].read_text())
    assert high["value"] == pytest.approx(7.8) and high["target"] == "motion_filter.min_flow_px"
    assert json.loads(stored["road_fit_distinctness/low/0.json"].read_text())["value"] == pytest.approx(0.56)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[2:]] == ["motion_filter.min_flow_px = 6", "road fit, distinctness = 0.8"]
    assert "No figures to quote" in done.stdout

    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 0 and " of " not in again.stderr, "what is there is not run again"
