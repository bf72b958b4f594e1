"""Closed-form alignment of two paths: rigid, similarity, or scale alone.

Umeyama, *Least-squares estimation of transformation parameters between two point patterns*, IEEE PAMI 13(4), 1991.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metric_slam.errors import EvaluationError

_RELATIVE_RANK_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Similarity:
    """The map ``x -> scale * R x + t``."""

    scale: float
    R: np.ndarray
    """Rotation, float64 [3, 3]."""

    t: np.ndarray
    """Translation, float64 [3]."""

    rank: int = 3
    """Rank of the covariance behind the fit: 1 (a straight line) leaves the rotation about that line arbitrary."""

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Map points [N, 3]."""
        return np.asarray(self.scale * points @ self.R.T + self.t)

    def apply_to_poses(self, T_world_cam: np.ndarray) -> np.ndarray:
        """Map poses [N, 4, 4] into the target's world: positions as points, orientations by R (they stay rotations)."""
        T_aligned = np.array(T_world_cam, dtype=np.float64)
        T_aligned[:, :3, :3] = self.R @ T_aligned[:, :3, :3]
        T_aligned[:, :3, 3] = self.apply(T_aligned[:, :3, 3])
        return T_aligned

    def matrix(self) -> np.ndarray:
        """Homogeneous form, float64 [4, 4]."""
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = self.scale * self.R, self.t
        return T


def umeyama(source: np.ndarray, target: np.ndarray, *, with_scale: bool) -> Similarity:
    """The similarity (or, without scale, the rigid motion) that brings ``source`` [N, 3] nearest to ``target`` [N, 3].

    Minimises ``sum |target - (c R source + t)|^2``; names and equation numbers as in the paper (x source, y target).
    A straight path is accepted (rank 1). Raises EvaluationError where a path does not move at all.
    """
    x, y = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    assert x.shape == y.shape and x.ndim == 2 and x.shape[1] == 3, (x.shape, y.shape)
    mu_x, mu_y = x.mean(axis=0), y.mean(axis=0)  # eq. 34, 35
    sigma2_x = np.mean(np.sum((x - mu_x) ** 2, axis=1))  # eq. 36
    sigma2_y = np.mean(np.sum((y - mu_y) ** 2, axis=1))  # eq. 37
    Sigma_xy = (y - mu_y).T @ (x - mu_x) / len(x)  # eq. 38
    U, d, Vt = np.linalg.svd(Sigma_xy)
    rank = int(np.count_nonzero(d > _RELATIVE_RANK_TOLERANCE * np.sqrt(sigma2_x * sigma2_y)))
    if rank == 0 or sigma2_x <= 0.0 or sigma2_y <= 0.0:
        raise EvaluationError("one path does not move (or the two have nothing in common): no alignment exists")
    S = np.diag([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])  # eq. 39, 43
    R = U @ S @ Vt  # eq. 40
    c = float(np.trace(np.diag(d) @ S) / sigma2_x) if with_scale else 1.0  # eq. 42
    t = mu_y - c * R @ mu_x  # eq. 41
    return Similarity(c, R, t, rank)


def uncentred_scale(source: np.ndarray, target: np.ndarray) -> float:
    """``sum(x . y) / sum(x . x)``: the KITTI evaluator's ``scale`` alignment (no centring, no rotation).

    ``source``, ``target`` [N, 3], both starting at the origin. Raises EvaluationError where ``source`` stays there.
    """
    denominator = float(np.sum(source * source))
    if denominator <= 0.0:
        raise EvaluationError("the estimated path does not move: no scale exists")
    return float(np.sum(source * target)) / denominator
