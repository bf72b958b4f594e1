"""Which keyframes share edges."""

from __future__ import annotations

import numpy as np

from metric_slam.odometry.droid.edge_selection import ProximityRule, candidates, neighbourhood, proximity

EVERYTHING = range(12)


def chosen(
    distance: np.ndarray,
    *,
    there: tuple[tuple[int, int], ...] = (),
    sources: range = EVERYTHING,
    targets: range = EVERYTHING,
    radius: int = 2,
    suppression: int = 1,
    threshold: float = 10.0,
    most: int = 1000,
) -> list[tuple[int, int]]:
    pairs = candidates(sources, targets, radius)
    found = [distance[i, j] for i, j in pairs]
    rule = ProximityRule(radius, suppression, threshold, most)
    return proximity(sources, targets, pairs, np.array(found), there, rule)


def far(near: dict[tuple[int, int], float]) -> np.ndarray:
    distance = np.full((12, 12), 50.0)
    for pair, cells in near.items():
        distance[pair] = cells
    return distance


def test_neighbourhood_is_symmetric_and_half_open() -> None:
    found = neighbourhood(3, 7, 2)
    assert len(found) == len(set(found)) == 10 and set(found) == {(j, i) for i, j in found}
    assert all(3 <= i < 7 and 3 <= j < 7 and 0 < abs(i - j) <= 2 for i, j in found)


def test_neighbours_always_belong() -> None:
    found = set(chosen(far({})))
    assert found == {(i, j) for i in EVERYTHING for j in EVERYTHING if 0 < abs(i - j) <= 3}


def test_near_keyframes_get_both_directions() -> None:
    found = chosen(far({(11, 2): 9.0, (10, 5): 11.0}))
    assert (11, 2) in found and (2, 11) in found
    assert (10, 5) not in found, "beyond the threshold"


def test_an_edge_keeps_similar_ones_away_and_the_nearest_wins() -> None:
    near = far({(11, 2): 5.0, (10, 2): 4.0, (11, 3): 6.0, (10, 1): 4.5, (9, 4): 3.0})
    found = chosen(near)
    assert (10, 2) in found and (11, 2) not in found and (10, 1) not in found
    assert (11, 3) in found, "two steps away"
    assert (11, 2) in chosen(near, suppression=0)
    assert (10, 2) not in chosen(near, there=((10, 3),)), "an edge that exists already counts"
    assert (9, 4) in chosen(near, there=((10, 3),))


def test_ends_that_are_close_suppress_less() -> None:
    near = far({(5, 1): 1.0, (6, 2): 2.0, (7, 2): 3.0})
    found = chosen(near, suppression=3)
    assert (5, 1) in found and (6, 2) not in found and (7, 2) in found, "reach 2, as its ends are 4 apart"
    assert (11, 2) not in chosen(far({(9, 1): 1.0, (11, 2): 3.0}), suppression=3), "reach 3"


def test_only_the_window_takes_part_and_there_is_an_end() -> None:
    everything_near = np.zeros((12, 12))
    found = chosen(everything_near, sources=range(9, 12), targets=range(4, 12), suppression=0)
    assert min(min(pair) for pair in found) == 4 and all(max(pair) >= 9 for pair in found)
    few = chosen(everything_near, suppression=0, most=70)
    assert 70 < len(few) <= 72 and len(chosen(everything_near, suppression=0)) > 72
