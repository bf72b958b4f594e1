"""The arrays of a problem over keyframes and edges, stacked where it is solved: in memory, or on a device.

On a device whatever lies there already is stacked there; the rest is uploaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metric_slam.disk_store import DiskArray
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.optimization.cuda.arrays import Array, DeviceArrays

# how much of the damping that a recurrent model predicts counts, and what is added to it (DROID-SLAM, factor_graph.py)
_DAMPING_WEIGHT, _DAMPING_FLOOR = 0.2, 1e-7
_FIRST_DAMPING = 1e-6  # of keyframes that no update has seen yet

_TARGET, _PER_AXIS = 2, 4  # channels of a target, and of matches with a confidence for each axis


def stacked_field(
    store: KeyframeStore, field: str, positions: Sequence[int], arrays: DeviceArrays | None, cell_step: int = 1
) -> Array:
    """Every ``cell_step``-th cell of one array field of these keyframes, [N, h', w', ...]; a copy."""
    if arrays is None:
        return store.stacked(field, positions, cell_step)
    return arrays.stacked([getattr(store[i], field) for i in positions], cell_step)


def stacked_damping(
    store: KeyframeStore, positions: Sequence[int], arrays: DeviceArrays | None, cell_step: int
) -> Array | None:
    """What a recurrent model said of these keyframes, as DROID-SLAM weighs it; None where it said nothing."""
    damping = [store[i].depth_damping for i in positions]
    if all(d is None for d in damping):
        return None
    shape = store[positions[0]].inv_depth.shape
    if arrays is None:
        unsaid: Array = np.full(shape, _FIRST_DAMPING)
        step = slice(cell_step // 2, None, cell_step)
        stacked: Array = np.stack([(unsaid if d is None else d)[step, step] for d in damping])
    else:
        unsaid = torch.full(shape, _FIRST_DAMPING, dtype=torch.float64, device=arrays.accelerator.device)
        stacked = arrays.stacked([unsaid if d is None else d for d in damping], cell_step)
    return (_DAMPING_WEIGHT * stacked + _DAMPING_FLOOR) * cell_step**2


def stacked_matches(
    matches: Sequence[Array | DiskArray], cell_step: int, size: tuple[int, int], arrays: DeviceArrays | None
) -> tuple[Array, Array]:
    """Targets and confidences [E, h', w', 2] of every ``cell_step``-th cell, in units of such cells.

    ``size``: width and height of the grid. In memory float64; on a device float32, as matches are.
    """
    offset = cell_step // 2
    step = slice(offset, None, cell_step)
    h, w = len(range(size[1])[step]), len(range(size[0])[step])
    if arrays is not None:
        return _stacked_on_device(matches, cell_step, (h, w), arrays)
    target, confidence = np.empty((len(matches), h, w, 2)), np.empty((len(matches), h, w, 2))
    for e, edge in enumerate(matches):
        cells = np.asarray(edge)[step, step]
        target[e] = (cells[..., :2] - np.float32(offset)) / np.float32(cell_step)
        confidence[e] = cells[..., 2:]
    return target, confidence


def _stacked_on_device(
    matches: Sequence[Array | DiskArray], cell_step: int, size: tuple[int, int], arrays: DeviceArrays
) -> tuple[Tensor, Tensor]:
    """Matches from the disk are uploaded together: there may be thousands of them."""
    accelerator, offset = arrays.accelerator, cell_step // 2
    step = slice(offset, None, cell_step)
    stacked = torch.empty(len(matches), *size, _PER_AXIS, dtype=torch.float32, device=accelerator.device)
    here = [e for e, edge in enumerate(matches) if isinstance(edge, Tensor)]
    read = [e for e, edge in enumerate(matches) if not isinstance(edge, Tensor)]
    if here:
        there = torch.stack([_per_axis(matches[e])[step, step] for e in here])
        stacked = stacked.index_copy_(0, accelerator.upload(np.array(here)), there) if read else there
    if read:
        found = np.empty((len(read), *size, _PER_AXIS), np.float32)
        for n, e in enumerate(read):
            cells = np.asarray(matches[e])[step, step]
            found[n, ..., :_TARGET], found[n, ..., _TARGET:] = cells[..., :_TARGET], cells[..., _TARGET:]
        stacked.index_copy_(0, accelerator.upload(np.array(read)), accelerator.upload(found))
    target, confidence = stacked.split([_TARGET, _PER_AXIS - _TARGET], dim=-1)
    if cell_step > 1:
        target = (target - offset) / cell_step
    return target.contiguous(), confidence.contiguous()


def _per_axis(matches: Tensor) -> Tensor:
    """[h, w, 4] of [h, w, 3 or 4]."""
    if matches.shape[-1] == _PER_AXIS:
        return matches
    return torch.cat([matches, matches[..., _TARGET:]], dim=-1)


def scale_previous(store: KeyframeStore, place: dict[int, int]) -> np.ndarray:
    """Place of each keyframe's predecessor in the same submap; -1: none."""
    return np.array(
        [place.get(i - 1, -1) if i > 0 and store[i - 1].submap == store[i].submap else -1 for i in place],
        np.int64,
    )
