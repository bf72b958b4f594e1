"""Running something with the kernels for GPUs, emulated or not, and in every order that the emulation knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from metric_slam.geometry.cuda_kernels import CudaKernels, emulation

T = TypeVar("T")

ORDERS = "0", "1", "7"
"""Of threads and blocks: forth, back, shuffled."""


@contextmanager
def kernels_of(cuda: CudaKernels) -> Iterator[None]:
    """Tensors on the cuda's device go to its kernels, even where that device is the CPU."""
    if cuda.device.type == "cpu":
        with emulation():
            yield
    else:
        yield


def in_every_order(run: Callable[[], T], monkeypatch: pytest.MonkeyPatch) -> list[T]:
    """What it gives each time; a GPU has its own order."""
    found = []
    for order in ORDERS:
        monkeypatch.setenv("METRIC_SLAM_EMULATION_ORDER", order)
        found.append(run())
    return found
