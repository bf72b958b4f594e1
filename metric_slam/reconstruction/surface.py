"""A depth map as a surface: normals, slant against the ray, and the weight of each pixel in the fusion.

Place in the flow: checked depth map in, what :mod:`metric_slam.reconstruction.tsdf` integrates out.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.reconstruction.consistency import DepthView, rays_of
from metric_slam.reconstruction.tiles import pack_blocks, unpack_blocks

NORMAL_RADIUS_PX = 3
"""Half the edge of the window over which a normal is estimated."""

MIN_SLANT = 0.05
"""Slant of surfaces seen at less than 3 degrees: their distances along the normal are not measured any better."""

BLOCK_STRIDE_PX = 2
"""Subsampling of the pixels that mark voxel blocks; at the median depth a block is at least 24 pixels wide."""

MAX_RELATIVE_JUMP = 0.15
"""Depth change across the normal's window, over depth and per radius, that is an edge and no slope."""


@dataclass(frozen=True)
class SurfaceGeometry:
    """Orientation of a depth map's surface and the trust in each of its pixels."""

    slant: np.ndarray
    """|normal . ray with z = 1|, float32 [H, W]: distance along the normal per depth difference."""

    weight: np.ndarray
    """0..1, float32 [H, W]: 1 for a pixel whose noise and footprint are well below a voxel."""

    normals: np.ndarray
    """Unit normals towards the camera in camera axes, float32 [H, W, 3]; see :func:`estimate_normals`."""


@dataclass(frozen=True)
class Surface:
    """Contribution of a keyframe to the map."""

    view: DepthView
    image: np.ndarray
    """Colour, uint8 [H, W, 3] RGB."""

    slant: np.ndarray
    """As in :class:`SurfaceGeometry`."""

    weight: np.ndarray
    """As in :class:`SurfaceGeometry`."""


def surface_geometry(view: DepthView, relative_sigma: np.ndarray, voxel: float) -> SurfaceGeometry:
    """Compute slant, weight and normals of a checked depth map.

    ``relative_sigma`` float32 [H, W] of the depths; ``voxel``: edge of a voxel in world units.
    """
    rays = rays_of(view.camera)
    normals = estimate_normals(view.depth, rays)
    slant = np.maximum(-_dot(normals, rays), MIN_SLANT)
    noise = np.minimum(relative_sigma, 1.0) * view.depth * slant * np.float32(1 / voxel)
    footprint = view.depth / slant * np.float32(1 / (view.camera.fx * voxel))
    weight = 1.0 / (1.0 + noise * noise + footprint * footprint)
    return SurfaceGeometry(slant, weight, normals)


def touched_blocks(view: DepthView, normals: np.ndarray, reach: float, edge: float) -> np.ndarray:
    """Coordinates of the cubes of size ``edge`` within ``reach`` of the surface along its normal, int64 [M, 3]."""
    depth = view.depth[::BLOCK_STRIDE_PX, ::BLOCK_STRIDE_PX]
    known = depth > 0
    R, t = view.T_world_cam[:3, :3], view.T_world_cam[:3, 3]
    points = rays_of(view.camera)[::BLOCK_STRIDE_PX, ::BLOCK_STRIDE_PX][known] * depth[known][:, None] @ R.T + t
    normals = normals[::BLOCK_STRIDE_PX, ::BLOCK_STRIDE_PX][known].astype(np.float64) @ R.T
    touched = [np.floor((points + step * reach * normals) / edge).astype(np.int64) for step in (-1.0, 0.0, 1.0)]
    return unpack_blocks(np.unique(pack_blocks(np.concatenate(touched))))


def estimate_normals(depth: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Unit normals towards the camera, float32 [H, W, 3]: cross product of central differences of smoothed points.

    ``depth`` float32 [H, W] with 0 unknown, ``rays`` float32 [H, W, 3] with z = 1. Where a neighbour is unknown or the
    depth jumps, the normal points back along the ray.
    """
    radius = NORMAL_RADIUS_PX
    size = (2 * radius + 1, 2 * radius + 1)
    known = (depth > 0).astype(np.float32)
    # inverse depth of a plane is linear in the image, so that its mean over known pixels is nearly unbiased
    inv_depth = known / np.where(depth > 0, depth, 1.0)
    mean = cv2.boxFilter(inv_depth, -1, size) / np.maximum(cv2.boxFilter(known, -1, size), 1e-6)
    points = rays / np.where(mean > 0, mean, 1.0)[..., None]
    padded = cv2.copyMakeBorder(points, radius, radius, radius, radius, cv2.BORDER_REPLICATE)
    dx = padded[radius:-radius, 2 * radius :] - padded[radius:-radius, : -2 * radius]
    dy = padded[2 * radius :, radius:-radius] - padded[: -2 * radius, radius:-radius]
    (ax, ay, az), (bx, by, bz) = cv2.split(dy), cv2.split(dx)
    normal = cv2.merge([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
    length = np.sqrt(_dot(normal, normal))
    smooth = (cv2.erode(known, np.ones(size, np.uint8)) > 0) & (length > 0)
    smooth &= np.maximum(np.abs(az), np.abs(bz)) < 2 * radius * MAX_RELATIVE_JUMP * depth
    facing = rays * (-1.0 / np.sqrt(_dot(rays, rays)))[..., None]
    sign = np.where(_dot(normal, rays) < 0, 1.0, -1.0).astype(np.float32) / np.where(length > 0, length, 1.0)
    return np.where(smooth[..., None], normal * sign[..., None], facing)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products along the last axis of two [H, W, 3] arrays, [H, W]."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]
