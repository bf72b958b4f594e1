"""The compiled kernels for tensors on a GPU, and how they are called: on torch's memory and torch's current stream.

Everything that runs kernels on a device asks here. Tensors are handed over as they are (DLPack), nothing is copied.
Kernels trust the keyframe numbers that they are given, because looking at them would mean waiting for the device:
they are made and checked on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import droid_backends
import numpy as np
import torch
from torch import Tensor

from metric_slam.geometry.grid_array import uploaded


@dataclass(frozen=True)
class CudaKernels:
    """CUDA kernels on one device."""

    device: torch.device
    module: ModuleType
    """Of droid_backends; names as in the module for the CPU."""

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Queue a kernel on the current stream of the device; it may still be running on return."""
        return getattr(self.module, name)(*arguments, **options, stream=self.stream)

    @property
    def stream(self) -> int:
        """The current stream of torch, as CUDA numbers it."""
        return torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0

    def upload(self, array: np.ndarray | Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The array on the device, contiguous; itself if it is there already."""
        return uploaded(array, self.device, dtype)

    def indices(self, numbers: np.ndarray | Tensor, count: int) -> Tensor:
        """Keyframe numbers int64 on the device; each must be one of ``count``. Tensors were checked when made."""
        if isinstance(numbers, Tensor):
            return self.upload(numbers, torch.int64)
        return self.upload(checked_numbers(numbers, count))


def checked_numbers(numbers: np.ndarray, count: int) -> np.ndarray:
    """Keyframe numbers as kernels take them, int64 and contiguous; ValueError if one is not one of ``count``."""
    numbers = np.ascontiguousarray(numbers, np.int64)
    if numbers.size and not (0 <= numbers.min() and numbers.max() < count):
        raise ValueError(f"a keyframe number lies outside 0..{count - 1}")
    return numbers


def find_cuda_kernels(device: str) -> tuple[CudaKernels | None, str]:
    """CUDA kernels for a torch device and a description; None where the C++ kernels on the CPU are used."""
    chosen = torch.device(device)
    if chosen.type != "cuda":
        return None, "C++ on the CPU"
    if droid_backends.cuda is None:
        return None, f"C++ on the CPU: {droid_backends.why_no_cuda} (METRIC_SLAM_CUDA=1 pip install . builds them)"
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    name, why_not = torch.cuda.get_device_name(index), _why_not(index)
    if why_not:
        return None, f"C++ on the CPU: the CUDA kernels cannot run on {name} ({why_not}); build them on this machine"
    return CudaKernels(torch.device("cuda", index), droid_backends.cuda), f"CUDA on {name}"


@lru_cache
def _why_not(index: int) -> str:
    """Why the kernels cannot run on a CUDA device, in CUDA's words: the driver is too old, or they were built for other
    GPUs. Empty: they can.
    """
    assert droid_backends.cuda is not None, "asked only where the module loads"
    return str(droid_backends.cuda.why_not(index))


_emulated: list[CudaKernels] = []


def emulated_kernels() -> CudaKernels:
    """The kernels for GPUs run on the CPU, slowly, on tensors of the CPU; for tests. ImportError if they were not
    built (METRIC_SLAM_EMULATION=1).
    """
    from droid_backends import _droid_backends_emulated

    return CudaKernels(torch.device("cpu"), _droid_backends_emulated)


@contextmanager
def emulation() -> Iterator[CudaKernels]:
    """While it lasts, tensors of the CPU are taken for those of a GPU that is emulated; for tests."""
    _emulated.append(emulated_kernels())
    try:
        yield _emulated[-1]
    finally:
        _emulated.pop()


def kernel_for(tensor: Tensor, name: str) -> Callable[..., Any] | None:
    """The compiled kernel of a name that reads tensors like this one, called without a stream; None: there is none."""
    if tensor.device.type == "cpu":
        return _on_stream(_emulated[-1], name) if _emulated else getattr(droid_backends, name)
    if tensor.device.type != "cuda" or droid_backends.cuda is None or _why_not(tensor.device.index or 0):
        return None
    return _on_stream(CudaKernels(tensor.device, droid_backends.cuda), name)


def _on_stream(cuda: CudaKernels, name: str) -> Callable[..., Any]:
    return lambda *arguments, **options: cuda.call(name, *arguments, **options)
