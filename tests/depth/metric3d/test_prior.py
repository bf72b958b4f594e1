"""The prior: depth on the grid with an honest confidence, the cache, and metres through the whole system."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metric_slam.choices import InputFacts, choose_correspondence, choose_prior
from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.config.schema import Config, PrecomputedConfig
from metric_slam.depth.metric3d.cache import DepthCache
from metric_slam.depth.metric3d.canonical import CanonicalView, canonical_view
from metric_slam.depth.metric3d.model import Prediction
from metric_slam.depth.metric3d.predictor import DepthPredictor, ImageDepth
from metric_slam.depth.metric3d.prior import Metric3DPrior
from metric_slam.depth.metric3d.specs import SPECS
from metric_slam.depth.precomputed import PrecomputedDepth
from metric_slam.errors import ConfigError, OutputError, WeightsError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera
from tests.depth.metric3d.conftest import TINY_V1, TINY_V2, small_network
from tests.scene import CAMERA, Drive, Street, feed, slam_of, straight

STREET = Street(end_m=70.0)
FACTS = InputFacts.of(Drive(STREET, straight(2, 0.5)))


def answer(depth_m: np.ndarray, confidence: np.ndarray | float = 1.0) -> ImageDepth:
    """Depth [H, W] with a confidence for all or for every pixel."""
    shared = np.broadcast_to(np.float32(confidence), depth_m.shape).copy()
    return ImageDepth(depth_m.astype(np.float32), shared)


class Counting:
    """A predictor that counts how often it is asked."""

    def __init__(self, found: ImageDepth) -> None:
        self.found, self.asked = found, 0

    def __call__(self, image: np.ndarray, camera: PinholeCamera) -> ImageDepth:
        self.asked += 1
        return self.found


class TrueDepth:
    """Stands in for a network: knows by its input which frame is meant, and its true canonical depth."""

    def __init__(self, drive: Drive, input_size: tuple[int, int], factor: float) -> None:
        self._factor = factor
        self._canonical: dict[bytes, np.ndarray] = {}
        view = canonical_view(drive.camera, input_size)
        for index in range(len(drive)):
            frame = drive[index]
            self._canonical[view.network_image(frame.image).tobytes()] = seen_by_network(view, frame)

    def __call__(self, images: torch.Tensor) -> Prediction:
        depth = self._factor * torch.from_numpy(self._canonical[images[0].numpy().tobytes()])[None]
        return Prediction(depth, torch.ones_like(depth))


def seen_by_network(view: CanonicalView, frame: Frame) -> np.ndarray:
    """True depth of a frame rendered in the network's input, for the canonical focal length; the sky at its end."""
    canonical = np.full(view.input_size[::-1], 200.0, np.float32)
    left, top = view.left_top
    width, height = view.resized
    depth_m = STREET.render(frame.T_world_cam_true, view.camera.resized(width, height))[1]
    known = depth_m > 0
    canonical[top : top + height, left : left + width][known] = depth_m[known] / (view.focal_px / 1000.0)
    return canonical


class PosedDrive(Drive):
    """A drive whose frames carry their pose, for the stand-in network."""

    def __getitem__(self, index: int) -> Frame:
        return replace(super().__getitem__(index), T_world_cam_true=self.path[index])


def frame_of(image: np.ndarray | None = None, **other: object) -> Frame:
    picture = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8) if image is None else image
    return replace(Frame(7, 0.0, picture, CAMERA), **other)


def test_the_confidence_is_the_networks_own_and_none_where_nothing_is_known() -> None:
    depth = np.full((96, 320), 20.0)
    depth[:32] = 0.0  # sky
    depth[:, 160:] = 90.0  # too far
    confidence = np.full((96, 320), 0.8)
    confidence[64:] = 0.25
    prior = Metric3DPrior(Metric3DConfig(), Counting(answer(depth, confidence)))
    found = prior.predict(prior.prepare(frame_of(), CAMERA), CAMERA)
    assert found.depth_m.shape == found.confidence.shape == (12, 40)
    np.testing.assert_allclose(found.depth_m[4:, :20], 20.0)
    assert (found.depth_m[:4] == 0).all() and (found.depth_m[:, 20:] == 0).all()
    np.testing.assert_allclose(found.confidence[4:8, :20], 0.8, rtol=1e-5)
    np.testing.assert_allclose(found.confidence[8:, :20], 0.25, rtol=1e-5)
    assert (found.confidence[:4] == 0).all() and (found.confidence[:, 20:] == 0).all()
    nearer = Metric3DPrior(Metric3DConfig(max_depth_m=10.0), Counting(answer(depth, confidence)))
    assert not nearer.prepare(frame_of(), CAMERA).confidence.any()


