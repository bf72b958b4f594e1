"""Folders of depth maps, and the mistakes people make with them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from metric_slam.config.schema import PrecomputedConfig
from metric_slam.depth.missing import MAX_WITHOUT_ANY
from metric_slam.depth.precomputed import PrecomputedDepth, depth_channel, read_depth
from metric_slam.errors import ConfigError, DatasetError, MissingDependencyError
from metric_slam.frame import Frame
from tests.scene import CAMERA

SIZE = (CAMERA.height, CAMERA.width)


def depth_map() -> np.ndarray:
    """Metres, with cells of unknown, too near and too far depth."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    depth_m = (4.0 + 0.05 * x + 0.02 * y).astype(np.float32)
    depth_m[:8, :8], depth_m[:8, 8:16], depth_m[:8, 16:24] = 0.0, 0.1, 150.0
    return depth_m


def write_png(path: Path, depth_m: np.ndarray) -> None:
    assert cv2.imwrite(str(path), np.rint(depth_m * 256).astype(np.uint16))


def write_exr(path: Path, **channels: np.ndarray) -> None:
    OpenEXR = pytest.importorskip("OpenEXR")
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {name: np.ascontiguousarray(values) for name, values in channels.items()}).write(str(path))


WRITERS = [
    (".png", write_png),
    (".npy", lambda path, depth_m: np.save(path, depth_m)),
    (".npy", lambda path, depth_m: np.save(path, depth_m[None].astype(np.float64))),
    (".npy", lambda path, depth_m: np.save(path, depth_m[..., None])),
    (".npz", lambda path, depth_m: np.savez(path, depth=depth_m, other=np.zeros(3))),
    (".npz", lambda path, depth_m: np.savez_compressed(path, anything=depth_m)),
    (".exr", lambda path, depth_m: write_exr(path, Y=depth_m)),
    (".exr", lambda path, depth_m: write_exr(path, Z=depth_m, Y=np.ones_like(depth_m))),
    (".exr", lambda path, depth_m: write_exr(path, R=depth_m, G=depth_m, B=depth_m)),
]


def frame(index: int = 3, path: Path | None = Path("elsewhere/000003.jpg")) -> Frame:
    return Frame(index, 0.0, np.zeros((*SIZE, 3), np.uint8), CAMERA, path=path)


def prior(folder: Path) -> PrecomputedDepth:
    """Limited to a range that cuts off the nearest and the farthest values of :func:`depth_map`."""
    return PrecomputedDepth(PrecomputedConfig(folder=str(folder), min_depth_m=0.3, max_depth_m=80.0))


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


def test_all_values_are_kept_by_default(tmp_path: Path) -> None:
    np.save(tmp_path / "000003.npy", depth_map())
    got = PrecomputedDepth(PrecomputedConfig(folder=str(tmp_path))).prepare(frame(), CAMERA)
    np.testing.assert_allclose(got.depth_m[0, :3], [0.0, 0.1, 150.0], rtol=1e-6)


def test_a_missing_map_gives_no_prior(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is warned of once and counted."""
    some = prior(tmp_path)
    for k in (*range(5), 12):
        if k in (0, 12):
            np.save(tmp_path / f"{k:06d}.npy", depth_map())
        got = some.prepare(frame(k, None), CAMERA)
        assert bool(got.depth_m.any()) == bool(got.confidence.any()) == (k in (0, 12))
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "no depth map named 000001" in caplog.text
    assert some.summary() == f"4 of 6 keyframes had no depth map in {tmp_path}"
    resumed = prior(tmp_path)
    resumed.restore(some.state())
    assert resumed.summary() == some.summary()


def test_a_folder_without_any_of_the_maps_is_an_error(tmp_path: Path) -> None:
    none = prior(tmp_path)
    for k in range(MAX_WITHOUT_ANY - 1):
        none.prepare(frame(k, None), CAMERA)
    with pytest.raises(DatasetError, match=r"no depth map named 000003.*\.png.*\.npz"):
        none.prepare(frame(), CAMERA)


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


FAR, NEAR = np.full((2, 2), 9.0), np.full((2, 2), 1.0)


@pytest.mark.parametrize(
    ("channels", "name"),
    [
        ({"Z": FAR, "Y": NEAR, "R": NEAR}, "Z"),
        ({"A": NEAR, "ViewLayer.Depth.Z": FAR, "Y": NEAR}, "ViewLayer.Depth.Z"),
        ({"Y": FAR, "R": NEAR}, "Y"),
        ({"R": FAR, "A": NEAR}, "R"),
        ({"R": FAR, "G": FAR, "B": FAR, "A": NEAR}, "R"),
        ({"distance": FAR}, "distance"),
        ({"X": FAR}, "X"),
    ],
)
def test_the_depth_channel_of_exr(channels: dict[str, np.ndarray], name: str) -> None:
    assert depth_channel(channels) == name


@pytest.mark.parametrize("names", ["RGB", "XYZ", "AB"])
def test_exr_of_colours_or_points_is_no_depth(tmp_path: Path, names: str) -> None:
    path = tmp_path / "a.exr"
    write_exr(path, **{name: np.full((5, 3), float(i), np.float32) for i, name in enumerate(names)})
    with pytest.raises(DatasetError, match="a.exr.*no depth among its channels.*Z"):
        read_depth(path, 256.0)


def test_a_damaged_exr_is_named(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.exr", tmp_path / "a.exr"
    write_exr(whole, Z=depth_map())
    content = whole.read_bytes()
    for cut in (0, 3, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(DatasetError, match="a.exr: cannot be read") as caught:
            read_depth(path, 256.0)
        assert "\n" not in str(caught.value)


def test_exr_of_a_part_of_the_picture_is_refused(tmp_path: Path) -> None:
    OpenEXR = pytest.importorskip("OpenEXR")
    path = tmp_path / "a.exr"
    window = (np.array([0, 0], np.int32), np.array([99, 99], np.int32))
    header = {"type": OpenEXR.scanlineimage, "displayWindow": window}
    OpenEXR.File(header, {"Z": np.ones((50, 100), np.float32)}).write(str(path))
    with pytest.raises(DatasetError, match="data window"):
        read_depth(path, 256.0)


def test_without_openexr_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.exr"
    path.write_bytes(b"v/1")
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(MissingDependencyError, match="a.exr.*pip install OpenEXR"):
        read_depth(path, 256.0)
