"""Folders of depth maps, and the mistakes people make with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")

import cv2  # noqa: E402  (reads that variable once)

from metric_slam.config import PrecomputedConfig  # noqa: E402
from metric_slam.depth.precomputed import PrecomputedDepth, read_depth  # noqa: E402
from metric_slam.errors import ConfigError, DatasetError, MissingDependencyError  # noqa: E402
from metric_slam.frame import Frame  # noqa: E402
from tests.scene import CAMERA  # noqa: E402

HAS_EXR = cv2.haveImageWriter("a.exr")
needs_exr = pytest.mark.skipif(not HAS_EXR, reason="this OpenCV is built without OpenEXR")
SIZE = (CAMERA.height, CAMERA.width)


def depth_map() -> np.ndarray:
    """Metres, with cells of unknown, too near and too far depth."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    depth_m = (4.0 + 0.05 * x + 0.02 * y).astype(np.float32)
    depth_m[:8, :8], depth_m[:8, 8:16], depth_m[:8, 16:24] = 0.0, 0.1, 150.0
    return depth_m


def write_png(path: Path, depth_m: np.ndarray) -> None:
    assert cv2.imwrite(str(path), np.rint(depth_m * 256).astype(np.uint16))


def write_exr(path: Path, depth_m: np.ndarray) -> None:
    assert cv2.imwrite(str(path), depth_m)


def write_exr_rgb(path: Path, depth_m: np.ndarray) -> None:
    assert cv2.imwrite(str(path), np.repeat(depth_m[..., None], 3, axis=-1))


WRITERS = [
    (".png", write_png),
    (".npy", lambda path, depth_m: np.save(path, depth_m)),
    (".npy", lambda path, depth_m: np.save(path, depth_m[None].astype(np.float64))),
    (".npy", lambda path, depth_m: np.save(path, depth_m[..., None])),
    (".npz", lambda path, depth_m: np.savez(path, depth=depth_m, other=np.zeros(3))),
    (".npz", lambda path, depth_m: np.savez_compressed(path, anything=depth_m)),
    pytest.param(".exr", write_exr, marks=needs_exr),
    pytest.param(".exr", write_exr_rgb, marks=needs_exr),
]


def frame(index: int = 3, path: Path | None = Path("elsewhere/000003.jpg")) -> Frame:
    return Frame(index, 0.0, np.zeros((*SIZE, 3), np.uint8), CAMERA, path=path)


def prior(folder: Path) -> PrecomputedDepth:
    return PrecomputedDepth(PrecomputedConfig(folder=str(folder)))


@pytest.mark.parametrize(("suffix", "write"), WRITERS)
def test_every_format_comes_back_in_metres(
    tmp_path: Path, suffix: str, write: Callable[[Path, np.ndarray], None]
) -> None:
    depth_m = depth_map()
    write(tmp_path / f"000003{suffix}", depth_m)
    np.testing.assert_allclose(read_depth(tmp_path / f"000003{suffix}", 256.0), depth_m, atol=0.002)
    got = prior(tmp_path).prepare(frame(), CAMERA)
    assert (got.depth_m[0, :3] == 0).all() and (got.confidence[0, :3] == 0).all()
    np.testing.assert_allclose(got.depth_m[4, 20], depth_m[36, 164], rtol=0.01)


def test_a_map_of_another_size_and_scale_fits(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "000003.png"), np.full((375, 1242), 5000, np.uint16))
    config = PrecomputedConfig(folder=str(tmp_path), png_scale=1000.0)
    got = PrecomputedDepth(config).prepare(frame(), CAMERA)
    assert got.depth_m.shape == (12, 40) and (got.depth_m == 5.0).all()


def test_frames_without_a_file_are_looked_up_by_number(tmp_path: Path) -> None:
    np.save(tmp_path / "000012.npy", depth_map())
    assert prior(tmp_path).prepare(frame(12, None), CAMERA).depth_m.any()


def test_values_that_are_no_numbers_are_unknown(tmp_path: Path) -> None:
    depth_m = depth_map()
    depth_m[48:] = np.nan
    depth_m[:, 160:] = np.inf
    np.save(tmp_path / "000003.npy", depth_m)
    got = prior(tmp_path).prepare(frame(), CAMERA)
    assert not got.depth_m[6:].any() and not got.depth_m[:, 20:].any() and got.depth_m[2, 2] > 0


def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere.*precomputed.folder"):
        prior(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="precomputed.folder"):
        PrecomputedDepth(PrecomputedConfig())


def test_a_missing_map_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no depth map named 000003.*\.png.*\.npz"):
        prior(tmp_path).prepare(frame(), CAMERA)


def damaged_npz(path: Path) -> None:
    np.savez_compressed(path, depth=np.random.default_rng(0).normal(size=(50, 50)))
    content = bytearray(path.read_bytes())
    content[5000:5100] = bytes(100)
    path.write_bytes(content)


MISTAKES: list[tuple[str, Callable[[Path], object], str]] = [
    ("a.png", lambda path: path.write_bytes(b"no image"), "cannot be read"),
    ("a.npy", lambda path: path.write_bytes(b""), "cannot be read"),
    ("a.npy", lambda path: path.write_bytes(b"no array at all"), "cannot be read"),
    ("a.npz", lambda path: path.write_bytes(b"PK no archive"), "cannot be read"),
    ("a.npz", damaged_npz, "cannot be read"),
    ("a.npz", lambda path: np.savez(path), "cannot be read"),
    ("a.npy", lambda path: np.save(path, np.array([["far", "near"]])), "cannot be read"),
    ("a.npy", lambda path: np.save(path, np.array([{"depth": 1}], object)), "cannot be read"),
    ("a.npy", lambda path: np.save(path, np.zeros((4, 5, 3))), "two dimensions"),
    ("a.npy", lambda path: np.save(path, np.zeros(7)), "two dimensions"),
    ("a.png", lambda path: cv2.imwrite(str(path), np.zeros((4, 5), np.uint8)), "16"),
    ("a.png", lambda path: cv2.imwrite(str(path), np.zeros((4, 5, 3), np.uint16)), "two dimensions"),
]


@pytest.mark.parametrize(("name", "write", "words"), MISTAKES)
def test_a_file_that_is_no_depth_map_is_named_in_one_line(
    tmp_path: Path, name: str, write: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(DatasetError, match=words) as caught:
        read_depth(path, 256.0)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@needs_exr
def test_exr_in_three_different_channels_is_no_depth(tmp_path: Path) -> None:
    path = tmp_path / "a.exr"
    assert cv2.imwrite(str(path), np.eye(15, dtype=np.float32).reshape(5, 15, 3))
    with pytest.raises(DatasetError, match="two dimensions"):
        read_depth(path, 256.0)


@pytest.mark.skipif(HAS_EXR, reason="this OpenCV reads exr")
def test_exr_without_its_codec_names_another_format(tmp_path: Path) -> None:
    path = tmp_path / "a.exr"
    path.write_bytes(b"v/1")
    with pytest.raises(MissingDependencyError, match="a.exr.*npy"):
        read_depth(path, 256.0)
