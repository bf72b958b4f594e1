"""Depth of matched cells from two views whose relative pose is known."""

from __future__ import annotations

import numpy as np

from metric_slam.geometry.camera import PinholeCamera


def triangulate(target: np.ndarray, T_target_source: np.ndarray, grid: PinholeCamera) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth of the source's cells, and how far in the target a cell moves per unit of it.

    ``target`` [h, w, 2] is where each cell lies in the target, in cells (x, y); ``T_target_source`` [4, 4]; the unit is
    that of its translation. Least squares in the target's normalised image, where x (a_z + t_z d) = a_x + t_x d with
    a = R ray is linear in d (Hartley and Zisserman, *Multiple View Geometry*, 2nd ed., section 12.2). Both float64
    [h, w]; the inverse depth may be negative.
    """
    R, t = T_target_source[:3, :3], T_target_source[:3, 3]
    a = grid.rays() @ R.T
    x, y = (target[..., 0] - grid.cx) / grid.fx, (target[..., 1] - grid.cy) / grid.fy
    jx, jy = t[0] - x * t[2], t[1] - y * t[2]
    rx, ry = x * a[..., 2] - a[..., 0], y * a[..., 2] - a[..., 1]
    squared = jx * jx + jy * jy
    inv_depth = (jx * rx + jy * ry) / np.maximum(squared, 1e-12)
    return inv_depth, grid.fx * np.sqrt(squared) / np.maximum(a[..., 2] + t[2] * inv_depth, 0.1)
