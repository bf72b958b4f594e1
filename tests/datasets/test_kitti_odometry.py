from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metric_slam.datasets import Dataset, available_sequences, open_kitti, resolve_kitti_root
from metric_slam.datasets.images import write_rgb
from metric_slam.errors import CalibrationError, DatasetError, ImageError

OneLine = Callable[[BaseException, str], None]


def test_everything_is_read(kitti_root: Path) -> None:
    data = open_kitti(kitti_root, "3")
    assert isinstance(data, Dataset)
    assert (data.name, len(data), data.camera.size) == ("kitti/03", 4, (32, 16))
    assert (data.camera.fx, data.camera.cx, data.camera.cy) == (20, 15.5, 7.5)
    assert data.mount is not None and data.mount.height_m == 1.65
    np.testing.assert_allclose(data.times_s, [3.0, 3.1, 3.2, 3.3])
    frame = data[1]
    assert frame.index == 1 and frame.time_s == pytest.approx(3.1) and frame.path.name == "000001.png"
    assert frame.image.shape == (16, 32, 3) and frame.image[0, 0, 2] == 41
    np.testing.assert_allclose(frame.depth_m, 7.5)
    assert data[0].depth_m is None
    with pytest.raises(IndexError):
        data[4]


def test_camera_2_is_moved_against_camera_0(kitti_root: Path) -> None:
    data = open_kitti(kitti_root, "03")
    # P2 = K [I | t] applied to points of camera 0
    K, p4 = data.camera.K, np.array([10, 2, 0.01])
    point_0 = np.array([0.3, -0.2, 5.0])
    point_2 = data.T_cam_ref[:3, :3] @ point_0 + data.T_cam_ref[:3, 3]
    np.testing.assert_allclose(K @ point_2, K @ point_0 + p4)
    world = np.array([4.0, 1.0, 30.0, 1.0])
    in_cam_0 = world - [3, 0, 6, 0]  # pose 3 of the file
    np.testing.assert_allclose(np.linalg.inv(data.T_world_cam_true[3]) @ world, data.T_cam_ref @ in_cam_0)


def test_grey_camera_jpg_lidar_and_no_truth(kitti_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = kitti_root / "sequences" / "03"
    shutil.rmtree(folder / "image_2")
    (folder / "image_0").mkdir()
    for k in range(2):
        write_rgb(folder / "image_0" / f"{k:06d}.jpg", np.full((16, 32, 3), 80, np.uint8))
    (folder / "depth_2").rename(folder / "lidar_depth_0")
    (kitti_root / "poses" / "03.txt").unlink()
    (folder / "times.txt").unlink()
    with caplog.at_level(logging.WARNING):
        data = open_kitti(kitti_root, "03")
    assert "10 Hz" in caplog.text and "times.txt" in caplog.text
    np.testing.assert_allclose(data.times_s, [0, 0.1])
    np.testing.assert_allclose(data.T_cam_ref, np.eye(4))
    assert data.T_world_cam_true is None and data[0].T_world_cam_true is None
    assert data[1].depth_m is not None


def _missing_calib(root: Path) -> None:
    (root / "sequences/03/calib.txt").unlink()


def _calib_count(root: Path) -> None:
    (root / "sequences/03/calib.txt").write_text("P2: 20 0 15.5 0 0 20 7.5 0 0 0 1\n")


def _calib_other(root: Path) -> None:
    (root / "sequences/03/calib.txt").write_text("P0: 20 0 15.5 0 0 20 7.5 0 0 0 1 0\n")


def _calib_impossible(root: Path) -> None:
    (root / "sequences/03/calib.txt").write_text("P2: 0 0 15.5 0 0 20 7.5 0 0 0 1 0\n")


def _empty(root: Path) -> None:
    for path in (root / "sequences/03/image_2").iterdir():
        path.unlink()


def _no_images(root: Path) -> None:
    shutil.rmtree(root / "sequences/03/image_2")


def _short_poses(root: Path) -> None:
    (root / "poses/03.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 3)


def _narrow_poses(root: Path) -> None:
    (root / "poses/03.txt").write_text("1 0 0 0 0 1 0 0 0 0 1\n" * 4)


def _words_in_poses(root: Path) -> None:
    (root / "poses/03.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 east\n" * 4)


def _short_times(root: Path) -> None:
    (root / "sequences/03/times.txt").write_text("0\n0.1\n")


@pytest.mark.parametrize(
    ("damage", "error", "text"),
    [
        (_missing_calib, CalibrationError, "calib.txt is missing"),
        (_calib_count, CalibrationError, "'P2' has 11 numbers, expected 12"),
        (_calib_other, CalibrationError, "no line 'P2:'"),
        (_calib_impossible, CalibrationError, "impossible camera"),
        (_empty, DatasetError, "no images in"),
        (_no_images, DatasetError, "neither image_2 nor image_0"),
        (_short_poses, DatasetError, "has 3 poses for 4 images"),
        (_narrow_poses, DatasetError, "row 1 has 11 numbers"),
        (_words_in_poses, DatasetError, "no number"),
        (_short_times, DatasetError, "has 2 time stamps for 4 images"),
    ],
)
def test_damage_is_named(
    kitti_root: Path, one_line: OneLine, damage: Callable[[Path], None], error: type[Exception], text: str
) -> None:
    damage(kitti_root)
    with pytest.raises(error) as caught:
        open_kitti(kitti_root, "03")
    one_line(caught.value, text)


def test_missing_sequence_lists_the_others(kitti_root: Path, one_line: OneLine) -> None:
    shutil.copytree(kitti_root / "sequences/03", kitti_root / "sequences/10")
    assert available_sequences(kitti_root) == ["03", "10"]
    with pytest.raises(DatasetError) as caught:
        open_kitti(kitti_root, "07")
    one_line(caught.value, "available are 03, 10")


def test_frames_of_another_size(kitti_root: Path, one_line: OneLine) -> None:
    write_rgb(kitti_root / "sequences/03/image_2/000002.png", np.zeros((16, 30, 3), np.uint8))
    data = open_kitti(kitti_root, "03")
    data[1]
    with pytest.raises(ImageError) as caught:
        data[2]
    one_line(caught.value, "000002.png is 30x16")


def test_root_is_given_or_named_or_default(
    kitti_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KITTI_ODOMETRY", raising=False)
    assert resolve_kitti_root(kitti_root) == kitti_root
    with pytest.raises(DatasetError) as caught:
        resolve_kitti_root(None)
    one_line(caught.value, "$KITTI_ODOMETRY")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kitti").symlink_to(kitti_root)
    assert resolve_kitti_root(None) == Path("data/kitti")
    monkeypatch.setenv("KITTI_ODOMETRY", str(kitti_root))
    assert resolve_kitti_root(None) == kitti_root
    with pytest.raises(DatasetError, match="--data"):
        resolve_kitti_root(tmp_path / "nowhere")


def test_real_sequence_04(shared: Path) -> None:
    data = open_kitti(shared / "kitti_odometry", "04")
    assert (data.name, len(data), data.camera.size) == ("kitti/04", 51, (1226, 370))
    np.testing.assert_allclose(data.T_cam_ref[:3, 3], [0.06103, -0.00144, 0.0062], atol=1e-5)
    frame = data[10]
    assert frame.image.shape == (370, 1226, 3)
    measured = frame.depth_m > 0
    assert 0.02 < measured.mean() < 0.2 and 5 < np.median(frame.depth_m[measured]) < 40
    steps = np.linalg.norm(np.diff(data.T_world_cam_true[:, :3, 3], axis=0), axis=1)
    assert 1.0 < steps.min() and steps.max() < 1.8
