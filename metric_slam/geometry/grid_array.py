"""Arrays over the grid, wherever they lie: in memory, on a torch device, or offloaded to the disk."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metric_slam.disk_store import DiskArray

Array = np.ndarray | Tensor
"""In memory, or on a device."""

GridArray = Array | DiskArray
"""The same, or on the disk."""


def on_host(array: GridArray) -> np.ndarray:
    """The array in memory: downloaded from a device (which waits for it), or read from the disk."""
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)


def in_reach(array: GridArray) -> Array:
    """The array in memory or on its device; read if it lies on the disk."""
    return array.load() if isinstance(array, DiskArray) else array


def uploaded(array: Array, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The array on a device, contiguous; itself if it is there already. Nothing waits for the copy."""
    if isinstance(array, np.ndarray):
        array = np.ascontiguousarray(array)
        array = torch.from_numpy(array if array.flags.writeable else array.copy())  # torch knows no read-only tensors
    if device.type == "cuda" and array.device.type == "cpu" and array.numel():
        # of its final type and pinned, so that the host need not wait for the copy
        array = array.to(dtype or array.dtype).pin_memory()
    return array.to(device, dtype, non_blocking=True).contiguous()
