"""setup.py: the decision to compile CUDA kernels, and that the CUDA sources compile where nvcc is installed.

The check of the sources compiles and links both CUDA modules for one architecture, into a temporary folder. Its result
is kept below build/ under a hash of everything that it depends on, so that it runs again only after a change.
`make cuda-all` compiles for every architecture.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NVCC = shutil.which("nvcc") or next(
    (
        str(path)
        for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
        if home and (path := Path(home) / "bin" / "nvcc").exists()
    ),
    None,
)
ARCHITECTURE = "90"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nanobind") is None, reason="nanobind is not installed (pip install -e '.[dev]')"
)


def setup_py(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run setup.py in the checkout with these environment variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("METRIC_SLAM_")}
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", *arguments],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def decision(path: Path, **environment: str) -> str:
    """The line about CUDA kernels that setup.py prints when ``path`` is the only folder searched for programs."""
    done = setup_py("--name", PATH=str(path), **environment)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("CUDA kernels: ")]
    return line


def program(folder: Path, name: str, output: str) -> None:
    """Write a program that prints ``output``."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)


has_gpu = bool(list(Path("/dev").glob("nvidia[0-9]*")))


@pytest.mark.skipif(has_gpu, reason="this machine has an NVIDIA GPU")
def test_without_a_gpu_no_cuda_kernels_are_built_and_the_line_gives_the_remedy(tmp_path: Path) -> None:
    line = decision(tmp_path)
    assert "not built" in line and "no NVIDIA GPU" in line and "METRIC_SLAM_CUDA=1" in line
    program(tmp_path, "nvidia-smi", "No devices were found")
    assert decision(tmp_path) == line, "nvidia-smi is installed but lists no GPU"


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
def test_with_a_gpu_kernels_are_built_for_it(tmp_path: Path) -> None:
    program(tmp_path, "nvidia-smi", "8.6")
    assert "for sm_86" in decision(tmp_path, CUDA_HOME=str(Path(str(NVCC)).resolve().parents[1]))


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
def test_a_request_builds_them_without_a_gpu(tmp_path: Path) -> None:
    home = str(Path(str(NVCC)).resolve().parents[1])
    assert "sm_80" in (every := decision(tmp_path, CUDA_HOME=home, METRIC_SLAM_CUDA="1")) and "sm_90" in every
    chosen = decision(tmp_path, CUDA_HOME=home, METRIC_SLAM_CUDA="1", METRIC_SLAM_CUDA_ARCHITECTURES="86;90")
    assert chosen.endswith("for sm_86, sm_90")


def test_refused_settings_name_the_variable() -> None:
    assert "not built (METRIC_SLAM_CUDA=0)" in decision(ROOT, METRIC_SLAM_CUDA="0")
    for environment, message in (
        ({"METRIC_SLAM_CUDA": "yes"}, "METRIC_SLAM_CUDA=yes: must be auto, 0 or 1"),
        ({"METRIC_SLAM_CUDA": "1", "METRIC_SLAM_CUDA_ARCHITECTURES": "30"}, "METRIC_SLAM_CUDA=1"),
    ):
        done = setup_py("--name", **environment)
        assert done.returncode != 0 and done.stderr.strip().splitlines()[-1].startswith(message), done.stderr


def digest_of_cuda_build() -> str:
    """Hash of everything that decides whether the CUDA sources compile: they, headers, setup.py, nvcc, nanobind."""
    sources = [path for suffix in ("h", "cpp", "cu") for path in ROOT.glob(f"thirdparty/*/**/*.{suffix}")]
    digest = hashlib.sha256()
    for path in sorted([*sources, ROOT / "setup.py"]):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    for command in ([str(NVCC), "--version"], [sys.executable, "-c", "import nanobind; print(nanobind.__version__)"]):
        digest.update(subprocess.run(command, capture_output=True, check=True).stdout)
    return digest.hexdigest()


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed, so the CUDA sources are compiled for the CPU alone")
def test_cuda_sources_compile(tmp_path: Path) -> None:
    """Compiles and links every CUDA source for sm_90 without a warning: about two minutes of processor time."""
    stamp = ROOT / "build" / "cuda_check" / f"sm_{ARCHITECTURE}"
    digest = digest_of_cuda_build()
    if stamp.is_file() and stamp.read_text() == digest:
        return
    done = setup_py(
        "build_ext",
        "--only",
        "cuda",
        "--build-lib",
        str(tmp_path),
        METRIC_SLAM_CUDA="1",
        METRIC_SLAM_CUDA_ARCHITECTURES=ARCHITECTURE,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    warnings = [line for line in (done.stdout + done.stderr).splitlines() if "warning" in line]
    assert not warnings, "\n".join(warnings)
    assert {path.name.split(".")[0] for path in tmp_path.rglob("*.so")} == {"_lietorch_cuda", "_droid_backends_cuda"}
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest)
