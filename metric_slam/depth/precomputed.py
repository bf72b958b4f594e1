"""Depth maps from other programs: a folder with one file per image, named like the image."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np

from metric_slam.config.schema import PrecomputedConfig
from metric_slam.depth.base import DepthPrediction, ImageDepthPrior, depth_to_grid, unknown_depth, within_range
from metric_slam.depth.missing import MissingDepth
from metric_slam.errors import ConfigError, DatasetError, MissingDependencyError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera

SUFFIXES = (".png", ".npy", ".npz", ".exr")


class PrecomputedDepth(ImageDepthPrior):
    """Depth maps in metres: png 16 bit (``png_scale`` values per metre), npy and npz (metres), exr (metres).

    exr needs the package OpenEXR; its channel is Z, a layer's depth.Z, Y, R, or the only one there is. A map may have
    any size with the aspect of its image; zeros, NaN and values out of range are unknown. A keyframe without a map has
    no prior; such keyframes are counted.
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
        self._missing = MissingDepth(f"depth map in {self._folder}")

    def prepare(self, frame: Frame, camera: PinholeCamera) -> DepthPrediction:
        """The map of this frame on the grid.

        Raises DatasetError for a damaged map, and if none of the first keyframes has a map.
        """
        stem = frame.path.stem if frame.path is not None else f"{frame.index:06d}"
        path = find_depth_map(self._folder / stem)
        if path is None:
            self._missing.lacks(f"{self._folder} has no depth map named {stem} with one of {', '.join(SUFFIXES)}")
            return unknown_depth(camera)
        self._missing.found()
        depth_m = read_depth(path, self._config.png_scale)
        return depth_to_grid(within_range(depth_m, self._config.min_depth_m, self._config.max_depth_m), camera)

    def state(self) -> dict[str, np.ndarray]:
        """Counts of keyframes with and without a map; see the base class."""
        return self._missing.state()

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        self._missing.restore(state)

    def summary(self) -> str | None:
        """How many keyframes had no map; None if all had one."""
        return self._missing.summary()


def find_depth_map(path: Path) -> Path | None:
    """Find the depth map at ``path``, given without its suffix; None where there is none."""
    return next((p for suffix in SUFFIXES if (p := path.with_name(path.name + suffix)).is_file()), None)


def read_depth(path: Path, png_scale: float) -> np.ndarray:
    """Read one depth map in metres, float32 [H, W], 0 where unknown. Raises DatasetError for any other file."""
    try:
        depth = np.asarray(_read(path, png_scale), np.float32)
    # a damaged npz raises the errors of zip archives, an empty npy an EOFError
    except (OSError, ValueError, TypeError, LookupError, EOFError, BadZipFile, zlib.error, cv2.error) as error:
        raise DatasetError(f"{path}: cannot be read as a depth map ({error}); write it again") from error
    if depth.ndim == 3 and 1 in (depth.shape[0], depth.shape[2]):
        depth = depth[0] if depth.shape[0] == 1 else depth[..., 0]
    if depth.ndim != 2:
        raise DatasetError(f"{path}: a depth map has two dimensions, this one {depth.shape}; write a single channel")
    return np.nan_to_num(depth, nan=0.0, posinf=0.0, neginf=0.0)


def _read(path: Path, png_scale: float) -> np.ndarray:
    """Values of a file; those of png are converted to metres."""
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
    """Read the depth channel of the first part of an OpenEXR file (OpenCV's wheels are built without that format)."""
    try:
        import OpenEXR
    except ImportError as error:
        raise MissingDependencyError(f"{path}: reading exr needs OpenEXR: pip install OpenEXR") from error
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            window, display = (np.array(file.header()[name]) for name in ("dataWindow", "displayWindow"))
            channels = {name: np.array(channel.pixels) for name, channel in file.channels().items()}
    except RuntimeError as error:  # OpenEXR has no other error for damaged files
        raise ValueError(error) from error
    if (window != display).any():
        raise ValueError("its data window is not the whole picture")
    return channels[depth_channel(channels)]


def depth_channel(channels: Mapping[str, np.ndarray]) -> str:
    """Find the channel that holds depth: Z, a layer's depth.Z, Y, R, or the only one. Raises ValueError if none does.

    OpenEXR's own name for depth is Z, for grey images Y. Many programs write one value into R, G and B alike; colour
    images and points X, Y, Z are refused.
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
