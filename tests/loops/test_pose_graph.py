"""Pose graphs with known answers: true and false loops, fixed poses, drifting scale, pieces that only loops tie."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from metric_slam.errors import MissingDependencyError
from metric_slam.geometry import lie
from metric_slam.loops.pose_graph import PoseLink, optimise_pose_graph

STEP_M = 1.0


def ring(count: int, turns: float = 1.0) -> np.ndarray:
    """Poses [N, 4, 4] along a circle with steps of 1 m, looking ahead; after each turn the same place again."""
    angle = 2 * np.pi * turns * np.arange(count) / count
    radius = STEP_M * count / (2 * np.pi * turns)
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, :3] = Rotation.from_euler("y", angle[:, None]).as_matrix()
    T[:, 0, 3], T[:, 2, 3] = radius * (1 - np.cos(angle)), radius * np.sin(angle)
    return T


def link(
    T: np.ndarray, source: int, target: int, sigma_m: float = 0.02, sigma_rad: float = 0.001, **scale: float
) -> PoseLink:
    """What poses T say about two keyframes."""
    return PoseLink(source, target, lie.relative(T[target], T[source]), sigma_m, sigma_rad, **scale)


def chain(T: np.ndarray, **sigmas: float) -> list[PoseLink]:
    """Links between all neighbours."""
    return [link(T, i, i + 1, **sigmas) for i in range(len(T) - 1)]


def drifted(
    T: np.ndarray, length: float = 1.01, yaw_rad: float = 0.0, noise_m: float = 0.0, seed: int = 0
) -> np.ndarray:
    """The drive with steps of another length and a bias of the heading."""
    rng = np.random.default_rng(seed)
    out = T.copy()
    bias = np.eye(4)
    bias[:3, :3] = Rotation.from_euler("y", yaw_rad).as_matrix()
    for i in range(1, len(T)):
        step = lie.relative(T[i - 1], T[i])
        step[:3, 3] = step[:3, 3] * length + rng.normal(0, noise_m, 3)
        out[i] = out[i - 1] @ step @ bias
    return lie.renormalise(out)


def off_m(T: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square distance of the centres."""
    return float(np.sqrt(np.mean(np.sum((T[:, :3, 3] - truth[:, :3, 3]) ** 2, axis=1))))


