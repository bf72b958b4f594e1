"""The town: a grid of streets around the drive of ``town_plan``, with everything that stands there.

World: x east, y north, z up, metres; the drive's south-west crossing is the origin. What the drive cannot see well is
built with less: streets are driven, entered by sight at a crossing, or only background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from metric_slam.datasets.synthetic.houses import Plot, build_house
from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.datasets.synthetic.mesh import Mesh, Rect, placement
from metric_slam.datasets.synthetic.route import STREET_WIDTH_M as W
from metric_slam.datasets.synthetic.spec import DriveSpec
from metric_slam.datasets.synthetic.town_plan import TownPlan, town_plan
from metric_slam.datasets.synthetic.town_pool import ALIKE_M, TownPool, town_pool
from metric_slam.datasets.synthetic.world import HOUSE_DEPTH_M, KERB_EDGE_M, KERB_M, PAVEMENT_M, edge_frames, lawn

T = TypeVar("T")

REACH_M = 70.0
"""How far streets go on beyond the outermost crossings."""

LAWN_REACH_M = 350.0
GRASS_M = 20.0
BACKGROUND, ENTERED, DRIVEN = 0, 1, 2
PARKED_CARS = {BACKGROUND: 0.0, ENTERED: 0.25, DRIVEN: 0.45}
STREET_TREES = {BACKGROUND: 0.0, ENTERED: 0.4, DRIVEN: 0.75}


def build_town(kit: Kit, spec: DriveSpec) -> None:
    """Add the whole town of ``spec`` to ``kit``."""
    plan = town_plan(spec)
    _Town(kit, plan, town_pool(kit, spec.alike_houses)).build()


@dataclass
class _Town:
    kit: Kit
    plan: TownPlan
    pool: TownPool

    def __post_init__(self) -> None:
        self._driven, self._passed = self.plan.streets(), set(self.plan.drive)
        # kerbs of the blocks and stubs between the streets, in x and in y
        self._spans = [
            list(zip([c[0] - W / 2 - REACH_M, *(v + W / 2 for v in c)],
                     [*(v - W / 2 for v in c), c[-1] + W / 2 + REACH_M], strict=True))
            for c in (self.plan.xs, self.plan.ys)
        ]  # fmt: skip

    def build(self) -> None:
        """Streets, crossings, blocks, and the houses that close the streets at the edge of the town."""
        plan, (spans_x, spans_y) = self.plan, self._spans
        for x in plan.xs:
            for y in plan.ys:
                self._ground((x - W / 2, y - W / 2, x + W / 2, y + W / 2), 0.0, self.pool.crossing)
            self._row(placement(x - W / 2 - 3, spans_y[-1][1] + 4, 0.0), W + 6, BACKGROUND)
            self._row(placement(x + W / 2 + 3, spans_y[0][0] - 4, np.pi), W + 6, BACKGROUND)
        for y in plan.ys:
            self._row(placement(spans_x[-1][1] + 4, y + W / 2 + 3, -np.pi / 2), W + 6, BACKGROUND)
            self._row(placement(spans_x[0][0] - 4, y - W / 2 - 3, np.pi / 2), W + 6, BACKGROUND)
        for i, (x0, x1) in enumerate(spans_x):
            for j, y in enumerate(plan.ys):
                self._street(placement(x0, y, 0.0), x1 - x0, self._level((i - 1, j), (i, j)))
        for j, (y0, y1) in enumerate(spans_y):
            for i, x in enumerate(plan.xs):
                self._street(placement(x, y0, np.pi / 2), y1 - y0, self._level((i, j - 1), (i, j)))
        for i, (x0, x1) in enumerate(spans_x):
            for j, (y0, y1) in enumerate(spans_y):
                self._block((x0, y0, x1, y1), self._edges(i, j))
        low, high = np.array([spans_x[0][0], spans_y[0][0]]), np.array([spans_x[-1][1], spans_y[-1][1]])
        lawn(self.kit, (*(low - LAWN_REACH_M), *(high + LAWN_REACH_M)))

    def _level(self, a: tuple[int, int], b: tuple[int, int]) -> int:
        """How well the drive sees the stretch between two neighbouring crossings."""
        if (a, b) in self._driven:
            return DRIVEN
        return ENTERED if a in self._passed or b in self._passed else BACKGROUND

    def _edges(self, i: int, j: int) -> dict[str, int]:
        """Sides of a block that have a street, and how well it is seen; block (i, j) is south-west of crossing i, j."""
        edges = {}
        if j > 0:
            edges["south"] = self._level((i - 1, j - 1), (i, j - 1))
        if j < len(self.plan.ys):
            edges["north"] = self._level((i - 1, j), (i, j))
        if i > 0:
            edges["west"] = self._level((i - 1, j - 1), (i - 1, j))
        if i < len(self.plan.xs):
            edges["east"] = self._level((i, j - 1), (i, j))
        return edges

    def _draw(self, pool: Sequence[T]) -> T:
        return pool[int(self.kit.rng.integers(len(pool)))]

    def _ground(
        self, area: Sequence[float], z: float, pool: Sequence[Rect], frame: np.ndarray | None = None, part: float = 1.0
    ) -> None:
        """A horizontal rectangle with a texture from ``pool``, turned and mirrored if there are several."""
        x0, y0, x1, y1 = area
        if len(pool) > 1:
            x0, x1 = (x0, x1) if self.kit.rng.random() < 0.5 or part < 1 else (x1, x0)
            y0, y1 = (y0, y1) if self.kit.rng.random() < 0.5 else (y1, y0)
        corners = np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)])
        if frame is not None:
            corners = corners @ frame[:3, :3].T + frame[:3, 3]
        self.kit.mesh.quad(corners, self._draw(pool), (1, 1, 1), (0.0, 0.0, part, 1.0))

    def _strips(self, length: float) -> list[tuple[float, float, float]]:
        """Pieces (start, end, part of the texture) of a street: stretched a little, or cut where all is alike."""
        strip = self.pool.strip_m
        if self.pool.alike_plots is None:
            ends = np.linspace(0, length, max(1, round(length / strip)) + 1)
            return [(float(a), float(b), 1.0) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        starts = np.arange(0.0, length - 0.05, strip)
        return [(float(a), float(min(a + strip, length)), float(min(1.0, (length - a) / strip))) for a in starts]

    def _street(self, frame: np.ndarray, length: float, level: int) -> None:
        """The roadway along the x axis of ``frame``, its middle line, and what stands beside it."""
        for a, b, part in self._strips(length):
            self._ground((a, -W / 2, b, W / 2), 0.0, self.pool.road, frame, part)
        if level == BACKGROUND:
            return
        (self._furnish if self.pool.alike_plots is None else self._furnish_alike)(frame, length, level)

    def _stamp(self, mesh: Mesh, frame: np.ndarray, x: float, y: float, heading: float) -> None:
        self.kit.mesh.stamp(mesh, frame @ placement(x, y, heading))

    def _furnish(self, frame: np.ndarray, length: float, level: int) -> None:
        """Parked cars, lamps, trees and signs on both sides."""
        rng = self.kit.rng
        for side in (-1, 1):
            along = 0.0 if side < 0 else np.pi
            x = float(rng.uniform(9, 13))
            while x < length - 9:
                if rng.random() < PARKED_CARS[level]:
                    lateral = side * (W / 2 - 1.12 + rng.uniform(-0.08, 0.08))
                    self._stamp(self._draw(self.pool.cars), frame, x, lateral, along + rng.normal(0, 0.015))
                x += float(rng.uniform(5.2, 6.2))
            for x in np.arange(7.0 + 6 * (side > 0) + rng.uniform(-2, 2), length - 4, 24.0):
                self._stamp(self.pool.lamp, frame, x, side * (W / 2 + 0.45), -side * np.pi / 2)
                if x + 12 < length - 8 and rng.random() < STREET_TREES[level]:
                    tree = self._draw(self.pool.trees)
                    self._stamp(tree, frame, x + 12, side * (W / 2 + 0.8), rng.uniform(0, 2 * np.pi))
            for x in (3.0, length - 5.0):
                if rng.random() < 0.7:
                    self._stamp(self._draw(self.pool.signs), frame, x, side * (W / 2 + 0.4), along)

    def _furnish_alike(self, frame: np.ndarray, length: float, level: int) -> None:
        """A lamp and a tree on both sides in every period."""
        for side in (-1, 1):
            for x in np.arange(6.0, length - 4.0, ALIKE_M):
                self._stamp(self.pool.lamp, frame, x, side * (W / 2 + 0.45), -side * np.pi / 2)
                if level == DRIVEN and x + 5 < length - 4:
                    self._stamp(self.pool.trees[0], frame, x + 5, side * (W / 2 + 0.8), 0.0)

    def _block(self, box: tuple[float, float, float, float], edges: dict[str, int]) -> None:
        """Lawn inside; kerbs, pavements and houses along the named sides."""
        x0, y0, x1, y1 = box
        z = self.kit.lawn_z(KERB_M)
        for x in np.arange(x0, x1, GRASS_M):
            for y in np.arange(y0, y1, GRASS_M):
                xe, ye = min(x + GRASS_M, x1), min(y + GRASS_M, y1)
                corners = [(x, y, z), (xe, y, z), (xe, ye, z), (x, ye, z)]
                part = (0, 0, (xe - x) / GRASS_M, (ye - y) / GRASS_M)
                self.kit.mesh.quad(corners, self.kit.rect["grass"], (1, 1, 1), part)
        for side, level in edges.items():
            frame, length = edge_frames(box)[side]
            self._pavement(frame, length)
            along_x = side in ("south", "north")
            # houses at the ends of the short sides would stand inside those of the long ones
            first = PAVEMENT_M if along_x else PAVEMENT_M + HOUSE_DEPTH_M
            if length - 2 * first > 5:
                self._row(frame @ placement(first, PAVEMENT_M, 0.0, KERB_M), length - 2 * first, level)

    def _pavement(self, frame: np.ndarray, length: float) -> None:
        pool = self.pool
        for a, b, part in self._strips(length):
            self._ground((a, KERB_EDGE_M, b, PAVEMENT_M), KERB_M, pool.paving, frame, part)
            self._ground((a, 0.0, b, KERB_EDGE_M), KERB_M, pool.kerb_top, frame, part)
            face = np.array([(a, 0, KERB_M), (b, 0, KERB_M), (b, 0, 0), (a, 0, 0)])
            face = face @ frame[:3, :3].T + frame[:3, 3]
            self.kit.mesh.quad(face, self._draw(pool.kerb_face), (0.8, 0.8, 0.8), (0.0, 0.0, part, 1.0))

    def _row(self, front: np.ndarray, length: float, level: int) -> None:
        """Houses side by side along the x axis of ``front``, now and then a gap with a hedge and a tree."""
        if self.pool.alike_plots is not None:
            for x in np.arange(0.0, length - ALIKE_M + 3.5, ALIKE_M):
                self._stamp(self.pool.alike_plots[level == DRIVEN], front, x, 0.0, 0.0)
            return
        rng, x, since_gap = self.kit.rng, 0.0, 0
        while length - x > 5.0:
            left = length - x
            if level != BACKGROUND and since_gap >= 3 and left > 14 and rng.random() < 0.4:
                self._stamp(self._draw(self.pool.hedges), front, x, 0.0, 0.0)
                x, since_gap = x + 4.2, 0
                continue
            width = float(rng.uniform(7.0, 13.5))
            width = left if left - width < 5.0 else width
            width = width / 2 if width > 16 else width
            setback = float(rng.choice([0.0, 0.0, 0.15, 0.3]))
            self._house(Plot(front @ placement(x, setback, 0.0), width, HOUSE_DEPTH_M - setback), level)
            x, since_gap = x + width, since_gap + 1

    def _house(self, plot: Plot, level: int) -> None:
        """A house that was painted for about this width, in a tint of its own."""
        rng, kinds = self.kit.rng, self.pool.houses
        nearest = int(np.searchsorted([width for width, _ in kinds], plot.width_m))
        pick = int(np.clip(nearest + rng.integers(-9, 10), 0, len(kinds) - 1))
        shade = rng.uniform(0.86, 1.04) * rng.uniform(0.94, 1.04, 3)
        build_house(self.kit, plot, kinds[pick][1], shade, details=level != BACKGROUND)
