"""Rendering of the world: ray casting for geometry and shadows, footprint-filtered textures, sun, sky and haze.

Every ray's texture is averaged over the ray's own footprint. A pixel inside of a flat, evenly lit surface takes one
ray; where surfaces or shadows meet, a pixel is the mean of 2x2 rays in linear light. No edge is jagged or flickers.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from metric_slam.datasets.synthetic import materials
from metric_slam.datasets.synthetic.atlas import Atlas
from metric_slam.datasets.synthetic.body import GAMMA, Body, Hits
from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.datasets.synthetic.mesh import Mesh
from metric_slam.geometry.camera import PinholeCamera

SUBPIXELS = 2
FILTER_WIDTH_PX = 0.75
"""Width of a lone ray's footprint: below 1, because the interpolation within mip levels widens it again."""

SUN_DIRECTION = np.array([-0.52, -0.36, 0.86]) / np.linalg.norm([-0.52, -0.36, 0.86])
SUN_LIGHT = np.array([1.62, 1.50, 1.28], np.float32)
SKY_LIGHT = np.array([0.46, 0.54, 0.70], np.float32)
GROUND_LIGHT = np.array([0.30, 0.27, 0.23], np.float32)
HAZE = np.array([0.74, 0.81, 0.90], np.float32)
HAZE_LENGTH_M = 900.0
EXPOSURE = 0.92
SHADOW_OFFSET_M = 0.02


