"""The multi-view check on exact depths with made-up errors."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.reconstruction.consistency import DepthView, check_agreement, filter_depth, select_neighbours
from tests.corridor import CAMERA, corridor_pose, render

STRICT = {"min_views": 2, "max_relative_error": 0.05, "max_depth": 50.0}


def view(index: int, depth: np.ndarray | None = None) -> DepthView:
    return DepthView(render(corridor_pose(index))[1] if depth is None else depth, CAMERA, corridor_pose(index))


@pytest.fixture(scope="module")
def views() -> list[DepthView]:
    return [view(i) for i in range(6)]


def test_true_depths_stay(views: list[DepthView]) -> None:
    kept = filter_depth(views[2], [views[0], views[1], views[3], views[4]], **STRICT)
    assert (kept > 0).mean() > 0.95
    np.testing.assert_array_equal(kept[kept > 0], views[2].depth[kept > 0])


def test_wrong_depths_go(views: list[DepthView]) -> None:
    wrong = views[2].depth.copy()
    wrong[100:140, 100:200] *= 0.7
    wrong[20:60, 20:80] *= 1.3
    kept = filter_depth(view(2, wrong), [views[0], views[1], views[3], views[4]], **STRICT)
    assert not kept[100:140, 100:200].any() and not kept[20:60, 20:80].any()
    assert (kept > 0).mean() > 0.8


def test_seeing_through_outvotes_agreement(views: list[DepthView]) -> None:
    floating = []
    for i in (2, 1, 3):  # a phantom that three keyframes share, 2 m before the camera of keyframe 2
        depth = views[i].depth.copy()
        depth[60:120, 120:200] = 2.0 + 0.25 * (2 - i)
        floating.append(view(i, depth))
    through = [views[0], views[4], views[5]]
    alone = filter_depth(floating[0], floating[1:], **STRICT)
    against = filter_depth(floating[0], floating[1:] + through, **STRICT)
    assert (alone[75:105, 140:180] > 0).all()
    assert not against[75:105, 140:180].any()


def test_hidden_points_are_no_contradiction(views: list[DepthView]) -> None:
    blocked = [view(i, np.full_like(views[i].depth, 0.5)) for i in (3, 4)]
    agreement = check_agreement(views[2], blocked, 0.05)
    assert not agreement.contradicting.any() and not agreement.agreeing.any()


def test_far_and_too_few_views(views: list[DepthView]) -> None:
    near = filter_depth(views[2], [views[1], views[3]], min_views=2, max_relative_error=0.05, max_depth=6.0)
    assert 0 < near.max() <= 6.0
    assert not filter_depth(views[2], [views[1]], **STRICT).any()
    assert not filter_depth(view(2, np.zeros_like(views[2].depth)), [views[1], views[3]], **STRICT).any()


def test_speckles_go(views: list[DepthView]) -> None:
    sparse = np.zeros_like(views[2].depth)
    sparse[10:14, 10:14] = views[2].depth[10:14, 10:14]
    sparse[100:150, 100:150] = views[2].depth[100:150, 100:150]
    kept = filter_depth(view(2, sparse), [views[1], views[3]], **STRICT)
    assert not kept[:50].any() and (kept[102:148, 102:148] > 0).all()


def test_neighbours_need_a_baseline(views: list[DepthView]) -> None:
    twin = DepthView(views[2].depth, CAMERA, views[2].T_world_cam)
    away = np.eye(4)
    away[2, 3] = 500.0
    far = DepthView(views[2].depth, CAMERA, away)
    chosen = select_neighbours(views[2], [twin, far, views[0], views[1], views[3]], 6)
    assert {id(c) for c in chosen} == {id(views[0]), id(views[1]), id(views[3])}
    assert len(select_neighbours(views[0], views[1:], 3)) == 3
