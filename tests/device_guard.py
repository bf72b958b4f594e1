"""Notices when the host reads what a device holds, and so waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from metric_slam.accelerator import Accelerator

READING = ("cpu", "numpy", "item", "tolist", "__array__", "__bool__", "__float__", "__int__", "__index__", "nonzero")
"""Methods of tensors that need their content on the host."""


@contextmanager
def noticed(accelerator: Accelerator) -> Iterator[list[str]]:
    """Names of the methods that were called while it lasted; a GPU itself complains of every other kind of waiting."""
    called: list[str] = []

    def noticing(name: str) -> object:
        original = getattr(torch.Tensor, name)

        def method(self: torch.Tensor, *arguments: object, **options: object) -> object:
            called.append(name)
            return original(self, *arguments, **options)

        return method

    gpu = accelerator.device.type == "cuda"
    with pytest.MonkeyPatch.context() as patch:
        for name in READING:
            patch.setattr(torch.Tensor, name, noticing(name))
        if gpu:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield called
        finally:
            if gpu:
                torch.cuda.set_sync_debug_mode("default")
