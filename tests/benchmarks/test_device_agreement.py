"""benchmarks/device_agreement.py: what it calls a difference, and the way from the command to the exit status."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from metric_slam.geometry.cuda_kernels import emulated_kernels


@pytest.fixture
def agreement() -> ModuleType:
    """The script, where the emulation was built."""
    try:
        emulated_kernels()
    except ImportError:
        pytest.skip("the GPU kernels were not built for the CPU: METRIC_SLAM_EMULATION=1, as `make dev` sets")
    return importlib.import_module("device_agreement")


def test_a_difference_is_relative_to_the_largest_number(agreement: ModuleType) -> None:
    expected = np.array([1.0, -4.0, np.nan])
    assert agreement.difference(np.array([1.0, -4.0, np.nan]), expected) == 0.0
    assert agreement.difference(np.array([1.1, -4.0, np.nan]), expected) == pytest.approx(0.1 / 4.0)
    assert agreement.difference(np.array([1.0, np.nan, np.nan]), expected) == float("inf")
    assert agreement.difference(np.array([1.0, -4.0]), expected) == float("inf")


@pytest.mark.parametrize("error, status", [(0.0, 0), (1e-3, 1)])
def test_from_the_command_to_the_exit_status(
    agreement: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: float, status: int
) -> None:
    """One real operation, and one whose device is off by ``error``."""
    made_up = {
        "made up": lambda cuda: {"numbers": np.array([1.0 + (0.0 if cuda is None else error)])},
        "reproject": agreement.OPERATIONS["reproject"],
    }
    monkeypatch.setattr(agreement, "OPERATIONS", made_up)
    monkeypatch.setattr(agreement, "GRID", (6, 8))
    out = tmp_path / "table.md"
    monkeypatch.setattr("sys.argv", ["device_agreement.py", "--markdown", str(out)])
    assert agreement.main() == status
    assert "reproject" in out.read_text() and "made up" in out.read_text()
