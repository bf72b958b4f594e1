"""Vehicles of the moving traffic: a car with lettering, a van and a box truck. They stand at the origin, along x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metric_slam.datasets.synthetic import materials
from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.datasets.synthetic.mesh import Mesh, Rect, Vector
from metric_slam.datasets.synthetic.street_things import CAR_COLOURS, add_car, add_wheel

PANEL_TEXELS_PER_M = 70.0
DARK, GLASS, STEEL = (0.08, 0.08, 0.09), (0.13, 0.16, 0.18), (0.55, 0.56, 0.57)
Corner = tuple[float, float, float]


@dataclass(frozen=True)
class Vehicle:
    """A mesh and its outer measures."""

    mesh: Mesh
    length_m: float
    width_m: float
    height_m: float


def make_vehicles(kit: Kit) -> tuple[Vehicle, Vehicle, Vehicle]:
    """A car, a van and a truck, in the order of their size; their paint goes into the atlas of ``kit``."""
    return (
        Vehicle(kit.apart(lambda: _car(kit)), 4.4, 1.75, 1.5),
        Vehicle(kit.apart(lambda: _van(kit)), 5.2, 1.96, 2.3),
        Vehicle(kit.apart(lambda: _truck(kit)), 6.6, 2.44, 3.1),
    )


def _panel(kit: Kit, width_m: float, height_m: float, colour: Vector) -> Rect:
    size = (round(height_m * PANEL_TEXELS_PER_M), round(width_m * PANEL_TEXELS_PER_M))
    return kit.atlas.add(materials.lettered_panel(kit.rng, *size, colour))


def _painted_box(kit: Kit, low: Corner, high: Corner, colour: Vector) -> None:
    """A box whose four walls have lettered panels of their own, the top is plain."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    walls = (((x0, y1), (x0, y0)), ((x1, y0), (x1, y1)), ((x0, y0), (x1, y0)), ((x1, y1), (x0, y1)))
    for (xa, ya), (xb, yb) in walls:
        rect = _panel(kit, float(np.hypot(xb - xa, yb - ya)), z1 - z0, colour)
        kit.mesh.quad([(xa, ya, z1), (xb, yb, z1), (xb, yb, z0), (xa, ya, z0)], rect)
    top = [(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)]
    kit.mesh.quad(top, kit.rect["rough"], colour)


def _rear(kit: Kit, x: float, half: float, low: float, high: float) -> None:
    """The back of a vehicle at ``x``: door gap, handles, lights, number plate and a dark bumper."""
    plain = kit.rect["plain"]

    def plate(y0: float, y1: float, z0: float, z1: float, tint: Vector, out: float = 0.012) -> None:
        kit.mesh.quad([(x - out, y1, z1), (x - out, y0, z1), (x - out, y0, z0), (x - out, y1, z0)], plain, tint)

    plate(-0.015, 0.015, low + 0.05, high - 0.05, DARK)
    for side in (-1, 1):
        a, b = sorted((side * (half - 0.08), side * (half - 0.26)))
        plate(a, b, low + 0.10, low + 0.55, (0.62, 0.07, 0.06))
        plate(a, b, low + 0.35, low + 0.45, (0.85, 0.45, 0.10), 0.016)
        a, b = sorted((side * 0.12, side * 0.20))
        plate(a, b, low + 0.30 * (high - low), low + 0.55 * (high - low), STEEL, 0.03)
    plate(-0.26, 0.26, low + 0.12, low + 0.24, (0.86, 0.86, 0.82))
    kit.mesh.box((x - 0.06, -half + 0.02, low - 0.22), (x + 0.2, half - 0.02, low - 0.02), plain, DARK)


def _chassis(kit: Kit, axles: Sequence[float], ends: tuple[float, float], half: float, top: float) -> None:
    kit.mesh.box((ends[0] + 0.1, -half + 0.12, 0.28), (ends[1] - 0.1, half - 0.12, top), kit.rect["plain"], DARK)
    for x in axles:
        for side in (-1, 1):
            add_wheel(kit, np.eye(4), x, side, half - 0.02)
    shadow = [(ends[0], -half, 0.015), (ends[1], -half, 0.015), (ends[1], half, 0.015), (ends[0], half, 0.015)]
    kit.mesh.quad(shadow, kit.rect["plain"], (0.07, 0.07, 0.07))


def _face(kit: Kit, x: float, half: float, low: float, high: float) -> None:
    """The front of a cab at ``x``: windscreen, grille, head lights."""
    plain = kit.rect["plain"]

    def plate(y0: float, y1: float, z0: float, z1: float, tint: Sequence[float]) -> None:
        kit.mesh.quad([(x, y0, z1), (x, y1, z1), (x, y1, z0), (x, y0, z0)], plain, tint)

    middle = low + 0.50 * (high - low)
    plate(-half + 0.08, half - 0.08, middle, high - 0.12, GLASS)
    plate(-half + 0.45, half - 0.45, low + 0.15, middle - 0.2, DARK)
    for side in (-1, 1):
        a, b = sorted((side * (half - 0.08), side * (half - 0.38)))
        plate(a, b, low + 0.15, low + 0.38, (0.92, 0.92, 0.88))
        mirror = (x - 0.5, side * half - 0.03, middle + 0.1), (x - 0.42, side * half + 0.03, middle + 0.45)
        kit.mesh.box(*mirror, plain, DARK)


def _colour(kit: Kit) -> np.ndarray:
    return np.array(CAR_COLOURS[kit.rng.integers(len(CAR_COLOURS))])


def _car(kit: Kit) -> None:
    add_car(kit, 0.0, 0.0, 0.0)
    colour = _colour(kit)
    for side in (-1, 1):
        y = side * 0.92
        rect = _panel(kit, 2.0, 0.4, colour)
        kit.mesh.quad([(side, y, 0.85), (-side, y, 0.85), (-side, y, 0.45), (side, y, 0.45)], rect)
    rect = _panel(kit, 1.3, 0.28, colour)
    kit.mesh.quad([(-2.42, 0.4, 0.84), (-2.42, -0.4, 0.84), (-2.42, -0.4, 0.56), (-2.42, 0.4, 0.56)], rect)


def _van(kit: Kit) -> None:
    colour = _colour(kit)
    _chassis(kit, (-1.6, 1.5), (-2.6, 2.6), 0.96, 0.5)
    _painted_box(kit, (-2.6, -0.98, 0.42), (1.3, 0.98, 2.3), colour)
    kit.mesh.box((1.3, -0.95, 0.42), (2.2, 0.95, 1.95), kit.rect["rough"], colour)
    kit.mesh.box((2.2, -0.93, 0.42), (2.6, 0.93, 1.15), kit.rect["rough"], colour)
    _face(kit, 2.215, 0.93, 0.42, 1.95)
    _face(kit, 2.615, 0.90, 0.40, 0.80)
    _rear(kit, -2.6, 0.98, 0.5, 2.3)


def _truck(kit: Kit) -> None:
    colour = _colour(kit)
    _chassis(kit, (-2.2, -1.2, 2.3), (-3.3, 3.3), 1.18, 0.78)
    _painted_box(kit, (-3.3, -1.22, 0.8), (1.4, 1.22, 3.1), 0.5 + 0.45 * colour)
    kit.mesh.box((1.65, -1.15, 0.45), (3.3, 1.15, 2.65), kit.rect["rough"], colour)
    _face(kit, 3.315, 1.15, 0.45, 2.65)
    _rear(kit, -3.3, 1.22, 0.8, 3.1)
