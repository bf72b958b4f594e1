"""The canonical camera: what an image and its focal length become, and that metres follow the rule exactly."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metric_slam.depth.metric3d.canonical import (
    MEAN_RGB,
    STD_RGB,
    canonical_view,
    cstm_image,
    cstm_label,
    metres_from_label,
)
from metric_slam.depth.metric3d.model import Prediction
from metric_slam.depth.metric3d.predictor import DepthPredictor
from metric_slam.errors import CalibrationError
from metric_slam.geometry.camera import PinholeCamera

KITTI = PinholeCamera(fx=707.0493, fy=707.0493, cx=604.0814, cy=180.5066, width=1226, height=370)
VIT, CONVNEXT = (1064, 616), (1216, 544)


def grey_is_depth(images: torch.Tensor) -> Prediction:
    """A network that says: the canonical depth is the grey level of the pixel, in metres."""
    std, mean = torch.from_numpy(STD_RGB), torch.from_numpy(MEAN_RGB)
    grey = (images * std[:, None, None] + mean[:, None, None]).mean(dim=1)
    return Prediction(grey, torch.ones_like(grey))


def hills(width: int, height: int) -> np.ndarray:
    """A smooth picture uint8 [H, W, 3] whose resizing loses nothing worth mentioning."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    grey = 60 + 40 * np.sin(3 * x) * np.cos(2 * y)
    return np.repeat(np.rint(grey)[..., None], 3, axis=-1).astype(np.uint8)


