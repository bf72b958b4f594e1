"""The checkers of the DROID network: they agree with the reference, and they notice what is wrong."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from metric_slam.correspondence.droid.network import DroidNetwork

ROOT = Path(__file__).parents[2]
PARITY = ROOT.parent / "shared" / "parity"
needs_fixtures = pytest.mark.skipif(not PARITY.is_dir(), reason="the parity fixtures are not on this machine")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, its checkers importable as they are for the command."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("check_parity")


@pytest.fixture
def small_fixture(script: ModuleType) -> dict[str, np.ndarray]:
    """Two images of 64 x 64 and three edges, with the outputs of our own network."""
    checker = importlib.import_module("parity_checks.droid_network")
    weights = importlib.import_module("parity_checks.fixture_weights")
    rng, ii = np.random.default_rng(0), np.array([1, 0, 1])
    content = {
        "images_bgr_u8": rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8),
        "ii": ii,
        "jj": 1 - ii,
        "coords": rng.uniform(-2, 10, (3, 8, 8, 2)).astype(np.float32),
        "motion": rng.normal(0, 3, (3, 4, 8, 8)).astype(np.float32),
        "disps": rng.uniform(0.05, 1, (2, 8, 8)).astype(np.float32),
    }
    with torch.inference_mode():
        outputs, _ = checker.outputs_of(weights.set_fixture_weights(DroidNetwork()).eval(), content)
    outputs |= {name: outputs[name].astype(np.float16) for name in outputs if name.endswith("_f16")}
    return content | outputs


def check_npz(script: ModuleType, path: Path, content: dict[str, np.ndarray]) -> int:
    """Exit code of the script for these arrays."""
    np.savez(path, **content)
    return script.main([str(path)])


def test_every_output_counts(
    script: ModuleType, small_fixture: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_npz(script, tmp_path / "a.npz", small_fixture) == 0
    assert "18 of 18 outputs within tolerance" in capsys.readouterr().out
    falsified = dict(small_fixture)
    for name in ("fmaps", "eta", "upmask_f16", "weight_noagg"):
        wrong = small_fixture[name].copy()
        wrong.flat[7] += 3e-3 * np.abs(wrong).max()
        falsified[name] = wrong
    falsified["delta"] = small_fixture["delta"][:2]
    assert check_npz(script, tmp_path / "b.npz", falsified) == 1
    out = capsys.readouterr().out
    assert out.count("ABOVE") == 5 and "13 of 18 outputs within tolerance" in out


def test_an_incomplete_fixture_is_one_line(
    script: ModuleType, small_fixture: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del small_fixture["disp_up"]
    assert check_npz(script, tmp_path / "a.npz", small_fixture) == 2
    assert "the droid_network fixture lacks 'disp_up'" in capsys.readouterr().out


def keys_fixture() -> dict[str, Any]:
    """Names and shapes of our own network, and the layout of the released file."""
    network = DroidNetwork()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    sliced = {
        name: {"shape_in_file": [3, *shapes[name][1:]]} for name in shapes if name.endswith(("a.2.bias", "t.2.bias"))
    }
    return {
        "state_dict": shapes,
        "n_parameters": sum(p.numel() for p in network.parameters()),
        "released_checkpoint": {"file": "droid.pth", "prefix": 'starts with "module."', "sliced_on_load": sliced},
    }


def check_json(script: ModuleType, path: Path, content: dict[str, Any]) -> int:
    """Exit code of the script for this object."""
    path.write_text(json.dumps(content))
    return script.main([str(path)])


def test_names_and_shapes_count(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, path = keys_fixture(), tmp_path / "a.json"
    assert len(content["released_checkpoint"]["sliced_on_load"]) == 2
    assert check_json(script, path, content) == 0
    content["state_dict"]["update.more.bias"] = [3]
    content["state_dict"]["fnet.conv2.bias"] = [7]
    content["n_parameters"] += 1
    assert check_json(script, path, content) == 1
    out = capsys.readouterr().out
    assert "update.more.bias" in out and "fnet.conv2.bias" in out and "0 of 4 outputs within tolerance" in out


def test_another_prefix_is_not_guessed(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = keys_fixture()
    content["released_checkpoint"]["prefix"] = "none"
    assert check_json(script, tmp_path / "a.json", content) == 2
    assert "a prefix other than module." in capsys.readouterr().out


@needs_fixtures
def test_agrees_with_the_reference(script: ModuleType) -> None:
    assert script.main([str(PARITY / "droid_network.npz"), str(PARITY / "droid_network_keys.json")]) == 0
