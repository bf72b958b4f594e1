"""Random weights that follow from their names, the numbers of the reference, and networks small enough for tests."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metric_slam.depth.metric3d.model import Metric3D
from metric_slam.depth.metric3d.specs import ConvNextSpec, HourglassSpec, Metric3DSpec, RaftSpec, VitSpec

ROOT = Path(__file__).resolve().parents[3]
PARITY = ROOT.parent / "shared" / "parity"

TINY_V1 = Metric3DSpec(
    "convnext_tiny",
    ConvNextSpec((1, 1, 1, 1), (8, 16, 24, 32)),
    HourglassSpec((8, 16, 24, 32), (8, 8, 16)),
    (96, 64),
    32,
)
TINY_V2 = Metric3DSpec(
    "vit_small",
    VitSpec(16, blocks=4, heads=2),
    RaftSpec(16, (8, 12, 16, 16), (8, 12, 16, 16), hidden=8, iterations=2),
    (84, 56),
    28,
)
TINY_GIANT = Metric3DSpec(
    "vit_giant2",
    VitSpec(24, blocks=8, heads=2, swiglu=True, intermediate=True),
    RaftSpec(24, (8, 12, 24, 24), (8, 12, 24, 24), hidden=8, iterations=3),
    (84, 56),
    28,
)


def fixture_rule() -> Callable[..., Any]:
    """``set_fixture_weights`` of the parity checks."""
    path = ROOT / "scripts" / "parity_checks" / "fixture_weights.py"
    spec = importlib.util.spec_from_file_location("fixture_weights", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.set_fixture_weights


def small_network(spec: Metric3DSpec) -> Metric3D:
    """A network of this specification with weights that follow from their names."""
    return fixture_rule()(Metric3D(spec), 0.7).eval().requires_grad_(False)


@pytest.fixture(params=[TINY_V1, TINY_V2, TINY_GIANT], ids=["v1", "v2", "v2 giant"])
def tiny_spec(request: pytest.FixtureRequest) -> Metric3DSpec:
    """One of each kind of network."""
    return request.param


@pytest.fixture(params=["convnext_tiny", "vit_small"])
def reference(request: pytest.FixtureRequest) -> tuple[str, dict[str, np.ndarray]]:
    """Name of a network, inputs and outputs of the reference."""
    path = PARITY / f"metric3d_{request.param}.npz"
    if not path.is_file():
        pytest.skip("the parity fixtures are not on this machine")
    with np.load(path) as archive:
        return request.param, dict(archive)


@pytest.fixture(scope="session")
def reference_keys() -> dict[str, Any]:
    """Names and shapes of the weights of the five reference networks."""
    path = PARITY / "metric3d_keys.json"
    if not path.is_file():
        pytest.skip("the parity fixtures are not on this machine")
    return json.loads(path.read_text())["models"]
