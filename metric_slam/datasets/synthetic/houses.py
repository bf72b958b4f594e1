"""Houses with painted fronts, and the solid parts that give them depth: roofs, cornices, sills, balconies, awnings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metric_slam.datasets.synthetic.facades import FacadePainter, FacadeStyle, random_style, side_wall
from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.datasets.synthetic.mesh import WHITE, Rect, Vector, moved, part_for

ROOF_COLOURS = ((0.60, 0.33, 0.25), (0.52, 0.30, 0.24), (0.36, 0.35, 0.36), (0.45, 0.36, 0.30), (0.66, 0.42, 0.30))


@dataclass(frozen=True)
class Plot:
    """Where a house stands: ``frame`` [4, 4] with x along the street, y into the plot, origin at the front's corner."""

    frame: np.ndarray
    width_m: float
    depth_m: float


@dataclass(frozen=True)
class HouseKind:
    """A house that is painted but not built yet: style, size and the textures of its walls."""

    style: FacadeStyle
    floors: int
    height_m: float
    front: Rect
    flank: Rect


def add_house(kit: Kit, plot: Plot) -> None:
    """Add one random house whose front is the plane y = 0 of the plot."""
    build_house(kit, plot, paint_house(kit, plot.width_m, plot.depth_m))


def paint_house(kit: Kit, width_m: float, depth_m: float) -> HouseKind:
    """Draw a random house and paint its walls into the atlas."""
    rng = kit.rng
    style = random_style(rng)
    floors = int(rng.choice([2, 3, 3, 4])) + (1 if style.modern else 0)
    height = floors * style.floor_m + 0.7
    front = kit.atlas.add(FacadePainter(rng, style, width_m, height, kit.wall_texel_m).paint())
    flank = kit.atlas.add(side_wall(rng, style, depth_m, height, 1.5 * kit.wall_texel_m))
    return HouseKind(style, floors, height, front, flank)


def build_house(kit: Kit, plot: Plot, kind: HouseKind, shade: Vector = WHITE, details: bool = True) -> None:
    """Add a house of this kind, its walls tinted by ``shade``; without ``details`` nothing stands out of its front."""
    rng, style, height = kit.rng, kind.style, kind.height_m
    w, d = plot.width_m, plot.depth_m
    walls = (
        (kind.front, [(0, 0), (w, 0)]),
        (kind.flank, [(w, 0), (w, d)]),
        (kind.front, [(w, d), (0, d)]),
        (kind.flank, [(0, d), (0, 0)]),
    )
    for rect, ((xa, ya), (xb, yb)) in walls:
        corners = [(xa, ya, height), (xb, yb, height), (xb, yb, 0), (xa, ya, 0)]
        kit.mesh.quad(moved(corners, plot.frame), rect, shade)
    flat = style.modern or rng.random() < 0.25
    (_flat_roof if flat else _pitched_roof)(kit, plot, style, height)
    if details:
        _front_details(kit, plot, style, kind.floors, height)


def _flat_roof(kit: Kit, plot: Plot, style: FacadeStyle, height: float) -> None:
    w, d = plot.width_m, plot.depth_m
    wall = np.array(style.wall)
    edges = [((-0.12, -0.14), (w + 0.12, 0.12)), ((-0.12, d - 0.12), (w + 0.12, d + 0.14))]
    edges += [((-0.14, 0.0), (0.12, d)), ((w - 0.12, 0.0), (w + 0.14, d))]
    for (x0, y0), (x1, y1) in edges:
        kit.mesh.box((x0, y0, height - 0.25), (x1, y1, height + 0.45), kit.rect["rough"], 0.95 * wall, plot.frame)
    roof = [(0, 0, height), (w, 0, height), (w, d, height), (0, d, height)]
    kit.mesh.quad(moved(roof, plot.frame), kit.rect["rough"], (0.42, 0.41, 0.40))


