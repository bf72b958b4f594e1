"""Names and shapes of the DROID network's weights, and whether a file laid out like the released one can be loaded.

Differences are counts: of names that only one side has, of shapes that differ, of tensors that did not arrive.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from metric_slam.errors import MetricSlamError
from parity_checks import Fixture, FixtureError, Row
from parity_checks.fixture_weights import fixture_weight

PREFIX = "module."


def check(data: Fixture) -> list[Row]:
    """Rows for names, shapes, the count of parameters and the released layout."""
    try:
        from metric_slam.correspondence.droid.network import DroidNetwork
    except ImportError as error:
        raise FixtureError(f"the network cannot be imported ({error}): install the project") from error
    network = DroidNetwork()
    ours = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    theirs: dict[str, list[int]] = data["state_dict"]
    parameters = sum(p.numel() for p in network.parameters()) - data["n_parameters"]
    reshaped = sorted(name for name in set(ours) & set(theirs) if ours[name] != theirs[name])
    return [
        _count("names", sorted(set(ours) ^ set(theirs)), f"{len(theirs)} in the reference"),
        _count("shapes", reshaped),
        Row("parameters", abs(parameters), 0, f"{data['n_parameters']} in the reference"),
        _released_layout(theirs, data["released_checkpoint"]),
    ]


def _count(what: str, differing: list[str], note: str = "") -> Row:
    return Row(what, len(differing), 0, ", ".join(differing[:3]) if differing else note)


def _released_layout(shapes: dict[str, list[int]], released: dict[str, Any]) -> Row:
    """Write a file laid out like the released one, load it, and compare every tensor with what was meant."""
    import torch

    from metric_slam.correspondence.droid.weights import load_droid_network

    if PREFIX not in released["prefix"]:
        raise FixtureError(f"a prefix other than {PREFIX} is not known: {released['prefix']}")
    sliced = released["sliced_on_load"]
    in_file = {name: sliced[name]["shape_in_file"] if name in sliced else shape for name, shape in shapes.items()}
    content = OrderedDict((PREFIX + n, torch.from_numpy(fixture_weight(n, shape))) for n, shape in in_file.items())
    with tempfile.TemporaryDirectory() as folder:
        torch.save(content, Path(folder) / released["file"])
        try:
            state = load_droid_network(Path(folder) / released["file"]).state_dict()
        except MetricSlamError as error:
            return Row("released layout", np.nan, 0, str(error))
    meant = {name: content[PREFIX + name][: shape[0]] for name, shape in shapes.items()}
    lost = [name for name, tensor in meant.items() if name not in state or not torch.equal(state[name], tensor)]
    return _count("released layout", lost, f"{released['file']}, {PREFIX}*, {len(sliced)} tensors sliced")
