"""The benchmark commands as modules, and a tiny rendered drive in the place where they look for KITTI's sequence 04."""

from __future__ import annotations

from pathlib import Path

import pytest

from metric_slam.datasets.synthetic import DriveSpec, render_drive
from metric_slam.errors import MissingDependencyError

ROOT = Path(__file__).resolve().parents[2]
TINY = DriveSpec(route="street", frames=14, width=416, height=128)


@pytest.fixture(autouse=True)
def _commands_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """``import accuracy`` works as it does for the command, which lies in the same folder as what it imports."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with ``kitti_odometry`` alone, whose sequence 04 is the rendered drive."""
    root = tmp_path_factory.mktemp("data")
    try:
        drive = render_drive(TINY, cache=root)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    (drive / "sequences" / "demo").rename(drive / "sequences" / "04")
    (drive / "poses" / "demo.txt").rename(drive / "poses" / "04.txt")
    drive.rename(root / "kitti_odometry")
    return root
