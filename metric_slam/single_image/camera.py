"""The focal length of one image: given in pixels, given as a calibration, or read from the EXIF of the file.

Metric depth of a single image is proportional to the focal length, so that exactly one source has to be named and none
is guessed. EXIF holds it in two ways (Exif 2.32, section 4.6.5): ``FocalLengthIn35mmFilm``, which compares diagonals
as in CIPA DCG-001, or ``FocalLength`` with ``FocalPlaneXResolution``, pixels per unit on the sensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, isfinite
from pathlib import Path
from typing import SupportsFloat

from PIL import Image

from metric_slam.errors import CalibrationError, ConfigError, ImageError
from metric_slam.geometry.camera import PinholeCamera

FILM_DIAGONAL_MM = hypot(36.0, 24.0)

_EXIF_FOLDER = 0x8769
_FOCAL_MM, _FOCAL_35MM = 0x920A, 0xA405
_PLANE_RESOLUTION, _PLANE_UNIT = 0xA20E, 0xA210
_EXIF_WIDTH, _EXIF_HEIGHT = 0xA002, 0xA003
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
"""Inch and centimetre are in the standard; millimetre and micrometre are what cameras write as well (TIFF/EP)."""

Tags = Mapping[int, object]
"""EXIF tags by number."""

_ASPECT_TOLERANCE = 0.02
"""Resizing rounds the sides; a larger difference means that the image was cropped."""

_DISAGREEMENT = 0.10
"""Relative difference between the two focal lengths of EXIF from which both are reported."""


@dataclass(frozen=True)
class FocalOptions:
    """Sources of the focal length on the command line; exactly one is given."""

    focal_px: float | None = None
    camera: str | None = None
    """``fx,fy,cx,cy`` in pixels."""

    exif: bool = False

    def check(self) -> None:
        """Raise CalibrationError where no source is named, ConfigError where several are."""
        given = [self.focal_px is not None, self.camera is not None, self.exif]
        if not any(given):
            raise CalibrationError(
                "metric depth needs the focal length of the very image: give --focal PX, or --camera fx,fy,cx,cy, or "
                "--exif to take it from the file"
            )
        if sum(given) > 1:
            raise ConfigError("--focal, --camera and --exif exclude each other: give one of them")


def camera_of_image(path: Path, size: tuple[int, int], options: FocalOptions) -> tuple[PinholeCamera, str]:
    """Find the camera of an image of ``size`` (width, height); returns it with its origin in words.

    The principal point is the middle of the image unless ``options.camera`` is given.

    Raises CalibrationError where the focal length is not given, not in the file, or impossible; ConfigError where it is
    given twice; ImageError where the file's EXIF cannot be read.
    """
    options.check()
    if options.camera is not None:
        fx, fy, cx, cy = _four_numbers(options.camera)
        return PinholeCamera(fx, fy, cx, cy, *size), "--camera"
    focal, source = (options.focal_px, "--focal") if options.focal_px is not None else exif_focal_px(path, size)
    return PinholeCamera(focal, focal, (size[0] - 1) / 2, (size[1] - 1) / 2, *size), source


def exif_focal_px(path: Path, size: tuple[int, int]) -> tuple[float, str]:
    """Focal length in pixels of an image of ``size`` (width, height) from its EXIF, and the assumptions in words.

    Raises CalibrationError where EXIF does not hold it, ImageError where the file cannot be read.
    """
    tags = _exif_tags(path)
    _refuse_cropped(path, tags, size)
    by_film, by_plane = _by_film(tags, size), _by_plane(tags, size)
    found = by_film or by_plane
    if found is None:
        raise CalibrationError(
            f"{path}: its EXIF holds neither FocalLengthIn35mmFilm nor FocalLength with FocalPlaneXResolution: give "
            "--focal PX or --camera fx,fy,cx,cy"
        )
    focal, how = found
    if by_film is not None and by_plane is not None and abs(by_plane[0] / by_film[0] - 1.0) > _DISAGREEMENT:
        how += f"; FocalPlaneXResolution gives {by_plane[0]:.0f} px"
    return focal, f"EXIF, {how}; principal point in the middle, no distortion assumed"


def _by_film(tags: Tags, size: tuple[int, int]) -> tuple[float, str] | None:
    film_mm = _number(tags, _FOCAL_35MM)
    if film_mm is None:
        return None
    focal = film_mm / FILM_DIAGONAL_MM * hypot(*size)
    return focal, f"{film_mm:g} mm on 35 mm film, by the diagonal: {focal:.0f} px"


def _by_plane(tags: Tags, size: tuple[int, int]) -> tuple[float, str] | None:
    focal_mm, per_unit = _number(tags, _FOCAL_MM), _number(tags, _PLANE_RESOLUTION)
    unit_mm = _UNIT_MM.get(int(_number(tags, _PLANE_UNIT) or 2))  # the standard's default is the inch
    if focal_mm is None or per_unit is None or unit_mm is None:
        return None
    longer = max(_number(tags, _EXIF_WIDTH) or 0.0, _number(tags, _EXIF_HEIGHT) or 0.0) or max(size)
    focal = focal_mm * per_unit / unit_mm * max(size) / longer
    return focal, f"{focal_mm:g} mm at {per_unit / unit_mm:.4g} pixels per mm of the sensor: {focal:.0f} px"


def _refuse_cropped(path: Path, tags: Tags, size: tuple[int, int]) -> None:
    """Raise CalibrationError for a cropped image: tags describe the whole one. Sides are compared sorted by length."""
    width, height = _number(tags, _EXIF_WIDTH), _number(tags, _EXIF_HEIGHT)
    if width is None or height is None:
        return
    if abs(max(width, height) / min(width, height) / (max(size) / min(size)) - 1.0) > _ASPECT_TOLERANCE:
        raise CalibrationError(
            f"{path} is {size[0]}x{size[1]}, but its EXIF describes {width:g}x{height:g}: it was cropped, so give "
            "--focal PX"
        )


def _exif_tags(path: Path) -> Tags:
    try:
        with Image.open(path) as image:
            return dict(image.getexif().get_ifd(_EXIF_FOLDER))
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"the EXIF of {path} cannot be read ({type(error).__name__}): give --focal PX") from error


def _number(tags: Tags, tag: int) -> float | None:
    """A positive number, None without one; cameras write 0 where a value is unknown."""
    entry = tags.get(tag)
    if not isinstance(entry, (SupportsFloat, str)):
        return None
    try:
        value = float(entry)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return value if isfinite(value) and value > 0 else None


def _four_numbers(text: str) -> tuple[float, float, float, float]:
    try:
        numbers = [float(number) for number in text.replace(",", " ").split()]
    except ValueError as error:
        raise CalibrationError(f"--camera {text}: give four numbers, e.g. --camera 718.9,718.9,607.2,185.2") from error
    if len(numbers) != 4:
        raise CalibrationError(
            f"--camera {text}: {len(numbers)} numbers, expected the four fx,fy,cx,cy of an image without distortion"
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]
