"""Reads the five released Metric3D files, and what our own training writes.

A released file is a dictionary whose entry ``model_state_dict`` holds the tensors (hubconf.py of
github.com/YvanYin/Metric3D, which loads it without looking at what is missing). Here every tensor of the network has to
be in the file and every tensor of the file in the network, but for two known cases: DINOv2's ``mask_token``, which
training deletes and depth never uses, and the second name of a norm that goes by two.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metric_slam.depth.metric3d.model import Metric3D, empty_metric3d
from metric_slam.depth.metric3d.specs import SPECS, Metric3DSpec, ModelName
from metric_slam.weights.file import check_fit, named_tensors, read_mapping

_ENTRY = "model_state_dict"
_UNUSED = "encoder.mask_token"
_TWIN_NAMES = (".norm3.", ".downsample.1.")


def load_metric3d(model: ModelName | Metric3DSpec, path: Path, device: str = "cpu") -> Metric3D:
    """The network with the weights of a file, on ``device``, in evaluation mode and without gradients.

    Raises:
        WeightsError: the file is missing, damaged, or holds the weights of another network.
    """
    spec = model if isinstance(model, Metric3DSpec) else SPECS[model]
    remedy = f"get the released file with `metric-slam weights download {spec.weights}`"
    state = released_state_dict(path, remedy)
    network = empty_metric3d(spec)
    own = network.state_dict()
    state = _completed(state, own)
    check_fit(own, state, path, f"Metric3D {spec.name}", remedy)
    # taking the file's tensors as they are spares a copy of up to 5.5 GB
    network.load_state_dict({name: _in_precision_of(own[name], tensor) for name, tensor in state.items()}, assign=True)
    return network.to(device).eval().requires_grad_(False)


def released_state_dict(path: Path, remedy: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; ``remedy`` ends every message.

    Raises:
        WeightsError: the file is missing or damaged, holds no tensors by name, or would run code when unpacked.
    """
    content = read_mapping(path, remedy)
    inner = content.get(_ENTRY, content)
    return named_tensors(inner if isinstance(inner, Mapping) else content, path, remedy)


def _completed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with what a whole file may lack."""
    completed = dict(state)
    for name, tensor in own.items():
        if name in completed:
            continue
        for this, other in (_TWIN_NAMES, _TWIN_NAMES[::-1]):
            twin = name.replace(this, other)
            if twin != name and twin in state:
                completed[name] = state[twin]
        if name.endswith(_UNUSED):
            completed[name] = torch.zeros(tensor.shape)
    return completed


def _in_precision_of(own: Tensor, tensor: Tensor) -> Tensor:
    return tensor.to(own.dtype)
