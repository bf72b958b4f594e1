"""Renders the world: ray casting for geometry and shadows, footprint-filtered textures, sun, sky and haze.

Every ray's texture is averaged over the ray's own footprint. A pixel inside of a flat, evenly lit surface takes one
ray; where surfaces or shadows meet, a pixel is the mean of 2x2 rays in linear light. No edge is jagged or flickers.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import cv2
import numpy as np

from metric_slam.datasets.synthetic import materials
from metric_slam.datasets.synthetic.atlas import Atlas
from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.errors import MissingDependencyError
from metric_slam.geometry.camera import PinholeCamera

SUBPIXELS = 2
FILTER_WIDTH_PX = 0.75
"""Width of a lone ray's footprint: below 1, because the interpolation within mip levels widens it again."""

GAMMA = 2.2
SUN_DIRECTION = np.array([-0.52, -0.36, 0.86]) / np.linalg.norm([-0.52, -0.36, 0.86])
SUN_LIGHT = np.array([1.62, 1.50, 1.28], np.float32)
SKY_LIGHT = np.array([0.46, 0.54, 0.70], np.float32)
GROUND_LIGHT = np.array([0.30, 0.27, 0.23], np.float32)
HAZE = np.array([0.74, 0.81, 0.90], np.float32)
HAZE_LENGTH_M = 900.0
EXPOSURE = 0.92
SHADOW_OFFSET_M = 0.02


def import_open3d() -> ModuleType:
    """The module open3d. Raises MissingDependencyError that says what to install."""
    try:
        import open3d
    except ImportError as error:
        raise MissingDependencyError(
            f"the rendered drive needs Open3D ({error}): pip install open3d, and on Debian/Ubuntu "
            "apt-get install libusb-1.0-0 libgl1 libegl1 libx11-6"
        ) from error
    return open3d


@dataclass(frozen=True)
class _Hits:
    """What the rays of one image met; M rays that met something, of R."""

    index: np.ndarray
    depth_m: np.ndarray
    triangle: np.ndarray
    bary: np.ndarray


