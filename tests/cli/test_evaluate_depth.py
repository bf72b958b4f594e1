"""``metric-slam evaluate-depth`` as a user meets it: small files, public examples, and every mistake in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metric_slam.datasets.images import write_depth_m, write_rgb
from metric_slam.depth.metric3d.predictor import DepthPredictor
from tests.conftest import CliResult
from tests.depth.metric3d.conftest import TINY_V2, small_network

Cli = Callable[..., CliResult]

W, H = 48, 32
TRUTH = np.linspace(2.0, 40.0, W * H).reshape(H, W).round(1)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Two images in two folders, listed with paths that count from somewhere else, as Metric3D has them."""
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder / "rgb").mkdir(parents=True)
        (tmp_path / folder / "depth").mkdir()
        write_rgb(tmp_path / folder / "rgb" / "0.png", np.full((H, W, 3), 90, np.uint8))
        write_depth_m(tmp_path / folder / "depth" / "0.png", TRUTH, 1000.0)
        entry = {"rgb": f"data/{folder}/rgb/0.png", "depth": f"data/{folder}/depth/0.png", "depth_scale": 1000.0}
        files.append({**entry, "cam_in": [40.0, 40.0, W / 2, H / 2]})
    files.append({"rgb": "data/without/depth.png"})
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"files": files}))
    return path


def predictions(annotations: Path, **factors: float) -> Path:
    """A folder with the truth of each image times its factor, as npy; the folders of the images repeated."""
    folder = annotations.parent / "predicted"
    for name, factor in factors.items():
        (folder / name / "rgb").mkdir(parents=True)
        np.save(folder / name / "rgb" / "0.npy", factor * TRUTH)
    return folder


def test_one_row_an_image_and_the_mean(cli: Cli, annotations: Path) -> None:
    result = cli("evaluate-depth", annotations, "--predictions", predictions(annotations, a=1.0, b=1.1))
    assert result.code == 0 and result.err == ""
    rows = {line.split()[0]: line.split() for line in result.out.splitlines() if line}
    assert rows["data/a/rgb/0.png"][1:4] == [str(W * H), "0.0000", "0.0000"]
    assert rows["data/b/rgb/0.png"][2] == "0.1000"
    assert " 0.0500 " in next(line for line in result.out.splitlines() if line.startswith("mean of 2 images"))
    assert "protocol: true depths between 0.001 m and 80 m" in result.out and "no crop" in result.out


def test_json_has_all_figures_with_their_protocol(cli: Cli, annotations: Path) -> None:
    folder = predictions(annotations, a=0.5, b=2.0)
    options = ("--crop", "eigen", "--align", "median", "--max-depth", 30, "--json")
    found = json.loads(cli("evaluate-depth", annotations, "--predictions", folder, *options).out)
    assert [image["image"] for image in found["images"]] == ["data/a/rgb/0.png", "data/b/rgb/0.png"]
    assert [image["scale"] for image in found["images"]] == pytest.approx([2.0, 0.5])
    assert found["mean"]["abs_rel"] == pytest.approx(0.0, abs=1e-6) and found["mean"]["delta1"] == 1.0
    assert found["predictions"] == str(folder) and found["mean"]["images"] == 2
    for words in ("30 m", "Eigen's crop", "median(truth)"):
        assert words in found["protocol"]


def test_pictures_with_their_own_scale(cli: Cli, annotations: Path) -> None:
    call = ("evaluate-depth", annotations, "--predictions", annotations.parent, "--json")
    folder = annotations.parent  # below data/a/rgb the pictures themselves are found, which are no depth
    assert "not 16" in cli(*call).error_line
    for name in ("a", "b"):
        shutil.copy(folder / name / "depth" / "0.png", folder / name / "rgb" / "0.png")
    assert json.loads(cli(*call, "--png-scale", 1000).out)["mean"]["rmse_m"] == pytest.approx(0.0, abs=1e-6)
    assert json.loads(cli(*call, "--png-scale", 1250).out)["mean"]["abs_rel"] == pytest.approx(0.2, abs=1e-6)


