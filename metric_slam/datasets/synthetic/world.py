"""The small worlds: one street; or the streets around a central block, the blocks beyond them, and what stands there.

World: x east, y north, z up, metres. Kerbs of the central block: x = 0..length, y = 0..depth.
"""

from __future__ import annotations

import numpy as np

from metric_slam.datasets.synthetic import materials
from metric_slam.datasets.synthetic.houses import Plot, add_house
from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.datasets.synthetic.mesh import placement
from metric_slam.datasets.synthetic.route import LANE_OFFSET_M, STREET_LENGTH_M, STREET_WIDTH_M
from metric_slam.datasets.synthetic.spec import DriveSpec
from metric_slam.datasets.synthetic.street_things import (
    add_car,
    add_guard_rail,
    add_hedge,
    add_lamp,
    add_sign,
    add_tree,
)

PAVEMENT_M = 2.8
KERB_M = 0.12
KERB_EDGE_M = 0.14
"""Height and width of the kerb stones."""

HOUSE_DEPTH_M = 9.0
REACH_X_M, REACH_Y_M = 75.0, 55.0
"""How far streets go on beyond the central block."""

MAX_STRIP_PX = 8000
W = STREET_WIDTH_M

Box = tuple[float, float, float, float]
"""A block's kerbs: x0, y0, x1, y1."""


def build_street(kit: Kit, spec: DriveSpec) -> None:
    """One straight street with houses on both sides and one at its end."""
    length = STREET_LENGTH_M
    _road(kit, (0.0, -W / 2), length + 8, 0.0, "town")
    for box, edge in (((-8, 0, length, 20), "south"), ((-8, -W - 20, length, -W), "north")):
        _block(kit, box, {edge: "town"})
    _houses(kit, (length + 6, 3.0), -np.pi / 2, W + 6)
    _furnish(kit, (5.0, -W / 2), 0.0, length - 15, cars=0.5)
    lawn(kit, (-150, -150, 300, 150))


def build_block(kit: Kit, spec: DriveSpec) -> None:
    """The ring of four streets, the nine blocks between and beside them, and what stands in the streets."""
    length, depth = spec.block_length_m, spec.block_depth_m
    xs = ((-W - REACH_X_M, -W), (0.0, length), (length + W, length + W + REACH_X_M))
    ys = ((-W - REACH_Y_M, -W), (0.0, depth), (depth + W, depth + W + REACH_Y_M))
    for i, (x0, x1) in enumerate(xs):
        for j, (y0, y1) in enumerate(ys):
            edges = {} if (i, j) != (1, 1) else {"west": "town", "east": "town"}
            edges |= {"south": "town"} if j > 0 else {}
            edges |= {"north": "town"} if j < 2 else {}
            edges |= {"east": "town"} if i < 2 else {}
            edges |= {"west": "town"} if i > 0 else {}
            if j == 2:
                edges["south"] = "park"  # the fast road has no houses on its far side
            _block(kit, (x0, y0, x1, y1), edges)
    for y, kind in ((-W / 2, "town"), (depth + W / 2, "fast")):
        _road(kit, (xs[0][0], y), xs[2][1] - xs[0][0], 0.0, kind, ((-W, 0.0), (length, length + W)))
    for x in (-W / 2, length + W / 2):
        for y0, y1 in ((ys[0][0], -W), (0.0, depth), (depth + W, ys[2][1])):
            _road(kit, (x, y0), y1 - y0, np.pi / 2, "town")
        _houses(kit, (x - W / 2 - 3, ys[2][1] + 4), 0.0, W + 6)
        _houses(kit, (x + W / 2 + 3, ys[0][0] - 4), np.pi, W + 6)
    for y in (-W / 2, depth + W / 2):
        _houses(kit, (xs[2][1] + 4, y + W / 2 + 3), -np.pi / 2, W + 6)
        _houses(kit, (xs[0][0] - 4, y - W / 2 - 3), np.pi / 2, W + 6)
    _furnish(kit, (0.0, -W / 2), 0.0, length, cars=0.5)
    _furnish(kit, (length, depth + W / 2), np.pi, length, cars=0.0)
    _furnish(kit, (length + W / 2, 0.0), np.pi / 2, depth, cars=0.25)
    _furnish(kit, (-W / 2, depth), -np.pi / 2, depth, cars=0.25)
    for x0, x1 in (xs[0], xs[2]):
        _furnish(kit, (x0, -W / 2), 0.0, x1 - x0, cars=0.45)
    lawn(kit, (-400, -400, length + 400, depth + 400))


