"""The focal length of one image: said in pixels, as a calibration, or from what the camera wrote into the file.

Metric depth of a single image is proportional to the focal length, so that exactly one source has to be named and none
is guessed. EXIF knows it in two ways (Exif 2.32, section 4.6.5): ``FocalLengthIn35mmFilm``, which is taken to compare
diagonals as CIPA DCG-001 does, or ``FocalLength`` with ``FocalPlaneXResolution``, pixels per unit on the sensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, isfinite
from pathlib import Path
from typing import Any

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

_ASPECT_TOLERANCE = 0.02
"""Resizing rounds sides; what differs more has been cropped."""

_DISAGREEMENT = 0.10


@dataclass(frozen=True)
class FocalOptions:
    """What the user typed; exactly one is given."""

    focal_px: float | None = None
    camera: str | None = None
    """``fx,fy,cx,cy`` in pixels."""

    exif: bool = False

    def check(self) -> None:
        """Raises CalibrationError where no source is named, ConfigError where several are."""
        given = [self.focal_px is not None, self.camera is not None, self.exif]
        if not any(given):
            raise CalibrationError(
                "metric depth needs the focal length of the very image: give --focal PX, or --camera fx,fy,cx,cy, or "
                "--exif to take it from the file"
            )
        if sum(given) > 1:
            raise ConfigError("--focal, --camera and --exif are three ways to say one thing: give one of them")


def camera_of_image(path: Path, size: tuple[int, int], options: FocalOptions) -> tuple[PinholeCamera, str]:
    """The camera of an image of ``size`` (width, height) and where it is from, in words.

    The principal point is the middle of the image unless ``options.camera`` says otherwise.

    Raises CalibrationError where the focal length is not said, not in the file, or impossible; ConfigError where it is
    said twice; ImageError where the file's EXIF cannot be read.
    """
    options.check()
    if options.camera is not None:
        fx, fy, cx, cy = _four_numbers(options.camera)
        return PinholeCamera(fx, fy, cx, cy, *size), "--camera"
    focal, source = (options.focal_px, "--focal") if options.focal_px is not None else exif_focal_px(path, size)
    return PinholeCamera(focal, focal, (size[0] - 1) / 2, (size[1] - 1) / 2, *size), source


def exif_focal_px(path: Path, size: tuple[int, int]) -> tuple[float, str]:
    """Focal length in pixels of an image of ``size`` (width, height) from its EXIF, and what was assumed.

    Raises CalibrationError where EXIF does not tell it, ImageError where the file cannot be read.
    """
    tags = _exif_tags(path)
    _refuse_cropped(path, tags, size)
    by_film, by_plane = _by_film(tags, size), _by_plane(tags, size)
    if by_film is None and by_plane is None:
        raise CalibrationError(
            f"{path}: its EXIF holds neither FocalLengthIn35mmFilm nor FocalLength with FocalPlaneXResolution: give "
            "--focal PX or --camera fx,fy,cx,cy"
        )
    focal, how = by_film or by_plane  # type: ignore[misc]
    if by_film is not None and by_plane is not None and abs(by_plane[0] / by_film[0] - 1.0) > _DISAGREEMENT:
        how += f"; FocalPlaneXResolution would say {by_plane[0]:.0f} px"
    return focal, f"EXIF, {how}; principal point in the middle, no distortion assumed"


def _by_film(tags: Mapping[int, Any], size: tuple[int, int]) -> tuple[float, str] | None:
    film_mm = _number(tags, _FOCAL_35MM)
    if film_mm is None:
        return None
    focal = film_mm / FILM_DIAGONAL_MM * hypot(*size)
    return focal, f"{film_mm:g} mm on 35 mm film, by the diagonal: {focal:.0f} px"


def _by_plane(tags: Mapping[int, Any], size: tuple[int, int]) -> tuple[float, str] | None:
    focal_mm, per_unit = _number(tags, _FOCAL_MM), _number(tags, _PLANE_RESOLUTION)
    unit_mm = _UNIT_MM.get(int(_number(tags, _PLANE_UNIT) or 2))  # the standard's default is the inch
    if focal_mm is None or per_unit is None or unit_mm is None:
        return None
    longer = max(_number(tags, _EXIF_WIDTH) or 0.0, _number(tags, _EXIF_HEIGHT) or 0.0) or max(size)
    focal = focal_mm * per_unit / unit_mm * max(size) / longer
    return focal, f"{focal_mm:g} mm at {per_unit / unit_mm:.4g} pixels per mm of the sensor: {focal:.0f} px"


def _refuse_cropped(path: Path, tags: Mapping[int, Any], size: tuple[int, int]) -> None:
    """The tags speak of the whole picture. Sides are compared by length: turning an image does not crop it."""
    width, height = _number(tags, _EXIF_WIDTH), _number(tags, _EXIF_HEIGHT)
    if width is None or height is None:
        return
    if abs(max(width, height) / min(width, height) / (max(size) / min(size)) - 1.0) > _ASPECT_TOLERANCE:
        raise CalibrationError(
            f"{path} is {size[0]}x{size[1]}, but its EXIF speaks of {width:g}x{height:g}: it was cropped, so give "
            "--focal PX"
        )


def _exif_tags(path: Path) -> Mapping[int, Any]:
    try:
        with Image.open(path) as image:
            return dict(image.getexif().get_ifd(_EXIF_FOLDER))
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"the EXIF of {path} cannot be read ({type(error).__name__}): give --focal PX") from error


def _number(tags: Mapping[int, Any], tag: int) -> float | None:
    """A positive number; cameras write 0 for what they do not know."""
    try:
        value = float(tags[tag])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
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
