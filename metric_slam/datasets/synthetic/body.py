"""Triangles that rays can meet: the world, or what moves in it for one frame."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from metric_slam.datasets.synthetic.hills import Hills
from metric_slam.datasets.synthetic.mesh import Mesh
from metric_slam.errors import MissingDependencyError

GAMMA = 2.2
_CHUNK = 1_000_000  # triangles worked on at once: bounds the memory


def import_open3d() -> ModuleType:
    """Import open3d. Raises MissingDependencyError that names what to install."""
    try:
        import open3d
    except ImportError as error:
        raise MissingDependencyError(
            f"the rendered drive needs Open3D ({error}): pip install open3d, and on Debian/Ubuntu "
            "apt-get install libusb-1.0-0 libgl1 libegl1 libx11-6"
        ) from error
    return open3d


@dataclass(frozen=True)
class Hits:
    """What the rays of one image met; M rays that met something, of R."""

    index: np.ndarray
    depth_m: np.ndarray
    triangle: np.ndarray
    bary: np.ndarray

    def only(self, chosen: np.ndarray) -> Hits:
        """The hits where ``chosen`` [M] holds."""
        return Hits(self.index[chosen], self.depth_m[chosen], self.triangle[chosen], self.bary[chosen])


class Body:
    """A mesh for ray casting, with the properties of its triangles that shading needs."""

    def __init__(self, mesh: Mesh, hills: Hills | None = None) -> None:
        """``hills`` lift the mesh; pieces of one flat surface stay one surface for ``surfaces``."""
        o3d = import_open3d()
        flat_points = mesh.points_m
        if hills is not None:
            mesh = hills.lifted(mesh)
        self.mesh = mesh
        self.light_tints = np.maximum(mesh.tints, 0) ** np.float32(GAMMA)
        self._tensor = o3d.core.Tensor
        self._scene = o3d.t.geometry.RaycastingScene()
        count = len(mesh.points_m)
        self._scene.add_triangles(
            o3d.core.Tensor(np.ascontiguousarray(mesh.points_m.reshape(-1, 3))),
            o3d.core.Tensor(np.arange(3 * count, dtype=np.uint32).reshape(-1, 3)),
        )
        self.flat_normals = np.empty((count, 3), np.float32)
        self.texture_gradients = np.empty((count, 2, 3), np.float32)
        self.surfaces = np.empty(count, np.int64)
        for start in range(0, count, _CHUNK):
            part = slice(start, start + _CHUNK)
            normals, gradients = _triangle_frames(mesh.points_m[part], mesh.uv[part])
            self.flat_normals[part], self.texture_gradients[part] = normals, gradients
            if hills is not None:
                normals, _ = _triangle_frames(flat_points[part], mesh.uv[part])
            self.surfaces[part] = _surface_ids(flat_points[part], normals, mesh.rects[part])

    def cast(self, rays: np.ndarray) -> Hits:
        """Where ``rays`` [R, 6] (origin, direction) meet the body first; depths in units of the directions' length."""
        found = self._scene.cast_rays(self._tensor(rays))
        t_hit = found["t_hit"].numpy()
        index = np.flatnonzero(np.isfinite(t_hit))
        return Hits(
            index=index,
            depth_m=t_hit[index],
            triangle=found["primitive_ids"].numpy()[index].astype(np.int64),
            bary=found["primitive_uvs"].numpy()[index],
        )

    def blocks(self, rays: np.ndarray) -> np.ndarray:
        """Whether the body stands in the way of ``rays`` [R, 6], bool [R]."""
        return self._scene.test_occlusions(self._tensor(rays)).numpy()


def _surface_ids(points: np.ndarray, normals: np.ndarray, rects: np.ndarray) -> np.ndarray:
    """Positive numbers [T], int64, that are equal for triangles of one plane and one texture (hashes, not counts)."""
    offset = np.einsum("tj,tj->t", normals, points[:, 0])
    keys = np.column_stack([np.rint(normals * 1000), np.rint(offset * 200), rects[:, :2]]).astype(np.int64)
    factors = np.array([1_000_003, 998_244_353, 1_299_709, 15_485_863, 32_452_843, 49_979_687], np.int64)
    return (keys @ factors) % (1 << 60) + 1


def _triangle_frames(points: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals [T, 3] and the matrices [T, 2, 3] that map steps in space to steps in the texture."""
    p, t = points.astype(np.float64), uv.astype(np.float64)
    e1, e2 = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    normal = np.cross(e1, e2)
    area = np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    normal /= area
    # dual vectors of the two edges: dual_k . e_l = 1 if k = l else 0
    dual1, dual2 = np.cross(e2, normal) / area, np.cross(normal, e1) / area
    t1, t2 = t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]
    gradients = t1[:, :, None] * dual1[:, None, :] + t2[:, :, None] * dual2[:, None, :]
    return normal.astype(np.float32), gradients.astype(np.float32)
