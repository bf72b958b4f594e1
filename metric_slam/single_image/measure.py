"""Measures the distance in space between two pixels of an image, and its uncertainty, on a depth image or on a map.

A point is its viewing ray times its depth z. Depth errors are relative: one part is common to the whole image (the
scale), one belongs to each point and is taken as independent of the other's. To first order a distance d between P1 and
P2 with unit vector u = (P1 - P2) / d then has the variance (u.P1 s1)^2 + (u.P2 s2)^2 + (d s_common)^2: what an error of
depth does to a distance depends on how much the ray points along the line that is measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, isfinite, log10, pi, sqrt
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.depth.base import DepthPrior
from metric_slam.errors import ConfigError, DatasetError, InputError
from metric_slam.geometry.camera import FEATURE_STRIDE, GRID_OFFSET_PX, PinholeCamera
from metric_slam.reconstruction.cells import prior_agreement
from metric_slam.reconstruction.dense_depth import NUMBERS

_MIN_KNOWN_SHARE = 0.5
"""Share of the bilinear weights of a pixel that must have a depth: with less it would be that of a neighbour."""

_SIGMA_OF_MEAN_ERROR = sqrt(pi / 2)
"""Standard deviation of a Gaussian over its mean absolute value: networks are trained to predict the latter."""

_GUESS = 1e-3
"""Largest confidence of a cell of the map that counts as a guess."""

_MIN_SUPPORT = 0.5
"""Agreement with the prior from which a depth is known without flow: bare asphalt."""


@dataclass(frozen=True)
class DepthView:
    """Depth at the pixels of an image or at the cells of its 1/8 grid, with uncertainties."""

    inv_depth: np.ndarray
    """float [h, w], 1/unit; 0 where unknown."""

    relative_sigma: np.ndarray
    """Independent relative standard deviation of each cell's depth, float [h, w]; infinite where unknown."""

    scale_sigma: float
    """Relative standard deviation of the scale that all cells share."""

    camera: PinholeCamera
    """Intrinsics whose pixels are the cells."""

    sigma_source: str
    """Origin of ``relative_sigma``, in words."""

    stride: int = 1
    """Pixels of the image from cell to cell: 1, or 8 on the grid of a map."""

    unit: str = "m"
    """``m``; anything else means that the scale is unknown."""

    def __post_init__(self) -> None:
        shape = (self.camera.height, self.camera.width)
        for name, array in (("inv_depth", self.inv_depth), ("relative_sigma", self.relative_sigma)):
            if array.shape != shape:
                raise InputError(f"{name} has shape {array.shape}, but its camera has {shape[1]}x{shape[0]} pixels")
        if not (isfinite(self.scale_sigma) and self.scale_sigma >= 0):
            raise InputError(f"scale_sigma must be a relative standard deviation of at least 0, not {self.scale_sigma}")
        if self.stride < 1:
            raise InputError(f"stride must be at least 1, not {self.stride}")

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the image in pixels."""
        return self.camera.width * self.stride, self.camera.height * self.stride


@dataclass(frozen=True)
class MeasuredPoint:
    """A pixel with its place in space."""

    pixel: tuple[float, float]
    position: np.ndarray
    """In camera axes, float64 [3]; z is the depth."""

    relative_sigma: float
    """Of the depth, without the common scale error."""

    def text(self, unit: str) -> str:
        """Write the depth, e.g. ``depth 12.30 m ± 4.0 % (per point; the common scale error is not included)``."""
        depth = float(self.position[2])
        value = f"{depth:.{_decimals(depth * self.relative_sigma)}f} {unit}"
        return f"depth {value} ± {100 * self.relative_sigma:.1f} % (per point; the common scale error is not included)"


@dataclass(frozen=True)
class Measurement:
    """A distance with its standard deviation, both in ``unit``."""

    first: MeasuredPoint
    second: MeasuredPoint
    distance: float
    sigma: float
    unit: str

    @property
    def text(self) -> str:
        """Distance and standard deviation, e.g. ``3.42 m ± 0.31 m``."""
        decimals = _decimals(self.sigma)
        return f"{self.distance:.{decimals}f} {self.unit} ± {self.sigma:.{decimals}f} {self.unit}"


def unproject(pixel: tuple[float, float], depth: float, camera: PinholeCamera) -> np.ndarray:
    """Compute the point in camera axes, float64 [3], at ``pixel`` (x, y) and ``depth`` along z."""
    if len(pixel) != 2:
        raise InputError(f"pixel must be (x, y), not {len(pixel)} numbers")
    if not (isfinite(depth) and depth > 0):
        raise InputError(f"depth must be a positive number, not {depth}")
    x, y = pixel
    return depth * np.array([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, 1.0])


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance between two points [3], in their unit."""
    return float(np.linalg.norm(_as_point("first", first) - _as_point("second", second)))


