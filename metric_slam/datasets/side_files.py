"""Text files beside the images: tables of numbers, KITTI calibrations, intrinsics, with one-line errors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metric_slam.errors import CalibrationError, DatasetError, MetricSlamError
from metric_slam.geometry.camera import PinholeCamera

logger = logging.getLogger(__name__)

CameraLike = PinholeCamera | Sequence[float]
"""A camera, or its numbers: fx fy cx cy, optionally followed by the distortion k1 k2 p1 p2 [k3] (OpenCV)."""

CAMERA_FILE = "camera.txt"
CAMERA_HELP = "fx fy cx cy [k1 k2 p1 p2 [k3]] in pixels"


def read_lines(path: Path, error: type[MetricSlamError] = DatasetError) -> list[str]:
    """Lines of a text file without comments (#) and blank lines. Raises ``error`` if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as failure:
        raise error(f"cannot read {path}: {failure.strerror or failure}") from failure
    except UnicodeDecodeError as failure:
        raise error(f"{path} is not a text file: {failure.reason}") from failure
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def parse_numbers(text: str, path: Path, error: type[MetricSlamError] = DatasetError) -> np.ndarray:
    """Numbers of one line (blanks or commas between), float64 [n]. Raises ``error`` naming ``path``."""
    try:
        return np.array([float(word) for word in text.replace(",", " ").split()])
    except ValueError as failure:
        raise error(f"{path} holds something that is no number: {failure}") from failure


def read_table(path: Path, columns: int) -> np.ndarray:
    """A text table with at least ``columns`` finite numbers in every row, float64 [rows, columns]; rest is dropped."""
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        row = parse_numbers(line, path)
        if len(row) < columns or not np.isfinite(row[:columns]).all():
            raise DatasetError(f"{path}: row {number} has {len(row)} numbers, expected {columns} finite ones")
        rows.append(row[:columns])
    return np.array(rows).reshape(-1, columns)


def read_poses_kitti(path: Path, count: int) -> np.ndarray:
    """The first ``count`` poses of a KITTI pose file (12 numbers a row: T_world_cam), float64 [count, 4, 4]."""
    rows = read_table(path, 12)
    if len(rows) < count:
        raise DatasetError(f"{path} has {len(rows)} poses for {count} images: remove the surplus images or complete it")
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3] = rows[:count].reshape(-1, 3, 4)
    return poses


def read_calibration(path: Path) -> dict[str, np.ndarray]:
    """A KITTI calibration file ("name: numbers" a line) as name -> float64 [n]; lines of words (dates) are skipped."""
    values = {}
    for line in read_lines(path, CalibrationError):
        name, _, numbers = line.partition(":")
        try:
            values[name.strip()] = np.array([float(word) for word in numbers.split()])
        except ValueError:
            continue
    return values


def calibration_entry(values: dict[str, np.ndarray], name: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """One entry of :func:`read_calibration`, reshaped. Raises CalibrationError if missing or of the wrong count."""
    if name not in values:
        raise CalibrationError(f"{path} has no line '{name}:': is it the calibration of this sequence?")
    expected = int(np.prod(shape))
    if values[name].size != expected:
        raise CalibrationError(f"{path}: '{name}' has {values[name].size} numbers, expected {expected}")
    if not np.isfinite(values[name]).all():
        raise CalibrationError(f"{path}: '{name}' holds numbers that are not finite")
    return values[name].reshape(shape)


def rectified_camera(P: np.ndarray, size: tuple[int, int], path: Path) -> tuple[PinholeCamera, np.ndarray]:
    """Split a rectified projection P = K [I | t], float [3, 4], into the camera and T_cam_ref = [I | t].

    t = K^-1 P[:, 3] moves points from the reference camera (camera 0) to this one (KITTI: Geiger et al., IJRR 2013,
    equations 4 and 5). ``size`` is (width, height) of the images, ``path`` the file of P for CalibrationError.
    """
    camera = _possible_camera(P[0, 0], P[1, 1], P[0, 2], P[1, 2], size, str(path))
    T_cam_ref = np.eye(4)
    T_cam_ref[:3, 3] = np.linalg.solve(camera.K, P[:, 3])
    return camera, T_cam_ref


def resolve_camera(
    folder: Path, size: tuple[int, int], camera: CameraLike | None, known: Sequence[float] | None = None
) -> tuple[PinholeCamera, np.ndarray | None]:
    """Camera and distortion of a folder without a standard calibration, and log their source.

    Order: ``camera`` (the option), ``folder/camera.txt``, ``known`` (numbers of a published data set). ``size`` is
    (width, height) of the first image. Raises CalibrationError if there is none or it does not fit the images.
    """
    side_file = folder / CAMERA_FILE
    numbers: CameraLike
    if camera is not None:
        numbers, source = camera, "the camera option"
    elif side_file.is_file():
        lines = read_lines(side_file, CalibrationError)
        numbers, source = parse_numbers(" ".join(lines), side_file, CalibrationError).tolist(), str(side_file)
    elif known is not None:
        numbers, source = known, "the published calibration of this data set"
    else:
        raise CalibrationError(
            f"no intrinsics for {folder}: give the option camera (--camera) or write {side_file} ({CAMERA_HELP})"
        )
    found, distortion = _camera_from(numbers, size, source)
    logger.info("camera of %s from %s: %s", folder, source, found)
    return found, distortion


def _camera_from(numbers: CameraLike, size: tuple[int, int], source: str) -> tuple[PinholeCamera, np.ndarray | None]:
    if isinstance(numbers, PinholeCamera):
        if numbers.size != tuple(size):
            raise CalibrationError(
                f"{source} describes {numbers.width}x{numbers.height} images but they are {size[0]}x{size[1]}"
            )
        return numbers, None
    values = np.asarray(numbers, dtype=np.float64)
    if values.shape not in ((4,), (8,), (9,)) or not np.isfinite(values).all():
        raise CalibrationError(f"{source} has {values.size} numbers, expected {CAMERA_HELP}")
    fx, fy, cx, cy = values[:4].tolist()
    return _possible_camera(fx, fy, cx, cy, size, source), (values[4:] if values.size > 4 else None)


def _possible_camera(fx: float, fy: float, cx: float, cy: float, size: tuple[int, int], source: str) -> PinholeCamera:
    """Build a camera from numbers of a file or an option. Raises CalibrationError that names ``source``."""
    try:
        return PinholeCamera(float(fx), float(fy), float(cx), float(cy), *size)
    except CalibrationError as error:
        raise CalibrationError(f"{source}: {error}") from error


def ten_hertz(count: int, missing: Path) -> np.ndarray:
    """Time stamps at 10 Hz, float64 [count], with a warning that names the file that is not there."""
    logger.warning("%s is missing: time stamps assume 10 Hz", missing)
    return np.arange(count) / 10.0
