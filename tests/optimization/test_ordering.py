"""The order of keyframes in global problems."""

from __future__ import annotations

import numpy as np

from metric_slam.optimization.ordering import coupled_keyframes, envelope_size, narrow_order


def chain(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(max(0, i - 2), min(count, i + 3)) if i != j]


def test_a_drive_without_loops_keeps_the_order_of_the_video() -> None:
    np.testing.assert_array_equal(narrow_order(50, np.array(chain(50))), np.arange(50))


def test_with_loops_the_envelope_grows_with_the_keyframes_not_with_the_loops() -> None:
    count = 400
    pairs = np.array(chain(count) + [(200 + i, i) for i in range(0, 180, 5)] + [(i, 200 + i) for i in range(0, 180, 5)])
    order = narrow_order(count, pairs)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    coupling = coupled_keyframes(count, pairs)
    assert envelope_size(coupling, order) < 0.3 * envelope_size(coupling, np.arange(count))
    np.testing.assert_array_equal(order, narrow_order(count, pairs))


def test_keyframes_without_edges_are_kept() -> None:
    assert sorted(narrow_order(5, np.array([(0, 1), (1, 0)])).tolist()) == [0, 1, 2, 3, 4]
