"""Weights of the DROID-SLAM network: the released ``droid.pth``, and files of our own training.

The released file is the state of an ``nn.DataParallel``: an ordered dictionary whose keys start with ``module.``. Its
last layers for flow and confidence have a third output that the network does not use; the reference loader (DROID-SLAM,
droid_slam/droid.py, ``load_weights``) takes the first two as well. Nothing from the file is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from metric_slam.weights.file import check_fit, named_tensors, read_mapping

if TYPE_CHECKING:
    from metric_slam.correspondence.droid.network import DroidNetwork

_PREFIX = "module."

_USED_OUTPUTS = 2
"""Outputs x and y of flow corrections and of confidences."""

_HEADS = tuple(f"update.{head}.2.{part}" for head in ("weight", "delta") for part in ("weight", "bias"))
"""Layers whose surplus outputs are dropped."""

_REMEDY = "get the released droid.pth with `metric-slam weights download droid`"


def load_droid_network(path: Path, device: str = "cpu") -> DroidNetwork:
    """Load the network with the weights of a file, on ``device``, in evaluation mode and without gradients.

    Raises:
        WeightsError: the file is missing, damaged, or holds the weights of another network.
    """
    from metric_slam.correspondence.droid.network import DroidNetwork

    state = released_state_dict(path)
    network = DroidNetwork()
    load_into(network, state, path)
    return network.to(device).eval().requires_grad_(False)


def released_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file under the network's own names, on the CPU.

    Raises:
        WeightsError: the file is missing or damaged, is no dictionary of tensors, or would run code when unpacked.
    """
    state: dict[str, Tensor] = {}
    for key, value in named_tensors(read_mapping(path, _REMEDY), path, _REMEDY).items():
        name = key.removeprefix(_PREFIX)
        state[name] = value[:_USED_OUTPUTS] if name in _HEADS and value.ndim else value
    return state


def load_into(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy every tensor of ``state`` into ``network``; messages name ``path``, the file they were read from.

    Raises:
        WeightsError: a tensor is missing, is not the network's or has another shape; ``network`` is unchanged then.
    """
    check_fit(network.state_dict(), state, path, "the DROID network", _REMEDY)
    network.load_state_dict(state)
