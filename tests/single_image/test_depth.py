"""What is written about one image, with a stand-in network that knows the true depth; which images are read at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.datasets.images import read_depth_m, read_rgb
from metric_slam.depth.metric3d.canonical import CANONICAL_FOCAL_PX
from metric_slam.depth.metric3d.model import Prediction
from metric_slam.depth.metric3d.predictor import DepthPredictor, ImageDepth
from metric_slam.errors import CalibrationError, ConfigError, ImageError, InputError, OutputError, WeightsError
from metric_slam.reconstruction.ply import VERTEX
from metric_slam.single_image.camera import FocalOptions
from metric_slam.single_image.depth import (
    UNKNOWN_GREY,
    collect_inputs,
    depth_picture,
    load_predictor,
    measurement_picture,
    normals_picture,
    read_image,
    refuse_existing,
    surface_normals,
    write_outputs,
    write_picture,
)
from metric_slam.single_image.measure import measure, network_view
from tests.scene import CAMERA, Street, pose

FOCAL = FocalOptions(focal_px=185.0)
IMAGE, DEPTH_M = Street(end_m=40.0, walls=False).render(pose())


def predicted(*, normals: bool = True) -> ImageDepth:
    """What comes out of the canonical camera around a network that knows the truth; its input is the image's size."""
    canonical = torch.from_numpy(np.where(DEPTH_M > 0, DEPTH_M * CANONICAL_FOCAL_PX / CAMERA.fx, 200.0))[None].float()
    up = torch.tensor([0.0, -1.0, 0.0])[None, :, None, None].expand(1, 3, *DEPTH_M.shape).contiguous()

    def network(images: torch.Tensor) -> Prediction:
        assert images.shape == (1, 3, *DEPTH_M.shape)
        return Prediction(canonical, torch.full_like(canonical, 0.9), up if normals else None)

    return DepthPredictor(network, CAMERA.size, 300.0)(IMAGE, CAMERA)


