"""Renders a picture of the fused map without a display: oblique view from above with the trajectory.

Ray casting with Open3D's RaycastingScene (Embree) needs neither OpenGL nor Vulkan. Rays are cast on a finer raster than
the picture and averaged; light comes from an oblique sun over a bright sky, so that the colours stay those of the
images; hidden parts of the trajectory are drawn faint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from metric_slam.errors import OutputError
from metric_slam.reconstruction.tsdf import import_open3d
from metric_slam.result import SlamResult

if TYPE_CHECKING:
    import open3d as o3d

SUPERSAMPLE = 2
FIELD_OF_VIEW_DEG = 35.0
ELEVATION_DEG = 38.0
AZIMUTHS_DEG = (20.0, 35.0, 50.0, 65.0)
"""Candidate view directions against the main direction of travel; the map is shown in the one that it fills most."""

BACKGROUND_TOP, BACKGROUND_BOTTOM = (250, 251, 253), (224, 228, 233)
TRAJECTORY_RGB, START_RGB = (255, 64, 32), (40, 170, 80)
MAX_STRIP_ROWS = 256


@dataclass(frozen=True)
class _Camera:
    """Virtual camera: axes in the world (right, down, forward; rows), its centre, focal length and size in pixels."""

    axes: np.ndarray
    centre: np.ndarray
    focal: float
    width: int
    height: int

    def project(self, points: np.ndarray) -> np.ndarray:
        """(u, v, z) of world points [n, 3], float64 [n, 3]."""
        x, y, z = ((points - self.centre) @ self.axes.T).T
        nearest = 1e-9 * np.abs(z).max()
        safe = np.where(z > nearest, z, nearest)
        return np.stack([self.focal * x / safe + self.width / 2, self.focal * y / safe + self.height / 2, z], axis=1)

    def rays(self, first_row: int, last_row: int) -> np.ndarray:
        """(origin, direction) of the pixels of some rows, float32 [rows, width, 6]; directions have forward part 1."""
        v, u = np.mgrid[first_row:last_row, 0 : self.width].astype(np.float32)
        u, v = (u + 0.5 - self.width / 2) / self.focal, (v + 0.5 - self.height / 2) / self.focal
        local = np.dstack([u, v, np.ones_like(u)])
        directions = local @ self.axes.astype(np.float32)
        return np.dstack([np.broadcast_to(self.centre, directions.shape), directions]).astype(np.float32)


def render_preview(
    mesh_or_ply_path: o3d.t.geometry.TriangleMesh | Path | str,
    result: SlamResult,
    output_png: Path,
    size: tuple[int, int] = (1600, 900),
) -> Path:
    """Draw the mesh (tensor mesh, or a PLY file of it) and the trajectory of ``result`` to ``output_png``.

    ``size`` is (width, height) in pixels. Returns the path. Raises MissingDependencyError without Open3D, OutputError
    where the mesh cannot be read or the picture cannot be written.
    """
    open3d = import_open3d()
    mesh = _read(open3d, mesh_or_ply_path)
    points = mesh.vertex.positions.numpy()
    up = _up(result)
    track = result.T_world_cam[:, :3, 3]
    camera = _oblique_camera(track, points, up, size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE)
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(mesh)
    picture, depth = _shade(open3d, scene, mesh, camera, up)
    _draw_track(picture, depth, camera, track)
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    output_png = Path(output_png)
    done, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    try:
        temporary = output_png.with_name(output_png.name + ".part")
        temporary.write_bytes(encoded.tobytes())
        temporary.replace(output_png)
    except OSError as error:
        raise OutputError(f"{output_png}: cannot be written ({error.strerror}); choose another folder") from error
    return output_png


def _read(open3d: ModuleType, source: o3d.t.geometry.TriangleMesh | Path | str) -> o3d.t.geometry.TriangleMesh:
    name = str(source) if isinstance(source, (str, Path)) else "mesh"
    if isinstance(source, (str, Path)):
        if not Path(source).is_file():
            raise OutputError(f"{name}: no such mesh; run with fusion.enabled=true first")
        mesh: o3d.t.geometry.TriangleMesh = open3d.t.io.read_triangle_mesh(name)
    else:
        mesh = source
    if "indices" not in mesh.triangle or len(mesh.triangle.indices) == 0:
        raise OutputError(f"{name}: no triangles, nothing to draw")
    return mesh


def _up(result: SlamResult) -> np.ndarray:
    """Mean upward direction of the cameras (minus their y axes), float64 [3]."""
    up = -result.T_world_cam[:, :3, 1].mean(axis=0)
    norm = float(np.linalg.norm(up))
    return up / norm if norm > 1e-3 else np.array([0.0, -1.0, 0.0])


def _travel_direction(track: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Main horizontal direction of travel, unit float64 [3]; an arbitrary horizontal one without motion."""
    level = track - track.mean(axis=0)
    level = level - np.outer(level @ up, up)
    forward = np.linalg.svd(level, full_matrices=False)[2][0]
    if np.linalg.norm(level) <= 1e-9 * np.abs(track).max():  # rounding, not motion
        forward = np.cross(up, np.eye(3)[int(np.argmin(np.abs(up)))])
    if forward @ (track[-1] - track[0]) < 0:
        forward = -forward
    forward = forward - (forward @ up) * up
    return forward / np.linalg.norm(forward)


