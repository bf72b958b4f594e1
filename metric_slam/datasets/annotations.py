"""Single images with their true depth, listed in the annotation files of Metric3D.

A JSON object with a list ``files`` of objects: ``rgb`` and ``depth`` (paths), ``depth_scale`` (values per metre of the
16-bit depth image; 1 where it is left out), ``cam_in`` (fx, fy, cx, cy in pixels), as mono/utils/custom_data.py of
github.com/YvanYin/Metric3D reads it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metric_slam.datasets.images import read_depth_m, read_rgb
from metric_slam.errors import CalibrationError, DatasetError
from metric_slam.geometry.camera import PinholeCamera


@dataclass(frozen=True)
class AnnotatedImage:
    """One entry of an annotation file; nothing is read before it is asked for."""

    name: str
    """The path of the image as the file gives it."""

    rgb_path: Path
    depth_path: Path
    units_per_metre: float
    intrinsics: tuple[float, float, float, float] | None
    """fx, fy, cx, cy in pixels of the image; None: not given."""

    def image(self) -> np.ndarray:
        """RGB, uint8 [H, W, 3]. Raises ImageError."""
        return read_rgb(self.rgb_path)

    def depth_m(self) -> np.ndarray:
        """True depth in metres, float32 [H, W], 0 where it was not measured. Raises ImageError."""
        return read_depth_m(self.depth_path, self.units_per_metre)

    def camera(self, image: np.ndarray) -> PinholeCamera:
        """The camera of ``image`` [H, W, 3]. Raises CalibrationError where the file gives none or an impossible one."""
        if self.intrinsics is None:
            raise CalibrationError(f"{self.name}: no cam_in (fx, fy, cx, cy): metric depth needs the focal length")
        return PinholeCamera(*self.intrinsics, width=image.shape[1], height=image.shape[0])


def read_annotations(path: Path) -> list[AnnotatedImage]:
    """All images of an annotation file that have true depth.

    Paths count from the folder of the file; where nothing is there, leading folders are dropped until something is
    (Metric3D's own paths count from the root of its checkout).

    Raises:
        DatasetError: the file is missing or none of its kind, lists no image with depth, or names an absent file.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["files"]
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}; name a file of annotations") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is no annotation file: expected a JSON object with a list 'files'") from error
    if not isinstance(entries, list):
        raise DatasetError(f"{path} is no annotation file: 'files' is no list")
    images = [_entry(path, number, entry) for number, entry in enumerate(entries) if _has_depth(entry)]
    if not images:
        raise DatasetError(f"{path} lists no image with true depth: each entry needs rgb and depth")
    return images


def by_path_tail(folder: Path, path: str) -> list[Path]:
    """Where below ``folder`` the file ``path`` may be, most specific first: all of it, then with fewer folders."""
    parts = [part for part in Path(path).parts if part not in ("/", "..", ".")]
    return [folder.joinpath(*parts[first:]) for first in range(len(parts))]


def _has_depth(entry: object) -> bool:
    return not isinstance(entry, dict) or entry.get("depth") is not None


def _entry(path: Path, number: int, entry: object) -> AnnotatedImage:
    if not isinstance(entry, dict):
        raise DatasetError(f"{path}: entry {number} of 'files' is {type(entry).__name__}, expected a JSON object")
    try:
        rgb, depth = str(entry["rgb"]), str(entry["depth"])
        scale = float(entry.get("depth_scale", 1.0))
        numbers = entry.get("cam_in")
        intrinsics = None if numbers is None else [float(value) for value in numbers]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: entry {number} of 'files' is not understood ({error!r})") from error
    if not (np.isfinite(scale) and scale > 0):
        raise DatasetError(f"{path}: entry {number} has depth_scale {scale:g}: give values per metre")
    if intrinsics is not None and len(intrinsics) != 4:
        raise DatasetError(f"{path}: entry {number} has {len(intrinsics)} numbers in cam_in: give fx, fy, cx, cy")
    fx_fy_cx_cy = None if intrinsics is None else (intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3])
    return AnnotatedImage(rgb, _found(path, rgb), _found(path, depth), scale, fx_fy_cx_cy)


def _found(annotations: Path, name: str) -> Path:
    places = [Path(name)] if Path(name).is_absolute() else []
    places += by_path_tail(annotations.parent, name)
    for place in places:
        if place.is_file():
            return place
    raise DatasetError(f"{annotations}: no file {name}, neither from its folder on nor with fewer leading folders")
