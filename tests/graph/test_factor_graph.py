"""Edges, baselines and what solving them does to exact keyframes that were disturbed."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.correspondence.base import Correspondence, EdgeQuery
from metric_slam.geometry import lie
from metric_slam.graph.factor_graph import BaselineFactor, FactorGraph
from metric_slam.graph.keyframes import KeyframeStore
from tests.scene import CAMERA, ExactMatching, Street, exact_matches, grid_depth_m, keyframe_at, pose, rotation
from tests.vehicle import Block, grown

STREET = Street(end_m=40.0)
PATH = [pose(0.05 * i, 0.8 * i, R=rotation(0.01, 0.0, 0.01 * i)) for i in range(4)]
PAIRS = [(i, j) for i in range(4) for j in range(4) if i != j]


def make_graph(
    *, depth_scale: float = 1.0, scale_sigma: float = 0.0, **config: object
) -> tuple[KeyframeStore, FactorGraph]:
    store = KeyframeStore(CAMERA)
    for T in PATH:
        store.append(keyframe_at(STREET, T, features=T, depth_scale=depth_scale))
    return store, FactorGraph(store, ExactMatching(STREET), BundleAdjustmentConfig(**config), scale_sigma)


def disturb(store: KeyframeStore, *, seed: int = 0) -> None:
    """Every pose but the first by centimetres and tenths of a degree, every depth by 10 %."""
    random = np.random.default_rng(seed)
    for position, keyframe in enumerate(store):
        if position:
            T = lie.pose_vec_to_matrix(keyframe.pose)
            T[:3, :3] = rotation(*random.normal(0, 0.005, 3)) @ T[:3, :3]
            T[:3, 3] += random.normal(0, 0.05, 3)
            keyframe.pose = lie.matrix_to_pose_vec(T)
        keyframe.inv_depth = keyframe.inv_depth * np.exp(random.normal(0, 0.1, keyframe.inv_depth.shape))


def centres(store: KeyframeStore) -> np.ndarray:
    return lie.inverse(lie.pose_vec_to_matrix(store.poses(0, len(store))))[:, :3, 3]


TRUE_CENTRES = np.array([T[:3, 3] for T in PATH])


def scale_of(store: KeyframeStore) -> float:
    return float(np.linalg.norm(np.diff(centres(store), axis=0)) / np.linalg.norm(np.diff(TRUE_CENTRES, axis=0)))


def test_exact_matches_bring_disturbed_keyframes_back_up_to_scale() -> None:
    store, graph = make_graph()
    graph.match_pairs(PAIRS)
    disturb(store)
    before = np.abs(centres(store) - TRUE_CENTRES).max()
    report = graph.solve(0, 4, {0}, 20)
    assert report.cost_final < 1e-2 * report.cost_initial
    scale = scale_of(store)
    assert np.abs(centres(store) / scale - TRUE_CENTRES).max() < 0.1 * before
    depth_m, seen = grid_depth_m(STREET, PATH[0]), exact_matches(STREET, PATH[0], PATH[3])[1]
    ratio = store[0].inv_depth[seen] * depth_m[seen] * scale
    np.testing.assert_allclose(np.percentile(ratio, [10, 50, 90]), 1.0, atol=0.02)


def test_a_measured_baseline_sets_the_scale() -> None:
    store, graph = make_graph()
    graph.match_pairs(PAIRS)
    store.rescale(1.3)
    length_m = float(np.linalg.norm(TRUE_CENTRES[1] - TRUE_CENTRES[0]))
    assert not graph.is_metric(0, 4)
    graph.set_baseline(BaselineFactor(0, 1, length_m, 0.02))
    assert graph.is_metric(0, 4) and not graph.is_metric(1, 4)
    graph.solve(0, 4, {0}, 25)
    assert scale_of(store) == pytest.approx(1.0, abs=0.005)


def test_a_later_measurement_of_a_pair_replaces_the_earlier() -> None:
    _, graph = make_graph()
    graph.set_baseline(BaselineFactor(0, 1, 5.0, 0.1))
    graph.set_baseline(BaselineFactor(0, 1, 0.8, 0.1))
    graph.set_baseline(BaselineFactor(1, 2, 0.9, 0.1))
    assert [b.length_m for b in graph.baselines()] == [0.8, 0.9]


def test_metric_depth_of_a_prior_sets_the_scale() -> None:
    store, graph = make_graph(depth_scale=1.0, scale_sigma=0.01)
    graph.match_pairs(PAIRS)
    store.rescale(0.8)
    for position, T in enumerate(PATH):
        depth_m = grid_depth_m(STREET, T)
        known = (depth_m > 0) & (depth_m < 30)
        store.set_shown_prior(position, depth_m, known.astype(float))
        store[position].prior_weight = known / 0.05**2
    graph.solve(0, 4, {0}, 25)
    assert scale_of(store) == pytest.approx(1.0, abs=0.01)
    assert all(abs(k.prior_log_scale) < 0.01 for k in store)


def test_depth_that_is_only_shown_does_not_pull() -> None:
    store, graph = make_graph(scale_sigma=0.01)
    graph.match_pairs(PAIRS)
    store.rescale(0.8)
    for position, T in enumerate(PATH):
        depth_m = grid_depth_m(STREET, T)
        store.set_shown_prior(position, depth_m, (depth_m > 0).astype(float))
    assert not graph.is_metric(0, 4) and graph.window(range(0, 4), {0}).prior_depth_m is None
    graph.solve(0, 4, {0}, 25)
    assert scale_of(store) == pytest.approx(0.8, abs=0.01)


class Recorder(ExactMatching):
    """Remembers what it was asked."""

    def __init__(self, street: Street) -> None:
        super().__init__(street)
        self.asked: list[EdgeQuery] = []

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        self.asked += edges
        return super().track(edges)


def test_the_matcher_is_told_which_pairs_are_neighbours_and_where_to_look() -> None:
    store, _ = make_graph()
    model = Recorder(STREET)
    FactorGraph(store, model, BundleAdjustmentConfig(), 0.0).match_pairs([(0, 1), (3, 1), (2, 1)])
    assert [edge.neighbours for edge in model.asked] == [True, False, True]
    for edge, (i, j) in zip(model.asked, [(0, 1), (3, 1), (2, 1)], strict=True):
        assert edge.source is PATH[i] and edge.target is PATH[j] and edge.predicted is not None
        target, seen = exact_matches(STREET, PATH[i], PATH[j])
        np.testing.assert_allclose(edge.predicted[seen], target[seen], atol=1e-6)


def test_fixed_poses_and_keyframes_outside_the_window_stay() -> None:
    store, graph = make_graph()
    graph.match_pairs(PAIRS)
    disturb(store)
    before = store.poses(0, 4), [k.inv_depth.copy() for k in store]
    graph.solve(1, 4, {1, 2}, 5)
    np.testing.assert_array_equal(store.poses(0, 3), before[0][:3])
    assert (store[3].pose != before[0][3]).any()
    np.testing.assert_array_equal(store[0].inv_depth, before[1][0])
    assert (store[1].inv_depth != before[1][1]).any(), "only the pose of a fixed keyframe is fixed"


def test_a_window_counts_from_its_own_first_keyframe() -> None:
    store, graph = make_graph()
    graph.match_pairs(PAIRS)
    graph.set_baseline(BaselineFactor(0, 1, 1.0, 0.1))
    graph.set_baseline(BaselineFactor(2, 3, 2.0, 0.1))
    window = graph.window(range(1, 4), {1})
    assert len(window.source) == 6 and set(window.source) | set(window.target) == {0, 1, 2}
    np.testing.assert_array_equal(window.pose_free, [False, True, True])
    np.testing.assert_array_equal(window.baselines.pair, [[1, 2]])
    assert window.prior_depth_m is None and window.poses.shape == (3, 7)
    edge = [(s, t) for s, t in zip(window.source, window.target, strict=True)].index((0, 2))
    target, seen = exact_matches(STREET, PATH[1], PATH[3])
    np.testing.assert_allclose(window.flow_target[edge], target.astype(np.float32))
    np.testing.assert_array_equal(window.confidence[edge, ..., 0], seen)


def test_solving_without_edges_changes_nothing_and_is_counted() -> None:
    store, graph = make_graph()
    before = store.poses(0, 4)
    assert graph.solve(0, 4, {0}, 5).status == "nothing_to_do"
    np.testing.assert_array_equal(store.poses(0, 4), before)
    graph.match_pairs([(0, 1)])
    graph.match_pairs([])
    assert graph.solve(2, 4, {2}, 5).status == "nothing_to_do", "an edge elsewhere does not count"
    assert graph.status_counts == {"nothing_to_do": 2}
    assert len(graph) == 1 and (0, 1) in graph and (1, 0) not in graph


def test_confidence_of_a_keyframe_is_the_best_of_what_leaves_it() -> None:
    _, graph = make_graph()
    low, high = np.full((12, 40), 0.2), np.full((12, 40), 0.1)
    high[3, 3] = 0.9
    targets = np.zeros((12, 40, 2))
    graph.add_matched(0, 1, Correspondence(targets, low))
    graph.add_matched(0, 2, Correspondence(targets, high))
    graph.add_matched(1, 0, Correspondence(targets, np.ones((12, 40))))
    confidence = graph.confidence_of(0)
    assert confidence[3, 3] == pytest.approx(0.9) and confidence[0, 0] == pytest.approx(0.2)
    assert not graph.confidence_of(3).any() and graph.confidence_of(3).shape == (12, 40)


def test_what_a_recurrent_model_says_enters_the_problem() -> None:
    store, graph = make_graph()
    target, seen = exact_matches(STREET, PATH[0], PATH[1])
    confidence = np.stack([seen * 0.8, seen * 0.4], axis=-1)
    graph.set_matches(0, 1, Correspondence(target, np.ones((12, 40))))
    graph.set_matches(0, 1, Correspondence(target, confidence))
    graph.set_matches(1, 0, Correspondence(target, confidence))
    assert len(graph) == 2 and graph.window(range(0, 2), {0}).depth_damping is None
    store[1].depth_damping = np.full((12, 40), 0.01)
    window = graph.window(range(0, 2), {0})
    np.testing.assert_allclose(window.confidence[0, ..., 0], seen * 0.8, rtol=1e-6)
    np.testing.assert_allclose(window.confidence[0, ..., 1], seen * 0.4, rtol=1e-6)
    np.testing.assert_allclose(graph.confidence_of(0), seen * 0.4, rtol=1e-6)
    np.testing.assert_allclose(window.depth_damping[0], 0.2 * 1e-6 + 1e-7)
    np.testing.assert_allclose(window.depth_damping[1], 0.2 * 0.01 + 1e-7)
    coarse = graph.window(range(0, 2), {0}, cell_step=2)
    assert coarse.depth_damping.shape == (2, 6, 20)
    np.testing.assert_allclose(coarse.depth_damping[1], 4 * window.depth_damping[1, 0, 0])


def test_matches_on_disk_can_be_replaced_and_found_again() -> None:
    store, graph = make_graph()
    graph.match_pairs([(0, 1), (1, 2)])
    graph.evict_before(4)
    target, seen = exact_matches(STREET, PATH[0], PATH[1])
    graph.set_matches(0, 1, Correspondence(target, np.repeat(seen[..., None], 2, axis=-1) * 0.5))
    state = graph.state()
    other = FactorGraph(store, ExactMatching(STREET), BundleAdjustmentConfig(), 0.0)
    other.restore(state)
    assert other.matches_of(0, 1).shape == (12, 40, 4) and other.matches_of(1, 2).shape == (12, 40, 3)
    np.testing.assert_array_equal(other.matches_of(0, 1), graph.matches_of(0, 1))


LORRY = Block(top=3, bottom=11, left=8, right=30)
"""In front of nearly half of the view: more than the robust loss would cope with."""


def moving_block() -> np.ndarray:
    """Its mask, uint8 [12, 40]."""
    return np.where(LORRY.mask((12, 40)), 25, 0).astype(np.uint8)


def test_cells_that_move_are_left_out_of_the_edges_that_leave_a_keyframe() -> None:
    store, graph = make_graph()
    graph.match_pairs(PAIRS)
    before = {pair: graph.matches_of(*pair).copy() for pair in PAIRS}
    stored = graph.matches_of(1, 2)
    graph.mask_moving_cells(1)
    np.testing.assert_array_equal(graph.matches_of(1, 2), before[1, 2], "nothing moves yet")
    store[1].moving = moving_block()
    graph.mask_moving_cells(1)
    wider = grown(LORRY.mask((12, 40)))
    for i, j in PAIRS:
        confidence = graph.matches_of(i, j)[..., 2]
        if i == 1:
            assert before[i, j][wider, 2].any() and not confidence[wider].any()
            np.testing.assert_array_equal(confidence[~wider], before[i, j][~wider, 2])
        else:
            np.testing.assert_array_equal(confidence, before[i, j][..., 2])
        np.testing.assert_array_equal(graph.matches_of(i, j)[..., :2], before[i, j][..., :2])
    np.testing.assert_array_equal(stored, before[1, 2], "replaced, not written into")


def test_cells_that_move_are_left_out_of_new_edges_too() -> None:
    store, graph = make_graph()
    store[2].moving = moving_block()
    graph.match_pairs([(2, 3), (3, 2)])
    wider = grown(LORRY.mask((12, 40)))
    assert not graph.matches_of(2, 3)[wider, 2].any() and graph.matches_of(2, 3)[~wider, 2].any()
    seen = exact_matches(STREET, PATH[3], PATH[2])[1]
    np.testing.assert_array_equal(graph.matches_of(3, 2)[..., 2], seen)


def test_both_axes_of_a_match_are_left_out() -> None:
    store, graph = make_graph()
    graph.add_matched(0, 1, Correspondence(np.zeros((12, 40, 2)), np.ones((12, 40, 2))))
    store[0].moving = moving_block()
    graph.mask_moving_cells(0)
    matches = graph.matches_of(0, 1)
    wider = grown(LORRY.mask((12, 40)))
    assert matches.shape == (12, 40, 4) and not matches[wider, 2:].any() and (matches[~wider, 2:] == 1.0).all()


def test_a_vehicle_that_is_left_out_does_not_move_the_map() -> None:
    """A block that keeps its place in all images, and pulls at the poses where it is not known to move."""
    errors = []
    for known in (False, True):
        store, graph = make_graph(flow_loss="none")
        for i, j in PAIRS:
            target, seen = exact_matches(STREET, PATH[i], PATH[j])
            graph.add_matched(i, j, LORRY.held(Correspondence(target, seen.astype(float))))
        for position in range(4):
            store[position].moving = moving_block() if known else None
            graph.mask_moving_cells(position)
        graph.solve(0, 4, {0}, 20)
        errors.append(np.abs(centres(store) / scale_of(store) - TRUE_CENTRES).max())
    assert errors[1] < 1e-3 and errors[0] > 20 * errors[1], errors
