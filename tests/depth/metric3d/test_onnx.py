"""Networks as ONNX files: onnxruntime says what torch says, public files are understood, mistakes are one line."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.depth.metric3d.canonical import MEAN_RGB, STD_RGB
from metric_slam.depth.metric3d.locate import locate
from metric_slam.depth.metric3d.model import Metric3D
from metric_slam.depth.metric3d.onnx_network import OnnxNetwork, export_onnx
from metric_slam.depth.metric3d.predictor import DepthPredictor
from metric_slam.depth.metric3d.prior import load_network, make_predictor
from metric_slam.depth.metric3d.specs import SPECS, Metric3DSpec
from metric_slam.errors import ConfigError, MetricSlamError, MissingDependencyError, WeightsError
from metric_slam.geometry.camera import PinholeCamera
from tests.conftest import CliResult
from tests.depth.metric3d.conftest import TINY_V1, TINY_V2, small_network

ABSENT = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)} (the extra 'onnx')")

CAMERA = PinholeCamera(90.0, 90.0, 59.5, 39.5, 120, 80)


def random_images(spec: Metric3DSpec, count: int = 1) -> torch.Tensor:
    """Normalised input [N, 3, H, W] of the network's size."""
    width, height = spec.input_size
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def message(kind: type[MetricSlamError], call: Callable[[], object]) -> str:
    """The one line that a user sees."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module", params=[TINY_V1, TINY_V2], ids=["v1", "v2"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Metric3D, Path]:
    """A small network and its file."""
    network = small_network(request.param)
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(network, path, request.param.input_size)
    return network, path


@needs_onnx
def test_onnxruntime_says_what_torch_says(exported: tuple[Metric3D, Path]) -> None:
    network, path = exported
    images = random_images(network.spec, count=2)
    expected, found = network(images), OnnxNetwork(path)(images)
    assert expected.depth.std() > 0
    torch.testing.assert_close(found.depth, expected.depth, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(found.confidence, expected.confidence, rtol=1e-4, atol=1e-5)
    if expected.normals is None:
        assert found.normals is None
    else:
        torch.testing.assert_close(found.normals, expected.normals, rtol=1e-4, atol=1e-4)
    assert [file.name for file in path.parent.iterdir()] == ["net.onnx"]


@needs_onnx
def test_a_file_takes_the_place_of_weights(exported: tuple[Metric3D, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    network, path = exported
    spec = network.spec
    monkeypatch.setitem(SPECS, spec.name, spec)
    predict, file = make_predictor(Metric3DConfig(model=spec.name, weights=str(path)), "cpu")
    assert file == (spec, path)
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    expected = DepthPredictor(network, spec.input_size, spec.decoder.farthest_m)(image, CAMERA)
    found = predict(image, CAMERA)
    np.testing.assert_allclose(found.depth_m, expected.depth_m, rtol=1e-4)
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-4)
    assert (found.normals is None) == (expected.normals is None)


@needs_onnx
def test_a_file_for_something_else_is_refused(exported: tuple[Metric3D, Path]) -> None:
    network, path = exported
    spec, (width, height) = network.spec, network.spec.input_size
    text = message(ConfigError, lambda: load_network(spec, path, (2 * width, height), "cpu"))
    assert f"takes inputs of {width}x{height} only" in text and str(path) in text
    text = message(WeightsError, lambda: load_network(SPECS["vit_large"], path, (width, height), "cpu"))
    assert f"holds {spec.name}, not vit_large" in text


@needs_onnx
def test_unusable_files_are_one_line(exported: tuple[Metric3D, Path], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    assert f"no weights at {path}" in message(WeightsError, lambda: OnnxNetwork(path))
    whole = exported[1].read_bytes()
    for content in (b"", b"<html>Quota exceeded</html>" * 50, whole[: len(whole) // 2]):
        path.write_bytes(content)
        text = message(WeightsError, lambda: OnnxNetwork(path))
        assert str(path) in text and "metric-slam weights export" in text


def write_means(path: Path, images: str, outputs: dict[str, int]) -> None:
    """A file whose outputs, by name, are means over colours with so many channels (0: without the dimension)."""
    from onnx import TensorProto, helper, save

    nodes, values = [], []
    for name, channels in outputs.items():
        mean = f"{name}_mean" if channels == 3 else name
        nodes.append(helper.make_node("ReduceMean", [images], [mean], axes=[1], keepdims=int(channels > 0)))
        if channels == 3:
            nodes.append(helper.make_node("Concat", [mean] * 3, [name], axis=1))
        shape = ["N", *([channels] if channels else []), "H", "W"]
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    entry = helper.make_tensor_value_info(images, TensorProto.FLOAT, ["N", 3, "H", "W"])
    graph = helper.make_graph(nodes, "means", [entry], values)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


PUBLIC: dict[str, Any] = {
    "pixel_values": {"predicted_depth": 0, "predicted_normal": 3, "normal_confidence": 0},
    "image": {"pred_depth": 1},
}


@needs_onnx
@pytest.mark.parametrize("images", PUBLIC)
def test_public_files_take_levels_and_have_names_of_their_own(tmp_path: Path, images: str) -> None:
    path = tmp_path / "model.onnx"
    write_means(path, images, PUBLIC[images])
    levels = np.random.default_rng(0).uniform(0, 255, (2, 3, 28, 56)).astype(np.float32)
    normalised = (levels - MEAN_RGB[:, None, None]) / STD_RGB[:, None, None]
    network = load_network(SPECS["vit_small"], path, (56, 28), "cpu")
    found = network(torch.from_numpy(normalised))
    expected = torch.from_numpy(levels.mean(axis=1))
    torch.testing.assert_close(found.depth, expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(found.confidence, torch.ones(2, 28, 56))
    if images == "image":
        assert found.normals is None and found.normal_kappa is None
    else:
        torch.testing.assert_close(found.normals, expected[:, None].expand(-1, 3, -1, -1), rtol=1e-4, atol=1e-3)
        assert torch.equal(found.normal_kappa, found.depth)


@needs_onnx
@pytest.mark.parametrize("names", [("pixels", "depth"), ("images", "disparity"), ("images", "confidence")])
def test_unknown_names_are_told(tmp_path: Path, names: tuple[str, str]) -> None:
    path = tmp_path / "model.onnx"
    write_means(path, names[0], {names[1]: 0})
    text = message(WeightsError, lambda: OnnxNetwork(path))
    assert f"inputs {names[0]}; outputs {names[1]}" in text and str(path) in text


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    path = tmp_path / "net.onnx"
    for call in (lambda: OnnxNetwork(path), lambda: export_onnx(small_network(TINY_V1), path, (96, 64))):
        assert "pip install 'metric-slam[onnx]'" in message(MissingDependencyError, call)


def test_files_named_like_released_ones_need_no_model(tmp_path: Path) -> None:
    for name in ("metric3d-vit-large.onnx", "metric_depth_vit_large_800k.onnx"):
        (tmp_path / name).write_bytes(b"x")
        assert locate(Metric3DConfig(weights=str(tmp_path / name))) == (SPECS["vit_large"], tmp_path / name)


@needs_onnx
def test_export_from_the_command_line(
    cli: Callable[..., CliResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SPECS, TINY_V1.name, TINY_V1)
    torch.save(small_network(TINY_V1).state_dict(), "mine.pth")
    words = ("weights", "export", "metric3d-convnext-tiny", "--file", "mine.pth", "--onnx")
    monkeypatch.setattr("metric_slam.depth.metric3d.onnx_network._LARGEST_FILE", 0)
    result = cli(*words, "net.onnx", "--size", "64x96")
    assert result.err == "" and result.out == "net.onnx: convnext_tiny of mine.pth, for inputs of 64x96\n", result
    assert OnnxNetwork(Path("net.onnx")).input_size == (64, 96) and Path("net.onnx.data").is_file()
    assert "there already" in cli(*words, "net.onnx").error_line
    assert "name the file .onnx" in cli(*words, "net.bin").error_line
    assert "multiples of 32" in cli(*words, "other.onnx", "--size", "100x100").error_line
    assert "no depth network" in cli("weights", "export", "droid", "--onnx", "droid.onnx").error_line
