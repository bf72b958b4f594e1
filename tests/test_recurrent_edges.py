"""Which keyframes share edges, and how far apart two of them are in flow."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.geometry.flow_distance import UNRELATED, flow_distance
from metric_slam.recurrent_edges import ProximityRule, candidates, neighbourhood, proximity
from tests.scene import CAMERA, pose, pose_vec, rotation

EVERYTHING = range(12)


def chosen(
    distance: np.ndarray, *, there: tuple[tuple[int, int], ...] = (), sources: range = EVERYTHING,
    targets: range = EVERYTHING, radius: int = 2, suppression: int = 1, threshold: float = 10.0, most: int = 1000,
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


# ---------------------------------------------------------------- distance


def distance(T: np.ndarray, **options: float | bool) -> float:
    poses = np.stack([pose_vec(pose()), pose_vec(T)])
    inv_depth = np.full((2, 12, 40), 0.1)
    ends = np.array([0]), np.array([1])
    return float(flow_distance(poses, inv_depth, CAMERA.grid().vector(), *ends, **options)[0])


def test_sideways_motion_is_baseline_over_depth() -> None:
    assert distance(pose(x_m=0.5)) == pytest.approx(0.5 * 0.1 * CAMERA.grid().fx, rel=1e-9)
    assert distance(pose()) == 0.0


def test_turning_counts_as_much_as_it_should() -> None:
    turned = pose(R=rotation(yaw_rad=0.02))
    whole = distance(turned, translation_weight=0.0)
    assert whole == pytest.approx(0.02 * CAMERA.grid().fx, rel=0.4)
    assert distance(turned, translation_weight=1.0) == pytest.approx(0.0, abs=1e-9)
    assert distance(turned, translation_weight=0.7) == pytest.approx(0.3 * whole)


def test_both_directions_are_averaged() -> None:
    poses = np.stack([pose_vec(pose()), pose_vec(pose(x_m=0.5))])
    inv_depth = np.stack([np.full((12, 40), 0.1), np.full((12, 40), 0.3)])
    K = CAMERA.grid().vector()
    one, other = (flow_distance(poses, inv_depth, K, *np.array([[a], [1 - a]]), bidirectional=False) for a in (0, 1))
    both = flow_distance(poses, inv_depth, K, np.array([0]), np.array([1]))
    assert both[0] == pytest.approx((one[0] + other[0]) / 2) and other[0] == pytest.approx(3 * one[0])


def test_opposite_views_are_unrelated() -> None:
    assert distance(pose(R=rotation(yaw_rad=np.pi)), translation_weight=0.0) == UNRELATED
