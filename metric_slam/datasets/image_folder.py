"""A plain folder of images taken in the order of their numbers, with intrinsics from an option or ``camera.txt``."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from metric_slam.datasets.images import list_images, read_rgb
from metric_slam.datasets.sequence import ImageSequence
from metric_slam.datasets.side_files import CameraLike, resolve_camera
from metric_slam.errors import ConfigError
from metric_slam.frame import CameraMount

logger = logging.getLogger(__name__)


def open_image_folder(
    folder: Path,
    *,
    camera: CameraLike | None = None,
    rate_hz: float | None = None,
    mount: CameraMount | None = None,
) -> ImageSequence:
    """Open all png and jpg images directly in ``folder``, in numeric order.

    ``camera``: a PinholeCamera or its numbers fx fy cx cy [k1 k2 p1 p2 [k3]]; else ``folder/camera.txt``.
    ``rate_hz``: frames a second, 10 if not given (only time stamps depend on it). Raises DatasetError,
    CalibrationError (no intrinsics), ImageError.
    """
    folder = Path(folder)
    images = list_images(folder)
    height, width = read_rgb(images[0]).shape[:2]
    found, distortion = resolve_camera(folder, (width, height), camera)
    if rate_hz is None:
        logger.warning("images in %s have no time stamps: assuming 10 Hz", folder)
        rate_hz = 10.0
    if not np.isfinite(rate_hz) or rate_hz <= 0:
        raise ConfigError(f"frame rate {rate_hz} Hz is impossible: it must be positive")
    return ImageSequence(
        name=f"images/{folder.resolve().name}",
        camera=found,
        times_s=np.arange(len(images)) / rate_hz,
        image_paths=tuple(images),
        distortion=distortion,
        mount=mount,
    )
