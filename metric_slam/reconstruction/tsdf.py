"""Truncated signed distance fusion of depth maps, one spatial tile at a time.

Place in the flow: used by :mod:`metric_slam.reconstruction.fusion` only. Every tile is fused alone from the keyframes
that observe it, with one block of margin, and yields the triangles whose centroid lies in it: neighbours compute
identical voxels in their common margin, so that the pieces fit without a seam, and memory does not depend on the length
of the drive.

Method: Curless and Levoy, "A Volumetric Method for Building Complex Models from Range Images", SIGGRAPH 1996; voxel
hashing and surface extraction are Open3D's VoxelBlockGrid (Dong et al., "ASH", PAMI 2022). Integration is done here
because Open3D's has neither weights nor normals, and a road seen from 1.7 m above needs both: along the ray, a voxel
just below the asphalt 20 m ahead lies 12 voxels behind it, so that distances along the ray never see both sides.
Distances here are along the surface normal (Bylow et al., RSS 2013, point-to-plane), and an observation counts by its
noise and by its footprint on the surface.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from metric_slam.errors import InputError, MissingDependencyError
from metric_slam.reconstruction.surface import Surface
from metric_slam.reconstruction.tiles import Tile

if TYPE_CHECKING:
    import open3d as o3d

BLOCK_VOXELS = 8
"""Edge of a voxel block in voxels."""

TRUNCATION_VOXELS = 4.0
"""Distance along the normal, in voxels, up to which a surface is stored on either side."""

MAX_DEPTH_GAP = 0.15
"""Distance along the ray over depth beyond which the plane through a pixel is not extrapolated."""

MIN_WEIGHT = 0.25
"""Sum of weights (1 = one near, certain observation) from which a voxel can carry a surface."""


def import_open3d() -> ModuleType:
    """Import Open3D, or raise a MissingDependencyError that names the package and its system libraries."""
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"Open3D cannot be imported ({error}): pip install open3d, and on Debian or Ubuntu apt-get install "
            "libusb-1.0-0 libgl1 libegl1 libx11-6 libudev1 libidn2-0; or set fusion.enabled=false"
        ) from error
    return open3d


@dataclass(frozen=True)
class MeshPart:
    """Coloured triangles of one tile."""

    points: np.ndarray
    """float32 [n, 3], world units."""

    normals: np.ndarray
    """float32 [n, 3]."""

    colours: np.ndarray
    """uint8 [n, 3]."""

    triangles: np.ndarray
    """int64 [m, 3]."""

    area: float
    """Square world units."""

    removed_components: int


class TileFuser:
    """Fuses one tile after the other."""

    def __init__(self, voxel: float) -> None:
        """``voxel``: edge of a voxel in world units."""
        if not (np.isfinite(voxel) and voxel > 0):
            raise InputError(f"voxel must be a positive length, not {voxel}")
        self._o3d = import_open3d()
        self.voxel = float(voxel)
        z, y, x = np.mgrid[0:BLOCK_VOXELS, 0:BLOCK_VOXELS, 0:BLOCK_VOXELS]
        self._offsets = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(np.float64) * self.voxel

    @property
    def block_edge(self) -> float:
        """Edge of a voxel block in world units."""
        return self.voxel * BLOCK_VOXELS

    @property
    def truncation(self) -> float:
        """Distance from the surface up to which voxels keep it, in world units."""
        return self.voxel * TRUNCATION_VOXELS

    def fuse(self, tile: Tile, surfaces: Iterable[tuple[Surface, np.ndarray]], min_component_area: float) -> MeshPart:
        """Extract the mesh of ``tile`` from surfaces and their blocks in it and its margin; drop small floating pieces.

        Blocks are int [M, 3]; ``min_component_area`` is in square world units.
        """
        o3d = self._o3d
        # the number of blocks in the margin is a guess: the hash map grows where it is too small
        grid = o3d.t.geometry.VoxelBlockGrid(
            ("tsdf", "weight", "color"),
            (o3d.core.float32,) * 3,
            ((1), (1), (3)),
            self.voxel,
            BLOCK_VOXELS,
            int(tile.block_count * 1.3) + 64,
        )
        for surface, blocks in surfaces:
            self._integrate(grid, blocks, surface)
        return self._extract(grid, tile, min_component_area)

    def _integrate(self, grid: o3d.t.geometry.VoxelBlockGrid, blocks: np.ndarray, surface: Surface) -> None:
        """Running weighted mean of signed distance and colour in the voxels of ``blocks`` [M, 3]."""
        keys = self._o3d.core.Tensor(blocks.astype(np.int32))
        hash_map = grid.hashmap()
        hash_map.activate(keys)
        rows = hash_map.find(keys)[0].numpy().astype(np.int64)
        voxels, distance, pixels = self._observe(blocks, surface)
        slots = (rows[:, None] * BLOCK_VOXELS**3 + np.arange(BLOCK_VOXELS**3)).ravel()[voxels]
        tsdf, weight = grid.attribute("tsdf").numpy().reshape(-1), grid.attribute("weight").numpy().reshape(-1)
        colour = grid.attribute("color").numpy().reshape(-1, 3)
        # the weight falls to almost zero at the truncation distance behind the surface: thin objects have two sides
        added = surface.weight.ravel()[pixels] * np.minimum(1.0, np.maximum(1.0 + distance, 0.02))
        before = weight[slots]
        total = before + added
        share = added / total
        tsdf[slots] += share * (np.minimum(distance, 1.0) - tsdf[slots])
        colour[slots] += share[:, None] * (surface.image.reshape(-1, 3)[pixels] - colour[slots])
        weight[slots] = total

    def _observe(self, blocks: np.ndarray, surface: Surface) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Voxels (flat index) that a depth map observes, signed distance / truncation, and pixels (flat) of each."""
        camera, view = surface.view.camera, surface.view
        T_cam_world = np.linalg.inv(view.T_world_cam)
        origins = blocks * self.block_edge @ T_cam_world[:3, :3].T + T_cam_world[:3, 3]
        offsets = self._offsets @ T_cam_world[:3, :3].T
        x, y, z = (
            (origins[:, None, i].astype(np.float32) + offsets[None, :, i].astype(np.float32)).ravel() for i in range(3)
        )
        nearest = np.float32(1e-3 * self.voxel)  # in front of the camera, and not divided by zero
        inv_z = 1.0 / np.maximum(z, nearest)
        u = np.rint(camera.fx * x * inv_z + camera.cx)
        v = np.rint(camera.fy * y * inv_z + camera.cy)
        voxels = np.flatnonzero((z > nearest) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height))
        pixels = v[voxels].astype(np.int64) * camera.width + u[voxels].astype(np.int64)
        depth = view.depth.ravel()[pixels]
        gap = depth - z[voxels]
        distance = gap * surface.slant.ravel()[pixels] * np.float32(1 / self.truncation)
        near = self.truncation + MAX_DEPTH_GAP * depth
        seen = (depth > 0) & (distance > -1.0) & (gap > -near)
        return voxels[seen], distance[seen], pixels[seen]

    def _extract(self, grid: o3d.t.geometry.VoxelBlockGrid, tile: Tile, min_component_area: float) -> MeshPart:
        mesh = grid.extract_triangle_mesh(weight_threshold=MIN_WEIGHT)
        if "indices" not in mesh.triangle or len(mesh.triangle.indices) == 0:
            nothing = np.empty((0, 3), np.float32)
            return MeshPart(nothing, nothing, nothing.astype(np.uint8), nothing.astype(np.int64), 0.0, 0)
        points = mesh.vertex.positions.numpy()
        triangles = mesh.triangle.indices.numpy().astype(np.int64)
        lower, upper = tile.lower * self.block_edge, tile.upper * self.block_edge
        keep, removed = _large_components(mesh, points, triangles, (lower, upper), min_component_area)
        centroids = points[triangles].mean(axis=1)
        keep &= ((centroids >= lower) & (centroids < upper)).all(axis=1)
        used, flat = np.unique(triangles[keep], return_inverse=True)
        triangles, points = flat.reshape(-1, 3), points[used]
        corners = points[triangles]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        colours = np.clip(mesh.vertex.colors.numpy()[used] * 255.0 + 0.5, 0, 255).astype(np.uint8)
        area = float(np.linalg.norm(normal, axis=1).sum() / 2)
        return MeshPart(points, mesh.vertex.normals.numpy()[used], colours, triangles, area, removed)


def _large_components(
    mesh: o3d.t.geometry.TriangleMesh,
    points: np.ndarray,
    triangles: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    min_area: float,
) -> tuple[np.ndarray, int]:
    """Mask of triangles in components of at least ``min_area``, and the number of smaller components.

    A component that reaches beyond ``bounds`` continues in the next tile and is kept, whatever its area here.
    """
    clusters, _, areas = mesh.to_legacy().cluster_connected_triangles()
    cluster, area = np.asarray(clusters), np.asarray(areas)
    beyond = np.any((points < bounds[0]) | (points >= bounds[1]), axis=1)
    outside = np.any(beyond[triangles], axis=1)
    crosses = np.zeros(len(area), bool)
    crosses[cluster[outside]] = True
    large = (area >= min_area) | crosses
    return large[cluster], int(np.count_nonzero(~large))
