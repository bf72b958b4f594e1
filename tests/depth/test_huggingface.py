"""The prior over models of transformers: a tiny random one, saved and loaded; what is refused; metres through SLAM."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metric_slam.choices import choose_correspondence, choose_prior
from metric_slam.config.huggingface import HuggingFaceConfig
from metric_slam.config.schema import Config
from metric_slam.depth.huggingface import (
    HuggingFacePredictor,
    HuggingFacePrior,
    check_metric,
    make_huggingface_prior,
)
from metric_slam.errors import ConfigError, MissingDependencyError, WeightsError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera
from tests.scene import Drive, Street, feed, slam_of, straight

CAMERA = PinholeCamera(fx=90.0, fy=90.0, cx=59.5, cy=39.5, width=120, height=80)
IMAGE = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)


@pytest.fixture(scope="session")
def metric_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Depth Anything of a few thousand random weights that says it is metric; skipped without transformers."""
    try:
        import transformers
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
    except ImportError as error:
        pytest.skip(f"transformers is not usable here: {error}")
    transformers.utils.logging.disable_progress_bar()
    stages = [f"stage{k}" for k in (1, 2, 3, 4)]
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_features=stages,
        reshape_hidden_states=False,
    )
    torch.manual_seed(0)
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type="metric",
        max_depth=80,
    )
    folder = tmp_path_factory.mktemp("model")
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "DPTImageProcessor",
        "size": {"height": 56, "width": 56},
        "ensure_multiple_of": 14,
        "keep_aspect_ratio": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def edited(folder: Path, target: Path, **values: object) -> Path:
    """A copy of a model whose configuration says something else."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **values}))
    return target


def test_a_local_model_becomes_a_prior(metric_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    prior, what = make_huggingface_prior(HuggingFaceConfig(model=str(metric_model), sigma=0.2), "cpu")
    assert capfd.readouterr().err == ""
    assert what == f"depth_anything in {metric_model}, on cpu"
    assert prior.name == "huggingface" and prior.metric and prior.relative_sigma == 0.2
    state = prior.prepare(Frame(index=0, time_s=0.0, image=IMAGE, camera=CAMERA), CAMERA)
    found = prior.predict(state, CAMERA)
    assert found is not None and found.depth_m.shape == found.confidence.shape == (10, 15)
    assert ((found.depth_m > 0) & (found.depth_m < 80)).all()


def test_metres_are_those_of_the_model(metric_model: Path) -> None:
    """The library's own steps by hand: network, then resized to the image."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    model = AutoModelForDepthEstimation.from_pretrained(metric_model, local_files_only=True).eval()
    processor = AutoImageProcessor.from_pretrained(metric_model, local_files_only=True)
    with torch.inference_mode():
        raw = model(**processor(images=IMAGE, return_tensors="pt")).predicted_depth
    expected = torch.nn.functional.interpolate(raw[:, None], (80, 120), mode="bicubic")[0, 0].numpy()
    found = HuggingFacePredictor(model, processor, "cpu")(IMAGE, CAMERA)
    assert found.dtype == np.float32 and found.shape == (80, 120)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_far_depth_is_unknown() -> None:
    depth_m = np.where(np.arange(120) < 64, 20.0, 200.0) * np.ones((80, 1))
    prior = HuggingFacePrior(HuggingFaceConfig(max_depth_m=100.0), lambda *_: depth_m)
    state = prior.prepare(Frame(index=0, time_s=0.0, image=IMAGE, camera=CAMERA), CAMERA)
    assert (state.depth_m[:, :8] == 20.0).all() and (state.depth_m[:, 8:] == 0.0).all()


def test_choices_make_it_only_when_asked(metric_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRIC_SLAM_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    drive = Drive(Street(), straight(2, 0.5))
    tree = {"device": "cpu", "huggingface": {"model": str(metric_model)}}
    prior, reason = choose_prior(Config.model_validate({**tree, "prior": "huggingface"}), drive)
    assert prior.name == "huggingface" and "as asked for" in reason and str(metric_model) in reason
    assert choose_prior(Config.model_validate(tree), drive).prior.name == "ground_plane"


def test_a_relative_model_is_refused(metric_model: Path, tmp_path: Path) -> None:
    folder = edited(metric_model, tmp_path / "relative", depth_estimation_type="relative")
    for assume in (False, True):
        with pytest.raises(ConfigError, match="its depth is relative according to") as caught:
            make_huggingface_prior(HuggingFaceConfig(model=str(folder), assume_metric=assume), "cpu")
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "assume", "words"),
    [
        ({"model_type": "dpt"}, False, "huggingface.assume_metric"),
        ({"model_type": "dpt"}, True, None),
        ({"model_type": "zoedepth"}, False, None),
        ({"model_type": "glpn"}, False, None),
        ({"model_type": "depth_pro", "use_fov_model": True}, False, None),
        ({"model_type": "depth_pro", "use_fov_model": False}, True, "no field of view"),
        ({"model_type": "depth_anything", "depth_estimation_type": "metric"}, False, None),
        ({"model_type": "prompt_depth_anything", "depth_estimation_type": "metric"}, True, "prompt"),
    ],
)
def test_which_models_are_metric(found: dict[str, object], assume: bool, words: str | None) -> None:
    if words is None:
        check_metric("m", SimpleNamespace(**found), assume_metric=assume)
        return
    with pytest.raises(ConfigError, match=words):
        check_metric("m", SimpleNamespace(**found), assume_metric=assume)


