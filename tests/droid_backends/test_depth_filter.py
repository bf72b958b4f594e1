"""Counting the views that confirm a depth: kernel against twin, and scenes whose result is known."""

from __future__ import annotations

import droid_backends as native
import numpy as np
import pytest
import torch

from metric_slam.optimization.reference import view_consistency as reference
from metric_slam.optimization.view_consistency import count_consistent_views, count_views_relative
from tests.ba_problems import disturbed, true_window
from tests.droid_backends.threads import on_threads, only_with_openmp

Scene = tuple[np.ndarray, ...]


def drive(height: int = 6, width: int = 8) -> Scene:
    """poses, inverse depths, intrinsics, keyframes, source, target: chosen keyframes with all others."""
    window = disturbed(true_window(5, height, width))
    keyframes = np.array([3, 0, 4])
    pairs = np.array([(i, j) for i in range(5) for j in range(5) if i != j and i in keyframes])
    return window.poses, window.inv_depth, window.intrinsics, keyframes, *pairs.T.copy()


def wall(n: int = 4, step_m: float = 0.5, depth_m: float = 4.0) -> Scene:
    """Cameras that move aside before a wall that faces them, one cell a step; the first one with all others."""
    poses = np.tile([0.0, 0, 0, 0, 0, 0, 1], (n, 1))
    poses[:, 0] = -step_m * np.arange(n)
    pairs = np.zeros(n - 1, np.int64), np.arange(1, n)
    return poses, np.full((n, 6, 8), 1.0 / depth_m), np.array([8.0, 8.0, 3.5, 2.5]), np.array([0]), *pairs


@pytest.mark.parametrize("limit_m", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (2, 2), (1, 4)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_kernel_agrees_with_twin(size: tuple[int, int], limit_m: float) -> None:
    scene = drive(*size)
    scene[1][0, 0, 0], scene[1][1, -1, -1] = 30.0, 0.0  # passed by later cameras; unknown
    limits_m = limit_m * np.array([1.0, 0.5, 2.0])
    found = count_consistent_views(*scene, limits_m)
    tensors = [torch.tensor(array) for array in (*scene, limits_m)]
    np.testing.assert_array_equal(found, reference.count_consistent_views(*tensors).numpy())
    relative = count_views_relative(*scene, limits_m)
    np.testing.assert_array_equal(relative, reference.count_consistent_views(*tensors, relative=True).numpy())
    assert found.dtype == np.int32 and found.shape == (3, *size)
    if size == (6, 8):
        assert (found.max() > 0) == (limit_m > 0)


def test_a_wall_is_confirmed_where_it_is_seen() -> None:
    """Step k moves the picture by k cells; what leaves the grid, or lands on its last row or column, is lost."""
    count = count_consistent_views(*wall(), 0.1)[0]
    column = np.arange(8)
    expected = sum(((column - k >= 0) & (column - k < 7)).astype(int) for k in (1, 2, 3))
    np.testing.assert_array_equal(count[:5], np.tile(expected, (5, 1)))
    assert (count[5] == 0).all()


def test_limit_is_in_metres_and_each_keyframes_own() -> None:
    poses, inv_depth, intrinsics, _, _, _ = wall(2)
    inv_depth[1] = 1.0 / 4.2
    pairs = np.array([0, 1]), np.array([1, 0])
    count = count_consistent_views(poses, inv_depth, intrinsics, np.array([0, 1]), *pairs, np.array([0.19, 0.21]))
    assert count[0].max() == 0 and count[1].max() == 1
    count = count_consistent_views(poses, inv_depth, intrinsics, np.array([1, 0]), *pairs, np.array([0.19, 0.21]))
    assert count[0].max() == 0 and count[1].max() == 1


def test_one_of_four_cells_is_enough() -> None:
    poses, inv_depth, intrinsics, keyframes, source, target = wall(2)
    poses[1, 0] = -0.25  # half a cell
    inv_depth[1] = 1.0 / 20.0
    inv_depth[1, 3, 4] = 0.25
    count = count_consistent_views(poses, inv_depth, intrinsics, keyframes, source, target, 0.1)[0]
    assert {tuple(cell) for cell in np.argwhere(count)} == {(2, 4), (2, 5), (3, 4), (3, 5)}


@pytest.mark.parametrize("strange", [0.0, np.nan, np.inf, -0.25])
@pytest.mark.parametrize("view", [0, 1])
def test_unknown_depths_confirm_nothing(view: int, strange: float) -> None:
    poses, inv_depth, *rest = wall(2)
    inv_depth[view] = strange
    assert (count_consistent_views(poses, inv_depth, *rest, 0.1) == 0).all()


def test_nothing_behind_the_camera_is_confirmed() -> None:
    """The point of the first camera lies 1 m behind the second, which looks the same way and stores 1 m everywhere."""
    poses, inv_depth, intrinsics, keyframes, source, target = wall(2)
    poses[1, :3] = [0.0, 0.0, -5.0]
    inv_depth[1] = 1.0
    assert (count_consistent_views(poses, inv_depth, intrinsics, keyframes, source, target, 5.0) == 0).all()


def test_a_keyframe_without_pairs_and_no_keyframes() -> None:
    scene = wall(3)
    none = np.zeros(0, np.int64)
    assert (count_consistent_views(*scene[:3], np.array([1]), none, none, 1.0) == 0).all()
    assert count_consistent_views(*scene[:3], none, none, none, 1.0).shape == (0, 6, 8)


@only_with_openmp
def test_number_of_threads_does_not_change_anything() -> None:
    scene = drive(30, 40)
    first, *others = on_threads(lambda: count_consistent_views(*scene, 0.5))
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_what_does_not_fit_is_refused() -> None:
    scene = dict(zip(("poses", "inv_depth", "intrinsics", "keyframes", "source", "target"), drive(), strict=True))
    scene |= {"max_depth_error": np.ones(3), "count": np.zeros((3, 6, 8), np.int32)}

    def call(**changes: np.ndarray) -> None:
        native.depth_filter(**{**scene, **changes})

    call()
    with pytest.raises(TypeError):
        call(count=np.zeros((3, 6, 8), np.int64))
    with pytest.raises(TypeError):
        call(poses=scene["poses"].astype(np.float32))
    with pytest.raises(TypeError):
        call(count=np.zeros((3, 8, 6), np.int32).transpose(0, 2, 1))
    with pytest.raises(ValueError, match="count must be"):
        call(count=np.zeros((3, 8, 6), np.int32))
    with pytest.raises(ValueError, match="one entry per keyframe"):
        call(max_depth_error=np.ones(2))
    with pytest.raises(ValueError, match="not among keyframes"):
        call(keyframes=np.array([3, 0, 1]))
    with pytest.raises(ValueError, match="twice"):
        call(keyframes=np.array([3, 3, 4]))
    with pytest.raises(ValueError, match="outside 0..N-1"):
        call(keyframes=np.array([3, 0, 5]))
    with pytest.raises(ValueError, match="outside 0..N-1"):
        call(target=scene["target"] - 1)
    with pytest.raises(ValueError, match="leading size"):
        call(inv_depth=scene["inv_depth"][:4].copy())
