"""scripts/kernel_report.py: reads what ptxas says, knows how full a GPU gets, misses no kernel. Nothing compiles."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path
from types import ModuleType

import lietorch
import pytest

ROOT = Path(__file__).resolve().parents[2]

PTXAS = """\
ptxas info    : 296 bytes gmem
ptxas info    : Compiling entry function '_ZN3lie4cuda11rows_kernelINS_3LogINS_3SE3IdEEEEdEEvlPKT0_S7_PS5_' for 'sm_90'
ptxas info    : Function properties for _ZN3lie4cuda11rows_kernelINS_3LogINS_3SE3IdEEEEdEEvlPKT0_S7_PS5_
    40 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 54 registers, used 0 barriers, 48 bytes cumulative stack size, 7168 bytes smem
ptxas info    : Compile time = 32.941 ms
ptxas info    : Function properties for __internal_trig_reduction_slowpathd
    0 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function '_ZN5droid4cuda15distance_kernelEdb' for 'sm_120a'
ptxas info    : Function properties for _ZN5droid4cuda15distance_kernelEdb
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers
"""


@pytest.fixture(autouse=True)
def _scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture
def resources() -> ModuleType:
    """scripts/kernel_resources.py."""
    return importlib.import_module("kernel_resources")


@pytest.fixture
def launches() -> ModuleType:
    """scripts/kernel_launches.py."""
    return importlib.import_module("kernel_launches")


@pytest.fixture
def script() -> ModuleType:
    """scripts/kernel_report.py."""
    return importlib.import_module("kernel_report")


def test_what_ptxas_says(resources: ModuleType) -> None:
    log, distance = resources.parse_ptxas(PTXAS)
    assert (log.architecture, log.registers, log.shared_bytes) == (90, 54, 7168)
    assert (log.spill_bytes, log.stack_bytes) == (8 + 12 + 4, 48), "with what the kernel calls"
    assert (distance.architecture, distance.registers, distance.shared_bytes) == (120, 64, 0)
    assert (distance.spill_bytes, distance.stack_bytes) == (0, 0)
    assert resources.parse_ptxas("ptxas info    : 0 bytes gmem\n") == []
    with pytest.raises(ValueError, match="unknown of a kernel"):
        resources.parse_ptxas(PTXAS.replace("Used", "Takes"))


@pytest.mark.parametrize(
    "architecture, threads, registers, shared, blocks, percent, limit",
    [
        (90, 256, 32, 0, 8, 100.0, "warps"),
        (90, 256, 255, 0, 1, 12.5, "registers"),
        (90, 256, 33, 0, 6, 75.0, "registers"),  # 40 after rounding: 12 warps a partition
        (120, 256, 40, 0, 6, 100.0, "warps"),
        (80, 32, 16, 0, 32, 50.0, "blocks"),
        (86, 32, 16, 0, 16, 100.0 / 3, "blocks"),
        (90, 128, 32, 57 * 1024, 3, 18.75, "shared memory"),  # 58 KB with what the system takes
        (90, 128, 32, 56 * 1024, 4, 25.0, "shared memory"),
        (90, 1024, 128, 0, 0, 0.0, "registers"),  # does not launch
        (90, 160, 104, 0, 3, 23.4375, "registers"),  # 4 warps a partition
    ],
)
def test_occupancy(
    resources: ModuleType,
    architecture: int,
    threads: int,
    registers: int,
    shared: int,
    blocks: int,
    percent: float,
    limit: str,
) -> None:
    found = resources.occupancy(architecture, threads, registers, shared)
    assert (found.blocks, found.limit) == (blocks, limit)
    assert 100.0 * found.share == pytest.approx(percent)


@pytest.mark.parametrize(
    "long, short",
    [
        (
            "void lie::cuda::rows_kernel<lie::Mul<lie::SE3<double> >, double>(long, double*)",
            "rows_kernel<Mul<SE3<double>>, double>",
        ),  # noqa: E501
        ("droid::cuda::(anonymous namespace)::distance_kernel(droid::Views, bool)", "distance_kernel"),
        ("void droid::look<float, (droid::Mode)3, (int)2>(float const*)", "look<float, (Mode)3, (int)2>"),
        ("plain", "plain"),
    ],
)
def test_short_names(resources: ModuleType, long: str, short: str) -> None:
    assert resources.short_name(long) == short


def test_floors(launches: ModuleType) -> None:
    kitti = launches.SIZES[0]
    assert (kitti.cells, kitti.pairs, kitti.level_cells) == (3000, 625, [3000, 750, 175, 36])
    product = launches.group_operation("Mul", "SE3", "float64", 10)
    assert (product.bytes, product.flops) == (10 * 21 * 8, 870)
    assert launches.group_operation("Act4GradElement", "Sim3", "float32", 1).bytes == (4 + 4 + 7) * 4
    assert launches.frame_distance(kitti).bytes == 8 * (25 * 3000 + 3 * 625)
    assert launches.volume_build(kitti).bytes == 4 * 96 * 3000 * (3000 + 750 + 175 + 36 + 2 * 128)
    assert launches.volume_lookup(kitti).bytes == 4 * 96 * 3000 * (3 * 64 + 36 + 4 * 49 + 2)
    iteration = launches.ba_iteration(kitti)
    assert iteration.bytes == 2 * 96 * 3000 * 32 + 25 * 3000 * 72
    assert iteration.bounds_s(1e12, {"float64": 1e12})[0] == iteration.bytes / 1e12


def test_the_launch_of_an_instance(launches: ModuleType) -> None:
    kernel = "rows_kernel<Mul<SE3<double>>, double>"
    assert launches.parameters_of(kernel) == ("Mul", "SE3", "double", "double")
    assert launches.launch_of(kernel) is launches.LAUNCHES["rows_kernel"]
    for operation in launches.OPERATIONS:
        for group in launches.GROUPS:
            floor = launches.launch_of("rows_kernel").floor(launches.SIZES[0], (operation, group, "float", "float"))
            assert floor.bytes > 0 and floor.flops > 0 and floor.precision == "float32"
    assert launches.launch_of("nobody<float>") is None


def test_a_row(script: ModuleType, resources: ModuleType, launches: ModuleType) -> None:
    log, _ = resources.parse_ptxas(PTXAS)
    name = "rows_kernel<Log<SE3<double>>, double>"
    row = script.row(name, [log], launches.launch_of(name))
    assert row[:8] == [f"`{name}`", "128", "7168", "48", "24", "54", "56.2", "registers"]
    moved = 96 * 3000 * 13 * 8
    assert [float(cell) for cell in row[8:10]] == pytest.approx([moved / 1e6, 96 * 3000 * 104 / 1e6], rel=0.01)
    assert float(row[10]) == pytest.approx(1e6 * moved / 3.35e12, rel=0.01) and row[-1] == "bytes"
    unknown = script.row("nobody", [log], None)
    assert len(unknown) == len(row) and unknown[1] == script.NOTHING == unknown[-1] and unknown[5] == "54"


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="no c++filt to read the names of kernels")
def test_a_kernel_without_a_launch_is_named(
    script: ModuleType,
    resources: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def compiled(nvcc: str, file: Path, architecture: int) -> list[object]:
        text = PTXAS.replace("distance_kernel", "newcomer_kernel") if file.stem == "so3" else ""
        return resources.parse_ptxas(re.sub(r"sm_\w+", f"sm_{architecture}", text))

    monkeypatch.setattr(script, "compiled", compiled)
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho release 1.2\n")
    nvcc.chmod(0o755)
    out = tmp_path / "kernels.md"
    assert script.main(["--nvcc", str(nvcc), "--out", str(out), "--architectures", "80", "90"]) == 1
    error = capsys.readouterr().err
    assert "newcomer_kernel" in error and error.count("\n") == 1
    text = out.read_text()
    assert "CUDA 1.2" in text and "`newcomer_kernel` | –" in text
    assert "`rows_kernel<Log<SE3<double>>, double>` | 128" in text
    assert script.main(["--nvcc", str(nvcc), "--out", str(out), "--architectures", "37"]) == 2
    assert "[37]" in capsys.readouterr().err


def test_operations_are_those_of_lietorch(launches: ModuleType) -> None:
    text = (ROOT / "thirdparty" / "lietorch" / "include" / "lietorch" / "ops.h").read_text()
    names = re.search(r"OperationList<(\w+(?:,\s*\w+)+)>", text).group(1)
    assert re.findall(r"\w+", names) == list(launches.OPERATIONS)
    for group in (lietorch.SO3, lietorch.RxSO3, lietorch.SE3, lietorch.Sim3):
        assert launches.GROUPS[group.__name__] == (group.embedded_dim, group.manifold_dim)
    assert {len(flops) for flops in launches.ROW_FLOPS.values()} == {len(launches.OPERATIONS)}


def test_it_compiles_as_setup_does(script: ModuleType) -> None:
    setup = (ROOT / "setup.py").read_text()
    assert all(f'"{flag}"' in setup for flag in script.FLAGS)
    assert set(script.ARCHITECTURES) <= set(script.built_architectures())


def test_the_page_knows_every_kernel(launches: ModuleType) -> None:
    """Whoever adds one writes it down and makes the page anew."""
    page = (ROOT / "docs" / "kernels.md").read_text()
    sources = sorted((ROOT / "thirdparty").glob("*/src/cuda/*"))
    found = {name for path in sources for name in re.findall(r"\b(\w+_kernel)\(", path.read_text())}
    assert {"linearise_kernel", "features_kernel", "rows_kernel", "distance_kernel"} <= found
    for name in found:
        assert f"`{name}" in page and launches.launch_of(name) is not None, name