def _oblique_camera(track: np.ndarray, points: np.ndarray, up: np.ndarray, width: int, height: int) -> _Camera:
    """Camera behind and above the trajectory, with the trajectory and most of the surface in the picture."""
    forward = _travel_direction(track, up)
    sample = points[:: max(1, len(points) // 20_000)]
    cameras = [_fitted_camera(track, sample, up, forward, azimuth, (width, height)) for azimuth in AZIMUTHS_DEG]
    cells = [np.unique((c.project(sample)[:, :2] // (width / 64)).astype(int), axis=0) for c in cameras]
    return cameras[int(np.argmax([len(c) for c in cells]))]


def _fitted_camera(
    track: np.ndarray,
    sample: np.ndarray,
    up: np.ndarray,
    forward: np.ndarray,
    azimuth_deg: float,
    size: tuple[int, int],
) -> _Camera:
    right = np.cross(forward, up)
    azimuth, elevation = np.radians(azimuth_deg), np.radians(ELEVATION_DEG)
    view = np.cos(elevation) * (np.cos(azimuth) * forward + np.sin(azimuth) * right) - np.sin(elevation) * up
    x_axis = np.cross(view, up)
    x_axis /= np.linalg.norm(x_axis)
    axes = np.stack([x_axis, np.cross(view, x_axis), view])
    focal = size[0] / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG) / 2)
    placed = sample @ axes.T
    # the outermost per cent of the surface may leave the picture, the trajectory may not
    limits = np.percentile(placed, [1, 99], axis=0)
    shown = placed[((placed >= limits[0]) & (placed <= limits[1])).all(axis=1)]
    centre = _fit(np.concatenate([track @ axes.T, shown]), focal / (np.array(size) / 2 * 0.94))
    return _Camera(axes, centre @ axes, focal, *size)


def _fit(points: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Nearest camera centre, in its own axes, from which |x| <= z / slope holds for all ``points`` [n, 3].

    Per axis, the two planes through the centre that touch the points give position and distance; the result has the
    larger distance of the two axes.
    """
    places = []
    for axis in (0, 1):
        high = (slope[axis] * points[:, axis] - points[:, 2]).max()
        low = (-slope[axis] * points[:, axis] - points[:, 2]).max()
        places.append(((high - low) / (2 * slope[axis]), -(high + low) / 2))
    return np.array([places[0][0], places[1][0], min(places[0][1], places[1][1])])


def _shade(
    open3d: ModuleType,
    scene: o3d.t.geometry.RaycastingScene,
    mesh: o3d.t.geometry.TriangleMesh,
    camera: _Camera,
    up: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Picture uint8 [H, W, 3] and depth along the view axis float32 [H, W] (infinite on the background)."""
    triangles = mesh.triangle.indices.numpy()
    colours = mesh.vertex.colors.numpy()
    scale = 1.0 if colours.dtype == np.uint8 else 255.0
    colours = colours.astype(np.float32) * scale
    normals = mesh.vertex.normals.numpy() if "normals" in mesh.vertex else None
    sun = up * 0.85 - camera.axes[2] * 0.25 + camera.axes[0] * 0.45
    sun = (sun / np.linalg.norm(sun)).astype(np.float32)
    blend = np.linspace(0, 1, camera.height, dtype=np.float32)[:, None, None]
    picture = np.array(BACKGROUND_TOP, np.float32) * (1 - blend) + np.array(BACKGROUND_BOTTOM, np.float32) * blend
    picture = np.repeat(picture, camera.width, axis=1)
    depth = np.full((camera.height, camera.width), np.inf, np.float32)
    for row in range(0, camera.height, MAX_STRIP_ROWS):
        rows = slice(row, min(row + MAX_STRIP_ROWS, camera.height))
        hits = scene.cast_rays(open3d.core.Tensor(camera.rays(rows.start, rows.stop)))
        depth[rows] = hits["t_hit"].numpy()
        seen = np.isfinite(depth[rows])
        corners = triangles[hits["primitive_ids"].numpy()[seen].astype(np.int64)]
        uv = hits["primitive_uvs"].numpy()[seen]
        weights = np.stack([1 - uv.sum(axis=1), uv[:, 0], uv[:, 1]], axis=1)
        if normals is None:
            normal = hits["primitive_normals"].numpy()[seen]
        else:
            normal = np.einsum("nk,nkc->nc", weights, normals[corners])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        light = 0.78 + 0.17 * (normal @ up.astype(np.float32)) + 0.25 * np.maximum(normal @ sun, 0)
        picture[rows][seen] = np.einsum("nk,nkc->nc", weights, colours[corners]) * light[:, None]
    return _tone(picture, depth), depth


def _tone(picture: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Brighten the surface so that its 97th percentile is near white, and lift its shadows a little."""
    seen = np.isfinite(depth)
    if seen.any():
        surface = picture[seen]
        white = max(float(np.percentile(surface.mean(axis=1)[::50], 97)), 60.0)
        picture[seen] = 255.0 * np.clip(surface / (white * 1.1), 0, 1) ** 0.75
    return np.clip(picture, 0, 255).astype(np.uint8)


def _draw_track(picture: np.ndarray, depth: np.ndarray, camera: _Camera, track: np.ndarray) -> None:
    """Draw the trajectory into ``picture``: opaque where it is visible, faint where the surface hides it."""
    steps = max(2, min(4000, 40 * len(track)))
    at = np.linspace(0, len(track) - 1, steps)
    projected = camera.project(np.stack([np.interp(at, np.arange(len(track)), c) for c in track.T], axis=1))
    u, v = (np.clip(projected[:, i].astype(int), 0, n - 1) for i, n in ((0, camera.width), (1, camera.height)))
    hidden = depth[v, u] < projected[:, 2] * 0.998
    pixels = np.round(projected[:, :2] * 16).astype(np.int32)
    segments = np.stack([pixels[:-1], pixels[1:]], axis=1)
    width = max(2, round(camera.width / 640))
    for part, opacity in ((hidden, 0.35), (~hidden, 1.0)):
        layer = picture.copy()
        for colour, extra in (((255, 255, 255), 3), (TRAJECTORY_RGB, 0)):
            cv2.polylines(layer, list(segments[part[:-1]]), False, colour, width + extra, cv2.LINE_AA, 4)
        cv2.addWeighted(layer, opacity, picture, 1 - opacity, 0, dst=picture)
    for end, colour in ((0, START_RGB), (-1, TRAJECTORY_RGB)):
        centre = tuple(pixels[end].tolist())
        cv2.circle(picture, centre, round(width * 2.4 * 16), (255, 255, 255), -1, cv2.LINE_AA, 4)
        cv2.circle(picture, centre, round(width * 1.7 * 16), colour, -1, cv2.LINE_AA, 4)
