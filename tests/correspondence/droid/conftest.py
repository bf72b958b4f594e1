"""Random weights that follow from their names, the numbers of the reference, and small problems."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metric_slam.correspondence.droid.network import DroidNetwork
from metric_slam.correspondence.droid.widths import DroidWidths

ROOT = Path(__file__).resolve().parents[3]
PARITY = ROOT.parent / "shared" / "parity"


def with_fixture_weights(network: DroidNetwork) -> DroidNetwork:
    """Weights by the rule of the parity fixtures."""
    path = ROOT / "scripts" / "parity_checks" / "fixture_weights.py"
    spec = importlib.util.spec_from_file_location("fixture_weights", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.set_fixture_weights(network)


@pytest.fixture(scope="session")
def network() -> DroidNetwork:
    """The network in its released size with fixture weights."""
    return with_fixture_weights(DroidNetwork()).eval().requires_grad_(False)


@pytest.fixture
def narrow() -> DroidWidths:
    """A network small enough for numeric derivatives."""
    return DroidWidths(
        stages=(2, 3, 4),
        features=4,
        hidden=3,
        context=2,
        correlation_code=3,
        motion_code=2,
        correlation_levels=2,
        correlation_radius=1,
    )


@pytest.fixture
def random() -> torch.Generator:
    """The same numbers in every run."""
    return torch.Generator().manual_seed(3)


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """Inputs and outputs of the reference network."""
    path = PARITY / "droid_network.npz"
    if not path.is_file():
        pytest.skip("the parity fixtures are not on this machine")
    with np.load(path) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def reference_keys() -> dict[str, Any]:
    """Names and shapes of the reference network's weights."""
    path = PARITY / "droid_network_keys.json"
    if not path.is_file():
        pytest.skip("the parity fixtures are not on this machine")
    return json.loads(path.read_text())