def _pitched_roof(kit: Kit, plot: Plot, style: FacadeStyle, height: float) -> None:
    """A gable roof with its ridge along the street, eaves, gables and a chimney."""
    w, d, out = plot.width_m, plot.depth_m, 0.38
    rise = d * float(kit.rng.uniform(0.26, 0.42))
    slope = rise / (d / 2)
    colour = np.array(ROOF_COLOURS[kit.rng.integers(len(ROOF_COLOURS))]) * kit.rng.uniform(0.9, 1.1)
    low = height - out * slope
    for near, far in ((-out, d / 2), (d + out, d / 2)):
        top = height + rise
        corners = np.array([(-0.1, far, top), (w + 0.1, far, top), (w + 0.1, near, low), (-0.1, near, low)])
        part = part_for(corners, kit.rect["tiles"], 26.0)
        kit.mesh.quad(moved(corners, plot.frame), kit.rect["tiles"], colour, part)
    kit.mesh.box((0, -out, low - 0.16), (w, -out + 0.06, low + 0.02), kit.rect["plain"], (0.5, 0.49, 0.47), plot.frame)
    rect = kit.rect["rough"]
    for x in (0.0, w):
        gable = np.array([(x, 0, height), (x, d, height), (x, d / 2, height + rise)])
        uv = np.array([[rect[0], rect[3]], [rect[2], rect[3]], [(rect[0] + rect[2]) / 2, rect[1]]])
        kit.mesh.triangles(moved(gable, plot.frame)[None], uv[None], rect, np.array(style.wall))
    x = float(kit.rng.uniform(0.2, 0.8)) * w
    top = height + rise + 0.9
    kit.mesh.box((x, d * 0.56, height), (x + 0.7, d * 0.56 + 0.6, top), rect, (0.52, 0.33, 0.27), plot.frame)
    cap = (x - 0.06, d * 0.56 - 0.06, top), (x + 0.76, d * 0.56 + 0.66, top + 0.1)
    kit.mesh.box(*cap, rect, (0.5, 0.5, 0.5), plot.frame)


def _front_details(kit: Kit, plot: Plot, style: FacadeStyle, floors: int, height: float) -> None:
    """Cornice, balconies, awning and rain pipe in front of the painted wall."""
    w, rng, frame = plot.width_m, kit.rng, plot.frame
    plaster, plain = kit.rect["rough"], kit.rect["plain"]
    lighter = np.clip(np.array(style.wall) * 1.12 + 0.05, 0, 0.95)
    if style.bands:
        kit.mesh.box((0, -0.22, height - 0.45), (w, 0, height - 0.2), plaster, lighter, frame)
    kit.mesh.cylinder(
        moved([(w - 0.12, -0.09, 0)], frame)[0],
        moved([(w - 0.12, -0.09, height - 0.3)], frame)[0],
        (0.05, 0.05),
        plain,
        (0.42, 0.43, 0.44),
        6,
    )
    bays = max(1, int((w - 0.6) / style.bay_m))
    pitch = w / bays
    if rng.random() < 0.4:
        columns = [bay for bay in range(bays) if rng.random() < 0.5]
        for floor in range(1, floors):
            for bay in columns:
                _balcony(kit, frame, (bay + 0.5) * pitch, floor * style.floor_m + 0.35, style)
    if style.shop and rng.random() < 0.65:
        _awning(kit, frame, 0.5, w - 0.5)


def _balcony(kit: Kit, frame: np.ndarray, x: float, z: float, style: FacadeStyle) -> None:
    half, out, plain = 0.85, 0.8, kit.rect["plain"]
    kit.mesh.box((x - half, -out, z - 0.15), (x + half, 0, z), kit.rect["rough"], (0.62, 0.61, 0.58), frame)
    dark = np.array(style.paint) * 0.8
    for a, b in (((x - half, -out), (x + half, -out + 0.05)), ((x - half, -out), (x - half + 0.05, 0))):
        kit.mesh.box((*a, z + 0.92), (*b, z + 1.0), plain, dark, frame)
    kit.mesh.box((x + half - 0.05, -out, z + 0.92), (x + half, 0, z + 1.0), plain, dark, frame)
    for k in np.linspace(x - half, x + half - 0.04, 9):
        kit.mesh.box((k, -out, z), (k + 0.035, -out + 0.035, z + 0.92), plain, dark, frame)


def _awning(kit: Kit, frame: np.ndarray, x0: float, x1: float) -> None:
    colour = np.clip(kit.rng.uniform(0.15, 0.75, 3), 0, 1)
    out, high, low = 1.1, 2.95, 2.45
    stripes = max(2, int((x1 - x0) / 0.4))
    edges = np.linspace(x0, x1, stripes + 1)
    for k, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        tint = colour if k % 2 else np.array([0.86, 0.84, 0.78])
        top = [(a, -0.02, high), (b, -0.02, high), (b, -out, low), (a, -out, low)]
        flap = [(a, -out, low), (b, -out, low), (b, -out, low - 0.22), (a, -out, low - 0.22)]
        for corners in (top, flap):
            kit.mesh.quad(moved(corners, frame), kit.rect["plain"], tint, (0, 0, 0.1, 0.3))