def _road(
    kit: Kit,
    start: tuple[float, float],
    length: float,
    heading: float,
    kind: str,
    crossings: tuple[tuple[float, float], ...] = (),
) -> None:
    """A street whose middle line begins at ``start``; paint is left out where other streets cross."""
    frame = placement(*start, heading)
    stops = sorted({0.0, length, *(x - start[0] for crossing in crossings for x in crossing)})
    gaps = [(a - start[0], b - start[0]) for a, b in crossings]
    longest = MAX_STRIP_PX * kit.texel_m
    for a, b in zip(stops[:-1], stops[1:], strict=True):
        markings = "none" if any(g0 - 0.01 <= a and b <= g1 + 0.01 for g0, g1 in gaps) else kind
        pieces = int(np.ceil((b - a) / longest))
        edges = np.linspace(a, b, pieces + 1)
        for x0, x1 in zip(edges[:-1], edges[1:], strict=True):
            image = materials.asphalt(kit.rng, x1 - x0, W, kit.texel_m, markings != "none", markings)
            _flat(kit, frame, (x0, -W / 2, x1, W / 2), 0.0, image)


def _flat(kit: Kit, frame: np.ndarray, area: Box, z: float, image: np.ndarray) -> None:
    """A horizontal rectangle in the plane of ``frame``; columns of ``image`` run along x, rows along y."""
    x0, y0, x1, y1 = area
    corners = np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)])
    kit.mesh.quad(corners @ frame[:3, :3].T + frame[:3, 3], kit.atlas.add(image))


def edge_frames(box: Box) -> dict[str, tuple[np.ndarray, float]]:
    """For each side of a block: frame with x along the kerb (street on the right), y into the block; and its length."""
    x0, y0, x1, y1 = box
    return {
        "south": (placement(x0, y0, 0.0), x1 - x0),
        "east": (placement(x1, y0, np.pi / 2), y1 - y0),
        "north": (placement(x1, y1, np.pi), x1 - x0),
        "west": (placement(x0, y1, -np.pi / 2), y1 - y0),
    }


def _block(kit: Kit, box: Box, edges: dict[str, str]) -> None:
    """Kerbs, pavements and houses (or a park) along the named sides of a block, a lawn inside."""
    x0, y0, x1, y1 = box
    rect, z = kit.rect["grass"], kit.lawn_z(KERB_M)
    for x in np.arange(x0, x1, 20.0):
        for y in np.arange(y0, y1, 20.0):
            xe, ye = min(x + 20, x1), min(y + 20, y1)
            part = (0, 0, (xe - x) / 20, (ye - y) / 20)
            kit.mesh.quad([(x, y, z), (xe, y, z), (xe, ye, z), (x, ye, z)], rect, (1, 1, 1), part)
    for side, kind in edges.items():
        frame, length = edge_frames(box)[side]
        _pavement(kit, frame, length)
        along_x = side in ("south", "north")
        # houses at the ends of the short sides would stand inside those of the long ones
        first = PAVEMENT_M if along_x else PAVEMENT_M + HOUSE_DEPTH_M
        if kind == "park":
            _park(kit, frame, length)
        elif length - 2 * first > 5:
            front = frame @ placement(first, PAVEMENT_M, 0.0, KERB_M)
            _house_row(kit, front, length - 2 * first, gaps=along_x)


def _pavement(kit: Kit, frame: np.ndarray, length: float) -> None:
    texel, longest = 1.25 * kit.texel_m, MAX_STRIP_PX * 1.25 * kit.texel_m
    edges = np.linspace(0, length, int(np.ceil(length / longest)) + 1)
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        slabs = materials.paving(kit.rng, b - a, PAVEMENT_M - KERB_EDGE_M, texel)
        _flat(kit, frame, (a, KERB_EDGE_M, b, PAVEMENT_M), KERB_M, slabs)
        _flat(kit, frame, (a, 0.0, b, KERB_EDGE_M), KERB_M, materials.kerbstone(kit.rng, b - a, KERB_EDGE_M, texel))
        face = np.array([(a, 0, KERB_M), (b, 0, KERB_M), (b, 0, 0), (a, 0, 0)])
        rect = kit.atlas.add(materials.kerbstone(kit.rng, b - a, KERB_M, texel))
        kit.mesh.quad(face @ frame[:3, :3].T + frame[:3, 3], rect, (0.8, 0.8, 0.8))


