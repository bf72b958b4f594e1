"""benchmarks/bench_gpu.py: what is measured, what is left out and why, on small problems; and the script around it."""

from __future__ import annotations

import importlib
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch

from metric_slam.geometry.cuda_kernels import emulated_kernels
from tests.benchmarks.conftest import ROOT


@pytest.fixture
def bench() -> ModuleType:
    """benchmarks/bench_gpu.py."""
    return importlib.import_module("bench_gpu")


@pytest.fixture
def cases(bench: ModuleType) -> ModuleType:
    """benchmarks/gpu_cases.py."""
    return importlib.import_module("gpu_cases")


def machines() -> ModuleType:
    """benchmarks/gpu_machine.py."""
    return importlib.import_module("gpu_machine")


def tiny(cases: ModuleType, **numbers: int) -> object:
    """A problem that takes no time."""
    return cases.Size("tiny", 8, 9, **numbers)


def on_cpu(bench: ModuleType) -> object:
    """A machine without a GPU."""
    return machines().this_machine("cpu", quick=True)


def made_up(bench: ModuleType, **results: float) -> object:
    """A case whose sides return numbers at once."""
    sides = {side.replace("_", " "): lambda value=value: lambda: value for side, value in results.items()}
    return machines().Case("made up", 1_000_000, sides)


def test_a_side_that_cannot_be_measured_is_a_dash_with_a_reason(bench: ModuleType) -> None:
    machine = on_cpu(bench)
    row = bench.measure(made_up(bench, **{"CUDA": 1.0, "C++": 1.0}), machine)
    assert set(row.ms) == {"C++"} and set(row.missing) == {"CUDA", "torch GPU", "torch CPU"}
    row.ms["C++"] = 2.0
    shown = dict(zip(bench.HEADER, bench.cells(row, machine, 1e9), strict=True))
    assert shown["C++"] == "2" and shown["CUDA"] == shown["C++ / CUDA"] == bench.NOTHING
    assert (shown["floor"], shown["reached"]) == ("1", "50 %")
    lines = list(bench.reasons([row]))
    assert any("CUDA: no CUDA device" in line and "everywhere" in line for line in lines)
    assert any("torch CPU: left out" in line for line in lines)


def test_sides_must_agree(bench: ModuleType) -> None:
    machine = on_cpu(bench)
    bench.measure(made_up(bench, **{"C++": 1.0, "torch_CPU": 1.0 + 1e-9}), machine)
    with pytest.raises(AssertionError, match="torch CPU differs"):
        bench.measure(made_up(bench, **{"C++": 1.0, "torch_CPU": 1.1}), machine)


def test_ratios(bench: ModuleType) -> None:
    row = bench.Row(made_up(bench), {"CUDA": 0.5, "C++": 20.0, "torch GPU": 5.0, "torch CPU": 4000.0}, {})
    machine = machines().Machine(torch.device("cpu"), None, "")
    shown = dict(zip(bench.HEADER, bench.cells(row, machine, 1e10), strict=True))
    assert [shown[name] for name in bench.HEADER[5:]] == ["40x", "10x", "200x", "0.1", "20 %"]


@pytest.mark.parametrize("edges", [48, 96])
def test_bundle_adjustment_agrees_with_its_twin(bench: ModuleType, cases: ModuleType, edges: int) -> None:
    one, further = cases.ba_cases(tiny(cases, edges=edges), on_cpu(bench))
    assert set(bench.measure(one, on_cpu(bench)).ms) == {"C++", "torch CPU"}
    assert further.calls == cases.FURTHER_ITERATIONS and set(further.less) == set(machines().SIDES)