def moved(T: np.ndarray, angle_rad: float, shift_m: tuple[float, float, float]) -> np.ndarray:
    """Another frame of reference for poses [N, 4, 4]."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("y", angle_rad).as_matrix()
    motion[:3, 3] = shift_m
    return motion @ T


def false_link(T: np.ndarray, source: int, target: int, by_m: float = 8.0, sigma_m: float = 0.05) -> PoseLink:
    """A loop that says something else by some metres."""
    true = link(T, source, target, sigma_m, 0.004)
    wrong = true.T_target_source.copy()
    wrong[:3, 3] += [by_m, 0.0, 0.3 * by_m]
    return replace(true, T_target_source=wrong)


# ---- loops


def test_one_loop_takes_the_drift_away() -> None:
    truth = ring(500)
    start = drifted(truth, 1.0, 0.0002, noise_m=0.01)
    assert np.linalg.norm(start[-1, :3, 3] - truth[-1, :3, 3]) > 0.01 * 500 * STEP_M
    links = chain(start, sigma_m=0.1, sigma_rad=0.0015)
    result = optimise_pose_graph(start, links, [link(truth, 0, 499, 0.05, 0.004)], {0}, scale_known=True)
    assert result.loop_weights.tolist() == [1.0]
    assert off_m(result.T_world_cam, truth) < 0.2 * off_m(start, truth)
    assert result.cost_final < 0.1 * result.cost_initial
    assert result.iterations > 0 and not result.log_scale.any()
    np.testing.assert_allclose(np.linalg.det(result.T_world_cam[:, :3, :3]), 1.0, atol=1e-12)


def test_without_loops_nothing_moves() -> None:
    start = ring(20)
    result = optimise_pose_graph(start, chain(start), [], {0}, scale_known=True)
    np.testing.assert_array_equal(result.T_world_cam, start)
    assert result.loop_weights.shape == (0,)


@pytest.mark.parametrize("scale_known", [True, False])
def test_one_false_loop_against_a_precise_chain_bends_nothing(scale_known: bool) -> None:
    """The chain could give way: of the residual hardly anything would be left in the loop."""
    truth = ring(300)
    scale = {} if scale_known else {"sigma_log_scale": 0.0003}
    links = chain(truth, **scale)
    loop = replace(false_link(truth, 40, 250), sigma_log_scale=0.03)
    result = optimise_pose_graph(truth, links, [loop], {0}, scale_known=scale_known)
    assert result.loop_weights.tolist() == [0.0]
    np.testing.assert_allclose(result.T_world_cam, truth, atol=1e-6)


def test_false_loops_that_agree_with_each_other_bend_nothing() -> None:
    truth = ring(300)
    shifted = moved(truth, 0.1, (7.0, 0.0, 3.0))
    false = [
        PoseLink(40 + n, 250 + n, lie.relative(shifted[250 + n], truth[40 + n]), 0.05, 0.004) for n in range(0, 10, 2)
    ]
    true = [link(truth, 0, 299, 0.05, 0.004)]
    result = optimise_pose_graph(truth, chain(truth), false + true, {0}, scale_known=True)
    assert result.loop_weights.tolist() == [0.0] * 5 + [1.0]
    np.testing.assert_allclose(result.T_world_cam, truth, atol=1e-6)


@pytest.mark.parametrize("backward", [False, True])
def test_false_loops_among_true_ones_where_the_chain_is_vague(backward: bool) -> None:
    truth = ring(400, turns=2.0)
    start = drifted(truth, 1.01, 0.0005)
    true = [link(truth, i, i + 200, 0.05, 0.004) for i in range(0, 200, 10)]
    false = [false_link(truth, i, i + 195, by_m=4.0) for i in (3, 57, 133)]
    loops = true[:8] + false + true[8:]
    if backward:
        loops = [
            replace(one, source=one.target, target=one.source, T_target_source=lie.inverse(one.T_target_source))
            for one in loops
        ]
    result = optimise_pose_graph(start, chain(start, sigma_m=0.1, sigma_rad=0.003), loops, {0}, scale_known=True)
    np.testing.assert_allclose(result.loop_weights, [1.0] * 8 + [0.0] * 3 + [1.0] * 12, atol=1e-6)
    assert off_m(result.T_world_cam, truth) < 0.2 * off_m(start, truth)


def test_a_false_loop_that_no_single_other_one_contradicts() -> None:
    """Off by 6 standard deviations of a pair of loops; only all true ones together know that it is false."""
    truth = ring(400, turns=2.0)
    true = [link(truth, i, i + 200, 0.05, 0.004) for i in range(60, 140, 2)]
    wrong = false_link(truth, 100, 300, by_m=0.4)
    result = optimise_pose_graph(truth, chain(truth, sigma_m=0.01), [wrong, *true], {0}, scale_known=True)
    alone = optimise_pose_graph(truth, chain(truth, sigma_m=0.01), [wrong, true[20]], {0}, scale_known=True)
    assert alone.loop_weights.tolist() == [1.0, 1.0]
    np.testing.assert_allclose(result.loop_weights, [0.0] + [1.0] * 40, atol=1e-6)
    np.testing.assert_allclose(result.T_world_cam, truth, atol=1e-6)


def test_a_true_loop_with_much_drift_is_believed() -> None:
    truth = ring(1000)
    start = drifted(truth, 1.01, 0.0003, noise_m=0.02)
    assert np.linalg.norm(start[-1, :3, 3] - truth[-1, :3, 3]) > 10.0
    links = chain(start, sigma_m=0.11, sigma_rad=0.0015)
    result = optimise_pose_graph(start, links, [link(truth, 0, 999, 0.05, 0.004)], {0}, scale_known=True)
    assert result.loop_weights.tolist() == [1.0]


# ---- anchors and pieces


def test_fixed_poses_stay_to_the_last_bit() -> None:
    truth = ring(200)
    start = drifted(truth, 1.0, 0.0003)
    fixed = {0, 7, 90}
    result = optimise_pose_graph(start, chain(start), [link(truth, 0, 199, 0.05, 0.004)], fixed, scale_known=True)
    np.testing.assert_array_equal(result.T_world_cam[sorted(fixed)], start[sorted(fixed)])
    assert np.abs(result.T_world_cam - start).max() > 0.1
    assert np.abs(result.T_world_cam[6] - start[6]).max() < 0.2


@pytest.mark.parametrize("scale_known", [True, False])
def test_loops_alone_place_a_piece_as_a_whole(scale_known: bool) -> None:
    truth = ring(300)
    scale = {} if scale_known else {"sigma_log_scale": 0.01}
    start = truth.copy()
    start[150:] = moved(truth[150:], 2.8, (60.0, 2.0, -35.0))
    links = [one for one in chain(start, **scale) if one.source != 149]
    loops = [link(truth, 140 - n, 155 + n, 0.05, 0.004, **scale) for n in range(0, 30, 6)]
    result = optimise_pose_graph(start, links, loops, {0}, scale_known=scale_known)
    np.testing.assert_allclose(result.loop_weights, 1.0)
    np.testing.assert_allclose(result.T_world_cam, truth, atol=1e-4)


def test_a_false_loop_between_pieces_loses_against_two_that_agree() -> None:
    truth = ring(300)
    start = truth.copy()
    start[150:] = moved(truth[150:], 1.0, (60.0, 2.0, -35.0))
    links = [one for one in chain(start) if one.source != 149]
    loops = [false_link(truth, 100, 170)] + [link(truth, 140 - n, 160 + n, 0.05, 0.004) for n in (0, 9)]
    result = optimise_pose_graph(start, links, loops, {0}, scale_known=True)
    np.testing.assert_allclose(result.loop_weights, [0.0, 1.0, 1.0])
    np.testing.assert_allclose(result.T_world_cam, truth, atol=1e-4)


def test_a_piece_that_nothing_ties_stays_where_it_was() -> None:
    truth = ring(120)
    start = drifted(truth, 1.01)
    links = [one for one in chain(start) if one.source != 79]
    loops = [link(truth, 0, 70, 0.05, 0.004)]
    result = optimise_pose_graph(start, links, loops, {0}, scale_known=True)
    assert result.loop_weights.tolist() == [1.0]
    np.testing.assert_allclose(result.T_world_cam[80:], start[80:], atol=1e-9)


# ---- scale


@pytest.mark.parametrize("backward", [False, True])
def test_similarities_take_a_drift_of_scale_away(backward: bool) -> None:
    truth = ring(300)
    log_scale = np.linspace(0.0, np.log(1.3), 300)  # a metre of the start is longer and longer
    start = truth.copy()
    for i in range(1, 300):
        step = lie.relative(truth[i - 1], truth[i])
        step[:3, 3] *= np.exp(log_scale[i])
        start[i] = start[i - 1] @ step
    start = lie.renormalise(start)
    links = chain(start, sigma_m=0.02, sigma_log_scale=0.005)
    loop = link(truth, 0, 299, 0.05, 0.004, log_scale=-log_scale[299], sigma_log_scale=0.01)
    if backward:  # the same seen from the end, in units of the end
        loop = link(truth, 299, 0, 0.05, 0.004, log_scale=log_scale[299], sigma_log_scale=0.01)
        loop.T_target_source[:3, 3] *= np.exp(log_scale[299])
    result = optimise_pose_graph(start, links, [loop], {0}, scale_known=False)
    assert result.loop_weights.tolist() == [1.0]
    assert off_m(result.T_world_cam, truth) < 0.1 * off_m(start, truth)
    np.testing.assert_allclose(result.log_scale, -log_scale, atol=0.03)
    assert result.log_scale[0] == 0.0


def test_similarities_with_nothing_to_do_keep_the_scale() -> None:
    truth = ring(60)
    loop = link(truth, 0, 59, 0.05, 0.004, sigma_log_scale=0.01)
    result = optimise_pose_graph(truth, chain(truth, sigma_log_scale=0.01), [loop], {0}, scale_known=False)
    np.testing.assert_allclose(result.T_world_cam, truth, atol=1e-9)
    np.testing.assert_allclose(result.log_scale, 0.0, atol=1e-12)


# ---- in use


def big() -> tuple[np.ndarray, np.ndarray, list[PoseLink]]:
    """(start, truth, loops) of 5,000 keyframes on five laps, with 300 loops of which every tenth is false."""
    truth = ring(5000, turns=5.0)
    start = drifted(truth, 1.002, 1e-5, noise_m=0.01)
    rng = np.random.default_rng(3)
    loops = []
    for n, i in enumerate(np.sort(rng.integers(0, 4000, 300)).tolist()):
        loops.append(false_link(truth, i, i + 990) if n % 10 == 5 else link(truth, i, i + 1000, 0.05, 0.004))
    return start, truth, loops


@pytest.mark.parametrize("scale_known", [True, False])
def test_thousands_of_keyframes_take_seconds_and_give_the_same_bits(scale_known: bool) -> None:
    start, truth, loops = big()
    loops = [replace(one, sigma_log_scale=0.03) for one in loops]
    links = chain(start, sigma_m=0.1, sigma_rad=0.0015, sigma_log_scale=0.005)
    began = time.perf_counter()
    result = optimise_pose_graph(start, links, loops, {0}, scale_known=scale_known)
    assert time.perf_counter() - began < 15.0
    assert off_m(result.T_world_cam, truth) < 0.2 * off_m(start, truth)
    np.testing.assert_allclose(result.loop_weights, [float(n % 10 != 5) for n in range(300)], atol=1e-6)
    again = optimise_pose_graph(start, links, loops, {0}, scale_known=scale_known)
    assert again.T_world_cam.tobytes() == result.T_world_cam.tobytes()
    assert again.loop_weights.tobytes() == result.loop_weights.tobytes()


def test_what_cannot_be_solved_leaves_the_start(caplog: pytest.LogCaptureFixture) -> None:
    truth = ring(30)
    links = chain(truth)
    links[5].T_target_source[0, 3] = np.nan
    with caplog.at_level("WARNING"):
        result = optimise_pose_graph(truth, links, [link(truth, 0, 29, 0.05, 0.004)], {0}, scale_known=True)
    np.testing.assert_array_equal(result.T_world_cam, truth)
    assert result.loop_weights.tolist() == [0.0]
    assert "the map stays as it is" in caplog.text


def test_a_loop_without_numbers_is_no_loop() -> None:
    truth = ring(30)
    nothing, true = link(truth, 0, 29), link(truth, 1, 29)
    nothing.T_target_source[0, 3] = np.nan
    result = optimise_pose_graph(truth, chain(truth), [nothing, true], {0}, scale_known=True)
    assert result.loop_weights.tolist() == [0.0, 1.0]
    np.testing.assert_allclose(result.T_world_cam, truth, atol=1e-9)


def test_missing_gtsam_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gtsam", None)
    with pytest.raises(MissingDependencyError, match="pip install gtsam"):
        optimise_pose_graph(ring(5), [], [], {0}, scale_known=True)
