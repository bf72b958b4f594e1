"""Which loops can be true together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metric_slam.geometry import lie
from metric_slam.loops.consistency import Motions, agreeing_loops, closing_errors, pieces

COUNT = 41


def poses() -> np.ndarray:
    """A drive straight ahead with steps of 1 m, [N, 4, 4]."""
    T = np.tile(np.eye(4), (COUNT, 1, 1))
    T[:, 2, 3] = np.arange(COUNT)
    return T


def group(T: np.ndarray) -> lie.SE3:
    return lie.SE3(torch.from_numpy(lie.matrix_to_pose_vec(T)))


def motions(ends: list[tuple[int, int]], sigma_m: float, off_m: list[float] | None = None) -> Motions:
    """What the drive says about pairs (source, target), each off to the side by some metres."""
    source, target = np.array(ends, np.int64).reshape(-1, 2).T
    T = lie.relative(poses()[target], poses()[source])
    T[:, 0, 3] += np.zeros(len(T)) if off_m is None else off_m
    return Motions(source, target, group(T), np.tile([sigma_m**2] * 3 + [1e-8] * 3, (len(T), 1)))


def chain(sigma_m: float, gap: int | None = None) -> Motions:
    return motions([(i, i + 1) for i in range(COUNT - 1) if i != gap], sigma_m)


def test_closing_errors_are_what_the_poses_lack() -> None:
    error = closing_errors(group(poses()), motions([(3, 30), (30, 3)], 0.1, [0.5, -0.5]))
    np.testing.assert_allclose(error.data[:, :3], [[0.5, 0, 0], [-0.5, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("ends", [(4, 40), (40, 4)])
@pytest.mark.parametrize(("off_m", "believed"), [(5.0, True), (-5.0, True), (12.0, False)])
def test_a_loop_may_be_off_as_far_as_the_chain_is_vague(ends: tuple[int, int], off_m: float, believed: bool) -> None:
    """36 steps of 0.2 m give 1.2 m, so 12 m are 10 standard deviations."""
    assert agreeing_loops(group(poses()), chain(0.2), motions([ends], 0.01, [off_m])).tolist() == [believed]


@pytest.mark.parametrize(("way", "off_m", "believed"), [(9, 4.0, False), (36, 4.0, True), (36, 16.0, False)])
def test_a_short_way_is_surer_than_a_long_one(way: int, off_m: float, believed: bool) -> None:
    """Steps of 0.2 m of which 0.06 m scatter and 0.04 m are the same in all: 0.4 m after 9 steps, 1.5 m after 36."""
    found = agreeing_loops(group(poses()), chain(0.2), motions([(2, 2 + way)], 0.01, [off_m]))
    assert found.tolist() == [believed]


@pytest.mark.parametrize(("off_m", "believed"), [(1.0, 2), (4.5, 1)])
def test_a_steady_error_is_the_same_on_the_way_and_when_it_is_driven_again(off_m: float, believed: int) -> None:
    """Two loops 17 steps apart: by scatter of 0.09 m a step they may differ by 0.5 m, by steady errors of 1 m not."""
    T = poses()
    T[:, 2, 3] = np.arange(COUNT) % 20  # the same street again from keyframe 20 on
    source, target = np.array([(0, 20), (17, 37)], np.int64).T
    T_loop = lie.relative(T[target], T[source])
    T_loop[1, 2, 3] += off_m
    loops = Motions(source, target, group(T_loop), np.tile([0.01**2] * 3 + [1e-8] * 3, (2, 1)))
    steps = np.arange(COUNT - 1)
    variance = np.tile([0.01**2, 0.01**2, 0.3**2] + [1e-8] * 3, (len(steps), 1))
    street = Motions(steps, steps + 1, group(lie.relative(T[steps + 1], T[steps])), variance)
    assert agreeing_loops(group(T), street, loops).sum() == believed


def test_the_one_that_contradicts_most_leaves() -> None:
    ends = [(0, 30), (1, 31), (2, 32), (3, 33)]
    found = agreeing_loops(group(poses()), chain(1.0), motions(ends, 0.01, [0.0, 0.0, 30.0, 0.0]))
    assert found.tolist() == [True, True, False, True]


def test_between_two_pieces_only_other_loops_count() -> None:
    ends = [(18, 22), (10, 30), (14, 26)]
    start = group(poses())
    assert agreeing_loops(start, chain(0.01, gap=20), motions(ends[:1], 0.01, [90.0])).all()
    found = agreeing_loops(start, chain(0.01, gap=20), motions(ends, 0.01, [90.0, 90.0, 70.0]))
    assert found.tolist() == [True, True, False]


def test_pieces_are_numbered_along_the_chain() -> None:
    found = pieces(COUNT, chain(0.1, gap=20))
    assert found.tolist() == [0] * 21 + [1] * 20
    with pytest.raises(AssertionError, match="leads from a keyframe to the next"):
        pieces(COUNT, motions([(3, 5)], 0.1))
