"""Local normalisation of the road's brightness."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from metric_slam.config.schema import GroundPlaneConfig
from metric_slam.depth.ground_plane.road_image import prepare_road_image
from metric_slam.errors import InputError
from tests.scene import CAMERA, Street, pose

BLUR_PX = GroundPlaneConfig().blur_px
MARGIN_PX = 5
"""Three blurs, and two pixels for interpolation and gradient."""


def test_normalisation_takes_out_light_but_not_texture() -> None:
    image = Street().render(pose())[0]
    darker = np.clip(0.6 * image + 25, 0, 255).astype(np.uint8)
    bright, dark = (prepare_road_image(i, CAMERA, 1.5) for i in (image, darker))
    rows = slice(bright.first_row, None)
    assert np.abs(bright.normalised[rows] - dark.normalised[rows]).mean() < 0.05
    assert 0.5 < bright.normalised[rows].std() < 1.5
    assert not bright.normalised[: bright.first_row].any() and not bright.valid[: bright.first_row].any()
    assert bright.valid[rows].all()


@pytest.mark.parametrize("level", [0, 90, 240])
@pytest.mark.parametrize("size", [(320, 96), (1242, 375)])
def test_uniform_pixels_are_invalid_and_zero(level: int, size: tuple[int, int]) -> None:
    """Box filters leave variances slightly below zero there; no NaN comes of it, and no warning of numpy."""
    camera = CAMERA.resized(*size)
    image = np.random.default_rng(0).integers(40, 216, (camera.height, camera.width, 3)).astype(np.uint8)
    rows = camera.height // 3
    image[-rows:] = level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        road = prepare_road_image(image, camera, BLUR_PX)
    assert np.isfinite(road.normalised).all()
    assert not road.valid[-rows:].any() and not road.normalised[-rows:].any()
    assert road.valid[road.first_row : -rows - MARGIN_PX].all(), "and no others"


def test_an_overexposed_road_is_invalid_only_within() -> None:
    """Its edges are features of the road: the normalisation around them is that of any other road."""
    camera = CAMERA.resized(1242, 375)
    image = np.random.default_rng(0).integers(40, 216, (camera.height, camera.width, 3)).astype(np.uint8)
    image[-125:, 400:700] = 255
    road = prepare_road_image(image, camera, BLUR_PX)
    assert np.isfinite(road.normalised).all()
    assert not road.valid[-60:, 480:620].any(), "no texture within the reach of the window"
    assert road.valid[-125:, 395:405].all() and road.valid[-140:-125, 400:700].all()


def test_the_content_of_ignored_pixels_does_not_matter() -> None:
    image = Street().render(pose())[0]
    ignore = np.zeros(image.shape[:2], bool)
    ignore[-20:, 100:220] = True
    noisy = image.copy()
    noisy[ignore] = np.random.default_rng(0).integers(0, 256, (int(ignore.sum()), 3))
    plain, other = (prepare_road_image(i, CAMERA, BLUR_PX, ignore) for i in (image, noisy))
    np.testing.assert_array_equal(plain.normalised, other.normalised)
    np.testing.assert_array_equal(plain.valid, other.valid)
    assert not plain.valid[ignore].any()
    assert not plain.valid[-22, 100:220].any() and not plain.valid[-10, 97], "a margin for the blur and the gradient"
    assert plain.valid[60, 90] and plain.valid[-30, 150], "and no more"
    unmasked, left = prepare_road_image(image, CAMERA, BLUR_PX), np.s_[:, :40]  # beyond the reach of the windows
    np.testing.assert_allclose(plain.normalised[left], unmasked.normalised[left], atol=1e-3)


def test_a_mask_without_ignored_pixels_changes_nothing() -> None:
    image = Street().render(pose())[0]
    plain = prepare_road_image(image, CAMERA, BLUR_PX)
    masked = prepare_road_image(image, CAMERA, BLUR_PX, np.zeros(image.shape[:2], bool))
    np.testing.assert_array_equal(plain.normalised, masked.normalised)


def test_wrong_images_and_masks_are_refused() -> None:
    image = Street().render(pose())[0]
    for bad in (image[..., 0], image.astype(np.float32), image[:-1]):
        with pytest.raises(InputError, match="image is"):
            prepare_road_image(bad, CAMERA, BLUR_PX)
    for mask in (np.zeros(image.shape[:2], np.uint8), np.zeros((5, 5), bool)):
        with pytest.raises(InputError, match="ignore is"):
            prepare_road_image(image, CAMERA, BLUR_PX, mask)
