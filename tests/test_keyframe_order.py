"""Orders of the keyframes that keep a global problem narrow."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.keyframe_order import coupled_keyframes, envelope_size, narrow_order


def drive(count: int, loops: list[tuple[int, int]]) -> np.ndarray:
    """Edges both ways between neighbours at most two apart, and loops both ways."""
    pairs = [(i, j) for i in range(count) for j in range(count) if 0 < abs(i - j) <= 2]
    return np.array(pairs + loops + [(j, i) for i, j in loops], np.int64)


def second_lap(count: int) -> np.ndarray:
    """Two laps of the same way, tied together everywhere."""
    return drive(count, [(i, i + count // 2) for i in range(0, count // 2, 5)])


def test_a_drive_without_loops_keeps_the_order_of_the_video() -> None:
    np.testing.assert_array_equal(narrow_order(50, drive(50, [])), np.arange(50))
    np.testing.assert_array_equal(narrow_order(3, np.zeros((0, 2), np.int64)), np.arange(3))


def test_two_laps_are_interleaved() -> None:
    for count, widest in ((200, 20), (800, 20)):
        pairs = second_lap(count)
        order = narrow_order(count, pairs)
        np.testing.assert_array_equal(np.sort(order), np.arange(count))
        coupling = coupled_keyframes(count, pairs)
        assert envelope_size(coupling, order) < widest * count < envelope_size(coupling, np.arange(count))


def test_the_order_of_the_edges_does_not_matter() -> None:
    pairs = second_lap(200)
    expected = narrow_order(200, pairs)
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(pairs)
        np.testing.assert_array_equal(narrow_order(200, np.concatenate([shuffled, shuffled[:7]])), expected)


def test_targets_of_one_source_are_coupled() -> None:
    coupling = coupled_keyframes(6, np.array([(0, 2), (0, 5)])).toarray() > 0
    assert coupling[2, 5] and coupling[5, 2] and coupling[0, 2] and coupling[4, 4]
    assert not coupling[1, 2] and not coupling[3].any(where=np.arange(6) != 3)


@pytest.mark.parametrize(("order", "size"), [([0, 1, 2, 3], 3 + 1), ([0, 3, 1, 2], 1 + 1)])
def test_envelope_counts_blocks_up_to_the_diagonal(order: list[int], size: int) -> None:
    coupling = coupled_keyframes(4, np.array([(0, 3), (1, 2)]))
    assert envelope_size(coupling, np.array(order)) == size
