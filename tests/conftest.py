"""Fixtures of all tests. The thread settings come first because OpenMP reads them when torch is imported."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from metric_slam.geometry.cuda_kernels import CudaKernels, emulated_kernels, find_cuda_kernels

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Register our markers."""
    config.addinivalue_line("markers", "real_report: draw the report, which takes seconds")


@dataclass(frozen=True)
class CliResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The single error line that a user sees; fails the test if there is not exactly one."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.code == 2, (self.code, self.err)
        assert len(lines) == 1 and self.err.splitlines()[-1] == lines[0], self.err
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture(autouse=True)
def _log_settings() -> Iterator[None]:
    """Restore the log handlers, which the command line changes, after each test."""
    logger = logging.getLogger("metric_slam")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., CliResult]:
    """Call ``metric-slam ARGUMENTS`` inside this process."""
    from metric_slam.cli.main import main

    def call(*arguments: object) -> CliResult:
        monkeypatch.setattr("sys.argv", ["metric-slam", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return CliResult(int(end.value.code or 0), streams.out, streams.err)

    return call


@pytest.fixture
def shared_data() -> Path:
    """Public data beside the checkout; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no public data in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(params=["emulated", "cuda"])
def cuda(request: pytest.FixtureRequest) -> CudaKernels:
    """The CUDA kernels, emulated on the CPU and, where there is one, on a GPU."""
    if request.param == "emulated":
        try:
            return emulated_kernels()
        except ImportError:
            pytest.skip("the emulated CUDA kernels were not built: METRIC_SLAM_EMULATION=1, as `make dev` sets")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device that torch can use")
    found, what = find_cuda_kernels("cuda")
    if found is None:
        pytest.skip(what)
    return found
