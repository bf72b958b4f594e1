"""Errors of depth maps: the usual figures of single-image depth, of one image and as the mean over images.

The figures are those of Eigen, Puhrsch and Fergus, *Depth map prediction from a single image*, NIPS 2014, section 4,
with log10 as in Metric3D (Yin et al., ICCV 2023). Range, crop and order (mask by the truth, cut the prediction off at
the range, average over images) follow utils/evaluate_kitti.py of github.com/mrharicot/monodepth, from where published
tables for KITTI take them. Two things differ between programs: ``rmse_log`` is in natural logarithms, as in Eigen's
paper, where mono/utils/avg_meter.py of github.com/YvanYin/Metric3D takes log10 (2.3026 times less); and pixels without
a prediction, which some count as the nearest depth, are left out here and counted by ``coverage``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from metric_slam.errors import EvaluationError

Crop = Literal["none", "eigen", "garg"]
DepthAlignment = Literal["none", "median", "scale"]

CROPS: dict[Crop, tuple[float, float, float, float]] = {
    "none": (0.0, 1.0, 0.0, 1.0),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
}
"""First row, end row, first column, end column as shares of a KITTI image (evaluate_kitti.py of monodepth; Garg et al.,
*Unsupervised CNN for single view depth estimation*, ECCV 2016)."""

ALIGNMENTS: dict[DepthAlignment, str] = {
    "none": "no alignment",
    "median": "each prediction multiplied by median(truth) / median(prediction)",
    "scale": "each prediction multiplied by sum(truth x prediction) / sum(prediction^2)",
}
"""Name of each alignment and what it does to a prediction."""

DELTA = 1.25
"""Largest ratio of two depths that count as equal; delta2 and delta3 take its powers."""

_MEANS = ("abs_rel", "sq_rel_m", "rmse_m", "rmse_log", "log10", "delta1", "delta2", "delta3", "coverage", "scale")


@dataclass(frozen=True)
class DepthProtocol:
    """Pixels that count, and alignment of a prediction beforehand."""

    min_depth_m: float = 1e-3
    """True depths below do not count, metres."""

    max_depth_m: float = 80.0
    """True depths above do not count, metres: 80 is usual for KITTI, 10 for NYU."""

    crop: Crop = "none"
    alignment: DepthAlignment = "none"

    def __post_init__(self) -> None:
        """Raises EvaluationError for an empty range and for unknown names."""
        if not 0.0 <= self.min_depth_m < self.max_depth_m:
            raise EvaluationError(
                f"no depth lies between {self.min_depth_m:g} m and {self.max_depth_m:g} m: "
                "give a range with 0 <= min < max"
            )
        for what, name, known in (("crop", self.crop, CROPS), ("alignment", self.alignment, ALIGNMENTS)):
            if name not in known:
                raise EvaluationError(f"unknown {what} '{name}': choose from {', '.join(known)}")

    def __str__(self) -> str:
        """Describe the protocol in words."""
        return (
            f"true depths between {self.min_depth_m:g} m and {self.max_depth_m:g} m, predictions cut off at "
            f"that range, {_crop_words(self.crop)}, {ALIGNMENTS[self.alignment]}, pixels without a prediction left out"
        )

    def counted(self, truth_m: np.ndarray) -> np.ndarray:
        """Mark the pixels whose truth [H, W] counts, bool [H, W]: measured, in range and inside the crop."""
        with np.errstate(invalid="ignore"):
            valid = np.isfinite(truth_m) & (truth_m > self.min_depth_m) & (truth_m < self.max_depth_m)
        top, bottom, left, right = CROPS[self.crop]
        H, W = truth_m.shape
        inside = np.zeros((H, W), bool)
        inside[int(top * H) : int(bottom * H), int(left * W) : int(right * W)] = True
        return valid & inside


@dataclass(frozen=True)
class DepthMetrics:
    """Figures of one image, or their mean over images; p predicted and t true depth in metres."""

    protocol: str
    """Protocol in words."""

    images: int
    pixels: int
    """Number of compared pixels of all images."""

    coverage: float
    """Share of pixels with a prediction among those whose truth counts."""

    scale: float
    """Factor of the alignment; 1 without one."""

    abs_rel: float
    """mean(|p - t| / t)."""

    sq_rel_m: float
    """mean((p - t)^2 / t)."""

    rmse_m: float
    """sqrt(mean((p - t)^2))."""

    rmse_log: float
    """sqrt(mean((ln p - ln t)^2))."""

    log10: float
    """mean(|log10 p - log10 t|)."""

    delta1: float
    """Share of pixels with max(p / t, t / p) < 1.25."""

    delta2: float
    """The same below 1.25^2."""

    delta3: float
    """The same below 1.25^3."""


def depth_metrics(predicted_m: np.ndarray, truth_m: np.ndarray, protocol: DepthProtocol | None = None) -> DepthMetrics:
    """Compare a predicted with a true depth map, both [H, W] along z in metres; 0, NaN and infinity: unknown.

    ``protocol``: None means a range of 0.001 to 80 m, no crop, no alignment. With an alignment predictions may have any
    unit. Raises EvaluationError where the two have different sizes or no pixel in common.
    """
    protocol = protocol if protocol is not None else DepthProtocol()
    predicted, truth = np.asarray(predicted_m, np.float64), np.asarray(truth_m, np.float64)
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise EvaluationError(
            f"predicted depth is {_size(predicted)}, true depth {_size(truth)}: give maps of one size"
        )
    counted = protocol.counted(truth)
    with np.errstate(invalid="ignore"):
        both = counted & np.isfinite(predicted) & (predicted > 0)
    if not both.any():
        lacking = "true depth" if not counted.any() else "predicted depth where the truth is known"
        raise EvaluationError(f"no pixel to compare: no {lacking} ({protocol})")
    p, t = predicted[both], truth[both]
    scale = _scale(p, t, protocol.alignment)
    p = np.clip(p * scale, max(protocol.min_depth_m, np.finfo(float).tiny), protocol.max_depth_m)
    coverage = float(both.sum() / counted.sum())
    return DepthMetrics(
        protocol=str(protocol), images=1, pixels=len(t), coverage=coverage, scale=scale, **_figures(p, t)
    )


def mean_metrics(images: Sequence[DepthMetrics]) -> DepthMetrics:
    """Average the figures of images with equal weights, whatever their numbers of pixels.

    Raises EvaluationError for no image at all or images under different protocols.
    """
    if not images:
        raise EvaluationError("no image to average: give at least one")
    if len({image.protocol for image in images}) > 1:
        raise EvaluationError("figures under different protocols have no mean: evaluate all images alike")
    return DepthMetrics(
        protocol=images[0].protocol,
        images=sum(image.images for image in images),
        pixels=sum(image.pixels for image in images),
        **{name: _mean([getattr(i, name) for i in images], [i.images for i in images]) for name in _MEANS},
    )


def _mean(values: list[float], weights: list[int]) -> float:
    return float(np.average(values, weights=weights))


def _figures(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """All figures of depths p, t [pixels], all positive."""
    error, log_error = p - t, np.log(p) - np.log(t)
    ratio = np.maximum(p / t, t / p)
    values = {
        "abs_rel": np.mean(np.abs(error) / t),
        "sq_rel_m": np.mean(error**2 / t),
        "rmse_m": np.sqrt(np.mean(error**2)),
        "rmse_log": np.sqrt(np.mean(log_error**2)),
        "log10": np.mean(np.abs(log_error)) / np.log(10.0),
        **{f"delta{power}": np.mean(ratio < DELTA**power) for power in (1, 2, 3)},
    }
    return {name: float(value) for name, value in values.items()}


def _scale(p: np.ndarray, t: np.ndarray, alignment: DepthAlignment) -> float:
    if alignment == "none":
        return 1.0
    if alignment == "median":
        return float(np.median(t) / np.median(p))
    return float((t * p).sum() / (p * p).sum())


def _crop_words(crop: Crop) -> str:
    if crop == "none":
        return "no crop"
    top, bottom, left, right = (100.0 * share for share in CROPS[crop])
    name = crop.capitalize()
    return f"{name}'s crop for KITTI (rows {top:.1f} to {bottom:.1f} %, columns {left:.1f} to {right:.1f} %)"


def _size(depth: np.ndarray) -> str:
    return f"{depth.shape[1]}x{depth.shape[0]}" if depth.ndim == 2 else f"of shape {depth.shape}"