def _house_row(kit: Kit, front: np.ndarray, length: float, gaps: bool) -> None:
    """Houses side by side along the x axis of ``front``, now and then a gap with a hedge and a tree."""
    x, since_gap = 0.0, 0
    while length - x > 5.0:
        left = length - x
        if gaps and since_gap >= 3 and left > 14 and kit.rng.random() < 0.5:
            gap, since_gap = float(kit.rng.uniform(3.5, 6.0)), 0
            a, b = (front @ np.array([x + offset, 0.4, 0, 1.0]) for offset in (0.1, gap - 0.1))
            add_hedge(kit, (a[0], a[1]), (b[0], b[1]), float(kit.rng.uniform(1.2, 1.8)), 0.6)
            tree = front @ np.array([x + gap / 2, 4.0, 0, 1.0])
            add_tree(kit, tree[0], tree[1], float(kit.rng.uniform(6.0, 9.0)))
            x += gap
            continue
        width = float(kit.rng.uniform(7.0, 13.5))
        width = left if left - width < 5.0 else width
        if width > 16:
            width /= 2
        setback = float(kit.rng.choice([0.0, 0.0, 0.15, 0.3]))
        add_house(kit, Plot(front @ placement(x, setback, 0.0), width, HOUSE_DEPTH_M - setback))
        x, since_gap = x + width, since_gap + 1


def _houses(kit: Kit, corner: tuple[float, float], heading: float, width: float) -> None:
    """One row of houses that closes a street; its fronts look to the right of ``heading``."""
    _house_row(kit, placement(*corner, heading), width, gaps=False)


def _park(kit: Kit, frame: np.ndarray, length: float) -> None:
    """Guard rail, a hedge behind it in places, and trees on the lawn."""

    def place(x: float, y: float) -> tuple[float, float]:
        point = frame @ np.array([x, y, 0, 1.0])
        return float(point[0]), float(point[1])

    add_guard_rail(kit, place(1.0, 0.5), place(length - 1.0, 0.5))
    for x in np.arange(4.0, length - 4.0, 9.0):
        add_tree(kit, *place(x + kit.rng.uniform(-2, 2), kit.rng.uniform(4.5, 7)), float(kit.rng.uniform(6.5, 10.5)))
        if kit.rng.random() < 0.7:
            add_tree(kit, *place(x + kit.rng.uniform(-3, 3), kit.rng.uniform(11, 24)), float(kit.rng.uniform(8, 13)))
        if kit.rng.random() < 0.45:
            a = x + kit.rng.uniform(0, 2)
            add_hedge(kit, place(a, 3.4), place(a + kit.rng.uniform(4, 8), 3.4), float(kit.rng.uniform(1.0, 1.7)), 0.9)


def _furnish(kit: Kit, start: tuple[float, float], heading: float, length: float, cars: float) -> None:
    """Parked cars, lamps, trees and signs along a street whose middle line begins at ``start``."""
    rng, frame = kit.rng, placement(*start, heading)

    def place(x: float, y: float) -> tuple[float, float]:
        point = frame @ np.array([x, y, 0, 1.0])
        return float(point[0]), float(point[1])

    for side in (-1, 1):
        x = float(rng.uniform(9, 13))
        while cars and x < length - 9:
            if rng.random() < cars:
                lateral = side * (W / 2 - 1.12 + rng.uniform(-0.08, 0.08))
                direction = heading + (np.pi if side > 0 else 0) + rng.normal(0, 0.015)
                add_car(kit, *place(x, lateral), direction)
            x += float(rng.uniform(5.2, 6.2))
        for x in np.arange(7.0 + 6 * (side > 0), length - 4, 24.0):
            add_lamp(kit, *place(x, side * (W / 2 + 0.45)), heading - side * np.pi / 2)
            if cars and x + 12 < length - 8 and rng.random() < 0.75:
                add_tree(kit, *place(x + 12, side * (W / 2 + 0.8)), float(rng.uniform(4.6, 6.4)))
        for x in (3.0, length - 5.0):
            if rng.random() < 0.8:
                add_sign(kit, *place(x, side * (W / 2 + 0.4)), heading + (np.pi if side > 0 else 0))
    assert LANE_OFFSET_M + 1.0 < W / 2 - 2.1  # the lane is free of parked cars


def lawn(kit: Kit, area: Box) -> None:
    """Grass all around, just below the road."""
    x0, y0, x1, y1 = area
    z = kit.lawn_z(0.0)
    for x in np.arange(x0, x1, 40.0):
        for y in np.arange(y0, y1, 40.0):
            kit.mesh.quad([(x, y, z), (x + 40, y, z), (x + 40, y + 40, z), (x, y + 40, z)], kit.rect["grass"])
