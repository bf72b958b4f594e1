"""The main job on a small rendered drive, through the command line, with bounds on its error; nothing is replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metric_slam.datasets.synthetic import DriveSpec, open_demo
from metric_slam.errors import MetricSlamError, MissingDependencyError
from metric_slam.run.results_folder import RESULT_FILES
from metric_slam.trajectory import read_kitti
from tests.conftest import CliResult

DRIVE = DriveSpec(route="street", frames=40, width=416, height=128)
"""About sixty metres along a straight street, at a size that renders in seconds."""

PATH_ERROR_PERCENT = 4.0
"""Bound on the end-point error without any alignment, and on the deviation of the fitted scale."""

ATE_M = 0.4
"""Bound on the RMSE of the positions after a Sim(3) fit."""


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KITTI root of the rendered drive."""
    try:
        sequence = open_demo(DRIVE, cache=tmp_path_factory.mktemp("cache"))
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return sequence.image_paths[0].parents[3]


@pytest.fixture(scope="module")
def results(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CliResult]:
    """One run of ``metric-slam run`` with the ``fast`` preset, in a process of its own."""
    import subprocess
    import sys

    out = tmp_path_factory.mktemp("results") / "drive"
    command = [sys.executable, "-m", "metric_slam", "run", str(drive), "--preset", "fast", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return out, CliResult(done.returncode, done.stdout, done.stderr)


def test_it_ends_well_and_says_what_it_chose(results: tuple[Path, CliResult]) -> None:
    out, result = results
    assert result.code == 0, result.err
    assert "ground_plane" in result.err, "the prior that auto took"
    assert "dis" in result.err, "the correspondence that auto took"
    assert "fitted scale" in result.out and str(out) in result.out


def test_everything_is_written(results: tuple[Path, CliResult]) -> None:
    out, _ = results
    missing = [name for name in RESULT_FILES if not (out / name).is_file() or (out / name).stat().st_size == 0]
    assert not missing
    assert list((out / "keyframes").glob("*.npz")) and list((out / "plots").glob("*.png"))
    info = json.loads((out / "run.json").read_text())
    assert info["frames"] == DRIVE.frames and info["frames_not_tracked"] == 0
    assert info["scale_source"] == "ground_plane" and set(info["choices"]) >= {"prior", "correspondence"}
    assert info["warnings"] == [] and info["error"] is None
    assert info["frames_per_s"] > 0 and info["peak_rss_mb"] > 0
    stages = {name: seconds for name, seconds in info["timings_s"].items() if name != "total"}
    assert sum(stages.values()) == pytest.approx(info["timings_s"]["total"], rel=0.15)


def test_the_path_is_right_in_metres(results: tuple[Path, CliResult]) -> None:
    out, _ = results
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["end_point"]["error_percent"] < PATH_ERROR_PERCENT
    assert abs(metrics["fitted_scale"]["value"] - 1.0) < PATH_ERROR_PERCENT / 100
    assert metrics["ate"]["alignments"]["sim3"]["translation_m"]["rmse"] < ATE_M


def test_one_row_for_every_image(results: tuple[Path, CliResult], drive: Path) -> None:
    out, _ = results
    rows = np.loadtxt(out / "trajectory_kitti.txt")
    assert rows.shape == (DRIVE.frames, 12)
    np.testing.assert_array_equal(read_kitti(out / "trajectory_kitti.txt").T_world_cam[0], np.eye(4))


def test_the_map_is_in_metres(results: tuple[Path, CliResult]) -> None:
    out, _ = results
    fusion = json.loads((out / "run.json").read_text())["fusion"]
    assert fusion["unit"] == "m" and fusion["empty_reason"] is None
    assert fusion["triangle_count"] > 1000
    lower, upper = np.array(fusion["bounding_box"])
    length_m = np.linalg.norm(read_kitti(out / "trajectory_kitti.txt").T_world_cam[-1, :3, 3])
    assert 0.8 * length_m < (upper - lower)[2] < length_m + fusion["max_depth"] + 10


def test_evaluate_agrees_with_the_run(
    results: tuple[Path, CliResult], drive: Path, cli: Callable[..., CliResult]
) -> None:
    out, _ = results
    (truth,) = (drive / "poses").glob("*.txt")
    again = json.loads(cli("evaluate", out / "trajectory_kitti.txt", truth, "--json").out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert again["fitted_scale"]["value"] == pytest.approx(metrics["fitted_scale"]["value"], rel=1e-5)
    assert again["end_point"]["error_percent"] == pytest.approx(metrics["end_point"]["error_percent"], rel=1e-3)


def test_an_impossible_choice_is_explained(drive: Path, tmp_path: Path, cli: Callable[..., CliResult]) -> None:
    assert issubclass(MissingDependencyError, MetricSlamError)
    line = cli("run", drive, "--out", tmp_path / "out", "--prior", "precomputed").error_line
    assert "precomputed" in line
    line = cli("run", drive, "--out", tmp_path / "out", "--device", "abacus").error_line
    assert "abacus" in line
