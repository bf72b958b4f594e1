"""Things that stand in streets: cars, trees, hedges, lamps, signs, guard rails."""

from __future__ import annotations

import numpy as np

from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.datasets.synthetic.mesh import WHITE, moved, placement

CAR_COLOURS = (
    (0.80, 0.80, 0.79), (0.10, 0.10, 0.11), (0.33, 0.35, 0.37), (0.58, 0.60, 0.62), (0.50, 0.08, 0.08),
    (0.10, 0.18, 0.38), (0.88, 0.87, 0.84), (0.22, 0.30, 0.26), (0.70, 0.62, 0.48), (0.18, 0.40, 0.55),
    (0.76, 0.42, 0.14),
)  # fmt: skip

# side view (x forward, z up) of the painted body and of the cabin on it, metres
_BODY = (
    (-2.12, 0.32), (-2.16, 0.58), (-2.10, 0.84), (-1.95, 0.93), (0.95, 0.95), (1.75, 0.83), (2.08, 0.66), (2.12, 0.32),
)  # fmt: skip
_CABIN_LOW, _CABIN_HIGH = (-1.90, 1.02), (-1.30, 0.22)
_SILL_Z, _ROOF_Z = 0.93, 1.44


def add_car(kit: Kit, x: float, y: float, heading_rad: float) -> None:
    """A parked car (about 4.3 m x 1.75 m) whose middle stands at (x, y)."""
    rng = kit.rng
    frame = placement(x, y, heading_rad)
    size = np.array([rng.uniform(0.92, 1.08), rng.uniform(0.96, 1.04), rng.uniform(0.96, 1.16)])
    frame[:3, :3] = frame[:3, :3] * size
    colour = np.array(CAR_COLOURS[rng.integers(len(CAR_COLOURS))])
    plain, half = kit.rect["plain"], 0.86
    for (xa, za), (xb, zb) in zip(_BODY[:-1], _BODY[1:], strict=True):  # front, bonnet, boot
        strip = [(xa, -half, za), (xa, half, za), (xb, half, zb), (xb, -half, zb)]
        kit.mesh.quad(moved(strip, frame), plain, colour)
    middle = (0.0, 0.6)
    for side in (-half, half):
        fan = [[(p[0], side, p[1]) for p in (a, b, middle)] for a, b in zip(_BODY, _BODY[1:] + _BODY[:1], strict=True)]
        uv = np.tile(np.array([[0, 0], [20, 0], [0, 20]]) + plain[:2], (len(fan), 1, 1))
        kit.mesh.triangles(moved(np.reshape(fan, (-1, 3)), frame).reshape(-1, 3, 3), uv, plain, colour)
    _cabin(kit, frame, colour)
    _car_details(kit, frame, half)
    shadow = [(-2.0, -0.8, 0.015), (2.0, -0.8, 0.015), (2.0, 0.8, 0.015), (-2.0, 0.8, 0.015)]
    kit.mesh.quad(moved(shadow, frame), plain, (0.07, 0.07, 0.07))


def _cabin(kit: Kit, frame: np.ndarray, colour: np.ndarray) -> None:
    """Pillars and roof in the car's colour, panes of dark glass just outside of them."""
    plain, glass = kit.rect["plain"], (0.13, 0.16, 0.18)
    (l0, l1), (h0, h1), wide, narrow = _CABIN_LOW, _CABIN_HIGH, 0.82, 0.64
    low = [(l0, -wide), (l1, -wide), (l1, wide), (l0, wide)]
    high = [(h0, -narrow), (h1, -narrow), (h1, narrow), (h0, narrow)]
    for k in range(4):
        a, b = k, (k + 1) % 4
        face = np.array([(*high[a], _ROOF_Z), (*high[b], _ROOF_Z), (*low[b], _SILL_Z), (*low[a], _SILL_Z)])
        kit.mesh.quad(moved(face, frame), plain, colour)
        centre = face.mean(axis=0)
        outward = np.array([centre[0] + 0.44, centre[1], 0.0])
        outward /= np.linalg.norm(outward)
        panes = [(0.05, 0.95)] if k in (1, 3) else [(0.06, 0.50), (0.54, 0.94)]
        for u0, u1 in panes:
            inner = [_blend(face, u, v) for u, v in ((u0, 0.10), (u1, 0.10), (u1, 0.90), (u0, 0.90))]
            kit.mesh.quad(moved(np.array(inner) + 0.012 * outward, frame), plain, glass)
    roof = [(*high[0], _ROOF_Z), (*high[1], _ROOF_Z), (*high[2], _ROOF_Z), (*high[3], _ROOF_Z)]
    kit.mesh.quad(moved(roof, frame), plain, colour)


