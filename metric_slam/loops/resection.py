"""Pose of a camera from points of another keyframe: P3P in RANSAC, then a guided search for every point in view."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.geometry.camera import PinholeCamera
from metric_slam.loops.limits import VerificationLimits


@dataclass(frozen=True)
class ScenePoints:
    """Features of one image with their depths."""

    X: np.ndarray
    """In the camera, float64 [P, 3]."""

    pixels: np.ndarray
    """float64 [P, 2]."""

    has_depth: np.ndarray
    """bool [P]."""


@dataclass(frozen=True)
class Resection:
    """A camera located by the points of another one."""

    T: np.ndarray
    """From the camera of the points to the located one, float64 [4, 4]."""

    rows: np.ndarray
    """Pairs (point, feature) that were found, int64 [M, 2]."""

    share: float
    """Share of the points in view that were found."""


class Resector:
    """Locates cameras of one model."""

    def __init__(self, camera: PinholeCamera, limits: VerificationLimits) -> None:
        self._camera, self._limits = camera, limits

    def locate(
        self, source: ScenePoints, pixels: np.ndarray, pairs: np.ndarray, cosines: np.ndarray
    ) -> Resection | None:
        """The camera that sees the points of ``source`` at some of ``pixels`` [Q, 2]; None if too few fit.

        ``pairs`` [M, 2]: rows (point, pixel) that match; ``cosines`` [P, Q]: between all descriptors.
        """
        limits = self._limits
        seeds = pairs[source.has_depth[pairs[:, 0]]]
        T = self._first_pose(source.X[seeds[:, 0]], pixels[seeds[:, 1]])
        if T is None:
            return None
        points = np.flatnonzero(source.has_depth)
        for gate in (limits.search_gate, limits.gate):
            expected, precision, inside = self._predict(T, source.X[points])
            visible = points[inside]
            rows = self._search(expected[inside], precision[inside], pixels, cosines[visible], gate)
            rows[:, 0] = visible[rows[:, 0]]
            if len(rows) < limits.min_seeds:
                return None
            T = self._refine(T, source.X[rows[:, 0]], pixels[rows[:, 1]])
        return Resection(T, rows, len(rows) / len(visible))

    def _first_pose(self, X: np.ndarray, pixels: np.ndarray) -> np.ndarray | None:
        """Pose [4, 4] that puts most points [M, 3] near their pixels [M, 2]; None if they are too few."""
        limits = self._limits
        if len(X) < limits.min_seeds:
            return None
        cv2.setRNGSeed(0)
        found, rotation, translation, fits = cv2.solvePnPRansac(
            X,
            pixels,
            self._camera.K,
            None,
            iterationsCount=300,
            reprojectionError=limits.seed_px,
            confidence=0.999,
            flags=cv2.SOLVEPNP_P3P,
        )
        if not found or fits is None or len(fits) < limits.min_seeds:
            return None
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = cv2.Rodrigues(rotation)[0], translation.ravel()
        return self._refine(T, X[fits.ravel()], pixels[fits.ravel()])

    def _predict(self, T: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels [P, 2] of points [P, 3], their precisions [P, 2, 2], and which lie in the image, bool [P]."""
        camera, limits, turned = self._camera, self._limits, X @ T[:3, :3].T
        Y = turned + T[:3, 3]
        front = Y[:, 2] > limits.min_depth_ratio * X[:, 2]
        Y = np.where(front[:, None], Y, (0.0, 0.0, 1.0))
        pixels = camera.project(Y)
        # a longer ray moves the point along its ray, R X
        along = np.einsum("pij,pj->pi", self._projection_jacobian(Y), turned) * limits.depth_sigma
        variance = limits.pixel_sigma_px**2 + (along**2).sum(axis=1)[:, None, None]
        precision = (np.eye(2) - along[:, :, None] * along[:, None, :] / variance) / limits.pixel_sigma_px**2
        inside = front & (pixels >= 0).all(axis=1) & (pixels < (camera.width, camera.height)).all(axis=1)
        return pixels, precision, inside

    def _projection_jacobian(self, Y: np.ndarray) -> np.ndarray:
        """Derivatives of pixels by points [P, 3] in front of the camera, [P, 2, 3]."""
        J = np.zeros((len(Y), 2, 3))
        J[:, 0, 0], J[:, 1, 1] = self._camera.fx / Y[:, 2], self._camera.fy / Y[:, 2]
        J[:, :, 2] = -J[:, (0, 1), (0, 1)] * Y[:, :2] / Y[:, 2:]
        return J

    def _refine(self, T: np.ndarray, X: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Gauss-Newton from pose T [4, 4].

        Residuals are whitened by the errors of depths and pixels; outliers are down-weighted (Geman and McClure).
        """
        T = T.copy()
        for _ in range(self._limits.refinements):
            expected, precision, inside = self._predict(T, X)
            Y = X @ T[:3, :3].T + T[:3, 3]
            if inside.sum() < 6:
                return T
            r, W, Y = (pixels - expected)[inside], precision[inside], Y[inside]
            weight = 1.0 / (1.0 + np.einsum("pi,pij,pj->p", r, W, r) / self._limits.gate) ** 2
            cross = np.zeros((len(Y), 3, 3))
            cross[:, (2, 0, 1), (1, 2, 0)], cross[:, (1, 2, 0), (2, 0, 1)] = Y, -Y
            J = self._projection_jacobian(Y) @ np.concatenate([np.tile(np.eye(3), (len(Y), 1, 1)), -cross], axis=2)
            JW = np.einsum("pji,pjk,p->pik", J, W, weight)
            H = np.einsum("pij,pjk->ik", JW, J)
            step = np.linalg.solve(H + 1e-9 * np.trace(H) * np.eye(6), np.einsum("pij,pj->i", JW, r))
            move = np.eye(4)
            move[:3, :3], move[:3, 3] = cv2.Rodrigues(step[3:])[0], step[:3]
            T = move @ T
            if np.abs(step).max() < 1e-4:
                break
        return T

    def _search(
        self, expected: np.ndarray, precision: np.ndarray, pixels: np.ndarray, cosines: np.ndarray, gate: float
    ) -> np.ndarray:
        """Pairs (point, feature) [M, 2] that are the most similar to each other of all in the gate.

        Points are expected at pixels [P, 2] with precisions [P, 2, 2]; features lie at ``pixels`` [Q, 2].
        """
        off = pixels - expected[:, None]  # [P, Q, 2]
        x, y = off[..., 0], off[..., 1]
        a, b, c = (precision[:, i, j, None] for i, j in ((0, 0), (0, 1), (1, 1)))
        near = a * x * x + 2.0 * b * x * y + c * y * y < gate
        similar = cosines > 1.0 - 0.5 * self._limits.max_descriptor_distance**2
        cosine = np.where(near & similar, cosines, -1.0)
        if cosine.size == 0:
            return np.zeros((0, 2), np.int64)
        best = np.argmax(cosine, axis=1)
        points = np.arange(len(cosine))
        good = (cosine[points, best] > 0) & (np.argmax(cosine, axis=0)[best] == points)
        return np.column_stack([points[good], best[good]])
