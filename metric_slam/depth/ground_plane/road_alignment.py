"""Photometric alignment of a road patch between two images: the height of the camera over the road, in the unit of
the baseline between them.

A plane n . X = d in the first camera (n points down to the road, d is the camera's height) moves a pixel with viewing
ray a from the first image to K (R a + t (n . a)/d) in the second: the plane-induced homography K (R + t n^T/d) K^-1
(Hartley and Zisserman, *Multiple View Geometry*, 2nd ed., eq. 13.2). With R and t known, 1/d, the pitch and the roll
of n are the only unknowns; all pixels of the patch vote at once, which asphalt needs: a single cell of it has too
little texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from metric_slam.geometry.camera import PinholeCamera

_MIN_CELL_SAMPLES = 5
_LOSS_WIDTH = 0.3  # of the normalised brightness, Cauchy
_INDEPENDENT = 13.0  # measurements that a patch is worth: neighbouring samples see the same stones, and road texture
# hardly tells pitch from height, so the prior on the pitch has to win against thousands of samples


@dataclass(frozen=True)
class RoadImage:
    """Brightness with local mean and contrast removed, so that shadows and exposure do not matter."""

    normalised: np.ndarray
    """float32 [H, W]; only rows from ``first_row`` down are filled."""

    camera: PinholeCamera
    first_row: int


@dataclass(frozen=True)
class PlanePrior:
    """What is believed of the road's normal before looking: pitch and roll in rad, positive pitch looks up."""

    pitch_rad: float
    roll_rad: float
    pitch_sigma_rad: float
    roll_sigma_rad: float


@dataclass(frozen=True)
class RoadFit:
    """The plane under the vehicle."""

    height: float
    """Distance camera-road, in the unit of the translation given."""

    pitch_rad: float
    roll_rad: float
    log_height_sigma: float
    """Standard deviation of log(height) from the image noise alone."""

    dlog_height_dpitch: float
    """How log(height) follows the assumed pitch, 1/rad: lets a better pitch, known later, correct it."""

    cost: float
    """Mean robust cost of a pixel; the smaller the better."""

    distinctness: float
    """Cost over the median cost at other heights: near 1 where nothing lines up, near 0 for a clear road."""

    inlier_share: float
    """Share of the patch that fits, 0..1."""

    samples: int


def plane_normal(pitch_rad: float, roll_rad: float) -> np.ndarray:
    """Unit normal of the road in camera axes (x right, y down, z forward), pointing down to it."""
    return np.array(
        [
            np.sin(roll_rad),
            np.cos(pitch_rad) * np.cos(roll_rad),
            -np.sin(pitch_rad) * np.cos(roll_rad),
        ]
    )


def _normal_jacobian(pitch: float, roll: float) -> np.ndarray:
    """d normal / d (pitch, roll), [2, 3]."""
    sp, cp, sr, cr = np.sin(pitch), np.cos(pitch), np.sin(roll), np.cos(roll)
    return np.array([[0.0, -sp * cr, -cp * cr], [cr, -cp * sr, sp * sr]])


