"""Global bundle adjustment: on all cells or some, with the depths that follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metric_slam.config.schema import GlobalBaConfig
from metric_slam.depth.no_prior import NoPrior
from metric_slam.geometry import lie
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.slam_map import SlamMap
from tests import scene
from tests.graph.test_factor_graph import PAIRS, TRUE_CENTRES, centres, disturb, make_map, poses, scale_of
from tests.scene import CAMERA, ExactMatching, Start, Street, keyframe_at, pose, rotation, straight


def make(**config: float) -> tuple[SlamMap, GlobalBundleAdjustment]:
    slam_map = make_map()
    slam_map.submaps.begin(0)
    slam_map.graph.match_pairs(PAIRS)
    return slam_map, GlobalBundleAdjustment(slam_map, GlobalBaConfig(**{"iterations": 25, **config}))


@pytest.mark.parametrize("every_cell", [True, False])
def test_disturbed_keyframes_come_back(every_cell: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    slam_map, global_ba = make()
    if not every_cell:
        monkeypatch.setattr(global_ba, "_affordable_step", lambda edges: 2)
    depths = [k.inv_depth.copy() for k in slam_map]
    disturb(slam_map)
    before = np.abs(centres(slam_map) - TRUE_CENTRES).max()
    assert global_ba.optimise().status in ("converged", "max_iterations")
    scale = scale_of(slam_map)
    assert np.abs(centres(slam_map) / scale - TRUE_CENTRES).max() < 0.15 * before
    confidence = slam_map.graph.confidence_of(1) > 0.5
    ratio = (slam_map[1].inv_depth * scale / depths[1])[confidence]
    assert np.abs(np.median(ratio) - 1) < 0.03 and np.percentile(np.abs(ratio - 1), 80) < 0.05


def test_memory_decides_how_many_cells_take_part() -> None:
    slam_map = scene.make_map(ExactMatching(Street()), camera=CAMERA.resized(960, 288))
    global_ba = GlobalBundleAdjustment(slam_map, GlobalBaConfig(max_cells=100_000))
    cells = 120 * 36
    assert global_ba._affordable_step(100_000 // cells) == 1
    assert global_ba._affordable_step(2 * 100_000 // cells) == 2
    assert global_ba._affordable_step(10**9) == 4, "a grid is left to solve on"


def test_depths_are_refined_with_the_poses_fixed() -> None:
    slam_map, global_ba = make()
    before, depth = poses(slam_map), slam_map[2].inv_depth
    slam_map.set_inv_depth(2, depth * 1.1)
    global_ba.refine_depths()
    np.testing.assert_array_equal(poses(slam_map), before)
    seen = slam_map.graph.confidence_of(2) > 0.5
    assert np.median(np.abs(slam_map[2].inv_depth[seen] / depth[seen] - 1)) < 0.02


def test_refined_depths_follow_the_road_where_it_was_measured() -> None:
    """On asphalt the plane decides, which bundle adjustment of the poses leaves out."""
    slam_map, global_ba = make()
    road_m = np.zeros((12, 40))
    road_m[9:] = 1.3 / slam_map[2].inv_depth[9:]
    before, depth = poses(slam_map), slam_map[2].inv_depth
    slam_map.set_road(2, road_m)
    global_ba.refine_depths(0.001)
    np.testing.assert_array_equal(poses(slam_map), before)
    ratio = slam_map[2].inv_depth / depth
    assert np.median(ratio[9:]) == pytest.approx(1 / 1.3, abs=0.03) and np.median(ratio[:8]) == pytest.approx(
        1, abs=0.02
    )


def test_one_keyframe_is_nothing_to_do() -> None:
    global_ba = GlobalBundleAdjustment(make_map(), GlobalBaConfig())
    assert global_ba.optimise().status == "nothing_to_do"


# ---------------------------------------------------------------- the last optimisation


class ScriptedScale:
    """Scale measurements that note what is asked of them, and of which some were revised."""

    cell_sigma = 0.001

    def __init__(self) -> None:
        self.called: list[str] = []

    def collect(self) -> None:
        """Nothing is in progress."""
        self.called.append("collect")

    def revise(self) -> bool:
        """Notes that it was asked."""
        self.called.append("revise")
        return True


@pytest.mark.parametrize("iterations", [0, 25])
def test_without_iterations_of_its_own_everything_else_is_still_done(iterations: int) -> None:
    """Measurements are revised, depths refined and gaps closed, though no pose is optimised."""
    slam_map, global_ba = make(iterations=iterations)
    slam_map.begin_submap(slam_map[-1].T_cam_world @ pose(z_m=-1.0))
    slam_map.append(keyframe_at(Street(end_m=40.0), pose(2.0, 9.0)))
    before, depth = poses(slam_map)[:4], slam_map[2].inv_depth
    slam_map.set_inv_depth(2, depth * 1.1)
    road_m = np.zeros((12, 40))
    road_m[9:] = 1.3 / depth[9:]
    slam_map.set_road(2, road_m)
    scale = ScriptedScale()
    global_ba.finish(scale)
    assert scale.called == ["collect", "revise"]
    ratio, seen = slam_map[2].inv_depth / depth, slam_map.graph.confidence_of(2) > 0.5
    assert np.median(ratio[9:]) == pytest.approx(1 / 1.3, abs=0.03), "depths are refined, the road takes part"
    assert np.median(ratio[:8][seen[:8]]) == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(slam_map.motion(3, 4), slam_map.submaps.gaps[1], atol=1e-9)
    if not iterations:
        np.testing.assert_array_equal(poses(slam_map)[:4], before)
        assert "nothing_to_do" not in slam_map.graph.status_counts, "and nothing is counted that was not to be done"


# ---------------------------------------------------------------- submaps that nothing ties together

GAP = np.linalg.inv(pose(0.1, 1.5, R=rotation(0.0, 0.0, 0.06)))
"""T_first_before that was guessed where tracking was lost."""


def two_keyframes_each(submaps: int) -> tuple[SlamMap, GlobalBundleAdjustment]:
    """Submaps of two keyframes, each as far from the one before as was guessed."""
    street, T = Street(), np.eye(4)
    slam_map = scene.make_map(ExactMatching(street))
    for submap in range(submaps):
        T = T @ np.linalg.inv(GAP) if submap else T
        assert slam_map.begin_submap(lie.inverse(T)) == submap
        for _ in range(2):
            slam_map.append(replace(keyframe_at(street, T), submap=submap))
            T = T @ pose(z_m=1.0)
        T = T @ pose(z_m=-1.0)
    np.testing.assert_allclose(slam_map.submaps.gaps[1:], [GAP] * (submaps - 1), atol=1e-9)
    return slam_map, GlobalBundleAdjustment(slam_map, GlobalBaConfig())


ELSEWHERE = pose(3.0, -2.0, y_m=0.4, R=rotation(0.03, -0.02, 0.5))


def test_submaps_follow_the_one_before_them_when_the_map_has_moved() -> None:
    slam_map, global_ba = two_keyframes_each(3)
    inside = slam_map.motion(2, 3), slam_map.motion(4, 5)
    slam_map.move(range(2), ELSEWHERE)
    before = poses(slam_map)[:2]
    assert np.abs(slam_map.motion(1, 2) - GAP).max() > 1.0
    global_ba._close_gaps()
    np.testing.assert_array_equal(poses(slam_map)[:2], before)
    for a, b in ((1, 2), (3, 4)):
        np.testing.assert_allclose(slam_map.motion(a, b), GAP, atol=1e-9)
    np.testing.assert_allclose(slam_map.motion(2, 3), inside[0], atol=1e-9)
    np.testing.assert_allclose(slam_map.motion(4, 5), inside[1], atol=1e-9)


def test_a_map_that_did_not_move_has_no_gap_to_close() -> None:
    slam_map, global_ba = two_keyframes_each(3)
    before = poses(slam_map)
    global_ba._close_gaps()
    np.testing.assert_allclose(poses(slam_map), before, atol=1e-9)


def test_a_submap_that_a_loop_has_joined_stays_where_the_loop_put_it() -> None:
    slam_map, global_ba = two_keyframes_each(2)
    slam_map.submaps.join(0, 1)
    slam_map.move(range(2), ELSEWHERE)
    before = poses(slam_map)
    global_ba._close_gaps()
    np.testing.assert_array_equal(poses(slam_map), before)


def test_joined_submaps_follow_together() -> None:
    """The third hangs on the second by a loop: both go where the gap before the second leads."""
    slam_map, global_ba = two_keyframes_each(3)
    slam_map.submaps.join(1, 2)
    loop = slam_map.motion(2, 5)
    slam_map.move(range(2), ELSEWHERE)
    global_ba._close_gaps()
    np.testing.assert_allclose(slam_map.motion(1, 2), GAP, atol=1e-9)
    np.testing.assert_allclose(slam_map.motion(2, 5), loop, atol=1e-9)


def test_the_last_optimisation_closes_the_gaps() -> None:
    R = rotation(0.01)
    start = Start(NoPrior())
    start.start(pose(R=R))
    start.follow(straight(5, 0.5, R=R)[1:])
    ahead = np.linalg.inv(pose(z_m=0.5)) @ start.last_pose
    start.start(pose(z_m=30.0, R=R), ahead)
    start.follow(straight(5, 0.5, R=R, start_m=30.0)[1:])
    guessed, inside = start.map.motion(4, 5), start.map.motion(5, 9)
    np.testing.assert_allclose(guessed, start.map.submaps.gaps[1], atol=1e-9)
    start.map.move(range(1, 5), pose(z_m=0.3))  # what the optimisation will not leave so
    start.finish()
    np.testing.assert_allclose(start.map.motion(4, 5), guessed, atol=1e-6)
    np.testing.assert_allclose(start.map.motion(5, 9), inside, atol=0.1)