def test_the_layout_is_that_of_the_released_inference() -> None:
    view = canonical_view(KITTI, VIT)
    scale = 1064 / 1226
    assert view.resized == (1064, int(370 * scale)) and view.left_top == (0, (616 - view.resized[1]) // 2)
    assert view.focal_px == pytest.approx(707.0493 * scale)
    tall = canonical_view(PinholeCamera(700.0, 700.0, 300.0, 400.0, 600, 800), CONVNEXT)
    assert tall.resized == (408, 544) and tall.left_top == ((1216 - tall.resized[0]) // 2, 0)


def test_the_input_is_the_resized_image_in_a_frame_of_the_mean_colour() -> None:
    image = np.random.default_rng(0).integers(0, 256, (370, 1226, 3), dtype=np.uint8)
    view = canonical_view(KITTI, VIT)
    found = view.network_image(image)
    assert found.shape == (3, 616, 1064) and found.dtype == np.float32
    left, top = view.left_top
    width, height = view.resized
    inner = found[:, top : top + height, left : left + width].transpose(1, 2, 0)
    np.testing.assert_allclose(inner * STD_RGB + MEAN_RGB, cv2.resize(image, (width, height)), atol=1e-3)
    outside = np.abs(found[:, :top]).max(), np.abs(found[:, top + height :]).max()
    assert max(outside) < 0.01, "the mean colour, but for its rounding to whole grey levels"


def test_maps_come_back_as_torch_resizes_them() -> None:
    view = canonical_view(KITTI, VIT)
    random_map = np.random.default_rng(1).uniform(1, 80, VIT[::-1]).astype(np.float32)
    left, top = view.left_top
    width, height = view.resized
    inner = torch.from_numpy(random_map[top : top + height, left : left + width])[None, None]
    expected = F.interpolate(inner, (370, 1226), mode="bilinear")[0, 0] * (view.focal_px / 1000.0)
    np.testing.assert_allclose(view.depth_m(random_map), expected, rtol=0, atol=0.01)
    assert view.depth_m(np.full(VIT[::-1], 1e6)).max() == 300.0
    assert view.depth_m(np.full(VIT[::-1], -1.0)).min() == 0.0


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
@pytest.mark.parametrize("input_size", [VIT, CONVNEXT, (448, 252)])
def test_an_image_resized_with_its_focal_length_has_the_same_metres(factor: float, input_size: tuple[int, int]) -> None:
    predict = DepthPredictor(grey_is_depth, input_size, farthest=400.0)
    camera = PinholeCamera(620.0, 620.0, 390.0, 210.0, 800, 400)
    base = predict(np.full((400, 800, 3), 90, np.uint8), camera)
    resized = camera.resized(round(800 * factor), round(400 * factor))
    same = predict(np.full((resized.height, resized.width, 3), 90, np.uint8), resized)
    expected = 90 * camera.fx * min(input_size[0] / 800, input_size[1] / 400) / 1000
    np.testing.assert_allclose(base.depth_m, expected, rtol=1e-5)
    np.testing.assert_allclose(same.depth_m, expected, rtol=1e-5)
    textured = predict(hills(*resized.size), resized).depth_m
    reference = cv2.resize(predict(hills(*camera.size), camera).depth_m, resized.size)
    one_grey_level = expected / 90
    assert np.abs(textured - reference).max() < 2.5 * one_grey_level, "rounding of two pictures to grey levels"


def test_twice_the_focal_length_is_twice_the_depth() -> None:
    predict = DepthPredictor(grey_is_depth, VIT, farthest=400.0)
    image = hills(*KITTI.size)
    longer = PinholeCamera(2 * KITTI.fx, 2 * KITTI.fy, KITTI.cx, KITTI.cy, *KITTI.size)
    np.testing.assert_allclose(predict(image, longer).depth_m, 2 * predict(image, KITTI).depth_m, rtol=1e-6)


def test_a_crop_keeps_its_focal_length() -> None:
    left, top, width, height = 100, 50, 800, 300
    crop = PinholeCamera(KITTI.fx, KITTI.fy, KITTI.cx - left, KITTI.cy - top, width, height)
    view = canonical_view(crop, VIT)
    assert view.focal_px == pytest.approx(KITTI.fx * 1064 / 800)
    elsewhere = PinholeCamera(KITTI.fx, KITTI.fy, 10.0, 290.0, width, height)
    assert canonical_view(elsewhere, VIT).focal_px == view.focal_px


def test_oblong_pixels_become_square() -> None:
    oblong = PinholeCamera(fx=800.0, fy=400.0, cx=400.0, cy=100.0, width=800, height=200)
    square = canonical_view(oblong, VIT)
    assert square.resized == (1064, 532), "as high as if the camera had 400 rows"
    assert square.focal_px == pytest.approx(800 * 1064 / 800)
    flat = DepthPredictor(grey_is_depth, VIT, farthest=400.0)(np.full((200, 800, 3), 50, np.uint8), oblong)
    assert flat.depth_m.shape == (200, 800)
    np.testing.assert_allclose(flat.depth_m, 50 * 1.064, rtol=1e-5)


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (PinholeCamera(1000.0, 400.0, 300.0, 100.0, 600, 200), "fx 1000 and fy 400"),
        (PinholeCamera(700.0, 700.0, 700.0, 100.0, 600, 200), "principal point"),
        (PinholeCamera(700.0, 700.0, 300.0, -2.0, 600, 200), "principal point"),
    ],
)
def test_impossible_calibrations_are_one_line(camera: PinholeCamera, message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as caught:
        canonical_view(camera, VIT)
    assert "\n" not in str(caught.value)


def test_the_focal_length_must_be_that_of_the_image() -> None:
    with pytest.raises(CalibrationError, match="613x185 pixels with the calibration of one of 1226x370"):
        canonical_view(KITTI, VIT).network_image(np.zeros((185, 613, 3), np.uint8))


def test_labels_and_images_of_the_paper() -> None:
    depth = np.array([[10.0, 20.0]], np.float32)
    np.testing.assert_allclose(cstm_label(depth, 500.0), [[20.0, 40.0]])
    np.testing.assert_allclose(metres_from_label(cstm_label(depth, 707.0), 707.0), depth, rtol=1e-6)
    image, label = cstm_image(hills(80, 40), np.full((40, 80), 7.0, np.float32), 500.0)
    assert image.shape == (80, 160, 3) and label.shape == (80, 160) and (label == 7.0).all()
    assert cstm_image(hills(80, 40), None, 2000.0)[0].shape == (20, 40, 3)


def test_both_ways_of_the_paper_agree_on_the_metres() -> None:
    """A thing 40 pixels high in a picture of 500 pixels focal length is 80 pixels high in the canonical one."""
    height_m, depth_m, focal_px = 1.6, 20.0, 500.0
    seen_px = focal_px * height_m / depth_m
    by_label = metres_from_label(np.array(1000.0 * height_m / seen_px), focal_px)
    by_image = 1000.0 * height_m / (seen_px * 1000.0 / focal_px)
    assert float(by_label) == pytest.approx(by_image) == pytest.approx(depth_m)


def test_the_sky_has_no_depth() -> None:
    predict = DepthPredictor(grey_is_depth, VIT, farthest=200.0)
    image = np.full((370, 1226, 3), 50, np.uint8)
    image[:185] = 250
    found = predict(image, KITTI)
    assert (found.depth_m[:180] == 0).all() and (found.depth_m[190:] > 20).all()
    wide = PinholeCamera(KITTI.fx / 4, KITTI.fy / 4, KITTI.cx, KITTI.cy, *KITTI.size)
    assert (predict(image, wide).depth_m[:180] == 0).all(), "no wall at forty metres"
