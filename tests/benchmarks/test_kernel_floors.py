"""benchmarks/kernel_floors.py against counts made by hand and the sizes that lietorch has."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import lietorch
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def floors() -> ModuleType:
    """benchmarks/kernel_floors.py."""
    return importlib.import_module("kernel_floors")


def test_bytes_of_the_operations(floors: ModuleType) -> None:
    kitti = floors.SIZES[0]
    assert (kitti.cells, kitti.pairs, kitti.level_cells) == (3000, 625, [3000, 750, 175, 36])
    assert floors.group_operation("Mul", "SE3", 10) == 10 * 21 * 8
    assert floors.group_operation("Act", "Sim3", 1) == (8 + 3 + 3) * 8
    assert floors.frame_distance(kitti) == 8 * (25 * 3000 + 3 * 625)
    assert floors.volume_build(kitti) == 4 * 96 * 3000 * (3000 + 750 + 175 + 36 + 2 * 128)
    assert floors.volume_lookup(kitti) == 4 * 96 * 3000 * (3 * 64 + 36 + 4 * 49 + 2)
    assert floors.features_lookup(kitti) == 4 * (25 * 128 * 3961 + 96 * 3000 * (4 * 49 + 2))
    assert floors.ba_iteration(kitti) == 2 * 96 * 3000 * 32 + 25 * 3000 * 72


def test_groups_and_operations_are_those_of_lietorch(floors: ModuleType) -> None:
    text = (ROOT / "thirdparty" / "lietorch" / "include" / "lietorch" / "ops.h").read_text(encoding="utf-8")
    names = re.findall(r"\w+", re.search(r"OperationList<(\w+(?:,\s*\w+)+)>", text).group(1))
    assert set(floors.GROUP_OPERATIONS) <= set(names)
    for group in (lietorch.SO3, lietorch.RxSO3, lietorch.SE3, lietorch.Sim3):
        assert floors.GROUPS[group.__name__] == (group.embedded_dim, group.manifold_dim)
