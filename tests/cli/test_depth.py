"""``metric-slam depth`` and ``metric-slam measure`` as a user meets them: options, EXIF, mistakes, what is printed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from metric_slam.depth.metric3d.predictor import ImageDepth
from metric_slam.depth.metric3d.specs import SPECS, Metric3DSpec
from metric_slam.errors import CalibrationError, ImageError
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.single_image.camera import exif_focal_px
from tests.conftest import CliResult
from tests.depth.metric3d.conftest import TINY_V1, TINY_V2, small_network

Cli = Callable[..., CliResult]

WIDTH, HEIGHT = 120, 80
FOCAL_MM, FILM_MM, PLANE, UNIT, EXIF_WIDTH, EXIF_HEIGHT = 0x920A, 0xA405, 0xA20E, 0xA210, 0xA002, 0xA003


def wall(image: np.ndarray, camera: PinholeCamera) -> ImageDepth:
    """A network that sees a wall across, as many metres away as fits the focal length: a wall is 1 m for 20 px."""
    depth_m = np.full(image.shape[:2], camera.fx / 20.0, np.float32)
    return ImageDepth(depth_m, np.ones_like(depth_m))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, without weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METRIC_SLAM_WEIGHTS", str(tmp_path / "none"))
    return tmp_path


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall stands in for the network."""
    monkeypatch.setattr("metric_slam.single_image.depth.load_predictor", lambda *_: (wall, "a wall"))


@pytest.fixture
def photo(place: Path) -> Path:
    return write_photo(place / "photo.jpg", {})


