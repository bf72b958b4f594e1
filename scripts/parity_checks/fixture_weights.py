"""Weights of networks under test: random numbers that follow from each weight's name, so that no file is needed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SMALL = 0.02


def fixture_weight(name: str, shape: Sequence[int], gain: float = 1.0) -> np.ndarray:
    """float32 values of the weight ``name``: normal numbers seeded with the name's CRC-32, scaled by what it is for.

    Tokens and position embeddings are small; matrices and convolutions have variance gain^2 / fan-in, fan-in being the
    elements of one output; scales lie around 1, all other vectors (biases) around 0. The first rule that fits counts.
    """
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if "token" in name or "pos_embed" in name:
        values = SMALL * noise
    elif len(shape) >= 2:
        values = gain * noise / np.sqrt(np.prod(shape) / shape[0])
    elif name.endswith("weight") or "gamma" in name:
        values = 1.0 + SMALL * noise
    else:
        values = SMALL * noise
    return np.asarray(values, dtype=np.float32)


def set_fixture_weights(network: Any, gain: float = 1.0) -> Any:
    """Give every floating tensor in a torch module's state its fixture values; statistics of norms stay. Returns it."""
    import torch

    state: Mapping[str, torch.Tensor] = network.state_dict()
    kept = ("num_batches_tracked", "running_mean", "running_var")
    with torch.no_grad():
        for name, tensor in state.items():
            if tensor.is_floating_point() and not name.endswith(kept):
                tensor.copy_(torch.from_numpy(fixture_weight(name, tensor.shape, gain)))
    return network