def test_twins_work_where_the_window_lies(cases: ModuleType) -> None:
    """A device without memory refuses to be mixed with the CPU, as a GPU does."""
    meta, size = torch.device("meta"), tiny(cases, edges=48)
    window = cases.on_device(cases.window_of(size), meta)
    options = cases.native_options(cases.BundleAdjustmentConfig(), has_prior=True, scale_sigma=0.0, grid=(6, 8))
    with meta:
        system = cases.dense_ba_reference.linearize(window, options)
        state = cases.dense_ba_reference.moved(window, cases.dense_ba_reference.start_of(window), system.v, system.b)
        cost = cases.dense_ba_reference.cost(window, options, cases.dense_ba_reference.clamped(window, options, state))
        pairs = torch.zeros(5, dtype=torch.int64)
        geometry = (window.poses, window.inv_depth, window.intrinsics, pairs, pairs)
        distance = cases.frame_distance_reference.frame_distance(*geometry, 0.7, True)
    assert system.E.device == cost.device == distance.device == meta


def test_the_kernels_for_gpus_are_called_as_they_are(bench: ModuleType, cases: ModuleType) -> None:
    """The emulation stands for a GPU."""
    try:
        machine = machines().Machine(torch.device("cpu"), emulated_kernels(), "", quick=True)
    except ImportError:
        pytest.skip("the GPU kernels were not built for the CPU: METRIC_SLAM_EMULATION=1, as `make dev` sets")
    row = bench.measure(cases.frame_distance_case(tiny(cases, keyframes=4), machine), machine)
    assert set(row.ms) == set(machines().SIDES)


def test_matching_is_timed_on_the_cpu_too(bench: ModuleType) -> None:
    case = importlib.import_module("gpu_matching").matching_case(on_cpu(bench), width=96, height=64)
    row = bench.measure(case, on_cpu(bench))
    assert set(row.ms) == {"C++", "torch CPU"} and set(row.missing) == set(machines().GPU_SIDES)


def test_from_the_command_to_the_table(
    bench: ModuleType,
    cases: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def some(machine: object) -> list[object]:
        correlation = cases.correlation_cases(tiny(cases, edges=12), machine)
        return [*correlation, *(cases.group_case(name, 20, machine) for name in ("exp", "log", "mul", "act"))]

    monkeypatch.setattr(bench, "all_cases", some)
    monkeypatch.setattr(cases, "SIZES", (tiny(cases),))
    out = tmp_path / "bench.md"
    assert bench.main(["--device", "cpu", "--quick", "--markdown", str(out)]) == 0
    text = capsys.readouterr().out
    assert text == out.read_text() and "no CUDA device" in text and "GB/s" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    measured = {row[0]: row for row in rows if len(row) == len(bench.HEADER)}
    assert len(measured) == 2 + 3 + 4, "heading, rule, correlation, groups"
    assert all(float(measured[f"SE3 {name}, 20 rows"][2]) > 0 for name in ("exp", "log", "mul", "act"))
    assert sum("on the fly by" in row[0] for row in rows) == 2


@pytest.mark.parametrize(
    "broken, code", [("", 0), ("-m pip", 1), ("-m pytest", 2), ("agreement.py", 2), ("bench_gpu.py", 2)]
)
def test_device_check_goes_from_build_to_benchmark(tmp_path: Path, broken: str, code: int) -> None:
    """With a stand-in for Python that writes down how it is called."""
    python = tmp_path / "python"
    fails = f'case "$*" in *"{broken}"*) exit 3;; esac\n' if broken else ""
    python.write_text(f'#!/bin/sh\necho "$METRIC_SLAM_CUDA $*" >>{tmp_path}/calls\n{fails}')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "OUT": str(tmp_path / "out")}
    command = ["bash", str(ROOT / "benchmarks" / "device_check.sh"), "--quick"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    steps = ["-m pip install", "-m pytest", "benchmarks/device_agreement.py", "benchmarks/bench_gpu.py"]
    steps = steps[: 1 if code == 1 else None]
    assert [next(s for s in steps if s in call) for call in calls[1:]] == steps
    assert all(call.startswith("1 ") for call in calls[1:])
    assert code == 1 or calls[-1].endswith("--quick")
    assert {"machine.txt", "build.txt"} <= {path.name for path in (tmp_path / "out").iterdir()}
