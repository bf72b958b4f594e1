"""Reading of weights files of other projects; every defect is an error of one line that names the remedy.

Nothing from a file is executed. The layout of a network's file is known to its own module.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from metric_slam.errors import WeightsError

_SHOWN = 3
"""Most keys that a message names."""

_DAMAGED = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
    struct.error, OverflowError, MemoryError, ImportError,
)  # fmt: skip
"""Exceptions of ``torch.load`` for files that are truncated or corrupted."""


def read_mapping(path: Path, remedy: str) -> Mapping[object, object]:
    """Read the dictionary that ``torch.save`` wrote to ``path``, on the CPU; ``remedy`` ends every message.

    Raises:
        WeightsError: the file is missing or damaged, is no dictionary, or would run code when unpacked.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: {remedy}, or give the path of another file")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:  # the same for a forbidden name and for plain garbage
        raise WeightsError(
            f"{path} is no weights file, or more than tensors that would run code when unpacked; not read: {remedy}"
        ) from error
    except _DAMAGED as error:
        raise WeightsError(f"{path} is damaged or cannot be read: {remedy}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__} instead of named tensors: {remedy}")
    return content


def named_tensors(content: Mapping[object, object], path: Path, remedy: str) -> dict[str, Tensor]:
    """Return the content as tensors by name. Raises WeightsError where it holds anything else."""
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path} holds more than named tensors (at '{key}'): {remedy}")
        tensors[key] = value
    return tensors


def check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path, network: str, remedy: str) -> None:
    """Compare names and shapes of a file's tensors with a network's; ``network`` is its name in messages.

    Raises:
        WeightsError: a tensor is missing, unexpected or of another shape.
    """
    reshaped = [k for k in own if k in state and own[k].shape != state[k].shape]
    complaints = [
        _listed("missing", [k for k in own if k not in state]),
        _listed("unexpected", [k for k in state if k not in own]),
        _listed("of another shape", [f"{k} {_sizes(state[k])} for {_sizes(own[k])}" for k in reshaped]),
    ]
    if any(complaints):
        raise WeightsError(f"{path} does not fit {network}: {'; '.join(filter(None, complaints))}; {remedy}")


def _listed(what: str, keys: Iterable[str]) -> str:
    """Count and first keys, '2 missing (a, b)'; empty for none."""
    keys = list(keys)
    more = ", ..." if len(keys) > _SHOWN else ""
    return f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{more})" if keys else ""


def _sizes(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