def distance_sigma(
    first: np.ndarray, second: np.ndarray, first_sigma: float, second_sigma: float, scale_sigma: float = 0.0
) -> float:
    """Standard deviation of the distance between two points [3].

    ``first_sigma``, ``second_sigma`` and ``scale_sigma`` are relative standard deviations of the depths: independent
    ones, and that of the common scale. Points that coincide have no direction between them: the worst one is taken.
    """
    first, second = _as_point("first", first), _as_point("second", second)
    for name, sigma in (("first_sigma", first_sigma), ("second_sigma", second_sigma), ("scale_sigma", scale_sigma)):
        if not sigma >= 0:
            raise InputError(f"{name} must be a relative standard deviation of at least 0, not {sigma}")
    d = distance(first, second)
    if d > 0:
        along = abs((first - second) @ first) / d, abs((first - second) @ second) / d
    else:
        along = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    return float(np.hypot(np.hypot(along[0] * first_sigma, along[1] * second_sigma), d * scale_sigma))


def depth_at(view: DepthView, pixel: tuple[float, float]) -> tuple[float, float]:
    """Depth and its relative standard deviation at ``pixel`` (x, y) of the image, bilinear in inverse depth.

    Inverse depth is linear across the image of a plane, so that planes are interpolated exactly. The deviation of the
    surroundings from a plane adds to the uncertainty: at an edge the pixel may belong to either side.

    Raises ConfigError for a pixel outside of the image or where no depth is known.
    """
    width, height = view.image_size
    x, y = pixel
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        raise ConfigError(f"pixel ({x:g}, {y:g}) lies outside of the image of {width}x{height}: x first, from 0")
    h, w = view.inv_depth.shape
    # the centres of the outermost cells lie inside the image: pixels beyond them take the nearest cell
    column, row = (np.clip(_to_cell(value, view.stride), 0, n - 1) for value, n in ((x, w), (y, h)))
    left, top = min(int(column), max(w - 2, 0)), min(int(row), max(h - 2, 0))
    part = (slice(top, top + 2), slice(left, left + 2))
    weight = np.outer(_pair(row - top, h), _pair(column - left, w))
    known = np.isfinite(view.relative_sigma[part]) & (view.inv_depth[part] > 0)
    weight = weight * known
    share = float(weight.sum())
    if share < _MIN_KNOWN_SHARE:
        raise ConfigError(f"no depth is known at pixel ({x:g}, {y:g}) (sky, or nothing to match): choose another one")
    inverse = float((weight * np.where(known, view.inv_depth[part], 0.0)).sum()) / share
    variance = float((weight * np.where(known, view.relative_sigma[part], 0.0) ** 2).sum()) / share
    return 1.0 / inverse, sqrt(variance + (_unevenness(view, left, top) / inverse) ** 2)