class Renderer:
    """Holds the scene and its textures; ``render`` may be called from several threads."""

    def __init__(self, kit: Kit) -> None:
        o3d = import_open3d()
        mesh = kit.mesh.build()
        self._tensor = o3d.core.Tensor
        self._scene = o3d.t.geometry.RaycastingScene()
        count = len(mesh.points_m)
        self._scene.add_triangles(
            o3d.core.Tensor(np.ascontiguousarray(mesh.points_m.reshape(-1, 3))),
            o3d.core.Tensor(np.arange(3 * count, dtype=np.uint32).reshape(-1, 3)),
        )
        self._mesh = mesh
        self._atlas: Atlas = kit.atlas.build()
        self._flat_normals, self._texture_gradients = _triangle_frames(mesh.points_m, mesh.uv)
        self._sky = materials.sky(np.random.default_rng([kit.seed, 3]))
        self._tints = np.maximum(mesh.tints, 0) ** np.float32(GAMMA)
        self._surfaces = _surface_ids(mesh.points_m, self._flat_normals, mesh.rects)
        self._linear = ((np.arange(256) / 255.0) ** GAMMA).astype(np.float32)

    def render(
        self, camera: PinholeCamera, T_world_cam: np.ndarray, noise_sigma: float = 0.0, noise_seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image, uint8 [H, W, 3] RGB, and depth along z at pixel centres, float32 [H, W], 0 where there is sky."""
        v, u = (grid.ravel().astype(np.float32) for grid in np.mgrid[0 : camera.height, 0 : camera.width])
        light, surface, depth_m = self._trace(camera, T_world_cam, u, v, FILTER_WIDTH_PX)
        mixed = np.flatnonzero(_has_other_neighbour(surface.reshape(camera.height, camera.width)))
        offsets = (np.arange(SUBPIXELS, dtype=np.float32) + 0.5) / SUBPIXELS - 0.5
        sub_v, sub_u = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
        sub_u, sub_v = (u[mixed, None] + sub_u).ravel(), (v[mixed, None] + sub_v).ravel()
        fine, _, _ = self._trace(camera, T_world_cam, sub_u, sub_v, 1 / SUBPIXELS)
        light[mixed] = fine.reshape(len(mixed), SUBPIXELS**2, 3).mean(axis=1)
        image = 255.0 * _tone(light * EXPOSURE).reshape(camera.height, camera.width, 3)
        if noise_sigma > 0:
            noise = np.random.default_rng(noise_seed).standard_normal(image.shape, dtype=np.float32)
            image = image + noise_sigma * noise
        return np.clip(image + 0.5, 0, 255).astype(np.uint8), depth_m.reshape(camera.height, camera.width)

    def _trace(
        self, camera: PinholeCamera, T_world_cam: np.ndarray, u: np.ndarray, v: np.ndarray, width_px: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Linear light [R, 3], surface with its lighting (int64 [R], 0 sky) and depth [R] (0 sky) at pixels u, v [R].

        ``width_px`` is the width of the area that each ray stands for.
        """
        R, centre = T_world_cam[:3, :3], T_world_cam[:3, 3].astype(np.float32)
        directions = np.ones((len(u), 3), np.float32)
        directions[:, 0], directions[:, 1] = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
        directions = directions @ R.T.astype(np.float32)
        hits = self._cast(centre, directions)
        light = self._sky_light(directions)
        surface, depth_m = np.zeros(len(u), np.int64), np.zeros(len(u), np.float32)
        depth_m[hits.index] = hits.depth_m
        light[hits.index], lit = self._shade(hits, centre, directions[hits.index], R * (width_px / camera.fx))
        surface[hits.index] = 2 * self._surfaces[hits.triangle] + lit
        return light, surface, depth_m

    def _cast(self, centre: np.ndarray, directions: np.ndarray) -> _Hits:
        """Cast rays whose directions have z = 1 in the camera, so that the hit distance is the depth."""
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3], rays[:, 3:] = centre, directions
        found = self._scene.cast_rays(self._tensor(rays))
        t_hit = found["t_hit"].numpy()
        index = np.flatnonzero(np.isfinite(t_hit))
        return _Hits(
            index=index,
            depth_m=t_hit[index],
            triangle=found["primitive_ids"].numpy()[index].astype(np.int64),
            bary=found["primitive_uvs"].numpy()[index],
        )

    def _shade(
        self, hits: _Hits, centre: np.ndarray, directions: np.ndarray, steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Linear light of the hit points, float32 [M, 3], and whether the sun reaches them, [M].

        The first two columns of ``steps`` [3, 3] are the changes of direction across a ray's footprint.
        """
        mesh, triangle, t = self._mesh, hits.triangle, hits.depth_m
        b1, b2 = hits.bary[:, :1], hits.bary[:, 1:]
        b0 = 1 - b1 - b2
        corners = mesh.uv[triangle]
        uv = b0 * corners[:, 0] + b1 * corners[:, 1] + b2 * corners[:, 2]
        flat = self._flat_normals[triangle]
        du, dv = self._footprints(triangle, flat, directions, t, steps)
        albedo = self._linear[self._atlas.sample(uv, mesh.rects[triangle], du, dv).astype(np.uint8)]
        albedo *= self._tints[triangle]
        corner_normals = mesh.normals[triangle]
        normal = b0 * corner_normals[:, 0] + b1 * corner_normals[:, 1] + b2 * corner_normals[:, 2]
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        normal *= -np.sign(_dot(normal, directions) + 1e-9)[:, None]
        facing = flat * -np.sign(_dot(flat, directions) + 1e-9)[:, None]
        points = centre + directions * t[:, None] + SHADOW_OFFSET_M * facing
        towards_sun = np.maximum(normal @ SUN_DIRECTION.astype(np.float32), 0)
        lit = self._sees_sun(points, towards_sun)
        sun = towards_sun * lit
        up = (0.5 + 0.5 * normal[:, 2])[:, None]
        light = albedo * (sun[:, None] * SUN_LIGHT + up * SKY_LIGHT + (1 - up) * GROUND_LIGHT)
        distance = t * np.linalg.norm(directions, axis=1)
        clear = np.exp(-distance / HAZE_LENGTH_M)[:, None]
        return clear * light + (1 - clear) * HAZE, lit

    def _footprints(
        self, triangle: np.ndarray, flat: np.ndarray, directions: np.ndarray, t: np.ndarray, steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Texture steps [M, 2] for one ray to the right and one ray down, on the plane of the hit triangle."""
        gradients = self._texture_gradients[triangle]
        cosine = _dot(flat, directions)
        cosine = np.where(np.abs(cosine) < 1e-3, np.float32(1e-3), cosine)
        moves = []
        for axis in (0, 1):
            delta = steps[:, axis].astype(np.float32)
            move = t[:, None] * (delta - directions * ((flat @ delta) / cosine)[:, None])
            moves.append(np.einsum("mij,mj->mi", gradients, move))
        return moves[0], moves[1]

    def _sees_sun(self, points: np.ndarray, towards_sun: np.ndarray) -> np.ndarray:
        lit = np.zeros(len(points), np.float32)
        asked = np.flatnonzero(towards_sun > 0)
        rays = np.empty((len(asked), 6), np.float32)
        rays[:, :3], rays[:, 3:] = points[asked], SUN_DIRECTION
        lit[asked] = ~self._scene.test_occlusions(self._tensor(rays)).numpy()
        return lit

    def _sky_light(self, directions: np.ndarray) -> np.ndarray:
        rows, cols = self._sky.shape[:2]
        azimuth = np.arctan2(directions[:, 1], directions[:, 0])
        elevation = np.degrees(np.arctan2(directions[:, 2], np.hypot(directions[:, 0], directions[:, 1])))
        x = ((azimuth / (2 * np.pi)) % 1.0 * cols).astype(np.float32)
        y = ((90.0 - elevation) / 100.0 * (rows - 1)).astype(np.float32)
        side = 2 ** int(np.ceil(np.log2(len(x)) / 2))
        grid = np.zeros((2, side * side), np.float32)
        grid[0, : len(x)], grid[1, : len(x)] = x, y
        grid = grid.reshape(2, side, side)
        wrapped = cv2.remap(self._sky, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return wrapped.reshape(-1, 3)[: len(x)].copy()


def _has_other_neighbour(surface: np.ndarray) -> np.ndarray:
    """Where one of the eight neighbours shows another surface or lighting, bool [H, W]."""
    padded = np.pad(surface, 1, mode="edge")
    height, width = surface.shape
    mixed = np.zeros(surface.shape, bool)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            mixed |= padded[dy : dy + height, dx : dx + width] != surface
    return mixed


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


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("mi,mi->m", a, b)


def _tone(light: np.ndarray) -> np.ndarray:
    """Linear light to display values in 0..1: a shoulder above 0.8 instead of clipped whites, then gamma."""
    knee = np.float32(0.8)
    above = np.maximum(light - knee, 0)
    soft = np.minimum(light, knee) + (1 - knee) * above / (above + (1 - knee))
    return np.clip(soft, 0, 1) ** np.float32(1 / GAMMA)
