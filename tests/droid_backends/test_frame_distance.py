"""Distance between keyframes: kernel against twin, and cases whose result is known."""

from __future__ import annotations

import droid_backends as native
import numpy as np
import pytest
import torch

from metric_slam.optimization.frame_distance import UNSEEN_DISTANCE, frame_distance
from metric_slam.optimization.reference import frame_distance as reference
from tests.ba_problems import disturbed, moved_poses, true_window
from tests.droid_backends.threads import on_threads, only_with_openmp

INTRINSICS = np.array([8.0, 8.0, 2.0, 1.5])
FORTH, BACK = np.array([0]), np.array([1])


def two_cameras(xi: list[float], inv_depth: float = 0.25) -> tuple[np.ndarray, ...]:
    """poses, inverse depths and intrinsics of two cameras; the second one's T_cam_world is exp(xi)."""
    poses = np.tile([0.0, 0, 0, 0, 0, 0, 1], (2, 1))
    return moved_poses(poses, np.array([[0.0] * 6, xi])), np.full((2, 4, 5), inv_depth), INTRINSICS


def arrays(height: int = 6, width: int = 8) -> tuple[np.ndarray, ...]:
    """A drive of five keyframes with all pairs of them."""
    window = disturbed(true_window(5, height, width))
    source, target = (ends.ravel() for ends in np.mgrid[:5, :5])
    return window.poses, window.inv_depth, window.intrinsics, source, target


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_kernel_agrees_with_twin(size: tuple[int, int], weight: float, bidirectional: bool) -> None:
    problem = arrays(*size)
    problem[1][2, 0, 0] = 30.0  # so near that some cameras have passed it
    problem[0][4] = moved_poses(problem[0][4:], np.array([[0, 0, 0, 0, 2.5, 0]]))[0]  # looks back
    found = frame_distance(*problem, translation_weight=weight, bidirectional=bidirectional)
    expected = reference.frame_distance(*map(torch.tensor, problem), weight, bidirectional).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.reshape(5, 5).diagonal(), 0.0, atol=1e-12)
    assert bidirectional or (found.reshape(5, 5)[:4, 4] == UNSEEN_DISTANCE).any() == (weight < 0.75)


def test_a_step_aside() -> None:
    """1 m to the side of a wall in 4 m: f / z = 2 cells, whatever the weight."""
    for weight in (0.0, 0.7, 1.0):
        assert frame_distance(*two_cameras([-1.0, 0, 0, 0, 0, 0]), FORTH, BACK, weight) == pytest.approx([2.0])


def test_turning_counts_by_the_weight_of_the_full_motion() -> None:
    """The default is beta = 0.3 of DROID-SLAM, where beta weighs the full motion."""
    turn = two_cameras([0, 0, 0, 0, 0, 0.1])  # about the optical axis: all stays in front
    full = frame_distance(*turn, FORTH, BACK, 0.0)
    assert full > 0.1
    assert frame_distance(*turn, FORTH, BACK, 1.0) == pytest.approx([0.0])
    assert frame_distance(*turn, FORTH, BACK) == pytest.approx(0.3 * full)


def test_what_is_not_seen_is_far() -> None:
    """5 m forward through a wall in 4 m, which is in front of the other camera on the way back."""
    through = two_cameras([0, 0, -5.0, 0, 0, 0])
    assert frame_distance(*through, FORTH, BACK, bidirectional=False) == [UNSEEN_DISTANCE]
    back = frame_distance(*through, BACK, FORTH, bidirectional=False)
    assert 0 < back < 10
    assert frame_distance(*through, FORTH, BACK) == pytest.approx((UNSEEN_DISTANCE + back) / 2)


@pytest.mark.parametrize("unseen", [5, 6])
def test_three_quarters_must_be_seen(unseen: int) -> None:
    """Of 20 pixels, 5 may be missing; the others make the mean."""
    poses, inv_depth, intrinsics = two_cameras([-1.0, 0, -2.0, 0, 0, 0])
    inv_depth[0].flat[:unseen] = np.nan
    found = frame_distance(poses, inv_depth, intrinsics, FORTH, BACK, bidirectional=False)
    assert (found == UNSEEN_DISTANCE) == (unseen > 5) and np.isfinite(found)


@only_with_openmp
def test_number_of_threads_does_not_change_a_bit() -> None:
    problem = arrays(30, 40)
    first, *others = on_threads(lambda: frame_distance(*problem))
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_no_pairs() -> None:
    none = np.zeros(0, np.int64)
    assert frame_distance(*arrays()[:3], none, none).shape == (0,)


def test_what_does_not_fit_is_refused() -> None:
    poses, inv_depth, intrinsics, source, target = arrays()

    def call(*inputs: np.ndarray, out: np.ndarray | None = None, weight: float = 0.7) -> None:
        distance = np.zeros(len(source)) if out is None else out
        native.frame_distance(*inputs, distance, translation_weight=weight, bidirectional=True)

    call(poses, inv_depth, intrinsics, source, target)
    with pytest.raises(TypeError):
        call(poses.astype(np.float32), inv_depth, intrinsics, source, target)
    with pytest.raises(TypeError):
        call(poses, inv_depth.transpose(0, 2, 1), intrinsics, source, target)
    with pytest.raises(TypeError):
        call(poses, inv_depth, intrinsics, source, target, out=np.zeros(2 * len(source))[::2])
    with pytest.raises(ValueError, match="leading size"):
        call(poses[:3], inv_depth, intrinsics, source, target)
    with pytest.raises(ValueError, match="intrinsics"):
        call(poses, inv_depth, intrinsics[:3].copy(), source, target)
    with pytest.raises(ValueError, match="same length"):
        call(poses, inv_depth, intrinsics, source, target[:-1])
    with pytest.raises(ValueError, match="outside 0..N-1"):
        call(poses, inv_depth, intrinsics, source, target + 1)
    with pytest.raises(ValueError, match="length P"):
        call(poses, inv_depth, intrinsics, source, target, out=np.zeros(3))
    with pytest.raises(ValueError, match="translation_weight"):
        call(poses, inv_depth, intrinsics, source, target, weight=1.5)