def measure(view: DepthView, first: tuple[float, float], second: tuple[float, float]) -> Measurement:
    """Measure the distance between two pixels (x, y) of the image. Raises ConfigError as :func:`depth_at`."""
    if first == second:
        raise ConfigError(f"both pixels are ({first[0]:g}, {first[1]:g}): give two different ones")
    points = [_point(view, pixel) for pixel in (first, second)]
    a, b = points
    sigma = distance_sigma(a.position, b.position, a.relative_sigma, b.relative_sigma, view.scale_sigma)
    return Measurement(a, b, distance(a.position, b.position), sigma, view.unit)


def network_view(
    depth_m: np.ndarray, confidence: np.ndarray, camera: PinholeCamera, config: Metric3DConfig
) -> DepthView:
    """Build a view on the prediction of a network: ``depth_m`` (0: unknown) and ``confidence`` 0..1, both [H, W].

    The confidence is 1 - |relative error| as the network predicts it; no uncertainty is smaller than that of a cell of
    the prior (``metric3d.sigma``). Raises InputError for arrays of another shape than the camera's image.
    """
    if np.shape(depth_m) != np.shape(confidence):
        raise InputError(f"confidence has shape {np.shape(confidence)}, but depth_m {np.shape(depth_m)}")
    known = depth_m > 0
    own = np.maximum(_SIGMA_OF_MEAN_ERROR * (1.0 - np.asarray(confidence, np.float64)), config.sigma)
    return DepthView(
        inv_depth=np.where(known, 1.0 / np.where(known, depth_m, 1.0), 0.0),
        relative_sigma=np.where(known, own, np.inf),
        scale_sigma=config.scale_sigma,
        camera=camera,
        sigma_source=f"the network's confidence, at least metric3d.sigma {config.sigma:g}",
    )


def keyframe_view(folder: Path, index: int) -> DepthView:
    """Build a view on the map of keyframe ``index`` (frame number in the data set) of a results folder.

    Uncertainties are those of :mod:`metric_slam.reconstruction.dense_depth`: from the confidence of a cell, and smaller
    where a metric prior agrees.

    Raises DatasetError where the folder holds no such keyframe or is damaged.
    """
    path = folder / "keyframes" / f"{index:06d}.npz"
    if not path.is_file():
        raise DatasetError(_no_keyframe(folder, index))
    try:
        with np.load(path, allow_pickle=False) as archive:
            inv_depth, confidence = (archive[name].astype(np.float64) for name in ("inv_depth", "confidence"))
            fx, fy, cx, cy = archive["grid_camera"].tolist()
            support = _prior_support(archive, inv_depth)
            ignored = archive["ignore_cells"] if "ignore_cells" in archive else np.zeros_like(inv_depth, bool)
    except (OSError, ValueError, LookupError, EOFError, BadZipFile) as error:
        raise DatasetError(f"{path} is damaged ({type(error).__name__}): run again") from error
    h, w = inv_depth.shape
    known = ((confidence > _GUESS) | (support > _MIN_SUPPORT)) & (inv_depth > 0) & ~ignored
    information = confidence / NUMBERS.prior_relative_sigma**2 + support / NUMBERS.supported_relative_sigma**2
    return DepthView(
        inv_depth=np.where(known, inv_depth, 0.0),
        relative_sigma=np.where(known, 1.0 / np.sqrt(np.where(known, information, 1.0)), np.inf),
        scale_sigma=DepthPrior.scale_sigma,
        camera=PinholeCamera(fx, fy, cx, cy, w, h),
        sigma_source=f"the map ({NUMBERS.prior_relative_sigma:g} where matches are good, "
        f"{NUMBERS.supported_relative_sigma:g} where a prior agrees)",
        stride=FEATURE_STRIDE,
        unit="units (scale unknown)" if scale_source(folder) == "unknown" else "m",
    )


def scale_source(folder: Path) -> str:
    """Name of the prior that set the scale of a results folder, or ``unknown``. DatasetError without its run.json."""
    path = folder / "run.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["scale_source"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{path} holds no scale_source: give the results folder of a run") from error