def test_a_network_predicts(cli: Cli, annotations: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tiny network with random weights stands in; what it says is what is compared."""
    network = small_network(TINY_V2)
    monkeypatch.setattr("metric_slam.depth.metric3d.prior.load_metric3d", lambda *_: network)
    monkeypatch.setattr("metric_slam.depth.metric3d.prior.input_size", lambda *_: TINY_V2.input_size)
    weights = tmp_path / "some.pth"
    weights.write_bytes(b"")
    call = ("evaluate-depth", annotations, "--model", "vit_small", "--weights", weights, "--device", "cpu", "--json")
    found = json.loads(cli(*call).out)
    from metric_slam.datasets.annotations import read_annotations
    from metric_slam.depth.metric3d.specs import SPECS
    from metric_slam.evaluation.depth import depth_metrics

    image = read_annotations(annotations)[0]
    farthest = SPECS["vit_small"].decoder.farthest_m
    rgb = image.image()
    predicted = DepthPredictor(network, TINY_V2.input_size, farthest)(rgb, image.camera(rgb))
    assert found["images"][0]["abs_rel"] == pytest.approx(depth_metrics(predicted.depth_m, TRUTH).abs_rel, rel=1e-4)
    assert "vit_small" in found["predictions"] and str(weights) in found["predictions"]


@pytest.mark.parametrize("arguments", [(), ("--predictions", ".", "--model", "vit_small")])
def test_exactly_one_source(cli: Cli, annotations: Path, arguments: tuple[str, ...]) -> None:
    assert "either --predictions DIR or --model NAME" in cli("evaluate-depth", annotations, *arguments).error_line


def test_mistakes_with_predictions_are_one_line(cli: Cli, annotations: Path) -> None:
    folder = predictions(annotations, a=1.0)
    call = ("evaluate-depth", annotations, "--predictions")
    assert "nowhere: no such folder" in cli(*call, "nowhere").error_line
    assert "no depth map named 0 with one of .png" in cli(*call, folder).error_line
    flat = annotations.parent / "flat"
    flat.mkdir()
    np.save(flat / "0.npy", TRUTH)
    assert "prediction of data/a/rgb/0.png and of data/b/rgb/0.png" in cli(*call, flat).error_line
    np.save(folder / "a" / "rgb" / "0.npy", TRUTH[:-1])
    assert "data/a/rgb/0.png: predicted depth is 48x31, true depth 48x32" in cli(*call, folder).error_line
    np.save(folder / "a" / "rgb" / "0.npy", 0 * TRUTH)
    assert "data/a/rgb/0.png: no pixel to compare" in cli(*call, folder).error_line
    assert "no true depth" in cli(*call, folder, "--max-depth", "0.5").error_line
    assert "unknown crop 'kb'" in cli(*call, folder, "--crop", "kb").error_line
    assert "unknown alignment" in cli(*call, folder, "--align", "sim3").error_line
    assert "0 <= min < max" in cli(*call, folder, "--min-depth", 9, "--max-depth", 3).error_line


def test_mistakes_with_networks_are_one_line(cli: Cli, annotations: Path, tmp_path: Path) -> None:
    call = ("evaluate-depth", annotations, "--device", "cpu")
    assert "choose from convnext_tiny" in cli(*call, "--model", "resnet").error_line
    assert "nowhere.pth" in cli(*call, "--weights", tmp_path / "nowhere.pth").error_line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no annotation file"),
        ("[]", "is no annotation file"),
        ('{"files": 3}', "is no list"),
        ('{"files": []}', "lists no image with true depth"),
        ('{"files": [7]}', "entry 0"),
        ('{"files": [{"rgb": "a.png", "depth": "b.png", "depth_scale": 0}]}', "depth_scale 0"),
        ('{"files": [{"rgb": "a.png", "depth": "b.png", "cam_in": [1, 2]}]}', "2 numbers in cam_in"),
        ('{"files": [{"rgb": "x/a.png", "depth": "b.png"}]}', "no file x/a.png"),
    ],
)
def test_damaged_annotations_are_one_line(cli: Cli, tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "annotations.json"
    assert "annotations.json" in cli("evaluate-depth", path, "--predictions", tmp_path).error_line
    path.write_text(content)
    assert words in cli("evaluate-depth", path, "--predictions", tmp_path).error_line


@pytest.mark.parametrize(("name", "scale"), [("kitti_demo", 256.0), ("nyu_demo", 1000.0)])
def test_the_true_depth_of_public_examples(
    cli: Cli, shared_data: Path, tmp_path: Path, name: str, scale: float
) -> None:
    """Metric3D's own examples: the truth as the prediction has no error, and scaled by 1.2 exactly that factor."""
    file = shared_data / "single_image" / name / "test_annotations.json"
    if not file.is_file():
        pytest.skip(f"no {file}")
    for entry in json.loads(file.read_text())["files"]:
        truth = file.parent / "depth" / Path(entry["depth"]).name
        shutil.copy(truth, tmp_path / Path(entry["rgb"]).with_suffix(".png").name)
    call = ("evaluate-depth", file, "--predictions", tmp_path, "--json", "--max-depth", 200, "--png-scale")
    found = json.loads(cli(*call, scale).out)
    assert len(found["images"]) == 3
    for image in found["images"]:
        assert image["pixels"] > 10_000 and image["coverage"] == image["delta1"] == 1.0
        assert [image[key] for key in ("abs_rel", "sq_rel_m", "rmse_m", "rmse_log", "log10")] == pytest.approx(
            [0.0] * 5, abs=1e-6
        )
    scaled = json.loads(cli(*call, scale / 1.2).out)["mean"]
    assert scaled["abs_rel"] == pytest.approx(0.2, abs=1e-5)
    assert scaled["rmse_log"] == pytest.approx(np.log(1.2), abs=1e-5)
    fitted = json.loads(cli(*call, scale / 1.2, "--align", "scale").out)["mean"]
    assert fitted["abs_rel"] == pytest.approx(0.0, abs=1e-5) and fitted["scale"] == pytest.approx(1 / 1.2, rel=1e-5)
