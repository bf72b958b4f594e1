"""Files like the released ones are read whole or not at all, and the file that is meant is found."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.depth.metric3d.locate import input_size, locate, located
from metric_slam.depth.metric3d.model import Metric3D
from metric_slam.depth.metric3d.specs import SPECS, Metric3DSpec
from metric_slam.depth.metric3d.weights import load_metric3d
from metric_slam.errors import ConfigError, WeightsError
from metric_slam.weights.released import released
from tests.depth.metric3d.conftest import TINY_V1, TINY_V2, small_network


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.pth"


def save(state: dict[str, Tensor], path: Path) -> None:
    """The way the released files hold it."""
    torch.save({"model_state_dict": state, "max_iter": 800_000}, path)


def message(call: Callable[[], object]) -> str:
    """The one line that a user sees."""
    with pytest.raises(WeightsError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and "metric-slam weights download metric3d-" in text
    return text


def test_a_released_file_makes_the_same_network(tiny_spec: Metric3DSpec, path: Path) -> None:
    original = small_network(tiny_spec)
    save(original.state_dict(), path)
    network = load_metric3d(tiny_spec, path)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert network.state_dict().keys() == original.state_dict().keys()
    width, height = tiny_spec.input_size
    images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(images).depth, original(images).depth)


def test_a_bare_state_in_half_precision_is_read_as_well(path: Path) -> None:
    original = small_network(TINY_V1)
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in original.state_dict().items()}, path)
    network = load_metric3d(TINY_V1, path)
    for name, value in network.state_dict().items():
        expected = original.state_dict()[name]
        assert value.dtype == expected.dtype
        torch.testing.assert_close(value, expected, atol=1e-3, rtol=1e-3)


def test_what_a_whole_file_may_lack(path: Path) -> None:
    original = small_network(TINY_V2)
    for lacking in (".norm3.", ".downsample.1."):
        state = {k: v for k, v in original.state_dict().items() if lacking not in k and "mask_token" not in k}
        assert len(state) == len(original.state_dict()) - 9
        save(state, path)
        loaded = load_metric3d(TINY_V2, path).state_dict()
        for name, value in original.state_dict().items():
            assert torch.equal(loaded[name], value) or "mask_token" in name, name


def test_every_other_difference_is_named(path: Path) -> None:
    state = dict(small_network(TINY_V2).state_dict())
    del state["depth_model.encoder.cls_token"]
    state["depth_model.decoder.update_block.mask.0.bias"] = torch.zeros(3)
    state["depth_model.encoder.head.weight"] = torch.zeros(1)
    save(state, path)
    text = message(lambda: load_metric3d(TINY_V2, path))
    assert str(path) in text and "Metric3D vit_small" in text
    assert "1 missing (depth_model.encoder.cls_token)" in text
    assert "1 unexpected (depth_model.encoder.head.weight)" in text
    assert "1 of another shape (depth_model.decoder.update_block.mask.0.bias 3 for 8)" in text


def test_another_network_is_told(path: Path) -> None:
    save(small_network(TINY_V1).state_dict(), path)
    assert "does not fit Metric3D vit_small" in message(lambda: load_metric3d(TINY_V2, path))


class Trap:
    """Unpacks by creating a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_unusable_files_are_one_line(path: Path) -> None:
    assert f"no weights at {path}" in message(lambda: load_metric3d("vit_small", path))
    path.write_bytes(b"<html>Quota exceeded</html>" * 50)
    assert "is no weights file" in message(lambda: load_metric3d("vit_small", path))
    save(small_network(TINY_V1).state_dict(), path)
    path.write_bytes(path.read_bytes()[:2000])
    assert "damaged" in message(lambda: load_metric3d(TINY_V1, path))
    torch.save({"epoch": 3}, path)
    assert "'epoch'" in message(lambda: load_metric3d(TINY_V1, path))
    with path.open("wb") as file:
        pickle.dump({"model_state_dict": Trap(path.parent / "sprung")}, file)
    assert "would run code" in message(lambda: load_metric3d(TINY_V1, path))
    assert not (path.parent / "sprung").exists()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of downloaded weights."""
    monkeypatch.setenv("METRIC_SLAM_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


def put(folder: Path, name: str) -> Path:
    """A file with the name of released weights."""
    path = folder / released(SPECS[name].weights).file_name
    path.write_bytes(b"x")
    return path


def test_the_best_network_with_weights_is_taken(folder: Path) -> None:
    assert locate(Metric3DConfig()) is None
    tiny = put(folder, "convnext_tiny")
    assert locate(Metric3DConfig()) == (SPECS["convnext_tiny"], tiny)
    large = put(folder, "vit_large")
    assert locate(Metric3DConfig()) == (SPECS["vit_large"], large)
    assert locate(Metric3DConfig(model="convnext_tiny")) == (SPECS["convnext_tiny"], tiny)
    assert locate(Metric3DConfig(model="vit_small")) is None


def test_a_file_of_ones_own(folder: Path) -> None:
    own = folder.parent / "finetuned.pth"
    with pytest.raises(WeightsError, match=r"finetuned.pth \(metric3d.weights\)"):
        locate(Metric3DConfig(weights=str(own)))
    own.write_bytes(b"x")
    with pytest.raises(ConfigError, match="set metric3d.model"):
        locate(Metric3DConfig(weights=str(own)))
    assert locate(Metric3DConfig(weights=str(own), model="vit_large")) == (SPECS["vit_large"], own)
    renamed = put(folder.parent, "vit_giant2")
    assert locate(Metric3DConfig(weights=str(renamed))) == (SPECS["vit_giant2"], renamed)


def test_missing_weights_say_where_they_belong(folder: Path) -> None:
    text = message(lambda: located(Metric3DConfig()))
    assert str(folder / "metric_depth_vit_small_800k.pth") in text and "metric3d-vit-small" in text
    assert "convlarge_hourglass" in message(lambda: located(Metric3DConfig(model="convnext_large")))


def test_input_sizes() -> None:
    spec = SPECS["vit_small"]
    assert input_size(Metric3DConfig(), spec) == (1064, 616)
    assert input_size(Metric3DConfig.model_validate({"input_size": "1064x336"}), spec) == (1064, 336)
    for wrong in ((1060, 616), (1064, 28)):
        with pytest.raises(ConfigError, match=r"multiples of 28.*nearest is 1064x"):
            input_size(Metric3DConfig(input_size=wrong), spec)


def test_networks_are_built_without_their_weights_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading may not fill a network with random numbers only to throw them away: the largest has 5.5 GB."""
    save(small_network(TINY_V1).state_dict(), path)
    made: list[str] = []
    original = Metric3D.__init__

    def spy(self: Metric3D, model: object) -> None:
        original(self, model)
        made.append(next(self.parameters()).device.type)

    monkeypatch.setattr(Metric3D, "__init__", spy)
    load_metric3d(TINY_V1, path)
    assert made == ["meta"]
