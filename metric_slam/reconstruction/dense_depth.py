"""Dense depth of a keyframe from its final pose and those of its neighbours.

Place in the flow: between the finished :class:`~metric_slam.result.SlamResult` and
:mod:`metric_slam.reconstruction.consistency`. Poses stay fixed; every pixel's inverse depth is the weighted least
squares solution along its epipolar lines in all neighbours. With the homogeneous target pixel base + d shift (K R K^-1
p + d K t) and the observed target u,

    r(d) = u - (base + d shift)_xy / z(d),   J = (shift_xy - u shift_z) / z(d),   z(d) = base_z + d shift_z

is linear in d up to the common factor 1/z, so that two or three reweighted steps converge from any start. No depth
explains the part of r across the epipolar line: it reveals moving objects and wrong matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.reconstruction.pair_flow import (
    MIN_DEPTH_RATIO,
    MIN_INV_DEPTH,
    EpipolarGeometry,
    KeyframeView,
    Match,
)


@dataclass(frozen=True)
class DenseDepthNumbers:
    """Noise levels and limits of the dense depths."""

    flow_sigma_px: float = 0.3
    """Standard deviation of a good DIS match along one axis, pixels."""

    grey_noise: float = 3.0
    """Difference in grey levels between two images of a surface; over the gradient it is the error of a match in px."""

    prior_relative_sigma: float = 0.10
    """Relative standard deviation of the optimised 1/8 grid at confidence 1: weak beside good flow, decisive on bare
    asphalt."""

    supported_relative_sigma: float = 0.04
    """The same where a metric prior (road, depth sensor) agrees with the grid: bare asphalt stays flat."""

    max_flow_relative_sigma: float = 0.3
    """Relative standard deviation from flow alone beyond which a depth would repeat the grid; it is dropped unless a
    prior agrees."""

    max_flow_error_px: float = 1.5
    max_flow_error_ratio: float = 0.03
    """Forward-backward error beyond which a match is dropped: pixels plus a share of the flow's length."""

    max_across_px: float = 1.5
    """Component across the epipolar line beyond which a match is dropped, pixels."""

    max_slope_per_px: float = 0.05
    """Relative depth change from pixel to pixel beyond which a ramp is no surface; a flat road has 0.03 at 18 times
    the height of the camera."""

    sky_min_brightness: int = 150
    sky_max_step: int = 16
    """Grey levels: of red or blue at least, and largest change within 3x3 pixels."""

    iterations: int = 2
    """Reweighted least-squares steps."""


NUMBERS = DenseDepthNumbers()


@dataclass(frozen=True)
class DenseDepth:
    """Depth of one keyframe at working resolution."""

    depth: np.ndarray
    """Along z in world units, float32 [H, W]; 0 where unknown."""

    relative_sigma: np.ndarray
    """Standard deviation of the depth over the depth, float32 [H, W]; huge without information from flow."""


@dataclass(frozen=True)
class Observation:
    """Observation of a keyframe by a neighbour: geometry and matches between them."""

    geometry: EpipolarGeometry
    match: Match


def densify(view: KeyframeView, observations: Sequence[Observation], max_relative_sigma: float = 0.1) -> DenseDepth:
    """Compute the depth of the pixels of ``view`` whose relative sigma is below ``max_relative_sigma``, else 0."""
    inv_depth, information = triangulate(view, observations)
    relative_sigma = 1.0 / (inv_depth * np.sqrt(np.maximum(information, 1e-12)))
    smooth = guided_filter(view.grey, inv_depth, 1.0 / np.maximum(relative_sigma, 0.005) ** 2)
    keep = (relative_sigma < max_relative_sigma) & (smooth > 0) & ~_steep(smooth) & ~sky_mask(view.image)
    if view.ignored is not None:
        keep &= ~view.ignored
    depth = np.where(keep, 1.0 / np.maximum(smooth, MIN_INV_DEPTH), 0.0)
    return DenseDepth(depth.astype(np.float32), relative_sigma.astype(np.float32))