def _prior_support(archive: Mapping[str, np.ndarray], inv_depth: np.ndarray) -> np.ndarray:
    """0..1 per cell, as :attr:`metric_slam.reconstruction.pair_flow.KeyframeView.prior_support`; 0 without a prior."""
    if "prior_depth_m" not in archive or "prior_confidence" not in archive:
        return np.zeros_like(inv_depth)
    prior_m, confidence = (archive[name].astype(np.float64) for name in ("prior_depth_m", "prior_confidence"))
    return prior_agreement(inv_depth, prior_m, confidence, float(archive["prior_log_scale"]))


def describe(view: DepthView, found: Measurement) -> list[str]:
    """Lines of text about a measurement: the distance, both depths, and the origin of the uncertainty."""
    lines = [f"distance {found.text}"]
    if found.unit != "m":
        lines.append(
            "the run had no source of scale: lengths are in an arbitrary unit, only their ratios have a meaning"
        )
    for name, point in (("first", found.first), ("second", found.second)):
        lines.append(f"{name:<6} ({point.pixel[0]:g}, {point.pixel[1]:g}): {point.text(found.unit)}")
    width, height = view.image_size
    return [
        *lines,
        f"pixels of {width}x{height}; uncertainty from {view.sigma_source}, the unevenness of the surroundings, and a "
        f"common scale error of {100 * view.scale_sigma:.1f} %",
    ]


def _decimals(sigma: float) -> int:
    """Decimals that give ``sigma`` two significant digits, at least 2 and at most 6."""
    return 2 if not (isfinite(sigma) and sigma > 0) else min(max(2, 1 - floor(log10(sigma))), 6)


def _as_point(name: str, point: np.ndarray) -> np.ndarray:
    array = np.asarray(point, np.float64)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise InputError(f"{name} must be a point of three finite numbers, not {array.tolist()}")
    return array


def _point(view: DepthView, pixel: tuple[float, float]) -> MeasuredPoint:
    depth, sigma = depth_at(view, pixel)
    cell = _to_cell(pixel[0], view.stride), _to_cell(pixel[1], view.stride)
    return MeasuredPoint(pixel, unproject(cell, depth, view.camera), sigma)


def _to_cell(pixel: float, stride: int) -> float:
    return pixel if stride == 1 else (pixel - GRID_OFFSET_PX) / stride


def _pair(part: float, count: int) -> np.ndarray:
    """Bilinear weights of two neighbours; a single row or column has one."""
    return np.array([1.0 - part, part]) if count > 1 else np.ones(1)


def _unevenness(view: DepthView, left: int, top: int) -> float:
    """Deviation of the inverse depths of the 4x4 cells around from the nearest plane: root mean square, in 1/unit."""
    rows, columns = slice(max(top - 1, 0), top + 3), slice(max(left - 1, 0), left + 3)
    values = view.inv_depth[rows, columns]
    known = np.isfinite(view.relative_sigma[rows, columns]) & (values > 0)
    v, u = np.nonzero(known)
    if len(u) < 6:  # three numbers make the plane
        return 0.0
    design = np.stack([u, v, np.ones_like(u)], axis=1).astype(np.float64)
    solution = np.linalg.lstsq(design, values[known], rcond=None)[0]
    return float(np.sqrt(np.sum((design @ solution - values[known]) ** 2) / (len(u) - 3)))


def _no_keyframe(folder: Path, index: int) -> str:
    there = sorted(int(p.stem) for p in (folder / "keyframes").glob("*.npz") if p.stem.isdigit())
    if not there:
        return f"{folder} holds no keyframes/: give the results folder of a finished run"
    near = ", ".join(str(k) for k in sorted(sorted(there, key=lambda k: abs(k - index))[:3]))
    return f"{folder} has no keyframe {index} (of {len(there)} from {there[0]} to {there[-1]}): nearest are {near}"