def read_cloud(path: Path) -> np.ndarray:
    """Vertices of a cloud as records."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    vertices = np.frombuffer(body, VERTEX)
    assert f"element vertex {len(vertices)}\n".encode() in header and b"comment metres" in header
    return vertices


def test_everything_is_written_in_metres(tmp_path: Path) -> None:
    outputs = write_outputs(tmp_path / "out", "street", IMAGE, CAMERA, predicted())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in outputs.paths)
    assert len(outputs.paths) == 6
    exact = np.load(outputs.depth_npy)
    assert exact.dtype == np.float32
    np.testing.assert_allclose(exact, DEPTH_M, rtol=1e-4)
    np.testing.assert_allclose(read_depth_m(outputs.depth_png, 256.0), DEPTH_M, atol=0.5 / 256 + 1e-3)
    assert read_rgb(outputs.picture).shape == IMAGE.shape
    assert outputs.normals_npy is not None and outputs.normals_picture is not None
    normals = np.load(outputs.normals_npy)
    np.testing.assert_allclose(normals, np.broadcast_to([0.0, -1.0, 0.0], normals.shape), atol=1e-5)
    assert read_rgb(outputs.normals_picture)[5, 5].tolist() == [128, 0, 128]


def test_the_cloud_is_the_street(tmp_path: Path) -> None:
    cloud = read_cloud(write_outputs(tmp_path, "a", IMAGE, CAMERA, predicted()).cloud)
    assert len(cloud) == np.count_nonzero(DEPTH_M)
    road = cloud["z"] < 39.0
    np.testing.assert_allclose(cloud["y"][road], 1.65, rtol=1e-3)
    assert cloud["z"].max() == pytest.approx(40.0, rel=1e-3)
    np.testing.assert_array_equal(cloud["red"], IMAGE[..., 0][DEPTH_M > 0])
    assert (cloud["ny"] == -1.0).all()


def test_large_clouds_are_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metric_slam.single_image.depth.MAX_CLOUD_POINTS", 1000)
    cloud = read_cloud(write_outputs(tmp_path, "a", IMAGE, CAMERA, predicted()).cloud)
    assert 500 < len(cloud) <= 1100


def test_a_network_without_normals_writes_none_but_the_cloud_has_them(tmp_path: Path) -> None:
    outputs = write_outputs(tmp_path, "a", IMAGE, CAMERA, predicted(normals=False))
    assert outputs.normals_npy is None and len(outputs.paths) == 4 == len(list(tmp_path.iterdir()))
    cloud = read_cloud(outputs.cloud)
    near = cloud["z"] < 15.0
    np.testing.assert_allclose(cloud["ny"][near], -1.0, atol=1e-2)
    points = CAMERA.rays() * 3.0
    np.testing.assert_allclose(surface_normals(points), np.broadcast_to([0, 0, -1.0], points.shape), atol=1e-9)


def test_sky_is_nowhere(tmp_path: Path) -> None:
    found = predicted()
    depth_m = found.depth_m.copy()
    depth_m[:10] = 0.0
    outputs = write_outputs(tmp_path, "a", IMAGE, CAMERA, replace(found, depth_m=depth_m))
    assert (read_depth_m(outputs.depth_png, 256.0)[:10] == 0).all()
    assert (read_rgb(outputs.picture)[:10] == UNKNOWN_GREY).all()
    assert len(read_cloud(outputs.cloud)) == np.count_nonzero(depth_m)
    assert (depth_picture(np.zeros((4, 5))) == UNKNOWN_GREY).all()
    near, far = depth_picture(np.array([[1.0, 50.0]]))[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0]
    assert normals_picture(np.array([[[1.0, -1.0, 0.0]]])).tolist() == [[[255, 0, 128]]]


def test_existing_files_are_only_replaced_when_told(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), IMAGE)
    inputs = collect_inputs([tmp_path / "a.png"], FOCAL)
    refuse_existing(tmp_path / "out", inputs, overwrite=False)
    write_outputs(tmp_path / "out", "a", IMAGE, CAMERA, predicted())
    with pytest.raises(OutputError, match="exists already.*--overwrite"):
        refuse_existing(tmp_path / "out", inputs, overwrite=False)
    refuse_existing(tmp_path / "out", inputs, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="another folder"):
        write_outputs(tmp_path / "file", "a", IMAGE, CAMERA, predicted())


def test_a_measurement_is_drawn(tmp_path: Path) -> None:
    found = predicted()
    result = measure(network_view(found.depth_m, found.confidence, CAMERA, Metric3DConfig()), (100, 80), (220, 85))
    picture = measurement_picture(IMAGE, result)
    changed = (picture != IMAGE).any(axis=-1)
    assert picture.shape == IMAGE.shape and changed[80, 100] and changed[85, 220] and changed[82:84, 130].any()
    assert 0.005 < changed.mean() < 0.3
    write_picture(tmp_path / "deep" / "m.png", picture)
    np.testing.assert_array_equal(read_rgb(tmp_path / "deep" / "m.png"), picture)
    corner = replace(result, first=replace(result.first, pixel=(0, 0)), second=replace(result.second, pixel=(2, 1)))
    assert measurement_picture(IMAGE, corner).shape == IMAGE.shape


COLOUR = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
GREY = COLOUR[..., 0]


def opaque(alpha: int) -> np.ndarray:
    """Colour with an alpha channel."""
    return np.dstack([COLOUR, np.full((20, 30), alpha, np.uint8)])


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    for image, camera in ((IMAGE[:-1], CAMERA), (IMAGE.astype(np.float32), CAMERA), (IMAGE, CAMERA.resized(80, 24))):
        with pytest.raises(InputError, match="image is"):
            write_outputs(tmp_path / "no", "a", image, camera, predicted())
    found = predicted()
    with pytest.raises(InputError, match="depth_m has shape"):
        write_outputs(tmp_path / "no", "a", IMAGE, CAMERA, replace(found, depth_m=found.depth_m[1:]))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("name", "pixels", "seen"),
    [
        ("colour.png", COLOUR, COLOUR[..., ::-1]),
        ("grey.png", GREY, np.dstack([GREY] * 3)),
        ("deep.png", GREY.astype(np.uint16) * 256, np.dstack([GREY] * 3)),
        ("deep_colour.png", COLOUR.astype(np.uint16) * 256, COLOUR[..., ::-1]),
        ("opaque.png", opaque(255), COLOUR[..., ::-1]),
    ],
)
def test_images_that_are_read(tmp_path: Path, name: str, pixels: np.ndarray, seen: np.ndarray) -> None:
    assert cv2.imwrite(str(tmp_path / name), pixels)
    image = read_image(tmp_path / name)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, seen)


def float_tiff(path: Path) -> None:
    """What some programs call an image."""
    assert cv2.imwrite(str(path), GREY.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("glass.png", lambda p: cv2.imwrite(str(p), opaque(254)), "transparent"),
        ("float.tiff", float_tiff, "float32.*8 bits"),
        ("text.png", lambda p: p.write_text("no image"), "cannot be decoded"),
        ("empty.png", lambda p: p.write_bytes(b""), "truncated or empty"),
        ("absent.png", lambda p: None, "cannot read image"),
    ],
)
def test_images_that_are_refused(tmp_path: Path, name: str, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(ImageError, match=message) as error:
        collect_inputs([tmp_path / name], FOCAL)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_two_images_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would write the same files"):
        collect_inputs([tmp_path / "a" / "1.png", tmp_path / "b" / "1.jpg"], FOCAL)


def test_mistakes_show_before_the_network_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRIC_SLAM_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), COLOUR)
    config = Metric3DConfig(model="vit_small")
    with pytest.raises(WeightsError, match="metric3d-vit-small"):
        load_predictor(config, "cpu", [])
    (tmp_path / "w.pth").write_bytes(b"not read")
    config = Metric3DConfig(model="vit_small", weights=str(tmp_path / "w.pth"))
    inputs = collect_inputs([tmp_path / "a.png"], FocalOptions(camera="700,700,600,180"))
    with pytest.raises(CalibrationError, match="calibration of another size"):
        load_predictor(config, "cpu", inputs)
    with pytest.raises(ConfigError, match="multiples of 28"):
        load_predictor(config.model_copy(update={"input_size": (100, 100)}), "cpu", [])