def _steep(inv_depth: np.ndarray) -> np.ndarray:
    """Mask [H, W] of the ramps that flow interpolates between an object and its background: there is no surface."""
    kernel = np.array([[-0.5, 0.0, 0.5]], np.float32)
    gx, gy = cv2.filter2D(inv_depth, -1, kernel), cv2.filter2D(inv_depth, -1, kernel.T)
    steep = np.maximum(np.abs(gx), np.abs(gy)) > NUMBERS.max_slope_per_px * inv_depth
    return cv2.dilate(steep.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def sky_mask(image: np.ndarray) -> np.ndarray:
    """Mask [H, W] of bright, bluish or grey, textureless pixels connected to the upper border of ``image`` (RGB).

    The sky has no depth, but the flow of leaves in front of it spreads into it.
    """
    red, blue = image[..., 0].astype(np.int16), image[..., 2].astype(np.int16)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    flat = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) < NUMBERS.sky_max_step
    candidate = (np.maximum(red, blue) > NUMBERS.sky_min_brightness) & (blue >= red - 5) & flat
    _, labels = cv2.connectedComponents(candidate.astype(np.uint8), connectivity=4)
    at_top = np.unique(labels[0])
    sky = np.isin(labels, at_top[at_top > 0])
    return cv2.dilate(sky.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0


def triangulate(view: KeyframeView, observations: Sequence[Observation]) -> tuple[np.ndarray, np.ndarray]:
    """Estimate inverse depth and its information (1/variance; 0 without flow and prior), each float32 [H, W]."""
    coarse, confidence = view.coarse
    prior_information = confidence / (NUMBERS.prior_relative_sigma * coarse) ** 2
    prior_information += view.prior_support / (NUMBERS.supported_relative_sigma * coarse) ** 2
    texture = _Texture(view.grey)
    inv_depth = coarse
    information = np.zeros_like(coarse)
    for iteration in range(NUMBERS.iterations):
        normal = prior_information.copy()
        gradient = prior_information * (coarse - inv_depth)
        information = np.zeros_like(coarse)
        for observation in observations:
            weight, along, jacobian_norm = _linearise(view, observation, inv_depth, texture, robust=iteration > 0)
            information += weight * jacobian_norm**2
            gradient += weight * jacobian_norm * along
        normal += information
        inv_depth = np.maximum(inv_depth + gradient / np.maximum(normal, 1e-12), MIN_INV_DEPTH)
    known = (information * inv_depth**2 > NUMBERS.max_flow_relative_sigma**-2) | (view.prior_support > 0.5)
    return inv_depth, np.where(known, information + prior_information, 0.0)


class _Texture:
    """Precision of matches along any direction: mean squared gradient of the image in a 9 px window."""

    def __init__(self, grey: np.ndarray) -> None:
        gx = cv2.Scharr(grey, cv2.CV_32F, 1, 0, scale=1 / 32)
        gy = cv2.Scharr(grey, cv2.CV_32F, 0, 1, scale=1 / 32)
        self._xx, self._xy, self._yy = (cv2.boxFilter(g, -1, (9, 9)) for g in (gx * gx, gx * gy, gy * gy))

    def variance_px2(self, ex: np.ndarray, ey: np.ndarray) -> np.ndarray:
        """Variance of a match along the unit direction (ex, ey) due to image noise, in px^2."""
        energy = self._xx * ex * ex + 2 * self._xy * ex * ey + self._yy * ey * ey
        return NUMBERS.grey_noise**2 / (energy + 0.1)


def _linearise(
    view: KeyframeView, observation: Observation, inv_depth: np.ndarray, texture: _Texture, robust: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight (1/px^2), residual along the epipolar line (px) and derivative norm (px per inverse depth) of a view."""
    geometry, target = observation.geometry, observation.match.target
    z = np.maximum(geometry.base[..., 2] + inv_depth * geometry.shift[2], MIN_DEPTH_RATIO)
    u, v = target[..., 0], target[..., 1]
    jx, jy = (geometry.shift[0] - u * geometry.shift[2]) / z, (geometry.shift[1] - v * geometry.shift[2]) / z
    rx = u - (geometry.base[..., 0] + inv_depth * geometry.shift[0]) / z
    ry = v - (geometry.base[..., 1] + inv_depth * geometry.shift[1]) / z
    norm = np.sqrt(jx * jx + jy * jy) + 1e-9
    ex, ey = jx / norm, jy / norm
    along, across = rx * ex + ry * ey, rx * ey - ry * ex
    error = observation.match.error_px
    length = cv2.magnitude(u - view.pixels[..., 0], v - view.pixels[..., 1])
    limit = NUMBERS.max_flow_error_px + NUMBERS.max_flow_error_ratio * length
    variance = (
        NUMBERS.flow_sigma_px**2 + across * across + 0.25 * np.minimum(error, 10) ** 2 + texture.variance_px2(ex, ey)
    )
    weight = ((error < limit) & (np.abs(across) < NUMBERS.max_across_px)) / variance
    if robust:  # Cauchy: outlying views lose weight
        weight = weight / (1.0 + along * along / (4.0 * variance))
    return weight, along, norm


def guided_filter(
    grey: np.ndarray, value: np.ndarray, weight: np.ndarray, radius: int = 4, epsilon: float = 30.0
) -> np.ndarray:
    """Smooth between the edges of the image: locally value = a grey + b.

    He, Sun, Tang, "Guided Image Filtering", ECCV 2010.

    ``grey`` uint8, ``value`` and ``weight`` float32, all [H, W]; ``epsilon`` in squared grey levels.
    """
    size = (2 * radius + 1, 2 * radius + 1)

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(x, cv2.CV_32F, size)

    guide = grey.astype(np.float32)
    weight = weight.astype(np.float32)
    total = mean(weight) + 1e-12
    mean_guide, mean_value = mean(weight * guide) / total, mean(weight * value) / total
    covariance = mean(weight * guide * value) / total - mean_guide * mean_value
    variance = mean(weight * guide * guide) / total - mean_guide**2
    a = covariance / (np.maximum(variance, 0) + epsilon)
    b = mean_value - a * mean_guide
    total = mean(total) + 1e-12
    return mean(a) * guide + mean(b)
