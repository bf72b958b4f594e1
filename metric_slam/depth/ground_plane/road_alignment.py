"""Photometric alignment of a road patch between two images: the height of the camera over the road, in the unit of
the baseline between them.

A plane n . X = d in the first camera (n points down to the road, d is the camera's height) moves a pixel with viewing
ray a from the first image to K (R a + t (n . a)/d) in the second: the plane-induced homography K (R + t n^T/d) K^-1
(Hartley and Zisserman, *Multiple View Geometry*, 2nd ed., eq. 13.2). With R and t known, 1/d, the pitch and the roll
of n are the only unknowns. All pixels of the patch are aligned together, because a single cell of asphalt has too
little texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from metric_slam.depth.ground_plane.road_image import RoadImage
from metric_slam.geometry.camera import PinholeCamera


@dataclass(frozen=True)
class AlignmentSettings:
    """Numbers of the robust alignment."""

    loss_width: float = 0.3
    """Width of the Cauchy loss, in units of the normalised brightness."""

    independent: float = 13.0
    """Independent measurements that a patch is worth: neighbouring samples share their texture, and road texture hardly
    separates pitch from height, so the prior on the pitch has to outweigh thousands of samples."""

    min_samples: int = 200
    """Fewest samples of a patch."""

    min_overlap: float = 0.3
    """Smallest share of the samples that must land in the second image."""

    min_cell_samples: int = 5
    """Fewest samples of a cell for its support."""

    min_depth: float = 0.05
    """Depth in the second camera, relative to that in the first, below which a sample counts as behind the camera."""

    iterations: int = 12
    """Most Levenberg-Marquardt steps."""

    convergence: float = 1e-4
    """Relative change of the cost at which the refinement ends."""

    other_height: float = 1.2
    """Ratio of heights from which a cost counts as that of another height."""


DEFAULTS = AlignmentSettings()


@dataclass(frozen=True)
class PlanePrior:
    """Expected orientation of the road's normal: pitch and roll in rad, positive pitch looks up."""

    pitch_rad: float
    roll_rad: float
    pitch_sigma_rad: float
    roll_sigma_rad: float


@dataclass(frozen=True)
class Corridor:
    """Extent of the road patch on the plane of the prior, in multiples of the camera's height."""

    half_width: float
    nearest: float
    farthest: float


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
    """Derivative of log(height) by the assumed pitch, 1/rad: a better pitch, known later, corrects the height."""

    cost: float
    """Mean robust cost of a pixel; the smaller the better."""

    distinctness: float
    """Cost over the median cost at other heights: near 1 where nothing lines up, near 0 for a clear road."""

    inlier_share: float
    """Share of the patch that fits, 0..1."""

    samples: int


def plane_normal(pitch_rad: float, roll_rad: float) -> np.ndarray:
    """Compute the unit normal of the road in camera axes (x right, y down, z forward), pointing down to it."""
    return np.array(
        [
            np.sin(roll_rad),
            np.cos(pitch_rad) * np.cos(roll_rad),
            -np.sin(pitch_rad) * np.cos(roll_rad),
        ]
    )


def _normal_jacobian(pitch: float, roll: float) -> np.ndarray:
    """Derivative of the normal by pitch and roll, [2, 3]."""
    sp, cp, sr, cr = np.sin(pitch), np.cos(pitch), np.sin(roll), np.cos(roll)
    return np.array([[0.0, -sp * cr, -cp * cr], [cr, -cp * sr, sp * sr]])


