"""Sources of frames for the command line and benchmarks: KITTI odometry and raw, TUM layout, image folders, rendering.

``open_dataset`` recognises the layout of a folder; the loaders can also be called by name.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, get_args

from metric_slam.datasets.base import Dataset
from metric_slam.datasets.image_folder import open_image_folder
from metric_slam.datasets.images import IMAGE_SUFFIXES
from metric_slam.datasets.kitti import CAMERAS, available_sequences, open_kitti, resolve_kitti_root
from metric_slam.datasets.kitti_raw import open_kitti_raw
from metric_slam.datasets.sequence import ImageSequence
from metric_slam.datasets.side_files import CameraLike
from metric_slam.datasets.tum import open_tum
from metric_slam.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

DatasetKind = Literal["auto", "kitti", "kitti_raw", "tum", "images"]

__all__ = [
    "CameraLike",
    "Dataset",
    "DatasetKind",
    "ImageSequence",
    "available_sequences",
    "open_dataset",
    "open_image_folder",
    "open_kitti",
    "open_kitti_raw",
    "open_tum",
    "recognise",
    "resolve_kitti_root",
]


def open_dataset(
    path: Path | str,
    *,
    kind: DatasetKind = "auto",
    sequence: str | None = None,
    camera: CameraLike | None = None,
    depth_scale: float | None = None,
    rate_hz: float | None = None,
) -> Dataset:
    """Open the frames at ``path``; with ``kind`` "auto" the layout is recognised and the reason logged.

    ``sequence``: which one of a KITTI root. ``camera`` (PinholeCamera, or fx fy cx cy [k1 k2 p1 p2 [k3]]) and
    ``depth_scale`` (units per metre) are for layouts without calibration, ``rate_hz`` for folders without time stamps;
    an option that the layout does not have is a ConfigError rather than ignored. Raises MetricSlamError's children.
    """
    path = Path(path)
    if kind not in get_args(DatasetKind):
        raise ConfigError(f"unknown kind of data set '{kind}': choose one of {', '.join(get_args(DatasetKind))}")
    if not path.exists():
        raise DatasetError(f"{path} does not exist: name the folder of a sequence or of images")
    if kind == "auto":
        kind, reason = recognise(path)
        logger.info("%s is read as %s: %s", path, kind, reason)
    options = {"sequence": sequence, "camera": camera, "depth_scale": depth_scale, "rate_hz": rate_hz}
    _refuse_unknown(kind, {name for name, value in options.items() if value is not None})
    if kind == "kitti":
        return open_kitti(*_kitti_sequence(path, sequence))
    if kind == "kitti_raw":
        return open_kitti_raw(path)
    if kind == "tum":
        return open_tum(path, camera=camera, depth_scale=depth_scale)
    return open_image_folder(path, camera=camera, rate_hz=rate_hz)


def recognise(path: Path) -> tuple[DatasetKind, str]:
    """Recognise the kind of the data at ``path``; returns it and the reason. Raises DatasetError naming all layouts."""
    if not path.is_dir():
        raise DatasetError(f"{path} is a file: name a folder of images or of a KITTI or TUM sequence")
    if (path / "sequences").is_dir():
        return "kitti", "it holds sequences/"
    for folder, _, _ in CAMERAS:
        if (path / folder).is_dir():
            return "kitti", f"it holds {folder}/"
    for folder in ("image_02", "image_00"):
        if (path / folder / "data").is_dir():
            return "kitti_raw", f"it holds {folder}/data/"
    if (path / "rgb.txt").is_file():
        return "tum", "it holds rgb.txt"
    image = next((p for p in sorted(path.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES), None)
    if image is not None:
        return "images", f"it holds images such as {image.name}"
    raise DatasetError(
        f"nothing to read in {path}: expected png/jpg images, rgb.txt (TUM), image_2/ or sequences/ (KITTI odometry) "
        "or image_02/data/ (KITTI raw)"
    )


_KNOWN_OPTIONS = {
    "kitti": {"sequence"},
    "kitti_raw": set(),
    "tum": {"camera", "depth_scale"},
    "images": {"camera", "rate_hz"},
}


def _refuse_unknown(kind: str, given: set[str]) -> None:
    surplus = sorted(given - _KNOWN_OPTIONS[kind])
    if surplus:
        raise ConfigError(f"data of kind {kind} does not take the option {surplus[0]}: leave it out")


def _kitti_sequence(path: Path, sequence: str | None) -> tuple[Path, str]:
    """Root and name of the sequence for a root folder, or for the folder of one sequence."""
    if not (path / "sequences").is_dir():
        folder = path.resolve()
        if sequence not in (None, folder.name):
            raise ConfigError(f"{path} is one sequence already: leave out the option sequence or give the root folder")
        if folder.parent.name != "sequences":
            raise DatasetError(f"{path} must lie in ROOT/sequences/ (its poses in ROOT/poses/): move it there")
        return folder.parents[1], folder.name
    if sequence is not None:
        return path, sequence
    names = available_sequences(path)
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise DatasetError(f"{path} holds no single sequence ({known}): choose one with the option sequence (--seq)")
    return path, names[0]
