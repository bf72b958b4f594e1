"""Depth maps made elsewhere: a folder with one file per image, named like the image."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np

from metric_slam.config import PrecomputedConfig
from metric_slam.depth.base import DepthPrediction, DepthPrior, depth_to_grid
from metric_slam.errors import ConfigError, DatasetError, MissingDependencyError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera

SUFFIXES = (".png", ".npy", ".npz", ".exr")


class PrecomputedDepth(DepthPrior):
    """Reads depth in metres: png 16 bit (``png_scale`` values per metre), npy and npz (metres), exr (metres).

    A map may have any size with the aspect of its image; zeros, NaN and values out of range are unknown.
    """

    name = "precomputed"

    def __init__(self, config: PrecomputedConfig) -> None:
        if config.folder is None:
            raise ConfigError("prior 'precomputed' needs a folder: give --set precomputed.folder=DIR")
        self._folder = Path(config.folder)
        if not self._folder.is_dir():
            raise DatasetError(f"{self._folder}: no such folder of depth maps; check precomputed.folder")
        self._config = config
        self.relative_sigma = config.sigma
        self.scale_sigma = config.scale_sigma

    def prepare(self, frame: Frame, camera: PinholeCamera) -> DepthPrediction:
        """The map of this frame on the grid."""
        stem = frame.path.stem if frame.path is not None else f"{frame.index:06d}"
        path = next((p for s in SUFFIXES if (p := self._folder / (stem + s)).is_file()), None)
        if path is None:
            raise DatasetError(f"{self._folder}: no depth map named {stem} with one of {', '.join(SUFFIXES)}")
        depth = read_depth(path, self._config.png_scale)
        in_range = (depth >= self._config.min_depth_m) & (depth <= self._config.max_depth_m)
        return depth_to_grid(np.where(in_range, depth, 0.0), camera)

    def predict(self, state: DepthPrediction, camera: PinholeCamera) -> DepthPrediction:
        """The map as it was read."""
        return state


def read_depth(path: Path, png_scale: float) -> np.ndarray:
    """One depth map in metres, float32 [H, W], 0 where unknown. Raises DatasetError for a file that is none."""
    try:
        depth = np.asarray(_read(path, png_scale), np.float32)
    # a damaged npz complains as a zip archive, an empty npy about the end of the file
    except (OSError, ValueError, TypeError, IndexError, EOFError, BadZipFile, zlib.error, cv2.error) as error:
        raise DatasetError(f"{path}: cannot be read as a depth map ({error}); write it again") from error
    if depth.ndim == 3 and 1 in (depth.shape[0], depth.shape[2]):
        depth = depth[0] if depth.shape[0] == 1 else depth[..., 0]
    if depth.ndim != 2:
        raise DatasetError(f"{path}: a depth map has two dimensions, this one {depth.shape}; write a single channel")
    return np.nan_to_num(depth, nan=0.0, posinf=0.0, neginf=0.0)


def _read(path: Path, png_scale: float) -> np.ndarray:
    """The numbers in a file, those of png in metres."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return archive["depth"] if "depth" in archive else archive[archive.files[0]]
    # OpenCV reads exr only when told so before its first use of that codec, and only where it was built with it
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
    if path.suffix == ".exr" and not cv2.haveImageWriter(path.name):
        raise MissingDependencyError(f"{path}: the installed OpenCV reads no exr; write npy or 16-bit png instead")
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise ValueError("not decodable")
    if path.suffix == ".exr":  # many programs write one value into all of red, green and blue
        return raw[..., 0] if raw.ndim == 3 and (raw == raw[..., :1]).all() else raw
    if raw.dtype != np.uint16:
        raise ValueError(f"a png with {8 * raw.itemsize} bits, not 16")
    return raw / png_scale
