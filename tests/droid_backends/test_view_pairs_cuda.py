"""frame_distance, depth_filter and reproject by the kernels for GPUs: the numbers of the C++ ones, in any order."""

from __future__ import annotations

import droid_backends as native
import numpy as np
import pytest
import torch

from metric_slam.geometry.cuda_kernels import CudaKernels
from metric_slam.optimization.bundle_adjustment import reproject, reproject_on_cuda
from metric_slam.optimization.frame_distance import frame_distance
from metric_slam.optimization.view_consistency import count_consistent_views, count_views_relative
from tests.ba_problems import disturbed, moved_poses, true_window
from tests.droid_backends.on_device import in_every_order

SIZES = pytest.mark.parametrize("size", [(6, 8), (17, 21), (1, 1)], ids=lambda s: f"{s[0]}x{s[1]}")
KEYFRAMES = np.array([3, 0, 4, 1])


def scene(height: int = 6, width: int = 8, keyframes: int = 5) -> tuple[np.ndarray, ...]:
    """poses, inverse depths, intrinsics of a drive: something near, an unknown depth, a camera that looks back."""
    window = disturbed(true_window(keyframes, height, width))
    window.inv_depth[2, 0, 0] = 30.0
    window.inv_depth[1, 0, -1] = 0.0
    window.poses[4] = moved_poses(window.poses[4:5], np.array([[0, 0, 0, 0, 2.5, 0]]))[0]
    return window.poses, window.inv_depth, window.intrinsics


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Chosen keyframes with all others, in no order; keyframe 1 has none."""
    found = np.array([(i, j) for i in range(5) for j in range(5) if i != j and i in KEYFRAMES[:3]])
    source, target = np.random.default_rng(3).permutation(found).T.copy()
    return source, target


@SIZES
@pytest.mark.parametrize("bidirectional", [True, False])
def test_frame_distance(cuda: CudaKernels, size: tuple[int, int], bidirectional: bool) -> None:
    arguments = *scene(*size), *pairs(), 0.3, bidirectional
    found = frame_distance(*arguments, cuda=cuda)
    np.testing.assert_allclose(found, frame_distance(*arguments), rtol=1e-13, atol=1e-13)


@SIZES
@pytest.mark.parametrize("limit", [0.0, 0.1, 0.5])
def test_views_that_confirm(cuda: CudaKernels, size: tuple[int, int], limit: float) -> None:
    limits = np.array([limit, 2 * limit, limit, 1.0])
    for count in (count_consistent_views, count_views_relative):
        arguments = *scene(*size), KEYFRAMES, *pairs(), limits
        found, wanted = count(*arguments, cuda=cuda), count(*arguments)
        assert found.dtype == np.int32 and not found[3].any()
        np.testing.assert_array_equal(found, wanted)
        assert size == (1, 1) or bool(wanted.any()) == (limit > 0)


def test_more_neighbours_than_a_block_knows_at_a_time(cuda: CudaKernels) -> None:
    arguments = *scene(), np.array([0]), np.zeros(70, np.int64), np.arange(70) * 4 // 70 + 1, 0.5
    found = count_consistent_views(*arguments, cuda=cuda)
    np.testing.assert_array_equal(found, count_consistent_views(*arguments))
    assert found.max() > 32


@SIZES
def test_reprojection(cuda: CudaKernels, size: tuple[int, int]) -> None:
    arguments = *scene(*size), *pairs()
    coords, inv_depth, valid = reproject(*arguments, cuda=cuda)
    wanted = reproject(*arguments)
    np.testing.assert_allclose(coords, wanted[0], rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(inv_depth, wanted[1], rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(valid, wanted[2])
    assert valid.dtype == bool and not valid.all()


def test_reprojection_stays_on_the_device(cuda: CudaKernels) -> None:
    """Tensors that lie there are taken as they are."""
    poses, inv_depth, intrinsics = scene()
    on_device = [cuda.upload(array) for array in (poses, inv_depth)]
    ends = [cuda.indices(numbers, 5) for numbers in pairs()]
    found = reproject_on_cuda(cuda, *on_device, intrinsics, *ends)
    for tensor, wanted in zip(found, reproject(poses, inv_depth, intrinsics, *pairs()), strict=True):
        assert tensor.device.type == cuda.device.type
        np.testing.assert_allclose(tensor.cpu().numpy(), wanted, rtol=1e-13, atol=1e-12)


def test_jacobians(cuda: CudaKernels) -> None:
    poses, inv_depth, intrinsics = scene()
    ends = pairs()
    shape = (len(ends[0]), 6, 8, 2)
    wanted = [np.empty((*shape, 6)), np.empty((*shape, 6)), np.empty(shape)]
    native.reproject_jacobians(poses, inv_depth, intrinsics, *ends, *wanted)
    found = [torch.empty(array.shape, dtype=torch.float64, device=cuda.device) for array in wanted]
    scene_there = cuda.upload(poses), cuda.upload(inv_depth), intrinsics
    cuda.call("reproject_jacobians", *scene_there, *(cuda.indices(e, 5) for e in ends), *found)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.cpu().numpy(), theirs, rtol=1e-12, atol=1e-11 * np.abs(theirs).max())


def test_order_does_not_change_a_bit(cuda: CudaKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras, ends = scene(), pairs()

    def run() -> list[np.ndarray]:
        return [
            frame_distance(*cameras, *ends, cuda=cuda),
            count_views_relative(*cameras, KEYFRAMES, *ends, 0.1, cuda=cuda),
            *reproject(*cameras, *ends, cuda=cuda),
        ]

    first, *others = in_every_order(run, monkeypatch)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_nothing_to_do(cuda: CudaKernels) -> None:
    cameras, none = scene(), np.zeros(0, np.int64)
    assert frame_distance(*cameras, none, none, cuda=cuda).shape == (0,)
    assert [array.shape[0] for array in reproject(*cameras, none, none, cuda=cuda)] == [0, 0, 0]
    assert count_consistent_views(*cameras, none, none, none, 1.0, cuda=cuda).shape == (0, 6, 8)
    assert not count_consistent_views(*cameras, KEYFRAMES, none, none, 1.0, cuda=cuda).any()


def test_keyframes_that_are_not_there(cuda: CudaKernels) -> None:
    cameras, (source, target) = scene(), pairs()
    for wrong in (-1, 5):
        strange = np.where(target == 2, wrong, target)
        with pytest.raises(ValueError, match=r"outside 0\.\.4"):
            frame_distance(*cameras, source, strange, cuda=cuda)
        with pytest.raises(ValueError, match=r"outside 0\.\.4"):
            reproject(*cameras, strange, source, cuda=cuda)
        with pytest.raises(ValueError, match=r"outside 0\.\.4"):
            count_consistent_views(*cameras, KEYFRAMES, source, strange, 1.0, cuda=cuda)
        with pytest.raises(ValueError, match=r"outside 0\.\.4"):
            count_consistent_views(*cameras, np.array([3, 0, wrong]), source, target, 1.0, cuda=cuda)
    with pytest.raises(ValueError, match="not among keyframes"):
        count_consistent_views(*cameras, KEYFRAMES[1:], source, target, 1.0, cuda=cuda)
    with pytest.raises(ValueError, match="twice"):
        count_consistent_views(*cameras, KEYFRAMES[[0, 0, 1, 2]], source, target, 1.0, cuda=cuda)
