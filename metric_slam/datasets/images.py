"""Image files: listing them in numeric order and reading them as RGB or as metres, with one-line errors."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from metric_slam.errors import DatasetError, ImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""What counts as an image file, in lower case."""


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which ``frame_9`` comes before ``frame_10`` and equal numbers are ordered by their text."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts if part]


def list_images(folder: Path) -> list[Path]:
    """All png and jpg files directly in ``folder``, in numeric order. Raises DatasetError if there are none."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: name the folder that holds the images")
    paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not paths:
        raise DatasetError(f"no images in {folder}: expected png or jpg files directly in this folder")
    return sorted(paths, key=natural_key)


def read_rgb(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a colour image, uint8 [H, W, 3], RGB; grey images get three equal channels, 16-bit ones are reduced to 8.

    ``size`` is the expected (width, height). Raises ImageError if the file is unreadable, truncated or of another size.
    """
    image = _decode(path, cv2.IMREAD_COLOR)
    _check_size(path, image, size)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_depth_m(path: Path, units_per_metre: float, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a 16-bit depth image as metres along z, float32 [H, W]; 0 where nothing was measured.

    ``units_per_metre``: 256 for KITTI, 5000 for TUM RGB-D, 1000 for millimetres. Raises ImageError as ``read_rgb``.
    """
    raw = _decode(path, cv2.IMREAD_UNCHANGED)
    if raw.ndim != 2 or raw.dtype != np.uint16:
        raise ImageError(f"{path} is no depth image: expected one channel of 16 bits, found {raw.dtype} {raw.shape}")
    _check_size(path, raw, size)
    return (raw / np.float32(units_per_metre)).astype(np.float32)


def write_rgb(path: Path, image: np.ndarray) -> None:
    """Write ``image``, uint8 [H, W, 3] RGB, in the format of the file's suffix."""
    _write(path, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def write_depth_m(path: Path, depth_m: np.ndarray, units_per_metre: float) -> None:
    """Write ``depth_m`` [H, W] in metres as 16-bit png; what does not fit into 16 bits is written as 0 (none)."""
    units = np.rint(np.nan_to_num(depth_m, nan=0.0, posinf=0.0, neginf=0.0) * units_per_metre)
    _write(path, np.where((units > 0) & (units <= np.iinfo(np.uint16).max), units, 0).astype(np.uint16))


def _decode(path: Path, flags: int) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read image {path}: {error.strerror or error}") from error
    # the decoders fill up a truncated file with grey and call it a success
    if not data or _is_truncated(data):
        raise ImageError(f"image {path} is truncated or empty: copy it again or leave the frame out")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"image {path} cannot be decoded ({error.err}): copy it again") from error
    if image is None:
        raise ImageError(f"image {path} cannot be decoded: it is damaged or not a png/jpg file")
    return image


def _is_truncated(data: bytes) -> bool:
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-4096:]
    return False


def _check_size(path: Path, image: np.ndarray, size: tuple[int, int] | None) -> None:
    found = (image.shape[1], image.shape[0])
    if size is not None and found != tuple(size):
        raise ImageError(
            f"image {path} is {found[0]}x{found[1]} but the sequence's camera is {size[0]}x{size[1]}: "
            "all frames must have one size"
        )


def _write(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image):
        raise ImageError(f"cannot write image {path}: is the folder there and is the disk full?")
