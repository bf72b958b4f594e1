"""Depth maps made elsewhere: a folder with one file per image, named like the image."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np

from metric_slam.config.schema import PrecomputedConfig
from metric_slam.depth.base import DepthPrediction, DepthPrior, depth_to_grid
from metric_slam.errors import ConfigError, DatasetError, MissingDependencyError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera

SUFFIXES = (".png", ".npy", ".npz", ".exr")


class PrecomputedDepth(DepthPrior):
    """Reads depth in metres: png 16 bit (``png_scale`` values per metre), npy and npz (metres), exr (metres).

    exr needs the package OpenEXR; its channel is Z, a layer's depth.Z, Y, R, or the only one there is. A map may have
    any size with the aspect of its image; zeros, NaN and values out of range are unknown.
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
        path = find_depth_map(self._folder / stem)
        if path is None:
            raise DatasetError(f"{self._folder}: no depth map named {stem} with one of {', '.join(SUFFIXES)}")
        depth = read_depth(path, self._config.png_scale)
        in_range = (depth >= self._config.min_depth_m) & (depth <= self._config.max_depth_m)
        return depth_to_grid(np.where(in_range, depth, 0.0), camera)

    def predict(self, state: DepthPrediction, camera: PinholeCamera) -> DepthPrediction:
        """The map as it was read."""
        return state


def find_depth_map(path: Path) -> Path | None:
    """The depth map at ``path``, which lacks its suffix; None where there is none."""
    return next((p for suffix in SUFFIXES if (p := path.with_name(path.name + suffix)).is_file()), None)


def read_depth(path: Path, png_scale: float) -> np.ndarray:
    """One depth map in metres, float32 [H, W], 0 where unknown. Raises DatasetError for a file that is none."""
    try:
        depth = np.asarray(_read(path, png_scale), np.float32)
    # a damaged npz complains as a zip archive, an empty npy about the end of the file
    except (OSError, ValueError, TypeError, LookupError, EOFError, BadZipFile, zlib.error, cv2.error) as error:
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
    if path.suffix == ".exr":
        return _read_exr(path)
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise ValueError("not decodable")
    if raw.dtype != np.uint16:
        raise ValueError(f"a png with {8 * raw.itemsize} bits, not 16")
    return raw / png_scale


def _read_exr(path: Path) -> np.ndarray:
    """The depth channel of the first part of an OpenEXR file (OpenCV's wheels are built without that format)."""
    try:
        import OpenEXR
    except ImportError as error:
        raise MissingDependencyError(f"{path}: reading exr needs OpenEXR: pip install OpenEXR") from error
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            window, display = (np.array(file.header()[name]) for name in ("dataWindow", "displayWindow"))
            channels = {name: np.array(channel.pixels) for name, channel in file.channels().items()}
    except RuntimeError as error:  # its only way to say that a file is damaged
        raise ValueError(error) from error
    if (window != display).any():
        raise ValueError("its data window is not the whole picture")
    return channels[depth_channel(channels)]


def depth_channel(channels: Mapping[str, np.ndarray]) -> str:
    """Name of the channel that holds depth: Z, a layer's depth.Z, Y, R, or the only one. Raises ValueError if none.

    Z is OpenEXR's own name for depth, Y that of a grey picture. Many programs write a single value into R, G and B
    alike; a picture in colours, or points X, Y, Z, are no depth.
    """
    names = list(channels)
    layers = [name for name in names if name.lower().endswith("depth.z")]
    for name in ("Z", *layers, "Y"):
        if name in channels and not ("X" in channels and "Y" in channels):
            return name
    if "R" in channels and all(np.array_equal(channels["R"], channels[c]) for c in "GB" if c in channels):
        return "R"
    if len(names) == 1:
        return names[0]
    raise ValueError(f"no depth among its channels {', '.join(names)}: name it Z or write a single channel")
