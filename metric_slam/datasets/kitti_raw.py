"""KITTI raw drives: ``DATE/DATE_drive_XXXX_sync/{image_02/data, oxts/data}``, calibration files in ``DATE/``.

The truth is computed from the GPS/IMU packets as in the data set's own development kit (Geiger et al., Vision meets
Robotics: The KITTI Dataset, IJRR 2013; devkit/matlab/convertOxtsToPose.m): Mercator projection at the scale of the
first latitude, roll, pitch, yaw to a rotation R = Rz Ry Rx.
"""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from metric_slam.datasets.images import list_images, read_rgb
from metric_slam.datasets.kitti import KITTI_DEPTH_SCALE, KITTI_MOUNT, depth_files
from metric_slam.datasets.sequence import ImageSequence
from metric_slam.datasets.side_files import (
    calibration_entry,
    read_calibration,
    read_lines,
    read_table,
    rectified_camera,
    ten_hertz,
)
from metric_slam.errors import CalibrationError, DatasetError

logger = logging.getLogger(__name__)

EARTH_RADIUS_M = 6378137.0
CAMERAS = ("02", "00")


def open_kitti_raw(drive: Path) -> ImageSequence:
    """Open a raw drive (colour camera 02, else grey camera 00).

    The truth, from oxts where present, is that of the camera used, relative to its first frame. Depth comes from
    ``proj_depth/velodyne_raw/image_02`` where present. Time stamps: those of the images, else of oxts, else 10 Hz.
    Raises DatasetError, CalibrationError, ImageError.
    """
    drive = Path(drive)
    number = _camera_of(drive)
    images = list_images(drive / f"image_{number}" / "data")
    height, width = read_rgb(images[0]).shape[:2]
    cam_to_cam = _calibration(drive, "calib_cam_to_cam.txt")
    P = calibration_entry(cam_to_cam[1], f"P_rect_{number}", (3, 4), cam_to_cam[0])
    camera, T_cam_ref = rectified_camera(P, (width, height), cam_to_cam[0])
    return ImageSequence(
        name=f"kitti_raw/{drive.resolve().name.removesuffix('_sync')}",
        camera=camera,
        times_s=_times(drive, number, images),
        image_paths=tuple(images),
        depth_paths=depth_files(images, (drive / "proj_depth" / "velodyne_raw" / f"image_{number}",)),
        depth_scale=KITTI_DEPTH_SCALE,
        mount=KITTI_MOUNT,
        T_cam_ref=T_cam_ref,
        T_world_cam_true=_truth(drive, images, T_cam_ref),
    )


def oxts_poses(packets: np.ndarray) -> np.ndarray:
    """Poses T_world_imu of GPS/IMU packets, float64 [N, 4, 4], relative to the first one.

    ``packets`` [N, >= 6]: latitude and longitude in degrees, altitude in metres, roll, pitch, yaw in radians.
    """
    scale = np.cos(np.radians(packets[0, 0]))
    longitude_rad, latitude_rad = np.radians(packets[:, 1]), np.radians(packets[:, 0])
    poses = np.tile(np.eye(4), (len(packets), 1, 1))
    poses[:, 0, 3] = scale * EARTH_RADIUS_M * longitude_rad
    poses[:, 1, 3] = scale * EARTH_RADIUS_M * np.log(np.tan(np.pi / 4 + latitude_rad / 2))
    poses[:, 2, 3] = packets[:, 2]
    poses[:, :3, :3] = Rotation.from_euler("ZYX", packets[:, [5, 4, 3]]).as_matrix()
    return np.linalg.inv(poses[0]) @ poses


def _camera_of(drive: Path) -> str:
    for number in CAMERAS:
        if (drive / f"image_{number}" / "data").is_dir():
            logger.info("%s: using image_%s", drive, number)
            return number
    raise DatasetError(f"{drive} has neither image_02/data nor image_00/data: is it a raw (synchronised) KITTI drive?")


def _calibration(drive: Path, file: str) -> tuple[Path, dict[str, np.ndarray]]:
    """The named calibration file of the date (beside the drive, or copied into it) and its entries."""
    for folder in (drive.resolve().parent, drive):
        if (folder / file).is_file():
            return folder / file, read_calibration(folder / file)
    raise CalibrationError(f"{drive.resolve().parent / file} is missing: unpack the calibration of this date there")


def _times(drive: Path, number: str, images: list[Path]) -> np.ndarray:
    image_times = drive / f"image_{number}" / "timestamps.txt"
    for path in (image_times, drive / "oxts" / "timestamps.txt"):
        if path.is_file():
            if path is not image_times:
                logger.warning("%s is missing: time stamps of the images are those of %s", image_times, path)
            return _read_timestamps(path, images)
    return ten_hertz(len(images), image_times)


def _read_timestamps(path: Path, images: list[Path]) -> np.ndarray:
    lines = read_lines(path)
    if len(lines) < len(images):
        raise DatasetError(f"{path} has {len(lines)} time stamps for {len(images)} images: complete it or remove it")
    rows = _rows(images)
    if rows.max() >= len(lines):  # images were renumbered
        rows = np.arange(len(images))
    try:
        # nine digits of fraction, of which datetime takes six
        stamps = [datetime.fromisoformat(lines[row][:26]) for row in rows]
    except ValueError as error:
        raise DatasetError(f"{path} holds something that is no time stamp: {error}") from error
    return np.array([(stamp - stamps[0]).total_seconds() for stamp in stamps])


def _rows(images: list[Path]) -> np.ndarray:
    """Number of each image in the drive; drives cut at the front keep their file names."""
    return np.array([int(p.stem) if p.stem.isdigit() else i for i, p in enumerate(images)])


def _truth(drive: Path, images: list[Path], T_cam_ref: np.ndarray) -> np.ndarray | None:
    folder = drive / "oxts" / "data"
    if not folder.is_dir():
        logger.info("no ground truth: %s is not there", folder)
        return None
    files = [folder / f"{image.stem}.txt" for image in images]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DatasetError(f"{missing[0]} is missing ({len(missing)} such): complete oxts or remove it (no truth)")
    packets = np.concatenate([read_table(path, 6)[:1] for path in files])
    if len(packets) != len(files):
        raise DatasetError(f"a packet in {folder} is empty: complete oxts or remove it (no truth)")
    T_cam_imu = T_cam_ref @ _camera_from_imu(drive)
    poses = T_cam_imu @ oxts_poses(packets) @ np.linalg.inv(T_cam_imu)
    return poses


def _camera_from_imu(drive: Path) -> np.ndarray:
    """T_cam0_imu of the rectified reference camera: R_rect_00 . T_cam_velo . T_velo_imu, float64 [4, 4]."""
    path, cam_to_cam = _calibration(drive, "calib_cam_to_cam.txt")
    rectify = np.eye(4)
    rectify[:3, :3] = calibration_entry(cam_to_cam, "R_rect_00", (3, 3), path)
    return rectify @ _rigid(drive, "calib_velo_to_cam.txt") @ _rigid(drive, "calib_imu_to_velo.txt")


def _rigid(drive: Path, file: str) -> np.ndarray:
    path, values = _calibration(drive, file)
    T = np.eye(4)
    T[:3, :3] = calibration_entry(values, "R", (3, 3), path)
    T[:3, 3] = calibration_entry(values, "T", (3,), path)
    return T
