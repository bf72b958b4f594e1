"""The layout of the TUM RGB-D benchmark: ``rgb.txt``, ``depth.txt``, ``groundtruth.txt`` beside the image folders.

Each line of the two lists is "stamp file", of the truth "stamp tx ty tz qx qy qz qw" (T_world_cam). Source of the
format and of the published intrinsics: Sturm et al., A Benchmark for the Evaluation of RGB-D SLAM Systems, IROS 2012,
and its page of file formats.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from metric_slam.datasets.images import read_rgb
from metric_slam.datasets.sequence import ImageSequence
from metric_slam.datasets.side_files import CameraLike, parse_numbers, read_lines, read_table, resolve_camera
from metric_slam.errors import DatasetError

logger = logging.getLogger(__name__)

MAX_STAMP_DIFFERENCE_S = 0.02
"""Measurements further apart do not belong together."""

DEPTH_SCALE_FILE = "depth_scale.txt"
TUM_DEPTH_SCALE = 5000.0
TUM_CAMERAS = {
    "freiburg1": (517.306408, 516.469215, 318.643040, 255.313989, 0.262383, -0.953104, -0.005358, 0.002628, 1.163314),
    "freiburg2": (520.908620, 521.007327, 325.141442, 249.701764, 0.231222, -0.784899, -0.003257, -0.000105, 0.917205),
    "freiburg3": (535.433105, 539.212524, 320.106653, 247.632132),
}
"""Published colour cameras by part of the folder name: fx fy cx cy k1 k2 p1 p2 k3; the third is free of distortion."""


def open_tum(folder: Path, *, camera: CameraLike | None = None, depth_scale: float | None = None) -> ImageSequence:
    """Open a folder in TUM layout; depth and truth are associated by the nearest stamp within 0.02 s.

    ``camera``: a PinholeCamera or its numbers; else ``camera.txt``, else the published one for freiburg1-3 folders.
    ``depth_scale``: units of the depth images per metre (TUM 5000, millimetres 1000); else ``depth_scale.txt``, else
    5000 for freiburg1-3 folders. It is never guessed: a wrong factor would be a wrong metre. Frames without truth
    have NaN poses. Raises DatasetError, CalibrationError, ImageError.
    """
    folder = Path(folder)
    times_s, images = _read_list(folder, "rgb.txt")
    height, width = read_rgb(images[0]).shape[:2]
    family = next((key for key in TUM_CAMERAS if key in folder.resolve().name), None)
    found, distortion = resolve_camera(folder, (width, height), camera, TUM_CAMERAS.get(family) if family else None)
    depths, scale = None, 1.0
    if (folder / "depth.txt").is_file():
        scale = _depth_scale(folder, depth_scale, family)
        depths = _associate_depths(folder, times_s)
    return ImageSequence(
        name=f"tum/{folder.resolve().name}",
        camera=found,
        times_s=times_s,
        image_paths=tuple(images),
        depth_paths=depths,
        depth_scale=scale,
        distortion=distortion,
        T_world_cam_true=_truth(folder / "groundtruth.txt", times_s),
    )


def nearest(stamps_s: np.ndarray, wanted_s: np.ndarray, max_difference_s: float) -> np.ndarray:
    """For each of ``wanted_s`` [M] the index of the nearest of the sorted ``stamps_s`` [N], int [M]; -1 if too far."""
    if not len(stamps_s):
        return np.full(len(wanted_s), -1)
    right = np.clip(np.searchsorted(stamps_s, wanted_s), 0, len(stamps_s) - 1)
    left = np.maximum(right - 1, 0)
    best = np.where(np.abs(stamps_s[left] - wanted_s) <= np.abs(stamps_s[right] - wanted_s), left, right)
    return np.where(np.abs(stamps_s[best] - wanted_s) <= max_difference_s, best, -1)


def _read_list(folder: Path, file: str) -> tuple[np.ndarray, list[Path]]:
    """Stamps, float64 [N], and files of a TUM list, in the order of time."""
    path = folder / file
    entries = []
    for line in read_lines(path):
        words = line.split(maxsplit=1)
        if len(words) != 2:
            raise DatasetError(f"{path}: '{line}' is not 'stamp file'")
        entries.append((float(parse_numbers(words[0], path)[0]), folder / words[1]))
    if not entries:
        raise DatasetError(f"{path} lists no images")
    entries.sort(key=lambda entry: entry[0])
    return np.array([stamp for stamp, _ in entries]), [image for _, image in entries]


def _depth_scale(folder: Path, option: float | None, family: str | None) -> float:
    side_file = folder / DEPTH_SCALE_FILE
    if option is not None:
        scale, source = float(option), "the option depth_scale"
    elif side_file.is_file():
        scale, source = float(read_table(side_file, 1)[:1].sum()), str(side_file)
    elif family is not None:
        scale, source = TUM_DEPTH_SCALE, "the TUM benchmark"
    else:
        raise DatasetError(
            f"units of the depth images in {folder} are unknown: give the option depth_scale (--depth-scale) "
            f"or write {side_file} (units per metre: TUM 5000, millimetres 1000)"
        )
    if not np.isfinite(scale) or scale <= 0:
        raise DatasetError(f"depth scale {scale} from {source} is impossible: units per metre must be positive")
    logger.info("depth of %s: %g units per metre, from %s", folder, scale, source)
    return scale


def _associate_depths(folder: Path, times_s: np.ndarray) -> tuple[Path | None, ...]:
    stamps_s, files = _read_list(folder, "depth.txt")
    matches = nearest(stamps_s, times_s, MAX_STAMP_DIFFERENCE_S)
    if (matches < 0).all():
        raise DatasetError(f"no depth image of {folder} is within {MAX_STAMP_DIFFERENCE_S} s of an image: check stamps")
    return tuple(files[match] if match >= 0 else None for match in matches)


def _truth(path: Path, times_s: np.ndarray) -> np.ndarray | None:
    if not path.is_file():
        logger.info("no ground truth: %s is not there", path)
        return None
    rows = read_table(path, 8)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    norms = np.linalg.norm(rows[:, 4:8], axis=1)
    rows = rows[norms > 0.5]  # trackers write a zero quaternion where they lost the target
    matches = nearest(rows[:, 0], times_s, MAX_STAMP_DIFFERENCE_S)
    if (matches < 0).all():
        raise DatasetError(f"no pose of {path} is within {MAX_STAMP_DIFFERENCE_S} s of an image: check the stamps")
    poses = np.full((len(times_s), 4, 4), np.nan)
    known = matches >= 0
    poses[known] = np.eye(4)
    poses[known, :3, 3] = rows[matches[known], 1:4]
    poses[known, :3, :3] = Rotation.from_quat(rows[matches[known], 4:8]).as_matrix()
    return poses