def _blend(face: np.ndarray, u: float, v: float) -> np.ndarray:
    top = face[0] + u * (face[1] - face[0])
    bottom = face[3] + u * (face[2] - face[3])
    return top + v * (bottom - top)


def _car_details(kit: Kit, frame: np.ndarray, half: float) -> None:
    plain = kit.rect["plain"]
    for x in (-1.32, 1.30):
        for side in (-1, 1):
            add_wheel(kit, frame, x, side, half)
    for side in (-1, 1):
        y0, y1 = side * 0.42, side * 0.80
        rear = [(-2.165, y0, 0.82), (-2.165, y1, 0.82), (-2.185, y1, 0.64), (-2.185, y0, 0.64)]
        front = [(2.03, y0, 0.74), (2.03, y1, 0.74), (2.13, y1, 0.58), (2.13, y0, 0.58)]
        kit.mesh.quad(moved(rear, frame), plain, (0.62, 0.07, 0.06))
        kit.mesh.quad(moved(front, frame), plain, (0.90, 0.90, 0.86))
        line = [(-1.9, side * (half + 0.006), 0.36), (1.9, side * (half + 0.006), 0.36)]
        line += [(1.9, side * (half + 0.006), 0.30), (-1.9, side * (half + 0.006), 0.30)]
        kit.mesh.quad(moved(line, frame), plain, (0.10, 0.10, 0.10))
    for x in (-2.19, 2.14):
        plate = [(x, -0.26, 0.52), (x, 0.26, 0.52), (x, 0.26, 0.41), (x, -0.26, 0.41)]
        kit.mesh.quad(moved(plate, frame), plain, (0.86, 0.86, 0.82))
    kit.mesh.box((-2.17, -0.84, 0.24), (2.15, 0.84, 0.34), plain, (0.09, 0.09, 0.09), frame)


def add_wheel(kit: Kit, frame: np.ndarray, x: float, side: int, half: float) -> None:
    """A wheel at ``x``, ``half`` metres to the left (``side`` 1) or right (-1): arch, tyre and rim as discs, each a
    little further out, and the tread below the body.
    """
    plain, sides = kit.rect["plain"], 16
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    for radius, out, tint in ((0.37, 0.004, 0.05), (0.315, 0.012, 0.09), (0.20, 0.018, 0.55), (0.06, 0.022, 0.25)):
        rim = np.stack(
            [x + radius * np.cos(angle), np.full(sides + 1, side * (half + out)), 0.315 + radius * np.sin(angle)],
            axis=1,
        )
        rim[:, 2] = np.maximum(rim[:, 2], 0.0)
        hub = np.array([x, side * (half + out), 0.315])
        fan = np.stack([rim[:-1], rim[1:], np.broadcast_to(hub, (sides, 3))], axis=1)
        uv = np.full((sides, 3, 2), 8.0) + np.array(plain[:2])
        kit.mesh.triangles(moved(fan.reshape(-1, 3), frame).reshape(-1, 3, 3), uv, plain, (tint,) * 3)
    a, b = (moved([(x, side * (half + out), 0.315)], frame)[0] for out in (-0.2, 0.012))
    kit.mesh.cylinder(a, b, (0.315, 0.315), plain, (0.06, 0.06, 0.06), sides)


