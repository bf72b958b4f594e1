from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from metric_slam.datasets.images import list_images, read_depth_m, read_rgb, write_depth_m, write_rgb
from metric_slam.errors import DatasetError, ImageError


def test_images_are_listed_in_numeric_order(image_folder: Path) -> None:
    (image_folder / "notes.txt").write_text("no image")
    (image_folder / "._frame1.png").write_bytes(b"of another system")
    assert [p.name for p in list_images(image_folder)] == ["frame2.png", "frame9.png", "frame10.png"]


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images in"):
        list_images(tmp_path)
    with pytest.raises(DatasetError, match="not a folder"):
        list_images(tmp_path / "absent")


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0], image[..., 2] = 200, 10
    write_rgb(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", (6, 4)), image)
    assert cv2.imread(str(tmp_path / "a.png"))[0, 0, 2] == 200


def test_grey_and_16_bit_images_become_three_bytes(tmp_path: Path) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=2))
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 256)
    deep = read_rgb(tmp_path / "deep.png")
    assert deep.dtype == np.uint8
    np.testing.assert_allclose(deep[..., 1], grey, atol=1)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_rgb(path, np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match="truncated"):
        read_rgb(path)


@pytest.mark.parametrize("content", [b"", b"this is text, not an image", b"\x89PNG\r\n\x1a\n garbage IEND\xaeB`\x82"])
def test_undecodable_images_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="broken.png"):
        read_rgb(path)


def test_missing_image_and_other_size(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_rgb(tmp_path / "absent.png")
    write_rgb(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ImageError, match="6x4 but the sequence's camera is 8x4"):
        read_rgb(tmp_path / "a.png", (8, 4))


def test_depth_round_trip_and_no_measurement(tmp_path: Path) -> None:
    depth_m = np.array([[0.0, 1.5, 255.9], [300.0, np.nan, np.inf]])
    write_depth_m(tmp_path / "d.png", depth_m, 256.0)
    read = read_depth_m(tmp_path / "d.png", 256.0, (3, 2))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, [[0, 1.5, 255.9], [0, 0, 0]], atol=1 / 512)


def test_colour_image_is_no_depth(tmp_path: Path) -> None:
    write_rgb(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ImageError, match="no depth image"):
        read_depth_m(tmp_path / "a.png", 256.0)