def write_photo(path: Path, tags: dict[int, object], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """A jpeg with these entries in its EXIF."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(tags)
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def rational(top: int, bottom: int = 1) -> IFDRational:
    """As cameras write their numbers."""
    return IFDRational(top, bottom)


def test_depth_writes_and_says_what_it_took(cli: Cli, network: None, photo: Path, place: Path) -> None:
    result = cli("depth", photo, "--focal", 100, "--out", place / "out")
    assert result.code == 0 and result.err == ""
    assert "network: a wall" in result.out and "fx 100.0 px from --focal" in result.out
    assert "5.00 to 5.00 m, median 5.00 m, 0 % sky" in result.out
    assert sorted(p.name for p in (place / "out").iterdir()) == [
        "photo_cloud.ply",
        "photo_depth.npy",
        "photo_depth.png",
        "photo_depth_colour.png",
    ]
    assert (cv2.imread(str(place / "out" / "photo_depth.png"), cv2.IMREAD_UNCHANGED) == 5 * 256).all()
    again = cli("depth", photo, "--focal", 100, "--out", place / "out")
    assert "already" in again.error_line and "--overwrite" in again.error_line
    assert cli("depth", photo, "--focal", 200, "--out", place / "out", "--overwrite").code == 0
    assert np.load(place / "out" / "photo_depth.npy")[0, 0] == pytest.approx(10.0)


def test_several_images_and_a_calibration(cli: Cli, network: None, photo: Path, place: Path) -> None:
    other = write_photo(place / "other.png", {})
    result = cli("depth", photo, other, "--camera", "60,61,59.5,39.5")
    assert result.code == 0 and result.out.count("fx 60.0 px from --camera") == 2
    assert len(list((place / "results" / "depth").iterdir())) == 8


@pytest.mark.parametrize("spec", [TINY_V1, TINY_V2], ids=["v1", "v2"])
def test_a_real_if_small_network(
    cli: Cli, photo: Path, place: Path, monkeypatch: pytest.MonkeyPatch, spec: Metric3DSpec
) -> None:
    torch.save(small_network(spec).state_dict(), place / "mine.pth")
    monkeypatch.setitem(SPECS, spec.name, spec)
    words = ("--focal", 100, "--weights", "mine.pth", "--model", spec.name, "--device", "cpu")
    result = cli("depth", photo, *words, "--out", "out")
    assert result.code == 0 and f"network: {spec.name} at {spec.input_size[0]}x{spec.input_size[1]}" in result.out
    assert (place / "out" / "photo_normals.npy").exists() == (spec is TINY_V2)
    copies = [place / f"copy{n}.png" for n in range(3)]
    for copy in copies:
        cv2.imwrite(str(copy), cv2.imread(str(photo)))
    assert cli("depth", *copies, *words, "--out", "out", "--batch", 2).code == 0
    for copy in copies:
        together, alone = (np.load(place / "out" / f"{name}_depth.npy") for name in (copy.stem, "photo"))
        np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)
    unit = spec.multiple_px
    smaller = cli("depth", photo, *words, "--out", "small", "--size", f"{2 * unit}x{2 * unit}")
    assert smaller.code == 0 and f" at {2 * unit}x{2 * unit} " in smaller.out
    assert f"multiples of {unit}" in cli("depth", photo, *words, "--out", "no", "--size", "100x100").error_line
    depth_m = np.load(place / "out" / "photo_depth.npy")
    assert depth_m.shape == (HEIGHT, WIDTH) and depth_m.any()
    y, x = np.argwhere(depth_m[5:-5, 5:-20] > 0)[0] + 5
    assert cli("measure", photo, f"{x},{y}", f"{x + 10},{y}", *words).out.count("distance ") == 1


def test_measure_an_image(cli: Cli, network: None, photo: Path, place: Path) -> None:
    result = cli("measure", photo, "20,40", "80,40", "--focal", 100)
    assert result.code == 0 and result.err == ""
    # 60 px of a wall with 20 px to the metre
    assert re.search(r"^distance 3\.00 m ± 0\.\d+ m$", result.out, re.MULTILINE)
    assert "depth 5.00 m ± 10.0 % (per point; the common scale error is not included)" in result.out
    assert "the network's confidence" in result.out and "common scale error of 3.0 %" in result.out
    picture = place / "results" / "measure" / "photo_20_40_80_40.png"
    assert f"picture: {picture.relative_to(place)}" in result.out and picture.is_file()
    assert cli("measure", photo, "20,40", "80,40", "--focal", 100, "--out", place / "m.png").code == 0
    assert cv2.imread(str(place / "m.png")).shape == (HEIGHT, WIDTH, 3)


def results_folder(path: Path, scale_source: str) -> Path:
    """As a run would leave it: one keyframe, number 7, that looks at a wall 10 m (or units) away."""
    (path / "keyframes").mkdir(parents=True)
    camera = PinholeCamera(100.0, 100.0, 59.5, 39.5, WIDTH, HEIGHT)
    shape = camera.grid().size[::-1]
    maps = {"inv_depth": np.full(shape, 0.1), "confidence": np.ones(shape)}
    np.savez(path / "keyframes" / "000007.npz", grid_camera=camera.grid().vector(), **maps)
    (path / "run.json").write_text(json.dumps({"scale_source": scale_source}))
    return path


def test_measure_a_results_folder(cli: Cli, place: Path) -> None:
    folder = results_folder(place / "run", "ground_plane")
    result = cli("measure", folder, "20,40", "80,40", "--keyframe", 7)
    assert result.code == 0 and "distance 6.00 m ± " in result.out
    assert "pixels of 120x80" in result.out and "scale error of 2.5 %" in result.out
    assert (place / "results" / "measure" / "run_000007_20_40_80_40.png").is_file()
    unknown = cli("measure", results_folder(place / "free", "unknown"), "20,40", "80,40", "--keyframe", 7)
    assert "6.00 units (scale unknown)" in unknown.out and "lengths are in an arbitrary unit" in unknown.out
    assert "6.00 m" not in unknown.out


def test_mistakes_with_a_results_folder(cli: Cli, place: Path, photo: Path) -> None:
    folder = results_folder(place / "run", "sensor")
    ends = ("20,40", "80,40")
    assert "--keyframe N" in cli("measure", folder, *ends).error_line
    assert "no keyframe 8 (of 1 from 7 to 7)" in cli("measure", folder, *ends, "--keyframe", 8).error_line
    assert "leave --focal out" in cli("measure", folder, *ends, "--keyframe", 7, "--focal", 9).error_line
    assert "leave --model out" in cli("measure", folder, *ends, "--keyframe", 7, "--model", "vit_small").error_line
    assert "leave it out" in cli("measure", photo, *ends, "--keyframe", 7, "--focal", 9).error_line
    assert "outside of the image of 120x80" in cli("measure", folder, "20,80", "5,5", "--keyframe", 7).error_line
    for wrong in ("20", "20,x", "1,2,3"):
        assert f"'{wrong}' is not a pixel" in cli("measure", folder, wrong, "80,40", "--keyframe", 7).error_line
    assert "give it the suffix .png" in cli("measure", folder, *ends, "--keyframe", 7, "--out", "m.gif").error_line


@pytest.mark.parametrize("command", ["depth", "measure"])
def test_exactly_one_source_of_the_focal_length(cli: Cli, photo: Path, command: str) -> None:
    words = [command, photo, *(["1,1", "5,5"] if command == "measure" else [])]
    none = cli(*words).error_line
    assert all(way in none for way in ("--focal PX", "--camera fx,fy,cx,cy", "--exif"))
    assert "give one of them" in cli(*words, "--focal", 100, "--exif").error_line
    assert "give one of them" in cli(*words, "--focal", 100, "--camera", "1,1,1,1").error_line
    assert "impossible camera" in cli(*words, "--focal", -3).error_line
    assert "3 numbers" in cli(*words, "--camera", "1,2,3").error_line
    assert "give four numbers" in cli(*words, "--camera", "a,b,c,d").error_line


def test_missing_weights_and_wrong_networks_are_one_line(cli: Cli, photo: Path) -> None:
    words = ("depth", photo, "--focal", 100)
    assert "needs its weights" in cli(*words).error_line
    assert "metric3d-convnext-large" in cli(*words, "--model", "convnext_large").error_line
    assert "no weights at gone.pth" in cli(*words, "--weights", "gone.pth").error_line
    assert "--model huge" in cli(*words, "--model", "huge").error_line
    assert "--size 3by4: '3by4' is no size" in cli(*words, "--size", "3by4").error_line
    assert "cannot read image gone.jpg" in cli("depth", "gone.jpg", "--focal", 100).error_line


def test_exif_by_the_film(cli: Cli, network: None, place: Path) -> None:
    photo = write_photo(place / "a.jpg", {FILM_MM: 26, FOCAL_MM: rational(42, 10)})
    result = cli("depth", photo, "--exif")
    # 3:2 as the film: the diagonal and the width say the same
    assert result.code == 0 and f"fx {26 / 36 * WIDTH:.1f} px from EXIF, 26 mm on 35 mm film" in result.out
    assert "principal point in the middle" in result.out
    focal, _ = exif_focal_px(write_photo(place / "b.jpg", {FILM_MM: 26}, (160, 120)), (160, 120))
    assert focal == pytest.approx(26 / np.hypot(36, 24) * 200)


@pytest.mark.parametrize(
    ("unit", "per_unit", "exif_size", "expected_px"),
    [
        (2, 508, None, 200.0),  # 20 px per mm
        (None, 508, None, 200.0),
        (3, 200, None, 200.0),
        (4, 20, None, 200.0),
        (2, 508, (1200, 800), 20.0),  # was made smaller
        (2, 508, (800, 1200), 20.0),  # and turned
    ],
)
def test_exif_by_the_sensor(
    place: Path, unit: int | None, per_unit: int, exif_size: tuple[int, int] | None, expected_px: float
) -> None:
    tags: dict[int, object] = {FOCAL_MM: rational(10), PLANE: rational(per_unit)}
    tags |= {} if unit is None else {UNIT: unit}
    tags |= {} if exif_size is None else {EXIF_WIDTH: exif_size[0], EXIF_HEIGHT: exif_size[1]}
    focal, how = exif_focal_px(write_photo(place / "a.jpg", tags), (WIDTH, HEIGHT))
    assert focal == pytest.approx(expected_px) and "20 pixels per mm" in how


def test_exif_that_contradicts_itself_says_so(place: Path) -> None:
    tags = {FILM_MM: 36, FOCAL_MM: rational(10), PLANE: rational(508), UNIT: 2}
    focal, how = exif_focal_px(write_photo(place / "a.jpg", tags), (WIDTH, HEIGHT))
    assert focal == pytest.approx(WIDTH) and "FocalPlaneXResolution gives 200 px" in how


@pytest.mark.parametrize(
    "tags",
    [{}, {FILM_MM: 0}, {FOCAL_MM: rational(10)}, {FOCAL_MM: rational(0, 0), PLANE: 508.0}, {PLANE: rational(9)}],
    ids=["nothing", "zero", "no sensor", "no number", "no focal length"],
)
def test_exif_that_does_not_tell(cli: Cli, place: Path, tags: dict[int, object]) -> None:
    line = cli("depth", write_photo(place / "a.jpg", tags), "--exif").error_line
    assert "FocalLengthIn35mmFilm" in line and "--focal PX" in line and "--camera" in line


def test_exif_of_a_cropped_or_unreadable_image(place: Path) -> None:
    photo = write_photo(place / "a.jpg", {FILM_MM: 26, EXIF_WIDTH: 4000, EXIF_HEIGHT: 3000})
    with pytest.raises(CalibrationError, match="was cropped, so give --focal"):
        exif_focal_px(photo, (WIDTH, HEIGHT))
    photo.write_bytes(b"\xff\xd8 nothing")
    with pytest.raises(ImageError, match="EXIF of .* cannot be read"):
        exif_focal_px(photo, (WIDTH, HEIGHT))


def test_a_turned_photo_is_measured_as_it_is_shown(cli: Cli, network: None, place: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    exif.get_ifd(0x8769).update({FILM_MM: 36, EXIF_WIDTH: WIDTH, EXIF_HEIGHT: HEIGHT})
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(place / "a.jpg", exif=exif)
    result = cli("measure", "a.jpg", "10,100", "10,115", "--exif")
    assert result.code == 0 and f"fx {WIDTH:.1f} px" in result.out and f"{HEIGHT}x{WIDTH}" in result.out