def test_missing_and_damaged_models_are_told_in_one_line(metric_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="huggingface.model=FOLDER"):
        make_huggingface_prior(HuggingFaceConfig(), "cpu")
    empty, torn, partial = (tmp_path / name for name in ("empty", "torn", "partial"))
    empty.mkdir()
    shutil.copytree(metric_model, torn)
    (torn / "model.safetensors").write_bytes(b"torn")
    from safetensors.torch import load_file, save_file

    shutil.copytree(metric_model, partial)
    weights = load_file(partial / "model.safetensors")
    del weights["head.conv3.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    unknown = edited(metric_model, tmp_path / "unknown", model_type="nonsense", architectures=["Nonsense"])
    cases = {
        "nobody/nothing": "no folder and not in the local cache.*allow_download",
        str(empty): "cannot be read as a depth model",
        str(torn): "cannot be read as a depth model",
        str(partial): "1 weights are missing, head.conv3.weight",
        str(unknown): "cannot be read as a depth model",
    }
    for model, words in cases.items():
        with pytest.raises(WeightsError, match=words) as caught:
            make_huggingface_prior(HuggingFaceConfig(model=model), "cpu")
        assert model in str(caught.value) and "\n" not in str(caught.value)


def test_without_the_library_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'metric-slam\[huggingface\]'") as caught:
        make_huggingface_prior(HuggingFaceConfig(model="anything"), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [1.0, 0.75])
def test_a_model_that_knows_the_truth_gives_metres(factor: float) -> None:
    """The rendered street through the whole system: a prior that is wrong by a factor moves the path by that factor."""
    street, path = Street(end_m=70.0), straight(24, 0.5)
    seen, known = (Drive(street, path, mount=None, with_depth=with_depth) for with_depth in (False, True))
    truth = {known[k].image.tobytes(): known[k].depth_m for k in range(len(known))}
    prior = HuggingFacePrior(HuggingFaceConfig(), lambda image, _: factor * np.asarray(truth[image.tobytes()]))
    config = Config.model_validate({"dis": {"finest_scale": 1}, "correspondence": "dis"})
    slam = slam_of(config, prior, choose_correspondence(config).model)
    feed(slam, seen)
    result = slam.finish()
    travelled_m = float(np.linalg.norm(result.T_world_cam[-1, :3, 3] - result.T_world_cam[0, :3, 3]))
    assert travelled_m == pytest.approx(11.5 * factor, rel=0.03)
    assert result.scale_source == "huggingface"


class Batch(dict):
    """What an image processor returns."""

    def to(self, device: str) -> Batch:
        return self


class GuessesFieldOfView:
    """Stands in for Depth Pro: answers with a guessed field of view, which its processor scales by."""

    def to(self, device: str) -> GuessesFieldOfView:
        return self

    def __call__(self, images: object = None, return_tensors: str = "", **inputs: object) -> object:
        if images is not None:
            return Batch(pixel_values=images)
        return SimpleNamespace(field_of_view=torch.tensor([20.0]), predicted_depth=torch.ones(1, 4, 4))

    def post_process_depth_estimation(
        self, outputs: SimpleNamespace, source_sizes: list[tuple[int, int]], target_sizes: list[tuple[int, int]]
    ) -> list[dict[str, torch.Tensor]]:
        assert source_sizes == target_sizes == [(80, 120)]
        focal_px = 0.5 * 120 / torch.tan(0.5 * torch.deg2rad(outputs.field_of_view[0]))
        depth = focal_px * torch.ones(80, 120)
        depth[0, :3] = torch.tensor([-1.0, torch.nan, torch.inf])
        return [{"predicted_depth": depth}]


def test_the_known_focal_length_replaces_a_guess() -> None:
    fake = GuessesFieldOfView()
    found = HuggingFacePredictor(fake, fake, "cpu")(IMAGE, CAMERA)
    assert found[1:] == pytest.approx(np.full((79, 120), 90.0), rel=1e-5)
    assert (found[0, :3] == 0.0).all()
