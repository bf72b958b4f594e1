"""KITTI odometry: ``root/sequences/SS/{calib.txt, times.txt, image_2/}`` and ``root/poses/SS.txt``.

Colour camera 2 where it is there, else grey camera 0. Poses in the files are those of camera 0.
Source: Geiger, Lenz, Urtasun, Are we ready for autonomous driving?, CVPR 2012.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metric_slam.datasets.images import list_images, natural_key, read_rgb
from metric_slam.datasets.sequence import ImageSequence
from metric_slam.datasets.side_files import (
    calibration_entry,
    read_calibration,
    read_poses_kitti,
    read_table,
    rectified_camera,
    ten_hertz,
)
from metric_slam.errors import CalibrationError, DatasetError
from metric_slam.frame import CameraMount

logger = logging.getLogger(__name__)

KITTI_MOUNT = CameraMount(height_m=1.65)
"""Published height of all cameras above the road: Geiger et al., Vision meets Robotics: The KITTI Dataset, IJRR 2013,
and the data set's setup page, www.cvlibs.net/datasets/kitti/setup.php."""

KITTI_DEPTH_SCALE = 256.0
"""Units per metre of KITTI's 16-bit depth images."""

ROOT_VARIABLE = "KITTI_ODOMETRY"
DEFAULT_ROOT = Path("data/kitti")
CAMERAS = (("image_2", "P2", "2"), ("image_0", "P0", "0"))
"""Image folder, calibration line and number of the cameras, best first."""


def resolve_kitti_root(data: Path | None = None) -> Path:
    """Folder that holds ``sequences/``: ``data``, else $KITTI_ODOMETRY, else ``data/kitti``. Raises DatasetError."""
    if data is not None:
        root, source = Path(data), "the option --data"
    elif os.environ.get(ROOT_VARIABLE):
        root, source = Path(os.environ[ROOT_VARIABLE]), f"${ROOT_VARIABLE}"
    else:
        root, source = DEFAULT_ROOT, "the default"
    if not (root / "sequences").is_dir():
        raise DatasetError(
            f"no KITTI odometry data in {root} ({source}): unpack it so that {root / 'sequences'} exists, "
            f"or point --data or ${ROOT_VARIABLE} to it"
        )
    return root


def available_sequences(root: Path) -> list[str]:
    """Names of the sequences below ``root/sequences`` that hold images of a known camera."""
    folder = root / "sequences"
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if any((p / camera).is_dir() for camera, _, _ in CAMERAS)]
    return [p.name for p in sorted(found, key=natural_key)]


def open_kitti(root: Path, sequence: str) -> ImageSequence:
    """Open sequence ``sequence`` ("04" or "4") of the KITTI odometry data set below ``root``.

    ``T_cam_ref`` maps camera 0 to the camera used; the truth is that of the camera used, in the world of the pose file
    (camera 0 at the first frame). Depth comes from ``depth_2/`` or ``lidar_depth_2/`` where present. A missing
    times.txt means 10 Hz; times and poses beyond the images are cut. Raises DatasetError, CalibrationError, ImageError.
    """
    root = Path(root)
    name = sequence.zfill(2) if sequence.isdigit() else sequence
    folder = root / "sequences" / name
    if not folder.is_dir():
        known = ", ".join(available_sequences(root)) or "none"
        raise DatasetError(f"no sequence {name} in {root / 'sequences'}: available are {known}")
    image_folder, calibration_line, number = _camera_of(folder)
    images = list_images(folder / image_folder)
    height, width = read_rgb(images[0]).shape[:2]
    calib = folder / "calib.txt"
    if not calib.is_file():
        raise CalibrationError(f"{calib} is missing: it comes with the calibration files of the odometry data set")
    P = calibration_entry(read_calibration(calib), calibration_line, (3, 4), calib)
    camera, T_cam_ref = rectified_camera(P, (width, height), calib)
    return ImageSequence(
        name=f"kitti/{name}",
        camera=camera,
        times_s=_times(folder / "times.txt", len(images)),
        image_paths=tuple(images),
        depth_paths=depth_files(images, (folder / f"depth_{number}", folder / f"lidar_depth_{number}")),
        depth_scale=KITTI_DEPTH_SCALE,
        mount=KITTI_MOUNT,
        T_cam_ref=T_cam_ref,
        T_world_cam_true=_truth(root / "poses" / f"{name}.txt", len(images), T_cam_ref),
    )


def depth_files(images: Sequence[Path], folders: Sequence[Path]) -> tuple[Path | None, ...] | None:
    """Depth images with the names of ``images`` in the first of ``folders`` that exists; None if none of them does."""
    for folder in folders:
        if folder.is_dir():
            candidates = (folder / f"{image.stem}.png" for image in images)
            return tuple(path if path.is_file() else None for path in candidates)
    return None


def _camera_of(folder: Path) -> tuple[str, str, str]:
    for camera in CAMERAS:
        if (folder / camera[0]).is_dir():
            logger.info("%s: using %s", folder, camera[0])
            return camera
    raise DatasetError(f"{folder} has neither image_2 nor image_0: unpack the colour or grey images there")


def _times(path: Path, count: int) -> np.ndarray:
    if not path.is_file():
        return ten_hertz(count, path)
    times_s = read_table(path, 1)[:, 0]
    if len(times_s) < count:
        raise DatasetError(f"{path} has {len(times_s)} time stamps for {count} images: complete or remove it")
    return times_s[:count]


def _truth(path: Path, count: int, T_cam_ref: np.ndarray) -> np.ndarray | None:
    if not path.is_file():
        logger.info("no ground truth: %s is not there", path)
        return None
    return read_poses_kitti(path, count) @ np.linalg.inv(T_cam_ref)
