"""benchmarks/loop_verification.py: pairs are sorted by the truth, and only a right pose counts as found."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest

from metric_slam.loops.verification import LoopRejection, VerifiedLoop
from tests.scene import CAMERA, pose


@pytest.fixture
def benchmark() -> ModuleType:
    return importlib.import_module("loop_verification")


def test_pairs_are_sorted_by_their_true_distance(benchmark: ModuleType) -> None:
    T = np.stack([pose(z_m=float(z)) for z in (0, 1, 5, 60)])
    drive = benchmark.Sequence("drive", CAMERA, [], T, benchmark.STREET_M, False)
    assert benchmark.kinds(drive) == {
        "0-2 m": [(1, 0)],
        "2-4 m": [],
        "4-6 m": [(2, 0), (2, 1)],
        "far": [(3, 0), (3, 1), (3, 2)],
    }
    T[3, 2, 3] = 0.5  # back at the start, after a way of 60 m
    T = np.insert(T, 3, pose(z_m=60.0), axis=0)
    drive = benchmark.Sequence("drive", CAMERA, [], T, benchmark.STREET_M, True)
    assert benchmark.kinds(drive)["0-2 m"] == [(4, 0), (4, 1)]


def test_only_a_right_pose_counts_as_found(benchmark: ModuleType) -> None:
    T_true, count = pose(z_m=4.0), benchmark.Count()
    for off_m in (0.0, 0.6, 0.8):  # 0.3 m and 10 % of 4 m are allowed
        T = T_true.copy()
        T[0, 3] += off_m
        count.add(VerifiedLoop(5, 2, T, 0.0, 99, 0.5), T_true)
    count.add(LoopRejection(5, 2, "no pose"), T_true)
    count.add(VerifiedLoop(5, 2, T_true, 0.0, 99, 0.5), None)
    assert (count.pairs, count.found, count.false) == (5, 2, 2)
