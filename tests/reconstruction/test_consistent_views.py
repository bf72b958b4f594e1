"""Keyframes agree with true depths, and not with wrong or guessed ones, in pieces as in one go."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.depth.no_prior import NoPrior
from metric_slam.optimization.view_consistency import count_consistent_views, count_views_relative
from metric_slam.reconstruction import consistent_views as module
from metric_slam.reconstruction.consistent_views import consistent_views
from tests.oracle import config, run, sensor, winding
from tests.scene import CAMERA, Drive, Start, Street, keyframe_at, pose

STREET = Street()
PATH = [pose(z_m=0.8 * i) for i in range(6)]


@pytest.fixture
def start() -> Start:
    return started(STREET)


def started(street: Street) -> Start:
    """Six keyframes with true poses and depths, each matched with those up to two away."""
    start = Start(NoPrior(), street=street)
    for T in PATH:
        start.map.append(keyframe_at(street, T, features=T))
    start.map.graph.match_pairs([(i, j) for i in range(6) for j in range(6) if 0 < abs(i - j) <= 2])
    return start


def confidences(start: Start) -> list[np.ndarray]:
    return [start.map.graph.confidence_of(i) for i in range(len(start.map))]


def test_all_that_see_true_depths_agree(start: Start) -> None:
    agreeing = consistent_views(start.map, confidences(start))
    assert len(agreeing) == 6 and agreeing[2].dtype == np.uint8 and agreeing[2].max() == 4
    seen = confidences(start)[2] > 0
    assert (agreeing[2][seen] > 0).mean() > 0.85  # near road changes too much from row to row
    assert not agreeing[2][~seen].any()


def test_wrong_depths_are_not() -> None:
    start = started(Street(road=False, walls=False, end_m=25.0))  # elsewhere the next row has nearly that depth
    wrong = np.zeros((12, 40), bool)
    wrong[7:10, 10:30] = True
    depth = start.map[2].inv_depth.copy()
    depth[wrong] *= 1.15
    start.map.set_inv_depth(2, depth)
    agreeing = consistent_views(start.map, confidences(start))
    assert (agreeing[2][wrong] > 0).mean() < 0.1
    assert (agreeing[2][~wrong & (confidences(start)[2] > 0)] > 0).mean() > 0.8


def test_pieces_do_not_matter(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = consistent_views(start.map, confidences(start))
    monkeypatch.setattr(module, "_PIECE", 2)
    np.testing.assert_array_equal(consistent_views(start.map, confidences(start)), whole)


def test_nobody_agrees_with_a_keyframe_without_matches() -> None:
    start = Start(NoPrior(), street=STREET)
    start.map.append(keyframe_at(STREET, PATH[0], features=PATH[0]))
    assert not consistent_views(start.map, confidences(start))[0].any()


@pytest.mark.parametrize("depth_m", [0.5, 7.0, 40.0])
def test_the_limit_is_a_share_of_the_depth(depth_m: float) -> None:
    poses = np.tile([0.0, 0, 0, 0, 0, 0, 1], (2, 1))
    pair = np.array([0]), np.array([0]), np.array([1])
    for error, agrees in ((0.049, True), (0.051, False), (-0.049, True), (-0.051, False)):
        inv_depth = np.stack([np.full((6, 8), 1.0 / depth_m), np.full((6, 8), 1.0 / (depth_m * (1.0 + error)))])
        count = count_views_relative(poses, inv_depth, np.array([8.0, 8, 4, 3]), *pair, 0.05)
        assert (count[0, 1:4, 1:6] == int(agrees)).all()
        same = count_consistent_views(poses, inv_depth, np.array([8.0, 8, 4, 3]), *pair, 0.05 * depth_m)
        np.testing.assert_array_equal(count, same)
        inv_depth[:, :, 4:] /= 10.0  # the limit is every pixel's own
        count = count_views_relative(poses, inv_depth, np.array([8.0, 8, 4, 3]), *pair, 0.05)
        assert (count[0, 1:4, 1:6] == int(agrees)).all()
    inv_depth[0] = 0.0
    assert not count_views_relative(poses, inv_depth, np.array([8.0, 8, 4, 3]), *pair, 0.05).any()


def test_a_run_hands_it_out() -> None:
    drive = Drive(Street(waves=10), winding(20, 0.25), with_depth=True)
    result, _, _ = run(config(), sensor(), drive)
    for keyframe in result.keyframes:
        arrays = keyframe.arrays()
        assert arrays["consistent_views"].shape == (CAMERA.height // 8, CAMERA.width // 8)
        assert arrays["consistent_views"].dtype == np.uint8
        assert (keyframe.consistent_views[keyframe.confidence > 0.5] > 0).mean() > 0.7
    share = [np.mean(k.consistent_views[k.confidence > 0] > 0) for k in result.keyframes]
    assert min(share) < result.consistent_share < max(share)
