"""Files like the released droid.pth are read tensor by tensor; every other file is one line that says what to do."""

from __future__ import annotations

import importlib.util
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metric_slam.correspondence.droid.weights import load_droid_network, load_into, released_state_dict
from metric_slam.errors import WeightsError

NETWORK_IS_THERE = importlib.util.find_spec("metric_slam.correspondence.droid.network") is not None


class Update(nn.Module):
    """The layers with two outputs, and one more."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.weight = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, outputs, 3))
        self.delta = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, outputs, 3))
        self.encoder = nn.Conv2d(3, 4, 1)


class SmallNetwork(nn.Module):
    """Stands in for the DROID network: the same names where it matters."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.update = Update(outputs)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "droid.pth"


def numbered(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Other values for every tensor, the same in every run."""
    generator = torch.Generator().manual_seed(5)
    return OrderedDict((k, torch.randn(v.shape, generator=generator)) for k, v in state.items())


def as_released(state: dict[str, Tensor], path: Path) -> None:
    """Write a state the way the released file has it: prefixed keys, a third output in the last layers."""
    written = OrderedDict()
    for key, value in state.items():
        if key.startswith(("update.weight.2.", "update.delta.2.")) and len(value) == 2:
            value = torch.cat([value, torch.full_like(value[:1], 1e6)])
        written["module." + key] = value
    torch.save(written, path)


def message(call: Callable[[], object]) -> str:
    """The one line that a user sees."""
    with pytest.raises(WeightsError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and "metric-slam weights download droid" in text
    return text


def test_a_released_file_is_read_with_two_of_three_outputs(path: Path) -> None:
    expected = numbered(SmallNetwork().state_dict())
    as_released(expected, path)
    state = released_state_dict(path)
    network = SmallNetwork()
    load_into(network, state, path)
    assert list(state) == list(expected)
    assert state["update.delta.2.bias"].shape == (2,)
    for key, value in network.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_files_without_prefix_and_surplus_are_read_as_well(path: Path) -> None:
    expected = numbered(SmallNetwork().state_dict())
    torch.save(expected, path)
    load_into(network := SmallNetwork(), released_state_dict(path), path)
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_only_the_two_heads_are_cut(path: Path) -> None:
    torch.save({"module.update.weight.0.bias": torch.zeros(3), "module.other.weight.2.bias": torch.zeros(3)}, path)
    assert {len(value) for value in released_state_dict(path).values()} == {3}


def test_half_precision_arrives_in_the_precision_of_the_network(path: Path) -> None:
    expected = numbered(SmallNetwork().state_dict())
    torch.save({key: value.half() for key, value in expected.items()}, path)
    load_into(network := SmallNetwork(), released_state_dict(path), path)
    for key, value in network.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, expected[key].half().float())


def test_missing_unexpected_and_reshaped_tensors_are_named_and_nothing_changes(path: Path) -> None:
    state = numbered(SmallNetwork().state_dict())
    del state["update.encoder.weight"], state["update.encoder.bias"]
    state["update.weight.0.bias"] = torch.zeros(7)
    state |= {f"other.{i}": torch.zeros(1) for i in range(5)}
    network = SmallNetwork()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    text = message(lambda: load_into(network, state, path))
    assert str(path) in text
    assert "2 missing (update.encoder.weight, update.encoder.bias)" in text
    assert "5 unexpected (other.0, other.1, other.2, ...)" in text
    assert "1 of another shape (update.weight.0.bias 7 for 4)" in text
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_file_with_one_output_does_not_fit(path: Path) -> None:
    torch.save(numbered(SmallNetwork(outputs=1).state_dict()), path)
    text = message(lambda: load_into(SmallNetwork(), released_state_dict(path), path))
    assert "4 of another shape (update.weight.2.weight 1x4x3x3 for 2x4x3x3" in text


def test_a_missing_file_is_named(path: Path) -> None:
    assert f"no weights at {path}" in message(lambda: released_state_dict(path))
    assert str(path.parent) in message(lambda: released_state_dict(path.parent))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_file_is_damaged(path: Path, kept: float, legacy: bool) -> None:
    torch.save(numbered(SmallNetwork().state_dict()), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    text = message(lambda: released_state_dict(path))
    assert str(path) in text


@pytest.mark.parametrize(
    "content",
    [
        b"<html><body>Quota exceeded</body></html>" * 40,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:46476ef6\nsize 16061701\n",
        bytes(range(256)) * 8,
    ],
    ids=["web page", "lfs pointer", "garbage"],
)
def test_what_downloads_leave_behind_is_damaged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "is no weights file" in message(lambda: released_state_dict(path))


class Trap:
    """Unpacks by creating a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("bare", [False, True], ids=["torch", "pickle"])
def test_code_in_a_file_is_refused_and_not_run(path: Path, bare: bool) -> None:
    content = {"module.fnet.conv1.weight": Trap(path.parent / "sprung")}
    with path.open("wb") as file:
        pickle.dump(content, file) if bare else torch.save(content, file)
    assert "would run code" in message(lambda: released_state_dict(path))
    assert not (path.parent / "sprung").exists()


def test_a_pickled_network_is_refused(path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1), path)
    assert "would run code" in message(lambda: released_state_dict(path))


def test_files_of_another_kind_are_named(path: Path) -> None:
    torch.save(torch.zeros(3), path)
    assert "holds a Tensor" in message(lambda: released_state_dict(path))
    torch.save({"model_state_dict": {"a": torch.zeros(1)}}, path)
    assert "'model_state_dict'" in message(lambda: released_state_dict(path))
    torch.save({3: torch.zeros(1)}, path)
    assert "'3'" in message(lambda: released_state_dict(path))


@pytest.mark.skipif(not NETWORK_IS_THERE, reason="the DROID network is not part of this checkout")
def test_the_network_itself_takes_a_released_file(path: Path) -> None:
    from metric_slam.correspondence.droid.network import DroidNetwork

    expected = numbered(DroidNetwork().state_dict())
    as_released(expected, path)
    network = load_droid_network(path)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
    del expected["fnet.conv1.weight"]
    as_released(expected, path)
    assert "1 missing (fnet.conv1.weight)" in message(lambda: load_droid_network(path))
