from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from metric_slam.datasets import open_kitti_raw
from metric_slam.datasets.images import write_rgb
from metric_slam.datasets.kitti_raw import oxts_poses
from metric_slam.errors import CalibrationError, DatasetError

IDENTITY = "R: 1 0 0 0 1 0 0 0 1\nT: 0 0 0\n"
# velodyne and GPS/IMU: x forward, y left, z up; camera: x right, y down, z forward
VELO_TO_CAM = "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n"


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A drive of three frames that goes east at 1 m a frame, facing east; packets of zeros beyond the pose."""
    date = tmp_path / "2011_01_02"
    folder = date / "2011_01_02_drive_0007_sync"
    for name in ("image_02/data", "oxts/data"):
        (folder / name).mkdir(parents=True)
    for k in range(3):
        write_rgb(folder / "image_02" / "data" / f"{k:010d}.jpg", np.full((16, 32, 3), 80, np.uint8))
        longitude = 8.0 + np.degrees(k / (6378137.0 * np.cos(np.radians(49.0))))
        (folder / "oxts" / "data" / f"{k:010d}.txt").write_text(f"49.0 {longitude:.15f} 110 0 0 0 1 2 3\n")
    (date / "calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012 13:57:47\nR_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: 20 0 15.5 10 0 20 7.5 0 0 0 1 0\n"
    )
    (date / "calib_velo_to_cam.txt").write_text(VELO_TO_CAM)
    (date / "calib_imu_to_velo.txt").write_text(IDENTITY)
    return folder


def test_drive_forward_is_along_z(drive: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = open_kitti_raw(drive)
    assert data.name == "kitti_raw/2011_01_02_drive_0007"
    assert "10 Hz" in caplog.text
    assert (len(data), data.camera.fx, data.mount.height_m) == (3, 20, 1.65)
    np.testing.assert_allclose(data.T_world_cam_true[:, :3, 3], [[0, 0, 0], [0, 0, 1], [0, 0, 2]], atol=1e-6)
    assert data[0].depth_m is None


def test_turning_moves_the_camera_around_the_imu() -> None:
    packets = np.array([[49.0, 8.0, 110.0, 0, 0, 0], [49.0, 8.0, 112.0, 0.1, -0.2, 0.7]])
    poses = oxts_poses(packets)
    np.testing.assert_allclose(poses[1, :3, 3], [0, 0, 2], atol=1e-9)
    c, s = np.cos, np.sin
    Rz = np.array([[c(0.7), -s(0.7), 0], [s(0.7), c(0.7), 0], [0, 0, 1]])
    Ry = np.array([[c(-0.2), 0, s(-0.2)], [0, 1, 0], [-s(-0.2), 0, c(-0.2)]])
    Rx = np.array([[1, 0, 0], [0, c(0.1), -s(0.1)], [0, s(0.1), c(0.1)]])
    np.testing.assert_allclose(poses[1, :3, :3], Rz @ Ry @ Rx, atol=1e-12)


def test_time_stamps_of_images_then_of_oxts(drive: Path) -> None:
    stamps = "".join(f"2011-09-26 13:02:5{k}.950000123\n" for k in range(3))
    (drive / "oxts" / "timestamps.txt").write_text(stamps)
    np.testing.assert_allclose(open_kitti_raw(drive).times_s, [0, 1, 2])
    (drive / "image_02" / "timestamps.txt").write_text(stamps.replace(".95", ".15").replace("51.15", "51.35"))
    np.testing.assert_allclose(open_kitti_raw(drive).times_s, [0, 1.2, 2])
    (drive / "image_02" / "timestamps.txt").write_text("2011-09-26 13:02:50.95\n")
    with pytest.raises(DatasetError, match="has 1 time stamps for 3 images"):
        open_kitti_raw(drive)
    (drive / "image_02" / "timestamps.txt").write_text("noon\n" * 3)
    with pytest.raises(DatasetError, match="no time stamp"):
        open_kitti_raw(drive)


def test_missing_parts(drive: Path) -> None:
    (drive / "oxts" / "data" / "0000000001.txt").unlink()
    with pytest.raises(DatasetError, match="0000000001.txt is missing"):
        open_kitti_raw(drive)
    (drive / "oxts" / "data").rename(drive / "oxts" / "elsewhere")
    assert open_kitti_raw(drive).T_world_cam_true is None
    (drive.parent / "calib_cam_to_cam.txt").unlink()
    with pytest.raises(CalibrationError, match="calib_cam_to_cam.txt is missing"):
        open_kitti_raw(drive)
    with pytest.raises(DatasetError, match="neither image_02/data"):
        open_kitti_raw(drive.parent)


def test_real_drive_agrees_with_its_published_poses(shared: Path) -> None:
    drive = shared / "kitti_raw" / "2011_09_26" / "2011_09_26_drive_0013_sync"
    data = open_kitti_raw(drive)
    assert (len(data), data.camera.size) == (144, (1242, 375))
    rows = np.loadtxt(drive / "poses_cam2.txt").reshape(-1, 3, 4)
    np.testing.assert_allclose(data.T_world_cam_true[:, :3], rows, atol=1e-6)
    assert np.all(np.abs(np.diff(data.times_s) - 0.1036) < 0.02)
    frame = data[50]
    assert 0.02 < (frame.depth_m > 0).mean() < 0.2
