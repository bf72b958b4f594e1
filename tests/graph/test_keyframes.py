"""The keyframe store owns its arrays and keeps them in step."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.geometry import lie
from metric_slam.graph.keyframes import Keyframe, KeyframeStore
from tests.scene import CAMERA

GRID = CAMERA.grid()
SHAPE = (GRID.height, GRID.width)


def keyframe(seed: int) -> Keyframe:
    random = np.random.default_rng(seed)
    T = lie.renormalise(np.eye(4) + 0.1 * random.normal(size=(4, 4)))
    image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    inv_depth, depth = random.uniform(0.02, 1, SHAPE), random.uniform(1, 9, SHAPE)
    pose, confidence, weight = lie.matrix_to_pose_vec(T), np.full(SHAPE, 0.7), np.full(SHAPE, 70.0)
    return Keyframe(seed, 0.1 * seed, image, "features", "state", pose, inv_depth, depth, confidence, weight)


@pytest.fixture
def store() -> KeyframeStore:
    filled = KeyframeStore(CAMERA)
    assert [filled.append(keyframe(seed)) for seed in range(5)] == list(range(5))
    return filled


def test_ranges_are_half_open_and_in_order(store: KeyframeStore) -> None:
    assert len(store) == 5 and [k.index for k in store] == list(range(5))
    np.testing.assert_array_equal(store.poses(1, 4), [store[i].pose for i in (1, 2, 3)])
    np.testing.assert_array_equal(store.stacked("inv_depth", range(3, 5))[1], store[4].inv_depth)
    assert store.poses(2, 2).shape == (0, 7)


def test_what_is_handed_out_is_a_copy(store: KeyframeStore) -> None:
    pose, inv_depth = store[2].pose.copy(), store[2].inv_depth.copy()
    store.poses(2, 3)[:] = 0
    store.stacked("inv_depth", range(2, 3))[:] = 0
    np.testing.assert_array_equal(store[2].pose, pose)
    np.testing.assert_array_equal(store[2].inv_depth, inv_depth)


def test_results_are_written_to_the_keyframes_they_belong_to(store: KeyframeStore) -> None:
    before = [store[i].pose.copy() for i in range(5)]
    poses, inv_depth = np.full((2, 7), 3.0), np.full((2, *SHAPE), 0.5)
    store.update([2, 3], poses, inv_depth, np.array([0.01, -0.02]))
    poses[:], inv_depth[:] = 0, 0
    assert (store[2].pose == 3.0).all() and (store[3].inv_depth == 0.5).all(), "a copy was written"
    assert store[3].prior_log_scale == -0.02
    for untouched in (0, 1, 4):
        np.testing.assert_array_equal(store[untouched].pose, before[untouched])


def test_prior_depth_can_be_shown_without_weight_in_the_optimisation(store: KeyframeStore) -> None:
    store[1].prior_weight = np.zeros(SHAPE)
    store.set_shown_prior(1, np.full(SHAPE, 4.0), np.full(SHAPE, 0.5))
    assert (store[1].prior_depth_m == 4.0).all() and (store[1].prior_confidence == 0.5).all()
    assert not store[1].prior_weight.any()
    assert (store[0].prior_confidence == 0.7).all() and (store[2].prior_confidence == 0.7).all()


@pytest.mark.parametrize("begin", [0, 2, 4])
def test_rescaling_moves_no_pixel(store: KeyframeStore, begin: int) -> None:
    def pixel_of_cell(source: int, target: int, row: int, column: int) -> np.ndarray:
        T = lie.pose_vec_to_matrix(store.poses(0, 5))
        X = GRID.rays()[row, column] / store[source].inv_depth[row, column]
        Y = T[target] @ lie.inverse(T[source]) @ [*X, 1.0]
        return GRID.project(Y[:3])

    pairs = [(i, j) for i in range(begin, 5) for j in range(begin, 5)]
    before = [pixel_of_cell(i, j, 5, 7) for i, j in pairs]
    centres = lie.inverse(lie.pose_vec_to_matrix(store.poses(0, 5)))[:, :3, 3]
    store.rescale(2.5, begin)
    np.testing.assert_allclose([pixel_of_cell(i, j, 5, 7) for i, j in pairs], before, rtol=1e-9)
    after = lie.inverse(lie.pose_vec_to_matrix(store.poses(0, 5)))[:, :3, 3]
    np.testing.assert_allclose(after[begin], centres[begin], atol=1e-12)
    np.testing.assert_allclose(after[begin:] - after[begin], 2.5 * (centres[begin:] - centres[begin]), atol=1e-12)


def test_rescaling_a_submap_leaves_the_earlier_ones_and_metric_priors_alone(store: KeyframeStore) -> None:
    before = store.poses(0, 2), store.stacked("inv_depth", range(0, 5)), store.stacked("prior_depth_m", range(0, 5))
    store.rescale(0.4, 2)
    np.testing.assert_array_equal(store.poses(0, 2), before[0])
    np.testing.assert_array_equal(store.stacked("inv_depth", range(0, 2)), before[1][:2])
    np.testing.assert_allclose(store.stacked("inv_depth", range(2, 5)), before[1][2:] / 0.4)
    np.testing.assert_array_equal(store.stacked("prior_depth_m", range(0, 5)), before[2], "metres already")


def test_rescaling_leaves_arrays_alone_that_came_from_outside() -> None:
    store, first = KeyframeStore(CAMERA), keyframe(1)
    pose, inv_depth = first.pose, first.inv_depth
    kept = pose.copy(), inv_depth.copy()
    store.append(first)
    store.rescale(3.0)
    np.testing.assert_array_equal(pose, kept[0])
    np.testing.assert_array_equal(inv_depth, kept[1])


def test_retired_keyframes_let_go_of_features_but_not_of_the_map(store: KeyframeStore) -> None:
    store.evict_before(3)
    assert [k.features for k in store] == [None] * 3 + ["features"] * 2
    assert [k.prior_state for k in store] == [None] * 3 + ["state"] * 2
    assert all(np.isfinite(k.inv_depth).all() and k.image is not None for k in store)
    store.evict_before(1)
    store.evict_before(99)
    assert all(k.features is None for k in store)


def test_cells_that_move_are_kept_by_a_checkpoint_and_beyond_the_window(store: KeyframeStore) -> None:
    assert not store[4].moving_cells.any() and store[4].moving_cells.shape == SHAPE, "none is said to move"
    for position in (1, 3):
        store[position].moving = np.zeros(SHAPE, np.uint8)
        store[position].moving[2:7, 4 : 9 + position] = 40 - position
    store.evict_before(2)
    assert store[0].moving is None and store[1].moving_cells.max() == 39, "a network may match it again at the end"
    other = KeyframeStore(CAMERA, store.disk)
    other.restore(store.state(), lambda index: ("features", "state"))
    for position in range(5):
        np.testing.assert_array_equal(other[position].moving_cells, store[position].moving_cells)
    assert other[3].moving_cells.dtype == np.uint8 and other[3].moving_cells.max() == 37
    other[3].moving[:] = 0
    assert store[3].moving_cells.any(), "a copy"


def test_a_depth_map_of_another_size_is_a_programming_error(store: KeyframeStore) -> None:
    wrong = keyframe(7)
    wrong.inv_depth = np.ones((3, 3))
    with pytest.raises(AssertionError, match="3, 3"):
        store.append(wrong)