@lru_cache(maxsize=4)
def _candidates(camera: PinholeCamera, first_row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels u, v [P] below ``first_row``, every second column, and their viewing rays [3, P]."""
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
        corridor: Corridor,
        samples: int,
        cells: tuple[np.ndarray, PinholeCamera] | None = None,
        settings: AlignmentSettings = DEFAULTS,
    ) -> None:
        """``samples``: about how many pixels are taken. ``cells``: bool [h, w] of the cells of the first image from
        which they are taken, and the camera whose pixels the cells are; None: all.
        """
        self._camera, self._second, self.settings = second.camera, second, settings
        self._R, self._t = T_second_first[:3, :3], T_second_first[:3, 3]
        self.prior = prior
        u, v, rays = _candidates(first.camera, first.first_row)
        # in units of the camera's height a point of the plane lies at depth 1 / slope
        depth = 1.0 / np.maximum(plane_normal(prior.pitch_rad, prior.roll_rad) @ rays, 1e-6)
        chosen = (depth > corridor.nearest) & (depth < corridor.farthest)
        chosen &= (np.abs(rays[0] * depth) < corridor.half_width) & first.valid[v, u]
        if cells is not None:
            free, grid = cells
            chosen &= free[_cell_of(rays, grid)]
        index = np.flatnonzero(chosen)
        index = index[:: max(1, len(index) // samples)]
        self._rays = rays[:, index]
        self._brightness = first.normalised[v[index], u[index]]
        self._gradient: tuple[np.ndarray, np.ndarray] | None = None
        self._correlated = max(len(index) / settings.independent, 1.0)
        # a prior residual of one sigma weighs as much as the loss width on an independent pixel
        unit = self._correlated * settings.loss_width**2
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
        """Brightness differences [P], usable [P], and their Jacobian [P, 3] by p = (1/height, pitch, roll)."""
        camera = self._camera
        slope = plane_normal(p[1], p[2]) @ self._rays
        X = self._R @ self._rays + self._t[:, None] * (slope * p[0])
        iz = 1.0 / np.maximum(X[2], self.settings.min_depth)
        x, y = X[0] * iz, X[1] * iz
        u, v = camera.fx * x + camera.cx, camera.fy * y + camera.cy
        usable = (X[2] > self.settings.min_depth) & (u > 1) & (v > self._second.first_row + 1)
        usable &= (u < camera.width - 2) & (v < camera.height - 2)
        usable[usable] = self._second.valid[np.rint(v[usable]).astype(int), np.rint(u[usable]).astype(int)]
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
        """Mean robust cost of the pixels that land in the second image, plus that of the prior; infinite if too few."""
        r, usable, _ = self._residual(p, False)
        return self._cost(r, usable, p)

    def _cost(self, r: np.ndarray, usable: np.ndarray, p: np.ndarray) -> float:
        count, width = usable.sum(), self.settings.loss_width
        if count == 0 or count < self.settings.min_overlap * len(self):
            return np.inf
        data = width**2 * np.log1p((r[usable] / width) ** 2).sum() / count
        e = p - self._centre()
        return float(data + e @ self._prior_information @ e / len(self))

    def _centre(self) -> np.ndarray:
        return np.array([0.0, self.prior.pitch_rad, self.prior.roll_rad])

    def refine(self, p: np.ndarray) -> tuple[np.ndarray, float]:
        """Minimise the cost from ``p`` by Levenberg-Marquardt; returns the parameters and their cost.

        The cost is infinite where the patch does not determine the plane.
        """
        damping, cost = 1e-3, self.cost(p)
        for _ in range(self.settings.iterations):
            if not np.isfinite(cost):
                break
            H, g = self._normal_equations(p)
            if not _is_regular(H):
                return p, np.inf
            for _ in range(5):
                step = -np.linalg.solve(H + damping * np.diag(np.diag(H)), g)
                candidate = self.cost(p + step) if p[0] + step[0] > 0 else np.inf
                if candidate < cost:
                    break
                damping *= 10.0
            else:
                break
            converged = cost - candidate < self.settings.convergence * cost
            p, cost, damping = p + step, candidate, max(0.1 * damping, 1e-7)
            if converged:
                break
        return p, cost

    def _normal_equations(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r, usable, J = self._residual(p, True)
        assert J is not None
        w = usable / (1.0 + (r / self.settings.loss_width) ** 2)
        information = usable.mean() * self._prior_information  # the cost is a mean over the usable pixels
        H = (J * w[:, None]).T @ J + information
        return H, (J * w[:, None]).T @ r + information @ (p - self._centre())

    def support(self, fit: RoadFit, grid: PinholeCamera) -> np.ndarray:
        """Share of the samples in each cell of the first image that fit the plane, float64 [h, w]; 0 for too few.

        ``grid`` is the camera whose pixels are the cells.
        """
        r, usable, _ = self._residual(np.array([1.0 / fit.height, fit.pitch_rad, fit.roll_rad]), False)
        fits = usable & (np.abs(r) < 2 * self.settings.loss_width)
        cell = _cell_of(self._rays, grid)
        count, good = np.zeros((2, grid.height, grid.width))
        np.add.at(count, cell, 1.0)
        np.add.at(good, cell, fits)
        return np.where(count >= self.settings.min_cell_samples, good / np.maximum(count, 1.0), 0.0)

    def describe(self, p: np.ndarray, cost: float, distinctness: float) -> RoadFit | None:
        """The fit with its uncertainty; None if the patch does not determine the height."""
        H, _ = self._normal_equations(p)
        if not _is_regular(H):
            return None
        r, usable, _ = self._residual(p, False)
        covariance = np.linalg.inv(H) * self.settings.loss_width**2 * self._correlated
        inliers = usable & (np.abs(r) < 2 * self.settings.loss_width)
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


def _is_regular(H: np.ndarray) -> bool:
    """True if the normal equations [3, 3] have one solution: positive definite after scaling to a unit diagonal."""
    diagonal = np.diag(H)
    if not np.isfinite(H).all() or (diagonal <= 0).any():
        return False
    scale = 1.0 / np.sqrt(diagonal)
    return bool(np.linalg.eigvalsh(H * scale[:, None] * scale)[0] > 1e-9)


def _cell_of(rays: np.ndarray, grid: PinholeCamera) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the cell that each viewing ray [3, P] passes through."""
    x = np.rint(rays[0] * grid.fx + grid.cx).astype(int).clip(0, grid.width - 1)
    y = np.rint(rays[1] * grid.fy + grid.cy).astype(int).clip(0, grid.height - 1)
    return y, x


def _sample(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = u.astype(np.float32)[None], v.astype(np.float32)[None]
    return cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def fit_road(patch: RoadPatch, prior: PlanePrior, heights: np.ndarray) -> RoadFit | None:
    """Try start heights (same unit as the translation), refine the best one and compare it with the others.

    ``heights`` must reach well beyond the plausible ones: the fit has to stand out against the costs more than 20 %
    away from it. None where the patch hardly overlaps the second image or does not determine the plane.
    """
    settings = patch.settings
    if len(patch) < settings.min_samples:
        return None
    costs = np.array([patch.cost(np.array([1.0 / h, prior.pitch_rad, prior.roll_rad])) for h in heights])
    if not np.isfinite(costs).any():
        return None
    start = np.array([1.0 / heights[int(np.argmin(costs))], prior.pitch_rad, prior.roll_rad])
    p, cost = patch.refine(start)
    if not np.isfinite(cost) or p[0] <= 0:
        return None
    elsewhere = costs[np.isfinite(costs) & (np.abs(np.log(heights * p[0])) > np.log(settings.other_height))]
    distinctness = cost / float(np.median(elsewhere)) if len(elsewhere) else 1.0
    return patch.describe(p, cost, distinctness)
