from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metric_slam.datasets import open_tum
from metric_slam.datasets.images import write_depth_m, write_rgb
from metric_slam.datasets.tum import nearest
from metric_slam.errors import CalibrationError, DatasetError
from metric_slam.geometry.camera import PinholeCamera

CAMERA = (20.0, 21.0, 15.5, 7.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three colour images (listed out of order), two depths near the first and the last, truth near the first two."""
    folder = tmp_path / "desk"
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for k in range(3):
        write_rgb(folder / "rgb" / f"{k}.png", np.full((16, 32, 3), 50 + k, np.uint8))
    for k in (0, 2):
        write_depth_m(folder / "depth" / f"{k}.png", np.full((16, 32), 1.0 + k), 1000.0)
    (folder / "rgb.txt").write_text("# colour\n5.1 rgb/1.png\n5.0 rgb/0.png\n5.2 rgb/2.png\n")
    (folder / "depth.txt").write_text("# depth\n5.21 depth/2.png\n4.99 depth/0.png\n5.05 depth/0.png\n")
    half = np.sqrt(0.5)
    (folder / "groundtruth.txt").write_text(
        f"# stamp pose\n5.001 1 2 3 0 0 0 1\n5.095 4 5 6 0 0 {half} {half}\n5.16 0 0 0 0 0 0 1\n5.205 0 0 0 0 0 0 0\n"
    )
    return folder


def test_association(folder: Path) -> None:
    data = open_tum(folder, camera=CAMERA, depth_scale=1000)
    assert (data.name, len(data), data.camera) == ("tum/desk", 3, PinholeCamera(*CAMERA, 32, 16))
    assert data.mount is None
    np.testing.assert_allclose(data.times_s, [5.0, 5.1, 5.2])
    assert [frame.image[0, 0, 0] for frame in data] == [50, 51, 52]
    np.testing.assert_allclose(data[0].depth_m, 1.0)
    assert data[1].depth_m is None
    np.testing.assert_allclose(data[2].depth_m, 3.0)
    np.testing.assert_allclose(data.T_world_cam_true[0, :3, 3], [1, 2, 3])
    # a quarter turn about z takes x to y
    np.testing.assert_allclose(data.T_world_cam_true[1] @ [1, 0, 0, 1], [4, 6, 6, 1], atol=1e-12)
    assert np.isnan(data.T_world_cam_true[2]).all()


def test_nearest_keeps_its_distance() -> None:
    stamps = np.array([0.0, 1.0, 2.0])
    np.testing.assert_array_equal(nearest(stamps, np.array([-0.1, 0.4, 0.6, 2.05, 9]), 0.45), [0, 0, 1, 2, -1])
    np.testing.assert_array_equal(nearest(np.array([]), np.array([1.0]), 1), [-1])


def test_side_files(folder: Path) -> None:
    (folder / "camera.txt").write_text("# fx fy cx cy\n20 21 15.5 7.5\n")
    (folder / "depth_scale.txt").write_text("500\n")
    data = open_tum(folder)
    assert data.camera == PinholeCamera(*CAMERA, 32, 16)
    np.testing.assert_allclose(data[0].depth_m, 2.0)
    assert open_tum(folder, camera=(30, 30, 1, 2), depth_scale=1000).camera.fx == 30  # options win


def test_metres_are_never_guessed(folder: Path) -> None:
    with pytest.raises(CalibrationError, match="option camera"):
        open_tum(folder, depth_scale=1000)
    with pytest.raises(DatasetError, match="option depth_scale"):
        open_tum(folder, camera=CAMERA)
    with pytest.raises(DatasetError, match="must be positive"):
        open_tum(folder, camera=CAMERA, depth_scale=0)
    (folder / "depth.txt").unlink()
    assert open_tum(folder, camera=CAMERA)[0].depth_m is None


def test_published_cameras_by_folder_name(folder: Path) -> None:
    fr3 = open_tum(folder.rename(folder.with_name("rgbd_dataset_freiburg3_desk")))
    assert fr3.camera.fx == pytest.approx(535.4, abs=0.1) and fr3.distortion is None
    np.testing.assert_allclose(fr3[0].depth_m, 0.2)
    fr1 = open_tum(fr3.image_paths[0].parents[1].rename(folder.with_name("rgbd_dataset_freiburg1_desk")))
    assert fr1.camera.fx == pytest.approx(517.3, abs=0.1) and fr1.distortion is not None


def test_distortion_is_removed(folder: Path) -> None:
    camera, k1 = PinholeCamera(*CAMERA, 32, 16), -0.3
    # the image holds its own columns: what the ideal camera sees at a pixel is the column of the distorted position
    ideal = np.array([(25 - camera.cx) / camera.fx, (12 - camera.cy) / camera.fy])
    distorted = ideal * (1 + k1 * (ideal @ ideal))
    image = np.repeat(np.arange(0, 7 * 32, 7, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    write_rgb(folder / "rgb" / "0.png", image)
    seen = open_tum(folder, camera=(*CAMERA, k1, 0, 0, 0), depth_scale=1000)[0].image
    assert seen[12, 25, 0] == pytest.approx(7 * (distorted[0] * camera.fx + camera.cx), abs=1)
    assert abs(int(seen[12, 25, 0]) - int(image[12, 25, 0])) > 4


@pytest.mark.parametrize("numbers", ["20 21 15", "20 21 15 seven", "20 21 15.5 7.5 0.1"])
def test_bad_camera_file(folder: Path, numbers: str) -> None:
    (folder / "camera.txt").write_text(numbers)
    with pytest.raises(CalibrationError, match="camera.txt"):
        open_tum(folder, depth_scale=1000)


def test_camera_of_another_size(folder: Path) -> None:
    with pytest.raises(CalibrationError, match="640x480 images but they are 32x16"):
        open_tum(folder, camera=PinholeCamera(*CAMERA, 640, 480), depth_scale=1000)


@pytest.mark.parametrize(("file", "text"), [("depth.txt", "no depth image"), ("groundtruth.txt", "no pose")])
def test_clocks_that_do_not_fit(folder: Path, file: str, text: str) -> None:
    line = "99.0 depth/0.png\n" if file == "depth.txt" else "99.0 0 0 0 0 0 0 1\n"
    (folder / file).write_text(line)
    with pytest.raises(DatasetError, match=text):
        open_tum(folder, camera=CAMERA, depth_scale=1000)


def test_bad_list(folder: Path) -> None:
    (folder / "rgb.txt").write_text("5.0\n")
    with pytest.raises(DatasetError, match="not 'stamp file'"):
        open_tum(folder, camera=CAMERA, depth_scale=1000)
    (folder / "rgb.txt").write_text("# nothing\n")
    with pytest.raises(DatasetError, match="lists no images"):
        open_tum(folder, camera=CAMERA, depth_scale=1000)


def test_real_kitchen(shared: Path) -> None:
    data = open_tum(shared / "seven_scenes_redkitchen", camera=(525, 525, 320, 240), depth_scale=1000)
    assert (len(data), data.camera.size) == (250, (640, 480))
    assert np.isfinite(data.T_world_cam_true).all()
    depth_m = data[100].depth_m
    assert 0.5 < np.median(depth_m[depth_m > 0]) < 5
