"""Edges, baselines and what solving them does to exact keyframes that were disturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.correspondence.base import Correspondence, EdgeQuery
from metric_slam.geometry import lie
from metric_slam.graph.baselines import BaselineFactor
from metric_slam.graph.slam_map import SlamMap
from metric_slam.optimization.solver import CpuSolver
from tests import scene
from tests.scene import ExactMatching, Street, exact_matches, grid_depth_m, keyframe_at, nowhere, pose, rotation
from tests.vehicle import Block, grown

STREET = Street(end_m=40.0)
PATH = [pose(0.05 * i, 0.8 * i, R=rotation(0.01, 0.0, 0.01 * i)) for i in range(4)]
PAIRS = [(i, j) for i in range(4) for j in range(4) if i != j]


def make_map(
    *,
    depth_scale: float = 1.0,
    scale_sigma: float = 0.0,
    changes: Callable[[int], dict[str, object]] = lambda position: {},
    model: ExactMatching | None = None,
    **config: object,
) -> SlamMap:
    """Exact keyframes along the path; ``changes`` of their fields before they are added."""
    slam_map = scene.make_map(
        model or ExactMatching(STREET), solver=CpuSolver(BundleAdjustmentConfig(**config)), scale_sigma=scale_sigma
    )
    for position, T in enumerate(PATH):
        keyframe = keyframe_at(STREET, T, features=T, depth_scale=depth_scale)
        slam_map.append(replace(keyframe, **changes(position)))
    return slam_map


def disturb(slam_map: SlamMap, *, seed: int = 0) -> None:
    """Every pose but the first by centimetres and tenths of a degree, every depth by 10 %."""
    random = np.random.default_rng(seed)
    for position, keyframe in enumerate(slam_map):
        if position:
            T = keyframe.T_cam_world
            T[:3, :3] = rotation(*random.normal(0, 0.005, 3)) @ T[:3, :3]
            T[:3, 3] += random.normal(0, 0.05, 3)
            put(slam_map, position, T)
        noise = np.exp(random.normal(0, 0.1, keyframe.inv_depth.shape))
        slam_map.set_inv_depth(position, keyframe.inv_depth * noise)


def put(slam_map: SlamMap, position: int, T_cam_world: np.ndarray) -> None:
    """Move one keyframe to a pose [4, 4]."""
    slam_map.move([position], lie.inverse(T_cam_world) @ slam_map[position].T_cam_world)


def poses(slam_map: SlamMap) -> np.ndarray:
    return slam_map.pose_vectors(range(len(slam_map)))


def centres(slam_map: SlamMap) -> np.ndarray:
    return slam_map.T_world_cam()[:, :3, 3]


TRUE_CENTRES = np.array([T[:3, 3] for T in PATH])


def scale_of(slam_map: SlamMap) -> float:
    return float(np.linalg.norm(np.diff(centres(slam_map), axis=0)) / np.linalg.norm(np.diff(TRUE_CENTRES, axis=0)))


def test_exact_matches_bring_disturbed_keyframes_back_up_to_scale() -> None:
    slam_map = make_map()
    slam_map.graph.match_pairs(PAIRS)
    disturb(slam_map)
    before = np.abs(centres(slam_map) - TRUE_CENTRES).max()
    report = slam_map.solve(0, 4, {0}, 20)
    assert report.cost_final < 1e-2 * report.cost_initial
    scale = scale_of(slam_map)
    assert np.abs(centres(slam_map) / scale - TRUE_CENTRES).max() < 0.1 * before
    depth_m, seen = grid_depth_m(STREET, PATH[0]), exact_matches(STREET, PATH[0], PATH[3])[1]
    ratio = slam_map[0].inv_depth[seen] * depth_m[seen] * scale
    np.testing.assert_allclose(np.percentile(ratio, [10, 50, 90]), 1.0, atol=0.02)


def test_a_measured_baseline_sets_the_scale() -> None:
    slam_map = make_map()
    slam_map.graph.match_pairs(PAIRS)
    slam_map.rescale(1.3)
    length_m = float(np.linalg.norm(TRUE_CENTRES[1] - TRUE_CENTRES[0]))
    assert not slam_map.graph.is_metric(0, 4)
    slam_map.graph.set_baseline(BaselineFactor(0, 1, length_m, 0.02))
    assert slam_map.graph.is_metric(0, 4) and not slam_map.graph.is_metric(1, 4)
    slam_map.solve(0, 4, {0}, 25)
    assert scale_of(slam_map) == pytest.approx(1.0, abs=0.005)


def test_a_later_measurement_of_a_pair_replaces_the_earlier() -> None:
    slam_map = make_map()
    slam_map.graph.set_baseline(BaselineFactor(0, 1, 5.0, 0.1))
    slam_map.graph.set_baseline(BaselineFactor(0, 1, 0.8, 0.1))
    slam_map.graph.set_baseline(BaselineFactor(1, 2, 0.9, 0.1))
    assert [b.length_m for b in slam_map.graph.baselines] == [0.8, 0.9]


def prior_of(position: int) -> dict[str, np.ndarray]:
    """Fields of a keyframe with the true depth of what is near, to 5 %."""
    depth_m = grid_depth_m(STREET, PATH[position])
    known = (depth_m > 0) & (depth_m < 30)
    return {"prior_depth_m": depth_m, "prior_confidence": known.astype(float), "prior_weight": known / 0.05**2}


def test_metric_depth_of_a_prior_sets_the_scale() -> None:
    slam_map = make_map(depth_scale=1.0, scale_sigma=0.01, changes=prior_of)
    slam_map.graph.match_pairs(PAIRS)
    slam_map.rescale(0.8)
    slam_map.solve(0, 4, {0}, 25)
    assert scale_of(slam_map) == pytest.approx(1.0, abs=0.01)
    assert all(abs(k.prior_log_scale) < 0.01 for k in slam_map)


def test_depth_that_is_only_shown_does_not_pull() -> None:
    slam_map = make_map(scale_sigma=0.01)
    slam_map.graph.match_pairs(PAIRS)
    slam_map.rescale(0.8)
    for position, T in enumerate(PATH):
        depth_m = grid_depth_m(STREET, T)
        slam_map.set_road(position, depth_m)
    assert not slam_map.graph.is_metric(0, 4) and slam_map.graph.window(range(0, 4), {0}).prior_depth_m is None
    slam_map.solve(0, 4, {0}, 25)
    assert scale_of(slam_map) == pytest.approx(0.8, abs=0.01)


class Recorder(ExactMatching):
    """Remembers what it was asked."""

    def __init__(self, street: Street) -> None:
        super().__init__(street)
        self.asked: list[EdgeQuery] = []

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        self.asked += edges
        return super().track(edges)


def test_the_matcher_is_told_which_pairs_are_neighbours_and_where_to_look() -> None:
    model = Recorder(STREET)
    make_map(model=model).graph.match_pairs([(0, 1), (3, 1), (2, 1)])
    assert [edge.neighbours for edge in model.asked] == [True, False, True]
    for edge, (i, j) in zip(model.asked, [(0, 1), (3, 1), (2, 1)], strict=True):
        assert edge.source is PATH[i] and edge.target is PATH[j] and edge.predicted is not None
        target, seen = exact_matches(STREET, PATH[i], PATH[j])
        np.testing.assert_allclose(edge.predicted[seen], target[seen], atol=1e-6)


def test_fixed_poses_and_keyframes_outside_the_window_stay() -> None:
    slam_map = make_map()
    slam_map.graph.match_pairs(PAIRS)
    disturb(slam_map)
    before = poses(slam_map), [k.inv_depth.copy() for k in slam_map]
    slam_map.solve(1, 4, {1, 2}, 5)
    np.testing.assert_array_equal(poses(slam_map)[:3], before[0][:3])
    assert (slam_map[3].pose != before[0][3]).any()
    np.testing.assert_array_equal(slam_map[0].inv_depth, before[1][0])
    assert (slam_map[1].inv_depth != before[1][1]).any(), "only the pose of a fixed keyframe is fixed"


def test_a_window_counts_from_its_own_first_keyframe() -> None:
    slam_map = make_map()
    slam_map.graph.match_pairs(PAIRS)
    slam_map.graph.set_baseline(BaselineFactor(0, 1, 1.0, 0.1))
    slam_map.graph.set_baseline(BaselineFactor(2, 3, 2.0, 0.1))
    window = slam_map.graph.window(range(1, 4), {1})
    assert len(window.source) == 6 and set(window.source) | set(window.target) == {0, 1, 2}
    np.testing.assert_array_equal(window.pose_free, [False, True, True])
    np.testing.assert_array_equal(window.baselines.pair, [[1, 2]])
    assert window.prior_depth_m is None and window.poses.shape == (3, 7)
    edge = [(s, t) for s, t in zip(window.source, window.target, strict=True)].index((0, 2))
    target, seen = exact_matches(STREET, PATH[1], PATH[3])
    np.testing.assert_allclose(window.flow_target[edge], target.astype(np.float32))
    np.testing.assert_array_equal(window.confidence[edge, ..., 0], seen)


def test_solving_without_edges_changes_nothing_and_is_counted() -> None:
    slam_map = make_map()
    before = poses(slam_map)
    assert slam_map.solve(0, 4, {0}, 5).status == "nothing_to_do"
    np.testing.assert_array_equal(poses(slam_map), before)
    slam_map.graph.match_pairs([(0, 1)])
    slam_map.graph.match_pairs([])
    assert slam_map.solve(2, 4, {2}, 5).status == "nothing_to_do", "an edge elsewhere does not count"
    assert slam_map.graph.status_counts == {"nothing_to_do": 2}
    assert len(slam_map.graph) == 1 and (0, 1) in slam_map.graph and (1, 0) not in slam_map.graph


def test_confidence_of_a_keyframe_is_the_best_of_what_leaves_it() -> None:
    slam_map = make_map()
    low, high = np.full((12, 40), 0.2), np.full((12, 40), 0.1)
    high[3, 3] = 0.9
    targets = np.zeros((12, 40, 2))
    slam_map.graph.add_matched(0, 1, Correspondence(targets, low))
    slam_map.graph.add_matched(0, 2, Correspondence(targets, high))
    slam_map.graph.add_matched(1, 0, Correspondence(targets, np.ones((12, 40))))
    confidence = slam_map.graph.confidence_of(0)
    assert confidence[3, 3] == pytest.approx(0.9) and confidence[0, 0] == pytest.approx(0.2)
    assert not slam_map.graph.confidence_of(3).any() and slam_map.graph.confidence_of(3).shape == (12, 40)


def test_what_a_recurrent_model_says_enters_the_problem() -> None:
    slam_map = make_map()
    target, seen = exact_matches(STREET, PATH[0], PATH[1])
    confidence = np.stack([seen * 0.8, seen * 0.4], axis=-1)
    slam_map.graph.set_matches(0, 1, Correspondence(target, np.ones((12, 40))))
    slam_map.graph.set_matches(0, 1, Correspondence(target, confidence))
    slam_map.graph.set_matches(1, 0, Correspondence(target, confidence))
    assert len(slam_map.graph) == 2 and slam_map.graph.window(range(0, 2), {0}).depth_damping is None
    said = Correspondence(target, confidence, depth_damping=np.full((12, 40), 0.01))
    slam_map.set_network_output(1, said, dense=False)
    window = slam_map.graph.window(range(0, 2), {0})
    np.testing.assert_allclose(window.confidence[0, ..., 0], seen * 0.8, rtol=1e-6)
    np.testing.assert_allclose(window.confidence[0, ..., 1], seen * 0.4, rtol=1e-6)
    np.testing.assert_allclose(slam_map.graph.confidence_of(0), seen * 0.4, rtol=1e-6)
    np.testing.assert_allclose(window.depth_damping[0], 0.2 * 1e-6 + 1e-7)
    np.testing.assert_allclose(window.depth_damping[1], 0.2 * 0.01 + 1e-7)
    coarse = slam_map.graph.window(range(0, 2), {0}, cell_step=2)
    assert coarse.depth_damping.shape == (2, 6, 20)
    np.testing.assert_allclose(coarse.depth_damping[1], 4 * window.depth_damping[1, 0, 0])


def test_matches_on_disk_can_be_replaced_and_found_again() -> None:
    slam_map = make_map()
    slam_map.graph.match_pairs([(0, 1), (1, 2)])
    slam_map.evict_before(0, 4)
    target, seen = exact_matches(STREET, PATH[0], PATH[1])
    slam_map.graph.set_matches(0, 1, Correspondence(target, np.repeat(seen[..., None], 2, axis=-1) * 0.5))
    other_map = scene.make_map(ExactMatching(STREET), disk=slam_map.disk)
    other_map.restore(slam_map.state(), nowhere)
    other = other_map.graph
    assert other.matches_of(0, 1).shape == (12, 40, 4) and other.matches_of(1, 2).shape == (12, 40, 3)
    np.testing.assert_array_equal(other.matches_of(0, 1), slam_map.graph.matches_of(0, 1))


LORRY = Block(top=3, bottom=11, left=8, right=30)
"""In front of nearly half of the view: more than the robust loss would cope with."""


def moving_block() -> np.ndarray:
    """Its mask, uint8 [12, 40]."""
    return np.where(LORRY.mask((12, 40)), 25, 0).astype(np.uint8)


def test_cells_that_move_are_left_out_of_the_edges_that_leave_a_keyframe() -> None:
    slam_map = make_map()
    slam_map.graph.match_pairs(PAIRS)
    before = {pair: slam_map.graph.matches_of(*pair).copy() for pair in PAIRS}
    stored = slam_map.graph.matches_of(1, 2)
    slam_map.graph.mask_moving_cells(1)
    np.testing.assert_array_equal(slam_map.graph.matches_of(1, 2), before[1, 2], "nothing moves yet")
    slam_map.set_moving(1, moving_block())
    slam_map.graph.mask_moving_cells(1)
    wider = grown(LORRY.mask((12, 40)))
    for i, j in PAIRS:
        confidence = slam_map.graph.matches_of(i, j)[..., 2]
        if i == 1:
            assert before[i, j][wider, 2].any() and not confidence[wider].any()
            np.testing.assert_array_equal(confidence[~wider], before[i, j][~wider, 2])
        else:
            np.testing.assert_array_equal(confidence, before[i, j][..., 2])
        np.testing.assert_array_equal(slam_map.graph.matches_of(i, j)[..., :2], before[i, j][..., :2])
    np.testing.assert_array_equal(stored, before[1, 2], "replaced, not written into")


def test_cells_that_move_are_left_out_of_new_edges_too() -> None:
    slam_map = make_map()
    slam_map.set_moving(2, moving_block())
    slam_map.graph.match_pairs([(2, 3), (3, 2)])
    wider = grown(LORRY.mask((12, 40)))
    assert not slam_map.graph.matches_of(2, 3)[wider, 2].any() and slam_map.graph.matches_of(2, 3)[~wider, 2].any()
    seen = exact_matches(STREET, PATH[3], PATH[2])[1]
    np.testing.assert_array_equal(slam_map.graph.matches_of(3, 2)[..., 2], seen)


def test_both_axes_of_a_match_are_left_out() -> None:
    slam_map = make_map()
    slam_map.graph.add_matched(0, 1, Correspondence(np.zeros((12, 40, 2)), np.ones((12, 40, 2))))
    slam_map.set_moving(0, moving_block())
    slam_map.graph.mask_moving_cells(0)
    matches = slam_map.graph.matches_of(0, 1)
    wider = grown(LORRY.mask((12, 40)))
    assert matches.shape == (12, 40, 4) and not matches[wider, 2:].any() and (matches[~wider, 2:] == 1.0).all()


def test_a_vehicle_that_is_left_out_does_not_move_the_map() -> None:
    """A block that keeps its place in all images, and pulls at the poses where it is not known to move."""
    errors = []
    for known in (False, True):
        slam_map = make_map(flow_loss="none")
        for i, j in PAIRS:
            target, seen = exact_matches(STREET, PATH[i], PATH[j])
            slam_map.graph.add_matched(i, j, LORRY.held(Correspondence(target, seen.astype(float))))
        for position in range(4):
            if known:
                slam_map.set_moving(position, moving_block())
            slam_map.graph.mask_moving_cells(position)
        slam_map.solve(0, 4, {0}, 20)
        errors.append(np.abs(centres(slam_map) / scale_of(slam_map) - TRUE_CENTRES).max())
    assert errors[1] < 1e-3 and errors[0] > 20 * errors[1], errors