def add_tree(kit: Kit, x: float, y: float, height_m: float) -> None:
    """A broad-leaved tree: trunk, boughs, and a crown of leaf clusters around overlapping balls."""
    rng = kit.rng
    crown = height_m * rng.uniform(0.30, 0.38)
    stem = height_m - 1.55 * crown
    lean = rng.normal(0, 0.15, 2)
    top = np.array([x + lean[0], y + lean[1], stem])
    kit.mesh.cylinder((x, y, 0), top, (0.026 * height_m, 0.016 * height_m), kit.rect["bark"], WHITE, 10)
    balls = [(top + [0, 0, 0.75 * crown], 0.78 * crown)]
    for k in range(6):
        angle = k * np.pi / 3 + rng.uniform(-0.4, 0.4)
        offset = np.array([np.cos(angle), np.sin(angle), rng.uniform(-0.15, 0.7)]) * crown * rng.uniform(0.5, 0.68)
        balls.append((top + [0, 0, 0.62 * crown] + offset, crown * rng.uniform(0.42, 0.58)))
        radii = (0.010 * height_m, 0.004 * height_m)
        kit.mesh.cylinder(top - [0, 0, 0.3], balls[-1][0], radii, kit.rect["bark"], WHITE, 6)
    tone = rng.uniform(0.85, 1.15) * rng.uniform([0.86, 0.95, 0.8], [1.14, 1.05, 1.1])
    for centre, radius in balls:
        _leaf_ball(kit, centre, radius, tone, middle=top + [0, 0, 0.7 * crown])


def _leaf_ball(kit: Kit, centre: np.ndarray, radius: float, tone: np.ndarray, middle: np.ndarray) -> None:
    """Leaf clusters on and below the surface of a ball; shaded as a soft whole, not as single leaves."""
    rng = kit.rng
    count = int(130 * radius**1.6) + 30
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    depth = rng.uniform(0.72, 1.04, count) ** 1.0
    at = centre + direction * (radius * depth)[:, None]
    e1 = np.cross(direction, rng.standard_normal((count, 3)))
    e1 /= np.linalg.norm(e1, axis=1, keepdims=True)
    tilt = rng.normal(0, 0.45, (count, 1))
    e2 = np.cross(direction, e1) + tilt * direction
    size = rng.uniform(0.16, 0.34, (count, 1)) * min(1.0, 0.5 + 0.3 * radius)
    ring = [at + size * (np.cos(a) * e1 + np.sin(a) * e2) for a in np.linspace(0, 2 * np.pi, 6)[:-1] + 0.3]
    points = np.stack([np.stack([ring[0], ring[k], ring[k + 1]], axis=1) for k in (1, 2, 3)], axis=1).reshape(-1, 3, 3)
    normal = direction + 0.6 * (at - middle) / np.linalg.norm(at - middle, axis=1, keepdims=True)
    normal += [0, 0, 0.25]
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    rect = kit.rect["foliage"]
    corner = np.array(rect[:2]) + rng.uniform(4, rect[2] - rect[0] - 28, (count, 1, 2))
    pentagon = np.stack([np.cos(np.linspace(0, 2 * np.pi, 6)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 6)[:-1])], axis=1)
    uv = corner + 12 + 11 * pentagon[None]
    uv = np.stack([uv[:, [0, k, k + 1]] for k in (1, 2, 3)], axis=1).reshape(-1, 3, 2)
    # leaves inside of the crown get less light
    shade = (0.45 + 0.55 * np.clip((depth - 0.72) / 0.3, 0, 1)) * rng.uniform(0.8, 1.15, count)
    tints = np.repeat(shade[:, None] * tone, 3, axis=0)
    normals = np.repeat(np.repeat(normal[:, None], 3, axis=1), 3, axis=0)
    kit.mesh.triangles(points, uv, rect, tints, normals)


