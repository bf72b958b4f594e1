"""Reads the released weights of the DROID-SLAM network, ``droid.pth``, and what our own training writes.

The released file is the state of an ``nn.DataParallel``: an ordered dictionary whose keys start with ``module.``. Its
last layers for flow and confidence have a third output that the network does not use; the reference loader (DROID-SLAM,
droid_slam/droid.py, ``load_weights``) takes the first two as well. Nothing from the file is executed.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metric_slam.errors import WeightsError

if TYPE_CHECKING:
    from metric_slam.correspondence.droid.network import DroidNetwork

_PREFIX = "module."

_USED_OUTPUTS = 2
"""x and y; of flow corrections and of confidences."""

_HEADS = tuple(f"update.{head}.2.{part}" for head in ("weight", "delta") for part in ("weight", "bias"))
"""The layers whose surplus outputs are dropped."""

_SHOWN = 3
"""Keys that a message names before it counts the others."""

_DAMAGED = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
    struct.error, OverflowError, MemoryError, ImportError,
)  # fmt: skip
"""What ``torch.load`` raises on files that are cut off or have changed."""

_REMEDY = "get the released droid.pth with `metric-slam weights download droid`"


def load_droid_network(path: Path, device: str = "cpu") -> DroidNetwork:
    """The network with the weights of a file, on ``device``, in evaluation mode and without gradients.

    Raises:
        WeightsError: the file is missing, damaged, or holds the weights of another network.
    """
    from metric_slam.correspondence.droid.network import DroidNetwork

    state = released_state_dict(path)
    network = DroidNetwork()
    load_into(network, state, path)
    return network.to(device).eval().requires_grad_(False)


def released_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by the names that the network gives them, on the CPU.

    Raises:
        WeightsError: the file is missing or damaged, is no dictionary of tensors, or would run code when unpacked.
    """
    state: dict[str, Tensor] = {}
    for key, value in _read(path).items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path} holds more than named tensors (at '{key}'): {_REMEDY}")
        name = key.removeprefix(_PREFIX)
        state[name] = value[:_USED_OUTPUTS] if name in _HEADS and value.ndim else value
    return state


def load_into(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy every tensor of ``state`` into ``network``; ``path`` is where they came from, for messages.

    Raises:
        WeightsError: a tensor is missing, is not the network's or has another shape; ``network`` is unchanged then.
    """
    own = network.state_dict()
    reshaped = [k for k in own if k in state and own[k].shape != state[k].shape]
    complaints = [
        _listed("missing", [k for k in own if k not in state]),
        _listed("unexpected", [k for k in state if k not in own]),
        _listed("of another shape", [f"{k} {_sizes(state[k])} for {_sizes(own[k])}" for k in reshaped]),
    ]
    if any(complaints):
        raise WeightsError(f"{path} does not fit the DROID network: {'; '.join(filter(None, complaints))}; {_REMEDY}")
    network.load_state_dict(state)


def _read(path: Path) -> Mapping[Any, Any]:
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: {_REMEDY}, or give the path of another file")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:  # torch words a forbidden name and plain garbage alike
        raise WeightsError(
            f"{path} is no weights file, or more than tensors that would run code when unpacked; not read: {_REMEDY}"
        ) from error
    except _DAMAGED as error:
        raise WeightsError(f"{path} is damaged or cannot be read: {_REMEDY}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__} instead of named tensors: {_REMEDY}")
    return content


def _listed(what: str, keys: Iterable[str]) -> str:
    """'2 missing (a, b)', or nothing."""
    keys = list(keys)
    more = ", ..." if len(keys) > _SHOWN else ""
    return f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{more})" if keys else ""


def _sizes(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
