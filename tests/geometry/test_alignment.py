"""Umeyama's closed form: exact on exact data, optimal on noisy data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from metric_slam.errors import EvaluationError
from metric_slam.geometry.alignment import Similarity, umeyama, uncentred_scale


def random_similarity(seed: int, scale: float) -> Similarity:
    t = np.random.default_rng(seed).normal(scale=10.0, size=3)
    return Similarity(scale, Rotation.random(random_state=seed).as_matrix(), t)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100.0))
def test_recovers_an_exact_similarity(seed: int, scale: float) -> None:
    x = np.random.default_rng(seed).normal(size=(20, 3))
    true = random_similarity(seed, scale)
    found = umeyama(x, true.apply(x), with_scale=True)
    np.testing.assert_allclose(found.matrix(), true.matrix(), atol=1e-9 * max(1.0, scale))
    assert found.rank == 3


def test_without_scale_the_scale_is_one_and_the_motion_rigid() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    true = random_similarity(1, 1.0)
    np.testing.assert_allclose(umeyama(x, true.apply(x), with_scale=False).matrix(), true.matrix(), atol=1e-12)
    assert umeyama(x, 3.0 * x, with_scale=False).scale == 1.0


def test_mirrored_points_give_a_rotation_not_a_reflection() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    R = umeyama(x, x * [1.0, 1.0, -1.0], with_scale=True).R
    assert np.linalg.det(R) == pytest.approx(1.0)


def test_no_nearby_similarity_is_better() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(30, 3))
    y = random_similarity(3, 2.0).apply(x) + random.normal(scale=0.3, size=x.shape)
    best = umeyama(x, y, with_scale=True)

    def cost(fit: Similarity) -> float:
        return float(np.sum((fit.apply(x) - y) ** 2))

    for _ in range(50):
        turn = Rotation.from_rotvec(random.normal(scale=1e-3, size=3)).as_matrix()
        scale, shift = random.normal(scale=1e-3, size=2)
        other = Similarity(best.scale * (1 + scale), turn @ best.R, best.t + shift)
        assert cost(other) > cost(best)


def test_a_straight_path_has_a_scale() -> None:
    x = np.arange(10.0)[:, None] * [0.0, 0.0, 1.0]
    true = random_similarity(2, 1.7)
    fit = umeyama(x, true.apply(x), with_scale=True)
    assert fit.rank == 1 and fit.scale == pytest.approx(1.7)
    np.testing.assert_allclose(fit.apply(x), true.apply(x), atol=1e-12)


@pytest.mark.parametrize("still", [0, 1])
def test_a_path_that_does_not_move_has_no_alignment(still: int) -> None:
    paths = [np.random.default_rng(0).normal(size=(5, 3)), np.random.default_rng(1).normal(size=(5, 3))]
    paths[still][:] = [1.0, 2.0, 3.0]
    with pytest.raises(EvaluationError, match="does not move"):
        umeyama(*paths, with_scale=True)


def test_poses_stay_poses() -> None:
    T = np.tile(np.eye(4), (4, 1, 1))
    T[:, :3, :3] = Rotation.random(4, random_state=0).as_matrix()
    T[:, :3, 3] = np.random.default_rng(0).normal(size=(4, 3))
    fit = random_similarity(5, 3.0)
    aligned = fit.apply_to_poses(T)
    np.testing.assert_allclose(np.linalg.det(aligned[:, :3, :3]), 1.0)
    np.testing.assert_allclose(aligned[:, :3, 3], fit.apply(T[:, :3, 3]))


def test_uncentred_scale_is_the_ratio_of_the_sums() -> None:
    x, y = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]]), np.array([[0.0, 0, 0], [3, 1, 0], [0, 4, 0]])
    assert uncentred_scale(x, y) == pytest.approx((3 + 8) / (1 + 4))
    with pytest.raises(EvaluationError, match="does not move"):
        uncentred_scale(np.zeros((3, 3)), y)