def prepare_road_image(image: np.ndarray, camera: PinholeCamera, blur_px: float) -> RoadImage:
    """Grey, blurred, locally normalised lower part of an image, uint8 [H, W, 3] RGB."""
    first_row = int(np.clip(camera.cy - 8, 0, camera.height - 16))
    grey = cv2.cvtColor(image[first_row:], cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey = cv2.GaussianBlur(grey, (0, 0), blur_px)
    window = 10.0 * blur_px
    difference = grey - _wide_blur(grey, window)
    contrast = np.sqrt(_wide_blur(difference * difference, window)) + 1.0
    normalised = np.zeros((camera.height, camera.width), np.float32)
    normalised[first_row:] = difference / contrast
    return RoadImage(normalised, camera, first_row)


def _wide_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    size = 2 * int(sigma * 1.75) + 1  # two boxes of this size have about this standard deviation
    return cv2.blur(cv2.blur(image, (size, size)), (size, size))


@lru_cache(maxsize=4)
def _candidates(camera: PinholeCamera, first_row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels u, v [P] that may show road, every second column, and their viewing rays [3, P]."""
    v, u = np.mgrid[first_row : camera.height, 0 : camera.width : 2]
    v, u = v.ravel(), u.ravel()
    return u, v, np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)])


class RoadPatch:
    """The pixels of one image that belong to the corridor ahead, and their comparison with a second image."""

    def __init__(
        self,
        first: RoadImage,
        second: RoadImage,
        T_second_first: np.ndarray,
        *,
        prior: PlanePrior,
        height_m: float,
        corridor: tuple[float, float, float],
        samples: int,
        cells: tuple[np.ndarray, PinholeCamera] | None = None,
    ) -> None:
        """``corridor``: half width, nearest and farthest point in metres. ``cells``: only pixels in these cells of the
        first image are taken, bool [h, w], and the camera whose pixels the cells are; None: all."""
        self._camera, self._second = second.camera, second
        self._R, self._t = T_second_first[:3, :3], T_second_first[:3, 3]
        self.prior = prior
        half_width_m, nearest_m, farthest_m = corridor
        u, v, rays = _candidates(first.camera, first.first_row)
        slope = plane_normal(prior.pitch_rad, prior.roll_rad) @ rays
        depth_m = height_m / np.maximum(slope, 1e-6)
        chosen = (depth_m > nearest_m) & (depth_m < farthest_m) & (np.abs(rays[0] * depth_m) < half_width_m)
        if cells is not None:
            free, grid = cells
            chosen &= free[_cell_of(rays, grid)]
        index = np.flatnonzero(chosen)
        index = index[:: max(1, len(index) // samples)]
        self._rays = rays[:, index]
        self._brightness = first.normalised[v[index], u[index]]
        self._gradient: tuple[np.ndarray, np.ndarray] | None = None
        self._correlated = max(len(index) / _INDEPENDENT, 1.0)
        # a prior residual of one sigma weighs as much as the loss width on an independent pixel
        unit = self._correlated * _LOSS_WIDTH**2
        self._prior_information = np.diag([0.0, unit / prior.pitch_sigma_rad**2, unit / prior.roll_sigma_rad**2])

    def __len__(self) -> int:
        return self._rays.shape[1]

    def _gradients(self) -> tuple[np.ndarray, np.ndarray]:
        if self._gradient is None:
            image = self._second.normalised
            self._gradient = (
                cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8),
                cv2.Sobel(image, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8),
            )
        return self._gradient

    def _residual(self, p: np.ndarray, jacobian: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Brightness differences [P], usable [P], Jacobian [P, 3] w.r.t. p = (1/height, pitch, roll)."""
        camera = self._camera
        slope = plane_normal(p[1], p[2]) @ self._rays
        X = self._R @ self._rays + self._t[:, None] * (slope * p[0])
        iz = 1.0 / np.maximum(X[2], 0.05)
        x, y = X[0] * iz, X[1] * iz
        u, v = camera.fx * x + camera.cx, camera.fy * y + camera.cy
        usable = (X[2] > 0.05) & (u > 1) & (v > self._second.first_row + 1)
        usable &= (u < camera.width - 2) & (v < camera.height - 2)
        r = _sample(self._second.normalised, u, v) - self._brightness
        if usable.any():
            r -= np.median(r[usable])
        if not jacobian:
            return r, usable, None
        gx, gy = (_sample(g, u, v) for g in self._gradients())
        along = iz * (camera.fx * gx * (self._t[0] - x * self._t[2]) + camera.fy * gy * (self._t[1] - y * self._t[2]))
        dn = _normal_jacobian(p[1], p[2]) @ self._rays
        return r, usable, np.stack([along * slope, along * p[0] * dn[0], along * p[0] * dn[1]], axis=1)

    def cost(self, p: np.ndarray) -> float:
        """Mean robust cost of the pixels that land in the second image, plus the prior's share."""
        r, usable, _ = self._residual(p, False)
        return self._cost(r, usable, p)

    def _cost(self, r: np.ndarray, usable: np.ndarray, p: np.ndarray) -> float:
        count = usable.sum()
        if count < 0.3 * len(self):
            return np.inf
        data = _LOSS_WIDTH**2 * np.log1p((r[usable] / _LOSS_WIDTH) ** 2).sum() / count
        e = p - self._centre()
        return float(data + e @ self._prior_information @ e / len(self))

    def _centre(self) -> np.ndarray:
        return np.array([0.0, self.prior.pitch_rad, self.prior.roll_rad])

    def refine(self, p: np.ndarray, iterations: int = 12) -> tuple[np.ndarray, float]:
        """Levenberg-Marquardt from ``p``; returns the parameters and their cost."""
        damping, cost = 1e-3, self.cost(p)
        for _ in range(iterations):
            if not np.isfinite(cost):
                break
            H, g = self._normal_equations(p)
            for _ in range(5):
                step = -np.linalg.solve(H + damping * np.diag(np.diag(H)), g)
                candidate = self.cost(p + step) if p[0] + step[0] > 0 else np.inf
                if candidate < cost:
                    break
                damping *= 10.0
            else:
                break
            converged = cost - candidate < 1e-4 * cost
            p, cost, damping = p + step, candidate, max(0.1 * damping, 1e-7)
            if converged:
                break
        return p, cost

    def _normal_equations(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r, usable, J = self._residual(p, True)
        assert J is not None
        w = usable / (1.0 + (r / _LOSS_WIDTH) ** 2)
        information = self._prior_information
        information = usable.mean() * information  # the cost is a mean over the usable pixels
        H = (J * w[:, None]).T @ J + information
        return H, (J * w[:, None]).T @ r + information @ (p - self._centre())

    def support(self, fit: RoadFit, grid: PinholeCamera) -> np.ndarray:
        """Share of the samples in each cell of the first image that fit the plane, float64 [h, w]; 0 where too few
        were taken. ``grid`` is the camera whose pixels are the cells."""
        r, usable, _ = self._residual(np.array([1.0 / fit.height, fit.pitch_rad, fit.roll_rad]), False)
        fits = usable & (np.abs(r) < 2 * _LOSS_WIDTH)
        cell = _cell_of(self._rays, grid)
        count, good = np.zeros((2, grid.height, grid.width))
        np.add.at(count, cell, 1.0)
        np.add.at(good, cell, fits)
        return np.where(count >= _MIN_CELL_SAMPLES, good / np.maximum(count, 1.0), 0.0)

    def describe(self, p: np.ndarray, cost: float, distinctness: float) -> RoadFit:
        """The fit with its uncertainty."""
        H, _ = self._normal_equations(p)
        r, usable, _ = self._residual(p, False)
        covariance = np.linalg.inv(H) * _LOSS_WIDTH**2 * self._correlated
        inliers = usable & (np.abs(r) < 2 * _LOSS_WIDTH)
        return RoadFit(
            height=float(1.0 / p[0]),
            pitch_rad=float(p[1]),
            roll_rad=float(p[2]),
            log_height_sigma=float(np.sqrt(covariance[0, 0]) / p[0]),
            # along the valley of the cost, 1/height moves by -H01/H00 per unit of pitch
            dlog_height_dpitch=float(H[0, 1] / (H[0, 0] * p[0])),
            cost=cost,
            distinctness=distinctness,
            inlier_share=float(inliers.mean()),
            samples=len(self),
        )


def _cell_of(rays: np.ndarray, grid: PinholeCamera) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the cell that each viewing ray [3, P] passes."""
    x = np.rint(rays[0] * grid.fx + grid.cx).astype(int).clip(0, grid.width - 1)
    y = np.rint(rays[1] * grid.fy + grid.cy).astype(int).clip(0, grid.height - 1)
    return y, x


def _sample(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = u.astype(np.float32)[None], v.astype(np.float32)[None]
    return cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def fit_road(patch: RoadPatch, prior: PlanePrior, heights: np.ndarray) -> RoadFit | None:
    """Tries start heights (same unit as the translation), refines the best one and compares it with the rest.

    ``heights`` must reach well beyond the plausible ones: costs more than 20 % away from the fit are what it has to
    stand out against. None where the patch hardly overlaps the second image.
    """
    if len(patch) < 200:
        return None
    costs = np.array([patch.cost(np.array([1.0 / h, prior.pitch_rad, prior.roll_rad])) for h in heights])
    if not np.isfinite(costs).any():
        return None
    start = np.array([1.0 / heights[int(np.argmin(costs))], prior.pitch_rad, prior.roll_rad])
    p, cost = patch.refine(start)
    if not np.isfinite(cost) or p[0] <= 0:
        return None
    elsewhere = costs[np.isfinite(costs) & (np.abs(np.log(heights * p[0])) > np.log(1.2))]
    distinctness = cost / float(np.median(elsewhere)) if len(elsewhere) else 1.0
    return patch.describe(p, cost, distinctness)
