"""How far apart are two pixels of one image in space, and how sure is that? On the depth of one image or of a map.

A point is its viewing ray times its depth z. Depth errors are relative: one part is common to the whole image (the
scale), one belongs to each point and is taken as independent of the other's. To first order a distance d between P1 and
P2 with unit vector u = (P1 - P2) / d then has the variance (u.P1 s1)^2 + (u.P2 s2)^2 + (d s_common)^2: what an error of
depth does to a distance depends on how much the ray points along the line that is measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import pi, sqrt
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.depth.base import DepthPrior
from metric_slam.errors import ConfigError, DatasetError
from metric_slam.geometry.camera import FEATURE_STRIDE, GRID_OFFSET_PX, PinholeCamera
from metric_slam.reconstruction.cells import prior_agreement
from metric_slam.reconstruction.dense_depth import PRIOR_RELATIVE_SIGMA, SUPPORTED_RELATIVE_SIGMA

_MIN_KNOWN_SHARE = 0.5
"""Of the bilinear weights of a pixel: with less the depth would be that of something beside it."""

_SIGMA_OF_MEAN_ERROR = sqrt(pi / 2)
"""Standard deviation of a Gaussian over its mean absolute value: networks are trained to tell the latter."""

_GUESS = 1e-3
"""Confidences of the map up to this say nothing."""

_MIN_SUPPORT = 0.5
"""A prior that agrees this much makes a depth known where flow says nothing: bare asphalt."""


@dataclass(frozen=True)
class DepthView:
    """Depth that can be measured on, at the pixels of an image or at the cells of its 1/8 grid."""

    inv_depth: np.ndarray
    """float [h, w], 1/unit; 0 where unknown."""

    relative_sigma: np.ndarray
    """Relative standard deviation of the depth of each cell on its own, float [h, w]; infinite where unknown."""

    scale_sigma: float
    """The relative standard deviation that all cells share."""

    camera: PinholeCamera
    """Intrinsics whose pixels are the cells."""

    sigma_source: str
    """Where ``relative_sigma`` is from, for people."""

    stride: int = 1
    """Pixels of the image from cell to cell: 1, or 8 on the grid of a map."""

    unit: str = "m"
    """``m``; anything else says that the scale is unknown."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the image whose pixels are meant."""
        return self.camera.width * self.stride, self.camera.height * self.stride


@dataclass(frozen=True)
class MeasuredPoint:
    """A pixel with its place in space."""

    pixel: tuple[float, float]
    position: np.ndarray
    """In camera axes, float64 [3]; z is the depth."""

    relative_sigma: float
    """Of the depth, without what all points share."""


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
        """``3.42 m +- 0.31 m``."""
        return f"{self.distance:.2f} {self.unit} +- {self.sigma:.2f} {self.unit}"


def unproject(pixel: tuple[float, float], depth: float, camera: PinholeCamera) -> np.ndarray:
    """The point in camera axes, float64 [3], that is seen at ``pixel`` (x, y) at ``depth`` along z."""
    x, y = pixel
    return depth * np.array([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, 1.0])


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Between two points [3], in their unit."""
    return float(np.linalg.norm(np.asarray(first) - np.asarray(second)))


def distance_sigma(
    first: np.ndarray, second: np.ndarray, first_sigma: float, second_sigma: float, scale_sigma: float = 0.0
) -> float:
    """Standard deviation of the distance between two points [3] whose depths have these relative ones.

    Of points that coincide the line has no direction, and the worst one is taken.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    d = distance(first, second)
    if d > 0:
        along = abs((first - second) @ first) / d, abs((first - second) @ second) / d
    else:
        along = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    return float(np.hypot(np.hypot(along[0] * first_sigma, along[1] * second_sigma), d * scale_sigma))


