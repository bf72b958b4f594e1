"""Metric3D from normalised image to depth, confidence and normals, on random weights that follow from their names.

The network is known by its file: the fixture of a version with normals is the small transformer's, the other one the
small convolutional network's. Depths are compared in canonical metres.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from parity_checks import Fixture, FixtureError, Row, compare
from parity_checks.fixture_weights import set_fixture_weights

TOLERANCES = {"depth": 2e-3, "depth_iter1": 2e-3, "confidence": 1e-4, "normal": 1e-3, "normal_kappa": 1e-3}


def check(data: Fixture) -> list[Row]:
    """One row for each output."""
    try:
        import torch

        from metric_slam.depth.metric3d.model import Metric3D
    except ImportError as error:
        raise FixtureError(f"the network cannot be imported ({error}): install the project") from error
    network = Metric3D("vit_small" if "normal" in data else "convnext_tiny")
    set_fixture_weights(network, float(data["gain"])).eval()
    with torch.inference_mode():
        outputs = outputs_of(network, np.asarray(data["input"]))
    return [compare(name, ours, data[name], TOLERANCES[name]) for name, ours in outputs.items()]


def outputs_of(network: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """Our outputs by the fixture's names for one normalised image [3, H, W]."""
    import torch

    images = torch.from_numpy(image.astype(np.float32))[None]
    found = network(images)
    outputs = {"depth": found.depth[0], "confidence": found.confidence[0]}
    if found.normals is not None:
        outputs |= {"normal": found.normals[0], "normal_kappa": found.normal_kappa[0]}
        outputs["depth_iter1"] = network.first_round(images)[0, ::8, ::8]
    return {name: tensor.numpy() for name, tensor in outputs.items()}
