"""A soup of textured triangles and the primitive shapes that streets are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Rect = tuple[float, float, float, float]
Vector = Sequence[float] | np.ndarray
"""Three numbers: a point, or a tint as factors on red, green and blue."""

Points = Sequence[Sequence[float]] | np.ndarray
"""Points [N, 3]."""

WHITE = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Mesh:
    """Triangles, each with its own corners: positions, smooth normals, texture positions, texture bounds, tint."""

    points_m: np.ndarray
    """Float32 [T, 3, 3]: triangle, corner, xyz."""

    normals: np.ndarray
    """Float32 [T, 3, 3]."""

    uv: np.ndarray
    """Float32 [T, 3, 2] in texels of the atlas."""

    rects: np.ndarray
    """Float32 [T, 4]."""

    tints: np.ndarray
    """Float32 [T, 3]: factor on the texture."""


@dataclass
class MeshBuilder:
    """Appends shapes; ``build`` gives the arrays. Rectangles are those of ``AtlasBuilder.add``."""

    max_edge_m: float | None = None
    """Quads are divided until none is wider than this, so that they can be bent (None: they stay whole)."""

    _points: list[np.ndarray] = field(default_factory=list)
    _normals: list[np.ndarray | None] = field(default_factory=list)
    """None: flat ones, which ``build`` computes for all such triangles at once."""

    _uv: list[np.ndarray] = field(default_factory=list)
    _rects: list[np.ndarray] = field(default_factory=list)
    _tints: list[np.ndarray] = field(default_factory=list)
    """Rows of the last two belong to one triangle each, or a single row to all triangles of the part."""

    def triangles(
        self,
        points: np.ndarray,
        uv: np.ndarray,
        rect: Rect,
        tint: Vector = WHITE,
        normals: np.ndarray | None = None,
    ) -> None:
        """Append triangles: ``points`` [T, 3, 3], ``uv`` [T, 3, 2]; flat normals if none are given."""
        self._points.append(np.asarray(points, np.float32))
        self._normals.append(None if normals is None else np.asarray(normals, np.float32))
        self._uv.append(np.asarray(uv, np.float32))
        self._rects.append(np.asarray(rect, np.float32).reshape(-1, 4))
        self._tints.append(np.asarray(tint, np.float32).reshape(-1, 3))

    def quad(
        self,
        corners: Points,
        rect: Rect,
        tint: Vector = WHITE,
        part: Rect = (0.0, 0.0, 1.0, 1.0),
    ) -> None:
        """A flat quadrilateral, corners in the order top left, top right, bottom right, bottom left of the texture.

        ``part`` is the piece of the texture that is shown, as fractions of ``rect``.
        """
        c = np.asarray(corners, np.float32)
        width, height = rect[2] - rect[0], rect[3] - rect[1]
        x0, x1 = rect[0] + part[0] * width, rect[0] + part[2] * width
        y0, y1 = rect[1] + part[1] * height, rect[1] + part[3] * height
        t = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
        if self.max_edge_m is None:
            self.triangles(c[[[0, 1, 2], [0, 2, 3]]], t[[[0, 1, 2], [0, 2, 3]]], rect, tint)
        else:
            self.triangles(_divided(c, self.max_edge_m), _divided(t, self.max_edge_m, like=c), rect, tint)

    def stamp(self, mesh: Mesh, frame: np.ndarray, tint: Vector = WHITE) -> None:
        """Append a copy of ``mesh`` moved by the rigid motion ``frame`` [4, 4]."""
        R, t = frame[:3, :3].astype(np.float32), frame[:3, 3].astype(np.float32)
        self._points.append(mesh.points_m @ R.T + t)
        self._normals.append(mesh.normals @ R.T)
        self._uv.append(mesh.uv)
        self._rects.append(mesh.rects)
        self._tints.append(mesh.tints * np.asarray(tint, np.float32))

    def box(
        self,
        low: Sequence[float],
        high: Sequence[float],
        rect: Rect,
        tint: Vector = WHITE,
        frame: np.ndarray | None = None,
        texels_per_m: float = 25.0,
    ) -> None:
        """An axis-parallel box (all faces but the bottom), moved by ``frame`` [4, 4]."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        faces = [
            [(x0, y0, z1), (x1, y0, z1), (x1, y0, z0), (x0, y0, z0)],
            [(x1, y1, z1), (x0, y1, z1), (x0, y1, z0), (x1, y1, z0)],
            [(x1, y0, z1), (x1, y1, z1), (x1, y1, z0), (x1, y0, z0)],
            [(x0, y1, z1), (x0, y0, z1), (x0, y0, z0), (x0, y1, z0)],
            [(x0, y1, z1), (x1, y1, z1), (x1, y0, z1), (x0, y0, z1)],
        ]
        for face in faces:
            corners = np.array(face, np.float64)
            self.quad(moved(corners, frame), rect, tint, part_for(corners, rect, texels_per_m))

    def cylinder(
        self,
        foot: Vector,
        top: Vector,
        radii: tuple[float, float],
        rect: Rect,
        tint: Vector = WHITE,
        sides: int = 10,
    ) -> None:
        """A round post from ``foot`` to ``top`` with the two radii, smooth normals, texture wrapped around once."""
        a, b = np.asarray(foot, float), np.asarray(top, float)
        axis = (b - a) / np.linalg.norm(b - a)
        helper = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.9 else np.array([0, 1.0, 0])
        e1 = np.cross(axis, helper)
        e1 /= np.linalg.norm(e1)
        e2 = np.cross(axis, e1)
        angle = np.linspace(0, 2 * np.pi, sides + 1)
        ring = np.cos(angle)[:, None] * e1 + np.sin(angle)[:, None] * e2
        low, high = a + radii[0] * ring, b + radii[1] * ring
        u = rect[0] + (rect[2] - rect[0]) * np.linspace(0, 1, sides + 1)
        t_low, t_high = (np.stack([u, np.full_like(u, v)], axis=1) for v in (rect[3], rect[1]))
        i, j = np.arange(sides), np.arange(1, sides + 1)

        def strips(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
            one = np.stack([lower[i], lower[j], upper[j]], axis=1)
            two = np.stack([lower[i], upper[j], upper[i]], axis=1)
            return np.concatenate([one, two])

        self.triangles(strips(low, high), strips(t_low, t_high), rect, tint, strips(ring, ring))

    def build(self) -> Mesh:
        """The mesh of all triangles so far."""
        points = np.concatenate(self._points)
        counts = [len(part) for part in self._points]
        flat = np.repeat([normals is None for normals in self._normals], counts)
        normals = np.empty_like(points)
        normals[flat] = _flat_normals(points[flat])[:, None]
        if not flat.all():
            normals[~flat] = np.concatenate([part for part in self._normals if part is not None])
        return Mesh(
            points,
            normals,
            np.concatenate(self._uv),
            _one_row_each(self._rects, counts),
            _one_row_each(self._tints, counts),
        )


def _divided(corners: np.ndarray, max_edge_m: float, like: np.ndarray | None = None) -> np.ndarray:
    """Triangles [T, 3, k] of a quad [4, k], divided so that level distances along its edges are ``max_edge_m`` at most.

    ``like`` [4, 3]: the quad that gives the distances, if not ``corners`` itself.
    """
    shape = corners if like is None else like
    across = max(np.linalg.norm((shape[1] - shape[0])[:2]), np.linalg.norm((shape[2] - shape[3])[:2]))
    down = max(np.linalg.norm((shape[3] - shape[0])[:2]), np.linalg.norm((shape[2] - shape[1])[:2]))
    columns, rows = (max(1, int(np.ceil(length / max_edge_m - 1e-6))) for length in (across, down))
    u = np.linspace(0, 1, columns + 1)[None, :, None]
    v = np.linspace(0, 1, rows + 1)[:, None, None]
    grid = (1 - v) * ((1 - u) * corners[0] + u * corners[1]) + v * ((1 - u) * corners[3] + u * corners[2])
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
    both = np.stack([np.stack([a, b, c], axis=2), np.stack([a, c, d], axis=2)], axis=2)
    return both.reshape(-1, 3, corners.shape[1])


def moved(points: Points, frame: np.ndarray | None) -> np.ndarray:
    """Points [N, 3] mapped by the rigid motion ``frame`` [4, 4]; unchanged without one."""
    points = np.asarray(points, np.float64)
    return points if frame is None else points @ frame[:3, :3].T + frame[:3, 3]


def part_for(corners: np.ndarray, rect: Rect, texels_per_m: float) -> Rect:
    """The fractions of a texture that cover a quad at the given density, as much as there is."""
    width_m = np.linalg.norm(corners[1] - corners[0])
    height_m = np.linalg.norm(corners[3] - corners[0])
    return (
        0.0,
        0.0,
        float(min(1.0, width_m * texels_per_m / (rect[2] - rect[0]))),
        float(min(1.0, height_m * texels_per_m / (rect[3] - rect[1]))),
    )


def placement(x: float, y: float, heading_rad: float, z: float = 0.0) -> np.ndarray:
    """Rigid motion, float64 [4, 4], of an object whose x axis points to ``heading_rad`` at (x, y, z)."""
    c, s = np.cos(heading_rad), np.sin(heading_rad)
    return np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, z], [0, 0, 0, 1.0]])


def _flat_normals(points: np.ndarray) -> np.ndarray:
    """Unit normals [T, 3] of triangles [T, 3, 3]."""
    normal = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)


def _one_row_each(parts: list[np.ndarray], counts: list[int]) -> np.ndarray:
    """One row for every triangle, from parts of ``counts`` triangles that have one row each or one for all."""
    rows = np.concatenate(parts)
    return np.repeat(
        rows, np.concatenate([np.full(len(p), n // len(p)) for p, n in zip(parts, counts, strict=True)]), 0
    )