def test_believed_errors_are_configured() -> None:
    prior = Metric3DPrior(Metric3DConfig(sigma=0.2, scale_sigma=0.07), Counting(answer(np.ones((96, 320)))))
    assert (prior.name, prior.metric, prior.relative_sigma, prior.scale_sigma) == ("metric3d", True, 0.2, 0.07)


@pytest.mark.parametrize("spec", [TINY_V1, TINY_V2], ids=["v1", "v2"])
def test_confidences_of_a_network_are_shares(spec: object) -> None:
    predict = DepthPredictor(small_network(spec), spec.input_size, spec.decoder.farthest_m)
    image = np.random.default_rng(0).integers(0, 256, (96, 320, 3), dtype=np.uint8)
    found = predict(image, CAMERA)
    assert found.depth_m.shape == found.confidence.shape == (96, 320) and found.depth_m.dtype == np.float32
    assert 0 <= found.confidence.min() and found.confidence.max() <= 1
    assert (found.normals is None) == (spec is TINY_V1)
    if found.normals is not None:
        np.testing.assert_allclose(np.linalg.norm(found.normals, axis=-1), 1.0, atol=1e-3)


@pytest.mark.parametrize("spec", [TINY_V1, TINY_V2], ids=["v1", "v2"])
def test_a_batch_and_half_precision_say_the_same(spec: object) -> None:
    network = small_network(spec)
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (96, 320, 3), dtype=np.uint8) for _ in range(3)]
    predict = DepthPredictor(network, spec.input_size, spec.decoder.farthest_m)
    together = predict.batch(images, CAMERA)
    half = DepthPredictor(network, spec.input_size, spec.decoder.farthest_m, precision=torch.bfloat16)
    for image, found in zip(images, together, strict=True):
        alone, coarse = predict(image, CAMERA), half(image, CAMERA)
        np.testing.assert_allclose(found.depth_m, alone.depth_m, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.confidence, alone.confidence, atol=1e-4)
        assert coarse.depth_m.dtype == np.float32 and not np.array_equal(coarse.depth_m, alone.depth_m)
        both = (coarse.depth_m > 0) & (alone.depth_m > 0)
        assert both.mean() > 0.9 * (alone.depth_m > 0).mean()
        if both.any():
            assert np.median(np.abs(coarse.depth_m / np.maximum(alone.depth_m, 1e-6) - 1.0)[both]) < 0.05


def test_normals_are_kept_with_the_map(tmp_path: Path) -> None:
    cache, frame = DepthCache(tmp_path, "net"), frame_of()
    normals = np.zeros((96, 320, 3), np.float32)
    normals[..., 0], normals[..., 2] = 0.6, -0.8
    cache.save(frame, ImageDepth(np.ones((96, 320), np.float32), np.ones((96, 320), np.float32), normals))
    np.testing.assert_allclose(cache.load(frame).normals, normals, atol=0.005)
    cache.save(frame, ImageDepth(np.ones((96, 320), np.float32), np.ones((96, 320), np.float32)))
    assert cache.load(frame).normals is None


def test_a_map_is_made_once(tmp_path: Path) -> None:
    asked = Counting(answer(np.full((96, 320), 12.3), 0.6))
    prior = Metric3DPrior(Metric3DConfig(), asked, DepthCache(tmp_path / "maps", "net"))
    frame = frame_of(path=Path("drive/000042.png"))
    first = prior.prepare(frame, CAMERA)
    second = prior.prepare(frame, CAMERA)
    assert asked.asked == 1 and [p.name for p in (tmp_path / "maps").iterdir()] == ["000042.npz"]
    np.testing.assert_allclose(second.depth_m, first.depth_m, rtol=1e-3)
    np.testing.assert_allclose(second.confidence, first.confidence, atol=0.003)


