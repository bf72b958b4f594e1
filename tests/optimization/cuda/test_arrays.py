"""Copies on a device: uploaded once, forgotten with their arrays, bounded."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch

from metric_slam.disk_store import DiskStore
from metric_slam.geometry.cuda_kernels import CudaKernels
from metric_slam.geometry.grid_array import on_host, uploaded
from metric_slam.optimization.cuda.arrays import CudaArrays

Maps = Callable[[int], np.ndarray]
BYTES = 4 * 6 * 8
"""Of one map."""


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what was uploaded."""
    shapes: list[tuple[int, ...]] = []

    def upload(array: np.ndarray | torch.Tensor, *options: object) -> torch.Tensor:
        shapes.append(tuple(array.shape))
        return uploaded(array, *options)

    monkeypatch.setattr("metric_slam.geometry.cuda_kernels.uploaded", upload)
    return shapes


def a_map(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(4, 6))


def test_an_array_is_uploaded_once_and_an_equal_one_is_another(
    cuda: CudaKernels, uploads: list[tuple[int, ...]]
) -> None:
    arrays, first = CudaArrays(cuda), a_map(0)
    copy = arrays.of(first)
    assert copy.device == cuda.device and copy.dtype == torch.float64
    np.testing.assert_array_equal(on_host(copy), first)
    assert arrays.of(first) is copy and len(uploads) == 1
    arrays.of(first.copy())
    assert len(uploads) == 2
    assert arrays.of(copy) is copy and arrays.of(first) is copy
    assert arrays.byte_count == BYTES, "the copy of the second one went with it"


def test_copies_go_with_their_arrays(cuda: CudaKernels, uploads: list[tuple[int, ...]]) -> None:
    arrays, kept = CudaArrays(cuda), a_map(0)
    arrays.of(kept)
    gone = [a_map(n) for n in range(1, 5)]
    arrays.stacked(gone)
    assert arrays.byte_count == 5 * BYTES
    del gone
    gc.collect()
    arrays.of(kept)
    assert arrays.byte_count == BYTES and len(uploads) == 5
    for seed in range(20):  # whatever memory the new ones get, they are not taken for old ones
        new = a_map(seed)
        np.testing.assert_array_equal(on_host(arrays.of(new)), new)


def test_the_longest_unused_goes_first(cuda: CudaKernels, uploads: list[tuple[int, ...]]) -> None:
    arrays = CudaArrays(cuda, budget_bytes=2 * BYTES)
    a, b, c = (a_map(n) for n in range(3))
    for array in (a, b, a, c):
        arrays.of(array)
    assert arrays.byte_count == 2 * BYTES and len(uploads) == 3
    arrays.of(a)
    assert len(uploads) == 3
    arrays.of(b)
    assert len(uploads) == 4
    np.testing.assert_array_equal(on_host(arrays.stacked([a, b, c])), np.stack([a, b, c]), "more than it has room for")
    assert arrays.byte_count <= 2 * BYTES
    large = np.zeros((20, 20))
    np.testing.assert_array_equal(on_host(arrays.of(large)), large)
    assert arrays.byte_count == 0, "it has no room, and nothing else has kept it"


@pytest.mark.parametrize("step", [1, 2, 3])
def test_stacks_are_those_of_the_host(cuda: CudaKernels, step: int) -> None:
    arrays, disk = CudaArrays(cuda), DiskStore()
    maps = [a_map(n) for n in range(3)]
    maps[1].flags.writeable = False
    stacked = arrays.stacked([maps[0], maps[1], disk.put(maps[2])], step)
    cells = slice(step // 2, None, step)
    np.testing.assert_array_equal(on_host(stacked), np.stack([one[cells, cells] for one in maps]))
    stacked += 1.0
    np.testing.assert_array_equal(on_host(arrays.of(maps[0])), a_map(0), "a stack is a copy")
    np.testing.assert_array_equal(maps[0], a_map(0))


def test_what_was_downloaded_need_not_be_uploaded(cuda: CudaKernels, uploads: list[tuple[int, ...]]) -> None:
    arrays = CudaArrays(cuda)
    solved = cuda.upload(a_map(7)).clone()
    array = on_host(solved).copy()
    arrays.remember(array, solved)
    before = len(uploads)
    assert arrays.of(array) is solved and len(uploads) == before
    other = solved + 1.0
    arrays.remember(array, other)
    assert arrays.of(array) is other and arrays.byte_count == BYTES, "the latest counts"
    with pytest.raises(AssertionError):
        arrays.remember(array, solved[1:])


def test_on_host_takes_all_of_them(cuda: CudaKernels) -> None:
    one = a_map(1)
    for array in (one, DiskStore().put(one), cuda.upload(one)):
        found = on_host(array)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, one)
