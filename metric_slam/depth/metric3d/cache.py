"""Depth maps kept on disk, in a format that prior ``precomputed`` reads.

One npz per image, named like it: ``depth`` in metres (float16, relative rounding 5e-4), ``confidence`` (uint8, 255 is
1), ``normals`` where the network has them (int8, 127 is 1) and ``made_from``, which identifies image, camera and
network. A map of another origin is computed again.
"""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from metric_slam.depth.metric3d.predictor import ImageDepth
from metric_slam.errors import OutputError
from metric_slam.frame import Frame

log = logging.getLogger(__name__)


class DepthCache:
    """A folder of depth maps made by one network; ``made_by`` names it together with its settings."""

    def __init__(self, folder: Path, made_by: str) -> None:
        self._folder, self._made_by = folder, made_by

    def load(self, frame: Frame) -> ImageDepth | None:
        """The map of this very image; None where there is none or it cannot be read."""
        path = self._path(frame)
        try:
            with np.load(path, allow_pickle=False) as archive:
                if str(archive["made_from"]) != self._origin(frame):
                    return None
                depth, confidence = archive["depth"], archive["confidence"]
                normals = archive["normals"].astype(np.float32) / 127.0 if "normals" in archive else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, EOFError, BadZipFile, zlib.error) as error:
            log.warning("%s: damaged (%s), computed again", path, error)
            return None
        return ImageDepth(depth.astype(np.float32), confidence.astype(np.float32) / 255.0, normals)

    def save(self, frame: Frame, found: ImageDepth) -> None:
        """Keep a map. Raises OutputError where the folder cannot be written."""
        path = self._path(frame)
        arrays: dict[str, np.ndarray] = {
            "depth": found.depth_m.astype(np.float16),
            "confidence": np.rint(255.0 * found.confidence).astype(np.uint8),
            "made_from": np.array(self._origin(frame)),
        }
        if found.normals is not None:
            arrays["normals"] = np.rint(127.0 * found.normals).astype(np.int8)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy declares names as options
            partial.replace(path)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutputError(f"{path} cannot be written ({reason}): check metric3d.cache") from error

    def _path(self, frame: Frame) -> Path:
        stem = frame.path.stem if frame.path is not None else f"{frame.index:06d}"
        return self._folder / f"{stem}.npz"

    def _origin(self, frame: Frame) -> str:
        numbers = " ".join(f"{value:.9g}" for value in frame.camera.vector())
        return f"{self._made_by}; camera {numbers}; image {zlib.crc32(frame.image.tobytes()):08x}"