def test_a_map_of_something_else_is_made_anew(tmp_path: Path) -> None:
    asked = Counting(answer(np.full((96, 320), 12.3)))
    frame = frame_of()
    longer = PinholeCamera(2 * CAMERA.fx, 2 * CAMERA.fy, CAMERA.cx, CAMERA.cy, *CAMERA.size)
    others = (
        (frame, "other net"),
        (replace(frame, camera=longer), "net"),
        (frame_of(np.ones((96, 320, 3), np.uint8)), "net"),
    )
    for count, (other, made_by) in enumerate(others, start=1):
        DepthCache(tmp_path, "net").save(frame, asked.found)
        Metric3DPrior(Metric3DConfig(), asked, DepthCache(tmp_path, made_by)).prepare(other, CAMERA)
        assert asked.asked == count
    (tmp_path / "000007.npz").write_bytes(b"PK\x03\x04 cut off")
    cache = DepthCache(tmp_path, "net")
    assert cache.load(frame) is None
    Metric3DPrior(Metric3DConfig(), asked, cache).prepare(frame, CAMERA)
    assert cache.load(frame) is not None


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="metric3d.cache"):
        DepthCache(tmp_path / "file", "net").save(frame_of(), answer(np.ones((96, 320))))


def test_precomputed_reads_what_the_cache_wrote(tmp_path: Path) -> None:
    depth = np.tile(np.linspace(5, 60, 320), (96, 1))
    depth[:16] = 0.0
    prior = Metric3DPrior(Metric3DConfig(), Counting(answer(depth)), DepthCache(tmp_path, "net"))
    ours = prior.prepare(frame_of(), CAMERA)
    theirs = PrecomputedDepth(PrecomputedConfig(folder=str(tmp_path))).prepare(frame_of(), CAMERA)
    np.testing.assert_allclose(theirs.depth_m, ours.depth_m, rtol=1e-3)
    assert (theirs.depth_m[:2] == 0).all()


def test_weights_make_the_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.pth"
    torch.save(small_network(TINY_V1).state_dict(), path)
    monkeypatch.setitem(SPECS, "convnext_tiny", TINY_V1)
    settings = {"weights": str(path), "model": "convnext_tiny", "cache": str(tmp_path / "maps")}
    config = Config.model_validate({"prior": "metric3d", "device": "cpu", "metric3d": settings})
    prior, reason = choose_prior(config, FACTS)
    assert prior.name == "metric3d" and str(path) in reason and "as asked for" in reason and "on cpu" in reason
    image = np.random.default_rng(0).integers(0, 256, (96, 320, 3), dtype=np.uint8)
    assert prior.prepare(frame_of(image), CAMERA).depth_m.shape == (12, 40)
    assert [p.name for p in (tmp_path / "maps").iterdir()] == ["000007.npz"]
    wrong = {**settings, "input_size": (100, 64)}
    with pytest.raises(ConfigError, match="multiples of 32"):
        choose_prior(Config.model_validate({"prior": "metric3d", "metric3d": wrong}), FACTS)


@pytest.mark.parametrize("factor", [1.0, 0.75])
def test_a_network_that_knows_the_truth_gives_metres(factor: float) -> None:
    drive = PosedDrive(STREET, straight(24, 0.5), mount=None)
    config = Config.model_validate({"dis": {"finest_scale": 1}, "correspondence": "dis"})
    network = TrueDepth(drive, (308, 112), factor)
    prior = Metric3DPrior(Metric3DConfig(), DepthPredictor(network, (308, 112), farthest=200.0))
    slam = slam_of(config, prior, choose_correspondence(config).model)
    feed(slam, drive)
    result = slam.finish()
    travelled_m = float(np.linalg.norm(result.T_world_cam[-1, :3, 3] - result.T_world_cam[0, :3, 3]))
    assert travelled_m == pytest.approx(11.5 * factor, rel=0.02)
    assert result.scale_source == "metric3d"


def test_missing_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRIC_SLAM_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="metric-slam weights download metric3d-vit-small") as caught:
        choose_prior(Config(prior="metric3d"), FACTS)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
