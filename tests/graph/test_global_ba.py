"""Global bundle adjustment: on all cells or some, with the depths that follow."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.config.schema import BundleAdjustmentConfig, GlobalBaConfig
from metric_slam.depth.no_prior import NoPrior
from metric_slam.geometry import lie
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.graph.submaps import Submaps
from tests.graph.test_factor_graph import PAIRS, TRUE_CENTRES, centres, disturb, make_graph, scale_of
from tests.scene import CAMERA, ExactMatching, Start, Street, keyframe_at, pose, rotation, straight


def make(**config: float) -> tuple:
    store, graph = make_graph()
    graph.match_pairs(PAIRS)
    submaps = Submaps()
    submaps.begin(0)
    return store, GlobalBundleAdjustment(
        store, graph, submaps, GlobalBaConfig(iterations=25, **config), BundleAdjustmentConfig()
    )


@pytest.mark.parametrize("every_cell", [True, False])
def test_disturbed_keyframes_come_back(every_cell: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    store, backend = make()
    if not every_cell:
        monkeypatch.setattr(backend, "_affordable_step", lambda edges: 2)
    depths = [k.inv_depth.copy() for k in store]
    disturb(store)
    before = np.abs(centres(store) - TRUE_CENTRES).max()
    assert backend.optimise().status in ("converged", "max_iterations")
    scale = scale_of(store)
    assert np.abs(centres(store) / scale - TRUE_CENTRES).max() < 0.15 * before
    confidence = backend._graph.confidence_of(1) > 0.5
    ratio = (store[1].inv_depth * scale / depths[1])[confidence]
    assert np.abs(np.median(ratio) - 1) < 0.03 and np.percentile(np.abs(ratio - 1), 80) < 0.05


def test_memory_decides_how_many_cells_take_part() -> None:
    _, backend = make(max_cells=100_000)
    backend._store.camera = backend._store.camera.resized(960, 288)
    cells = 120 * 36
    assert backend._affordable_step(100_000 // cells) == 1
    assert backend._affordable_step(2 * 100_000 // cells) == 2
    assert backend._affordable_step(10**9) == 4, "a grid is left to solve on"


def test_depths_settle_with_the_poses_fixed() -> None:
    store, backend = make()
    poses, depth = store.poses(0, 4), store[2].inv_depth.copy()
    store[2].inv_depth = depth * 1.1
    backend.refine_depths()
    np.testing.assert_array_equal(store.poses(0, 4), poses)
    seen = backend._graph.confidence_of(2) > 0.5
    assert np.median(np.abs(store[2].inv_depth[seen] / depth[seen] - 1)) < 0.02


def test_one_keyframe_is_nothing_to_do() -> None:
    store, graph = make_graph()
    backend = GlobalBundleAdjustment(store, graph, Submaps(), GlobalBaConfig(), BundleAdjustmentConfig())
    assert backend.optimise().status == "nothing_to_do"


# ---------------------------------------------------------------- submaps that nothing ties together

GAP = np.linalg.inv(pose(0.1, 1.5, R=rotation(0.0, 0.0, 0.06)))
"""T_first_before that was guessed where tracking was lost."""


def two_keyframes_each(submaps: int) -> tuple[KeyframeStore, Submaps, GlobalBundleAdjustment]:
    """Submaps of two keyframes, each as far from the one before as was guessed."""
    street, store, pieces, T = Street(), KeyframeStore(CAMERA), Submaps(), np.eye(4)
    for submap in range(submaps):
        pieces.begin(len(store), GAP if submap else None)
        T = T @ np.linalg.inv(GAP) if submap else T
        for _ in range(2):
            keyframe = keyframe_at(street, T)
            keyframe.submap = submap
            store.append(keyframe)
            T = T @ pose(z_m=1.0)
        T = T @ pose(z_m=-1.0)
    graph = FactorGraph(store, ExactMatching(street), BundleAdjustmentConfig(), 0.0)
    return store, pieces, GlobalBundleAdjustment(store, graph, pieces, GlobalBaConfig(), BundleAdjustmentConfig())


def between(store: KeyframeStore, first: int, second: int) -> np.ndarray:
    """T_second_first [4, 4]."""
    T = lie.pose_vec_to_matrix(store.poses(0, len(store)))
    return T[second] @ lie.inverse(T[first])


def moved(store: KeyframeStore, positions: range, T_new_old: np.ndarray) -> None:
    """Moves these cameras rigidly in the world."""
    for position in positions:
        T = lie.pose_vec_to_matrix(store[position].pose) @ lie.inverse(T_new_old)
        store[position].pose = lie.matrix_to_pose_vec(T)


ELSEWHERE = pose(3.0, -2.0, y_m=0.4, R=rotation(0.03, -0.02, 0.5))


def test_segments_follow_the_one_before_them_when_the_map_has_moved() -> None:
    store, _, backend = two_keyframes_each(3)
    inside = between(store, 2, 3), between(store, 4, 5)
    moved(store, range(2), ELSEWHERE)
    before = store.poses(0, 2)
    assert np.abs(between(store, 1, 2) - GAP).max() > 1.0
    backend._close_gaps()
    np.testing.assert_array_equal(store.poses(0, 2), before)
    for a, b in ((1, 2), (3, 4)):
        np.testing.assert_allclose(between(store, a, b), GAP, atol=1e-9)
    np.testing.assert_allclose(between(store, 2, 3), inside[0], atol=1e-9)
    np.testing.assert_allclose(between(store, 4, 5), inside[1], atol=1e-9)


def test_a_map_that_did_not_move_has_no_gap_to_close() -> None:
    store, _, backend = two_keyframes_each(3)
    before = store.poses(0, 6)
    backend._close_gaps()
    np.testing.assert_allclose(store.poses(0, 6), before, atol=1e-9)


def test_a_submap_that_a_loop_has_joined_stays_where_the_loop_put_it() -> None:
    store, submaps, backend = two_keyframes_each(2)
    submaps.join(0, 1)
    moved(store, range(2), ELSEWHERE)
    before = store.poses(0, 4)
    backend._close_gaps()
    np.testing.assert_array_equal(store.poses(0, 4), before)


def test_joined_segments_follow_together() -> None:
    """The third hangs on the second by a loop: both go where the gap before the second leads."""
    store, submaps, backend = two_keyframes_each(3)
    submaps.join(1, 2)
    loop = between(store, 2, 5)
    moved(store, range(2), ELSEWHERE)
    backend._close_gaps()
    np.testing.assert_allclose(between(store, 1, 2), GAP, atol=1e-9)
    np.testing.assert_allclose(between(store, 2, 5), loop, atol=1e-9)


def test_the_last_optimisation_closes_the_gaps() -> None:
    R = rotation(0.01)
    start = Start(NoPrior())
    start.start(pose(R=R))
    start.follow(straight(5, 0.5, R=R)[1:])
    ahead = lie.matrix_to_pose_vec(np.linalg.inv(pose(z_m=0.5)) @ lie.pose_vec_to_matrix(start.store[-1].pose))
    start.start(pose(z_m=30.0, R=R), ahead)
    start.follow(straight(5, 0.5, R=R, start_m=30.0)[1:])
    guessed, inside = between(start.store, 4, 5), between(start.store, 5, 9)
    np.testing.assert_allclose(guessed, start.submaps.gaps[1], atol=1e-9)
    moved(start.store, range(1, 5), pose(z_m=0.3))  # what the optimisation will not leave so
    start.finish()
    np.testing.assert_allclose(between(start.store, 4, 5), guessed, atol=1e-6)
    np.testing.assert_allclose(between(start.store, 5, 9), inside, atol=0.1)
