"""Facts about a run besides its results: versions, machine, memory, seconds per stage, warnings."""

from __future__ import annotations

import logging
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from metric_slam import __version__

VERSIONED_PACKAGES = (
    "numpy",
    "torch",
    "opencv-python-headless",
    "open3d",
    "evo",
    "scipy",
    "gtsam",
    "pydantic",
)
"""Distributions whose versions can change a result."""


@dataclass
class StageClock:
    """Adds up wall-clock seconds per named stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to ``name``, also when it ends with an exception."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        """Seconds per stage with three decimals."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Yield a list to which every warning that the package logs inside the block is appended; logging goes on."""
    collector = _Collector()
    logger = logging.getLogger("metric_slam")
    logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        logger.removeHandler(collector)


def package_versions() -> dict[str, str | None]:
    """Versions of this package, Python and the libraries that can change a result; None where not installed."""
    versions: dict[str, str | None] = {"metric_slam": __version__, "python": platform.python_version()}
    for name in VERSIONED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def machine() -> dict[str, str | int]:
    """Describe the machine, for reading timings: operating system, processor, usable cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"system": f"{platform.system()} {platform.release()}", "processor": _processor(), "cores": cores}


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage inherits the peak of the process that started this one; VmHWM belongs to this program alone
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if match is not None:
            return int(match.group(1)) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        if match is not None:
            return match.group(1).strip()
    return platform.processor() or platform.machine()