def add_hedge(kit: Kit, a: tuple[float, float], b: tuple[float, float], height_m: float, thickness_m: float) -> None:
    """A clipped hedge from ``a`` to ``b``: a leafy box with loose leaves on it."""
    start, end = np.array(a, float), np.array(b, float)
    length = float(np.linalg.norm(end - start))
    heading = float(np.arctan2(*(end - start)[::-1]))
    frame = placement(start[0], start[1], heading)
    tone = kit.rng.uniform([0.7, 0.8, 0.7], [1.0, 1.05, 1.0])
    for x in np.arange(0, length, 4.0):
        stop = min(length, x + 4.0)
        kit.mesh.box((x, 0, 0), (stop, thickness_m, height_m), kit.patch("foliage", 256), tone, frame, 60.0)
        for _ in range(5):
            centre = (kit.rng.uniform(x, stop), kit.rng.uniform(0.1, thickness_m), height_m - 0.15)
            _leaf_ball(kit, moved([centre], frame)[0], 0.45, tone, moved([(centre[0], centre[1], 0)], frame)[0])


def add_lamp(kit: Kit, x: float, y: float, heading_rad: float) -> None:
    """A street lamp whose arm points to ``heading_rad``."""
    frame, plain, grey = placement(x, y, heading_rad), kit.rect["plain"], (0.30, 0.32, 0.33)
    kit.mesh.cylinder((x, y, 0), (x, y, 1.0), (0.10, 0.09), plain, grey, 10)
    kit.mesh.cylinder((x, y, 1.0), (x, y, 6.6), (0.065, 0.045), plain, grey, 10)
    kit.mesh.cylinder((x, y, 6.5), moved([(1.5, 0, 6.9)], frame)[0], (0.04, 0.03), plain, grey, 8)
    kit.mesh.box((1.2, -0.12, 6.82), (1.85, 0.12, 6.98), plain, (0.62, 0.63, 0.63), frame)


def add_sign(kit: Kit, x: float, y: float, heading_rad: float) -> None:
    """A round or square traffic sign that faces traffic which drives to ``heading_rad``."""
    frame, plain = placement(x, y, heading_rad), kit.rect["plain"]
    kit.mesh.cylinder((x, y, 0), (x, y, 2.75), (0.03, 0.03), plain, (0.55, 0.56, 0.57), 8)
    rim, face = (0.68, 0.06, 0.07), (0.88, 0.88, 0.86)
    if kit.rng.random() < 0.4:
        rim, face = (0.85, 0.85, 0.85), (0.08, 0.22, 0.55)
    sides = 18 if kit.rng.random() < 0.6 else 4
    angle = np.linspace(0, 2 * np.pi, sides + 1) + np.pi / 4
    for radius, out, tint in ((0.34, -0.04, rim), (0.26, -0.05, face)):
        ring = np.stack([np.full(sides + 1, out), radius * np.cos(angle), 2.42 + radius * np.sin(angle)], axis=1)
        hub = np.broadcast_to(np.array([out, 0, 2.42]), (sides, 3))
        fan = moved(np.stack([ring[:-1], ring[1:], hub], axis=1).reshape(-1, 3), frame).reshape(-1, 3, 3)
        kit.mesh.triangles(fan, np.full((sides, 3, 2), 9.0) + np.array(plain[:2]), plain, tint)
    bar = [(-0.056, 0.16, 2.47), (-0.056, -0.16, 2.47), (-0.056, -0.16, 2.37), (-0.056, 0.16, 2.37)]
    kit.mesh.quad(moved(bar, frame), plain, (0.15, 0.15, 0.16))


def add_guard_rail(kit: Kit, a: tuple[float, float], b: tuple[float, float]) -> None:
    """A steel guard rail on posts from ``a`` to ``b``."""
    start, end = np.array(a, float), np.array(b, float)
    length = float(np.linalg.norm(end - start))
    frame = placement(start[0], start[1], float(np.arctan2(*(end - start)[::-1])))
    plain, steel = kit.rect["plain"], (0.60, 0.62, 0.63)
    for x in np.arange(0.0, length, 2.0):
        kit.mesh.box((x, 0, 0), (x + 0.1, 0.08, 0.72), plain, (0.45, 0.46, 0.47), frame)
        shade = kit.rng.uniform(0.9, 1.08)
        for z0, z1, y in ((0.42, 0.50, -0.03), (0.50, 0.60, -0.07), (0.60, 0.68, -0.03)):
            stop = min(x + 2.0, length)
            kit.mesh.box((x, y, z0), (stop, y + 0.03, z1), plain, np.array(steel) * shade, frame)
