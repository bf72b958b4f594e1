"""benchmarks/false_loops.py: with the sigmas of loop closure steady drift costs no true loop and helps no false one."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("drift", ["none", "2 %, 0.3 deg/100 m"])
def test_true_loops_survive_steady_drift_and_false_ones_do_not(drift: str) -> None:
    false_loops = importlib.import_module("false_loops")
    lost, n_true, kept, n_false = false_loops.counts(false_loops.DRIFTS[drift], drives=8, keyframes=1500)
    assert n_true == 192 and n_false == 56
    assert (lost, kept) == (0, 0)
