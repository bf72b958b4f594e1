"""Notices when the host reads what a device holds, and so waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

READING = ("cpu", "numpy", "item", "tolist", "__array__", "__bool__", "__float__", "__int__", "__index__", "nonzero")
"""Methods of tensors that need their content on the host."""

READS = {name: getattr(torch.Tensor, name) for name in READING}
"""As torch has them."""


@contextmanager
def noticed(device: torch.device, *, may_wait: bool = False) -> Iterator[list[str]]:
    """Names of the methods that were called on tensors of the device while it lasted. A GPU itself raises an error at
    every kind of waiting, unless the host ``may_wait``.

    An emulated device has the memory of the host: there, integers are taken for the host's, and all else for its own.
    """
    called: list[str] = []
    gpu = device.type == "cuda"

    def noticing(name: str) -> Callable[..., object]:
        def method(self: torch.Tensor, *arguments: object, **options: object) -> object:
            if self.is_cuda if gpu else self.dtype != torch.int64:
                called.append(name)
            return READS[name](self, *arguments, **options)

        return method

    with pytest.MonkeyPatch.context() as patch:
        for name in READING:
            patch.setattr(torch.Tensor, name, noticing(name))
        if gpu and not may_wait:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield called
        finally:
            if gpu:
                torch.cuda.set_sync_debug_mode("default")


@contextmanager
def unnoticed() -> Iterator[None]:
    """A part in which reading counts for nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name, method in READS.items():
            patch.setattr(torch.Tensor, name, method)
        yield
