"""``metric-slam doctor``: check everything that the program needs, and name the remedy for what is missing."""

from __future__ import annotations

import ctypes
import importlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

# nothing but the standard library above: scripts/system_packages.sh asks this file before anything is installed

Status = Literal["ok", "warning", "error"]

REQUIRED_MODULES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "torch": "torch",
    "cv2": "opencv-python-headless",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "typer": "typer",
    "rich": "rich",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
    "gtsam": "gtsam",
}
"""Modules without which no run is possible, and the distribution of each."""

NATIVE_MODULES = ("lietorch", "droid_backends")
"""Our own compiled modules, built from thirdparty/."""

OPEN3D_SYSTEM_LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libudev.so.1": "libudev1",
    "libidn2.so.0": "libidn2-0",
}
"""What Open3D's wheel links against, and the Debian/Ubuntu package of each (scripts/system_packages.sh asks here)."""

IMPORT_TIMEOUT_S = 120


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    status: Status
    detail: str


def run_checks() -> list[Check]:
    """Run all checks, in the order of the report; status ``error`` means that no run is possible."""
    checks = [_python()]
    checks += [_module(module, distribution) for module, distribution in REQUIRED_MODULES.items()]
    checks += [_native(module) for module in NATIVE_MODULES]
    checks += [_torch_device(), _cuda_kernels(), _open3d(), _evo(), _weights()]
    checks += [_writable("results folder", Path.cwd()), _writable("temporary folder", Path(tempfile.gettempdir()))]
    return checks


def missing_system_libraries() -> list[str]:
    """List the Debian/Ubuntu packages of the system libraries that Open3D needs and that cannot be loaded."""
    return [package for library, package in OPEN3D_SYSTEM_LIBRARIES.items() if not _loads(library)]


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _module(module: str, distribution: str) -> Check:
    def describe() -> str:
        importlib.import_module(module)
        return _version(distribution)

    return _tried(distribution, describe, "error", f"pip install {distribution}")


def _native(module: str) -> Check:
    def describe() -> str:
        loaded = importlib.import_module(module)
        return f"compiled, {Path(loaded.__file__ or '').parent}"

    return _tried(module, describe, "error", "build it with: pip install -e . (needs g++)")


def _tried(name: str, describe: Callable[[], str], status: Status, remedy: str) -> Check:
    try:
        return Check(name, "ok", describe())
    except (ImportError, OSError) as error:
        return Check(name, status, f"{_first_line(error)}; {remedy}")


def _torch_device() -> Check:
    try:
        import torch
    except (ImportError, OSError):
        return Check("device", "error", "unknown without torch")
    if torch.cuda.is_available():
        return Check("device", "ok", f"cuda: {torch.cuda.get_device_name(0)}")
    return Check("device", "ok", f"cpu, {torch.get_num_threads()} threads (no CUDA device; none is needed)")


def _cuda_kernels() -> Check:
    """The CUDA kernels of bundle adjustment and correlation; without a GPU in torch their absence is no fault."""
    try:
        import droid_backends
        import torch
    except (ImportError, OSError):
        return Check("cuda kernels", "warning", "unknown without droid_backends and torch")
    usable = torch.cuda.is_available()
    if droid_backends.cuda is None:
        remedy = "; bundle adjustment runs on the CPU; METRIC_SLAM_CUDA=1 pip install -e . builds them"
        return Check("cuda kernels", "warning" if usable else "ok", droid_backends.why_no_cuda + remedy * usable)
    count = droid_backends.cuda.device_count()
    why_not = droid_backends.cuda.why_not(0) if usable else ""
    if why_not:
        remedy = "update the driver, or build them on this machine: pip install -e ."
        return Check("cuda kernels", "warning", f"built, but not for this device ({why_not}): {remedy}")
    return Check("cuda kernels", "ok", f"built; {count} CUDA devices" + (" (none is needed)" if not count else ""))


def _open3d() -> Check:
    """Import Open3D in a process of its own, because a broken installation can crash its process."""
    missing = missing_system_libraries()
    if missing:
        remedy = f"system libraries are missing: apt-get install {' '.join(missing)}"
        return Check("open3d", "warning", f"{remedy}; until then there is no map and no rendered drive")
    command = [sys.executable, "-c", "import open3d; print(open3d.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Check("open3d", "warning", f"the import takes longer than {IMPORT_TIMEOUT_S} s; no map can be written")
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Check("open3d", "warning", f"{reason}; no map and no rendered drive; pip install open3d")
    return Check("open3d", "ok", done.stdout.strip().splitlines()[-1])


def _evo() -> Check:
    def describe() -> str:
        importlib.import_module("evo")
        return _version("evo")

    return _tried("evo", describe, "warning", "ATE and RPE will be missing; pip install evo")


def _weights() -> Check:
    """Verify the released weights that this version can use; none are required."""
    from metric_slam.weights.released import RELEASED, find, verify

    here = [(path, entry) for entry in RELEASED if entry.used_by is not None and (path := find(entry.name))]
    if not here:
        return Check("weights", "ok", "none; nothing needs them")
    results = [(path, entry, verify(path, entry)) for path, entry in here]
    wrong = [
        f"{path}: {result.reason}; metric-slam weights download {entry.name}"
        for path, entry, result in results
        if result.status != "verified"
    ]
    if wrong:
        return Check("weights", "warning", "; ".join(wrong))
    return Check("weights", "ok", ", ".join(f"{path} ({result.reason})" for path, _, result in results))


def _writable(name: str, folder: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check(name, "ok", f"{folder} can be written")
    except OSError as error:
        return Check(name, "warning", f"{folder} cannot be written: {error.strerror}; use --out")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "version unknown (another distribution provides it)"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
