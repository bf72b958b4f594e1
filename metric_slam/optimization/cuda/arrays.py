"""Arrays that lie on a device as well as in memory, so that a solve uploads only what is new, and poses.

Arrays of the keyframe store are replaced and never written into: as long as one lives, its content is what it was, and
its identity says where its copy on the device is. An array that is gone takes its copy along.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metric_slam.disk_store import DiskArray
from metric_slam.geometry.cuda_kernels import CudaKernels
from metric_slam.geometry.grid_array import Array

BUDGET_BYTES = 512 << 20
"""Of copies: the inverse depths and prior maps of several thousand keyframes."""


class _Kept(NamedTuple):
    array: weakref.ref[np.ndarray | DiskArray]
    tensor: Tensor


class CudaArrays:
    """Copies of host arrays on a CUDA device; those that were not asked for the longest go first."""

    def __init__(self, cuda: CudaKernels, budget_bytes: int = BUDGET_BYTES) -> None:
        self.cuda = cuda
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._gone: deque[int] = deque()  # arrays may die in any thread; entries go when this one comes by
        self.byte_count = 0
        """Of all copies."""

    def of(self, array: Array | DiskArray) -> Tensor:
        """The array on the device, of its own type; uploaded if it is not there. Not to be written into."""
        if isinstance(array, Tensor):
            return array
        self._drop_freed()
        kept = self._kept.get(id(array))
        if kept is not None:
            self._kept.move_to_end(id(array))
            return kept.tensor
        tensor = self.cuda.upload(np.array(array))  # a copy: an emulated device has the memory of the host
        self._keep(array, tensor)
        return tensor

    def stacked(self, arrays: Sequence[Array | DiskArray], cell_step: int = 1) -> Tensor:
        """Every ``cell_step``-th row and column of arrays [h, w, ...], [N, h', w', ...]; a copy."""
        step = slice(cell_step // 2, None, cell_step)
        return torch.stack([self.of(array)[step, step] for array in arrays])

    def remember(self, array: np.ndarray, tensor: Tensor) -> None:
        """Notes that ``tensor`` holds the content of ``array``, which was downloaded from it."""
        assert array.shape == tensor.shape, (array.shape, tensor.shape)
        self._drop_freed()
        self._keep(array, tensor)

    def _keep(self, array: np.ndarray | DiskArray, tensor: Tensor) -> None:
        key, gone = id(array), self._gone
        self._drop(key)
        self._kept[key] = _Kept(weakref.ref(array, lambda _: gone.append(key)), tensor)
        self.byte_count += tensor.nbytes
        while self.byte_count > self._budget_bytes:
            self._drop(next(iter(self._kept)))

    def _drop_freed(self) -> None:
        while self._gone:
            key = self._gone.popleft()
            if key in self._kept and self._kept[key].array() is None:
                self._drop(key)

    def _drop(self, key: int) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.byte_count -= kept.tensor.nbytes
