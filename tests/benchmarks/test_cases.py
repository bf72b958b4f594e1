"""benchmarks/cases.py: every command is one that the program takes, and the selection of cases and frames is right."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import typer

from metric_slam.cli.main import app
from metric_slam.cli.options import RunOptions
from metric_slam.datasets.synthetic import DriveSpec
from metric_slam.datasets.synthetic.route import drive_poses

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cases() -> ModuleType:
    """benchmarks/cases.py."""
    return importlib.import_module("cases")


def run_kitti_command() -> typer.core.TyperCommand:
    """The command of scripts/run_kitti.py."""
    spec = importlib.util.spec_from_file_location("run_kitti", ROOT / "scripts" / "run_kitti.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    program = typer.Typer(add_completion=False)
    program.command()(module.run_kitti)
    return typer.main.get_command(program)


def parsed(words: list[str]) -> dict[str, object]:
    """What the program makes of a command; fails the test for a program or an option that it does not know."""
    if words[:2] == ["metric-slam", "run"]:
        return typer.main.get_command(app).commands["run"].make_context("run", words[2:]).params
    assert words[:2] == ["python", "scripts/run_kitti.py"], words
    return run_kitti_command().make_context("run_kitti", words[2:]).params


def test_every_command_is_understood(cases: ModuleType, tmp_path: Path) -> None:
    for name, case in cases.CASES.items():
        options = parsed(case.command(tmp_path, "results/x"))
        own = {key: value for key, value in options.items() if key in RunOptions.__dataclass_fields__}
        config = RunOptions(**own).resolve()
        assert name == case.name
        assert not config.fusion.enabled and config.correspondence == "dis" and options["out"] == Path("results/x")
        assert config.preset_name in name or config.preset_name == "accurate"


def test_quick_cuts_the_frames(cases: ModuleType, tmp_path: Path) -> None:
    for case in cases.CASES.values():
        options = parsed(case.command(tmp_path, "x", quick=True))
        assert options["end"] - (options["start"] or 0) == cases.QUICK_FRAMES, case.name


def test_a_name_stands_for_all_that_begin_with_it(cases: ModuleType) -> None:
    assert [case.name for case in cases.select(["kitti04"])] == ["kitti04-fast", "kitti04-accurate"]
    assert [case.name for case in cases.select(["motorway-fast"])] == ["motorway-fast"]
    assert len(cases.select([])) == len(cases.CASES)
    with pytest.raises(ValueError, match="no case 'kitt': choose from raw0013-fast"):
        cases.select(["kitt"])


def test_the_motorway_is_the_fast_part(cases: ModuleType) -> None:
    start, end = cases.motorway_frames()
    spec = DriveSpec()
    step_m = np.linalg.norm(np.diff(drive_poses(spec)[:, :3, 3], axis=0), axis=1)
    top_m = spec.fast_speed_mps / spec.rate_hz
    assert step_m[start : end - 1].min() >= 0.9 * top_m and step_m[start : end - 1].max() > 0.99 * top_m
    assert step_m[start - 1] < 0.9 * top_m and step_m[end - 1] < 0.9 * top_m


def test_absent_data_are_named(cases: ModuleType, tmp_path: Path) -> None:
    assert "seven_scenes_redkitchen" in cases.CASES["7scenes-320x240-accurate"].missing(tmp_path)
    assert cases.CASES["demo-ground-fast"].missing(tmp_path) is None


def test_cases_that_were_tuned_on_are_marked(cases: ModuleType) -> None:
    tuned = {name.rsplit("-", 1)[0] for name, case in cases.CASES.items() if case.tuned_on}
    assert tuned == {"raw0013", "kitti04", "7scenes", "7scenes-320x240", "demo-ground", "motorway"}
    assert cases.CASES["raw0013-fast"].shown_name == f"raw0013-fast {cases.TUNED_MARK}"
    assert cases.CASES["kitti39-fast"].shown_name == "kitti39-fast"


def test_absolute_commands_name_their_data_from_anywhere(cases: ModuleType, tmp_path: Path) -> None:
    words = cases.CASES["town-fast"].command(tmp_path, "x", absolute=True)
    folders = [word for word in words if "/" in word]
    assert len(folders) == 2 and all(Path(word).is_absolute() for word in folders)
    shown = cases.CASES["town-fast"].command(tmp_path, "x")
    assert not Path(shown[shown.index("--precomputed-depth") + 1]).is_absolute()