def depth_at(view: DepthView, pixel: tuple[float, float]) -> tuple[float, float]:
    """(depth, its relative standard deviation) at ``pixel`` (x, y) of the image, bilinear in inverse depth.

    Inverse depth is linear across the image of a plane, so that planes are interpolated exactly. What the surroundings
    deviate from one is added to the uncertainty: at an edge the pixel may belong to either side.

    Raises ConfigError for a pixel outside of the image or where no depth is known.
    """
    width, height = view.image_size
    x, y = pixel
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        raise ConfigError(f"pixel ({x:g}, {y:g}) lies outside of the image of {width}x{height}: x first, from 0")
    h, w = view.inv_depth.shape
    # the centres of the outermost cells lie inside of the image: beyond them the nearest holds
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
    """The distance between two pixels (x, y) of the image. Raises ConfigError as :func:`depth_at`."""
    if first == second:
        raise ConfigError(f"both pixels are ({first[0]:g}, {first[1]:g}): give two different ones")
    points = [_point(view, pixel) for pixel in (first, second)]
    a, b = points
    sigma = distance_sigma(a.position, b.position, a.relative_sigma, b.relative_sigma, view.scale_sigma)
    return Measurement(a, b, distance(a.position, b.position), sigma, view.unit)


def network_view(
    depth_m: np.ndarray, confidence: np.ndarray, camera: PinholeCamera, config: Metric3DConfig
) -> DepthView:
    """A view on what a network says of an image: ``depth_m`` (0: unknown) and ``confidence`` 0..1, both [H, W].

    The confidence is 1 - |relative error| as the network sees itself; no depth is believed better than a cell of the
    prior is (``metric3d.sigma``).
    """
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
    """A view on the map of keyframe ``index`` (frame number in the data set) of a results folder.

    A cell is believed as :mod:`metric_slam.reconstruction.dense_depth` does: by its confidence, and more where a metric
    prior agrees.

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
    information = confidence / PRIOR_RELATIVE_SIGMA**2 + support / SUPPORTED_RELATIVE_SIGMA**2
    return DepthView(
        inv_depth=np.where(known, inv_depth, 0.0),
        relative_sigma=np.where(known, 1.0 / np.sqrt(np.where(known, information, 1.0)), np.inf),
        scale_sigma=DepthPrior.scale_sigma,
        camera=PinholeCamera(fx, fy, cx, cy, w, h),
        sigma_source=f"the map ({PRIOR_RELATIVE_SIGMA:g} where matches are good, {SUPPORTED_RELATIVE_SIGMA:g} where a "
        "prior agrees)",
        stride=FEATURE_STRIDE,
        unit="units (scale unknown)" if scale_source(folder) == "unknown" else "m",
    )


def scale_source(folder: Path) -> str:
    """What set the scale of a results folder, ``unknown`` if nothing did. Raises DatasetError without its run.json."""
    path = folder / "run.json"
    try:
        info: Any = json.loads(path.read_text(encoding="utf-8"))
        return str(info["scale_source"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{path} does not say whether the scale is known: give a folder that a run wrote") from error


def _prior_support(archive: Mapping[str, np.ndarray], inv_depth: np.ndarray) -> np.ndarray:
    """0..1 per cell, as :attr:`metric_slam.reconstruction.pair_flow.KeyframeView.prior_support`; 0 without a prior."""
    if "prior_depth_m" not in archive or "prior_confidence" not in archive:
        return np.zeros_like(inv_depth)
    prior_m, confidence = (archive[name].astype(np.float64) for name in ("prior_depth_m", "prior_confidence"))
    return prior_agreement(inv_depth, prior_m, confidence, float(archive["prior_log_scale"]))


def _point(view: DepthView, pixel: tuple[float, float]) -> MeasuredPoint:
    depth, sigma = depth_at(view, pixel)
    cell = _to_cell(pixel[0], view.stride), _to_cell(pixel[1], view.stride)
    return MeasuredPoint(pixel, unproject(cell, depth, view.camera), sigma)


def _to_cell(pixel: float, stride: int) -> float:
    return pixel if stride == 1 else (pixel - GRID_OFFSET_PX) / stride


def _pair(part: float, count: int) -> np.ndarray:
    """Weights of two neighbours; of a single row there is one."""
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