class Renderer:
    """The scene and its textures; ``render`` may be called from several threads."""

    def __init__(self, kit: Kit) -> None:
        with ThreadPoolExecutor(2) as pool:  # the three parts do not depend on each other
            atlas = pool.submit(kit.atlas.build)
            sky = pool.submit(materials.sky, np.random.default_rng([kit.seed, 3]))
            self._world = Body(kit.mesh.build(), kit.hills)
            self._atlas: Atlas = atlas.result()
            self._sky: np.ndarray = sky.result()
        self._linear = ((np.arange(256) / 255.0) ** GAMMA).astype(np.float32)

    def render(
        self,
        camera: PinholeCamera,
        T_world_cam: np.ndarray,
        noise_sigma: float = 0.0,
        noise_seed: int = 0,
        gain: float = 1.0,
        movers: Mesh | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Render an image, uint8 [H, W, 3] RGB, and depth along z at pixel centres, float32 [H, W], 0 in the sky.

        ``gain`` is a factor on the light before the tone curve; ``movers`` appear in this image only.
        """
        bodies = [self._world] if movers is None else [self._world, Body(movers)]
        v, u = (grid.ravel().astype(np.float32) for grid in np.mgrid[0 : camera.height, 0 : camera.width])
        light, surface, depth_m = self._trace(bodies, camera, T_world_cam, u, v, FILTER_WIDTH_PX)
        mixed = np.flatnonzero(_has_other_neighbour(surface.reshape(camera.height, camera.width)))
        offsets = (np.arange(SUBPIXELS, dtype=np.float32) + 0.5) / SUBPIXELS - 0.5
        sub_v, sub_u = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
        sub_u, sub_v = (u[mixed, None] + sub_u).ravel(), (v[mixed, None] + sub_v).ravel()
        fine, _, _ = self._trace(bodies, camera, T_world_cam, sub_u, sub_v, 1 / SUBPIXELS)
        light[mixed] = fine.reshape(len(mixed), SUBPIXELS**2, 3).mean(axis=1)
        image = 255.0 * _tone(light * (EXPOSURE * gain)).reshape(camera.height, camera.width, 3)
        if noise_sigma > 0:
            noise = np.random.default_rng(noise_seed).standard_normal(image.shape, dtype=np.float32)
            image = image + noise_sigma * noise
        return np.clip(image + 0.5, 0, 255).astype(np.uint8), depth_m.reshape(camera.height, camera.width)

    def _trace(
        self,
        bodies: list[Body],
        camera: PinholeCamera,
        T_world_cam: np.ndarray,
        u: np.ndarray,
        v: np.ndarray,
        width_px: float,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Linear light [R, 3], surface with its lighting (int64 [R], 0 sky) and depth [R] (0 sky) at pixels u, v [R].

        ``width_px`` is the width of the area that each ray stands for.
        """
        R, centre = T_world_cam[:3, :3], T_world_cam[:3, 3].astype(np.float32)
        directions = np.ones((len(u), 3), np.float32)
        directions[:, 0], directions[:, 1] = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
        directions = directions @ R.T.astype(np.float32)
        light = self._sky_light(directions)
        surface, depth_m = np.zeros(len(u), np.int64), np.zeros(len(u), np.float32)
        for body, hits in zip(bodies, _first_hits(bodies, centre, directions), strict=True):
            depth_m[hits.index] = hits.depth_m
            steps = R * (width_px / camera.fx)
            light[hits.index], lit = self._shade(bodies, body, hits, centre, directions[hits.index], steps)
            surface[hits.index] = 2 * body.surfaces[hits.triangle] + lit
        return light, surface, depth_m

    def _shade(
        self, bodies: list[Body], body: Body, hits: Hits, centre: np.ndarray, directions: np.ndarray, steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Linear light of the hit points, float32 [M, 3], and whether the sun reaches them, [M].

        The first two columns of ``steps`` [3, 3] are the changes of direction across a ray's footprint.
        """
        mesh, triangle, t = body.mesh, hits.triangle, hits.depth_m
        b1, b2 = hits.bary[:, :1], hits.bary[:, 1:]
        b0 = 1 - b1 - b2
        corners = mesh.uv[triangle]
        uv = b0 * corners[:, 0] + b1 * corners[:, 1] + b2 * corners[:, 2]
        flat = body.flat_normals[triangle]
        du, dv = _footprints(body.texture_gradients[triangle], flat, directions, t, steps)
        albedo = self._linear[self._atlas.sample(uv, mesh.rects[triangle], du, dv).astype(np.uint8)]
        albedo *= body.light_tints[triangle]
        corner_normals = mesh.normals[triangle]
        normal = b0 * corner_normals[:, 0] + b1 * corner_normals[:, 1] + b2 * corner_normals[:, 2]
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        normal *= -np.sign(_dot(normal, directions) + 1e-9)[:, None]
        facing = flat * -np.sign(_dot(flat, directions) + 1e-9)[:, None]
        points = centre + directions * t[:, None] + SHADOW_OFFSET_M * facing
        towards_sun = np.maximum(normal @ SUN_DIRECTION.astype(np.float32), 0)
        lit = _sees_sun(bodies, points, towards_sun)
        sun = towards_sun * lit
        up = (0.5 + 0.5 * normal[:, 2])[:, None]
        light = albedo * (sun[:, None] * SUN_LIGHT + up * SKY_LIGHT + (1 - up) * GROUND_LIGHT)
        distance = t * np.linalg.norm(directions, axis=1)
        clear = np.exp(-distance / HAZE_LENGTH_M)[:, None]
        return clear * light + (1 - clear) * HAZE, lit

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


def _first_hits(bodies: list[Body], centre: np.ndarray, directions: np.ndarray) -> list[Hits]:
    """For each body what the rays meet of it before anything else.

    Directions have z = 1 in the camera, so that the distance along a ray is the depth.
    """
    rays = np.empty((len(directions), 6), np.float32)
    rays[:, :3], rays[:, 3:] = centre, directions
    found = [body.cast(rays) for body in bodies]
    if len(found) == 1:
        return found
    depth_m = np.full((len(found), len(rays)), np.inf, np.float32)
    for row, hits in zip(depth_m, found, strict=True):
        row[hits.index] = hits.depth_m
    first = np.argmin(depth_m, axis=0)
    return [hits.only(first[hits.index] == k) for k, hits in enumerate(found)]


def _footprints(
    gradients: np.ndarray, flat: np.ndarray, directions: np.ndarray, t: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Texture steps [M, 2] for one ray to the right and one ray down, on the plane of the hit triangle."""
    cosine = _dot(flat, directions)
    cosine = np.where(np.abs(cosine) < 1e-3, np.float32(1e-3), cosine)
    moves = []
    for axis in (0, 1):
        delta = steps[:, axis].astype(np.float32)
        move = t[:, None] * (delta - directions * ((flat @ delta) / cosine)[:, None])
        moves.append(np.einsum("mij,mj->mi", gradients, move))
    return moves[0], moves[1]


def _sees_sun(bodies: list[Body], points: np.ndarray, towards_sun: np.ndarray) -> np.ndarray:
    lit = np.zeros(len(points), np.float32)
    asked = np.flatnonzero(towards_sun > 0)
    rays = np.empty((len(asked), 6), np.float32)
    rays[:, :3], rays[:, 3:] = points[asked], SUN_DIRECTION
    blocked = bodies[0].blocks(rays)
    for body in bodies[1:]:
        blocked |= body.blocks(rays)
    lit[asked] = ~blocked
    return lit


def _has_other_neighbour(surface: np.ndarray) -> np.ndarray:
    """Where one of the eight neighbours shows another surface or lighting, bool [H, W]."""
    padded = np.pad(surface, 1, mode="edge")
    height, width = surface.shape
    mixed = np.zeros(surface.shape, bool)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            mixed |= padded[dy : dy + height, dx : dx + width] != surface
    return mixed


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("mi,mi->m", a, b)


def _tone(light: np.ndarray) -> np.ndarray:
    """Linear light to display values in 0..1: a shoulder above 0.8 instead of clipped whites, then gamma."""
    knee = np.float32(0.8)
    above = np.maximum(light - knee, 0)
    soft = np.minimum(light, knee) + (1 - knee) * above / (above + (1 - knee))
    return np.clip(soft, 0, 1) ** np.float32(1 / GAMMA)
