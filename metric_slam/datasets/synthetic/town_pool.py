"""What the town is made of many times: stretches of ground, painted houses, trees and cars.

A town of several kilometres must fit into memory, so that a bounded number of each is made and used again and again:
in random order, turned and mirrored, in other tints and beside other neighbours, which keeps places distinct.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.datasets.synthetic import materials
from metric_slam.datasets.synthetic.houses import HouseKind, Plot, build_house, paint_house
from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.datasets.synthetic.mesh import Mesh, Rect, placement
from metric_slam.datasets.synthetic.route import STREET_WIDTH_M
from metric_slam.datasets.synthetic.street_things import add_car, add_hedge, add_lamp, add_sign, add_tree
from metric_slam.datasets.synthetic.world import HOUSE_DEPTH_M, KERB_EDGE_M, KERB_M, PAVEMENT_M

STRIP_M = 22.5
"""Length of a piece of road: three periods of its dashes."""

DASH_PHASE_M = 5.25
"""Puts the middle of a dash into the middle of a strip, which may then be turned around."""

ALIKE_M = 12.0
"""Period of the town that looks alike everywhere."""

SEAM_M = 1.5
_STRIPS, _CROSSINGS, _PAVINGS, _HOUSES, _TREES, _CARS, _SIGNS, _HEDGES = 48, 8, 20, 180, 16, 40, 6, 8


@dataclass(frozen=True)
class TownPool:
    """Textures (rectangles of the atlas) and meshes (standing at the origin) to draw from."""

    strip_m: float
    """Length that a piece of road or pavement is painted for."""

    road: list[Rect]
    crossing: list[Rect]
    paving: list[Rect]
    kerb_top: list[Rect]
    kerb_face: list[Rect]
    houses: list[tuple[float, HouseKind]]
    """Widths in metres, ascending, and what is painted for them; empty where all are alike."""

    trees: list[Mesh]
    cars: list[Mesh]
    signs: list[Mesh]
    hedges: list[Mesh]
    """4.2 m of hedge from the origin along x, and a tree behind."""

    lamp: Mesh
    """Its arm points along x."""

    alike_plots: tuple[Mesh, Mesh] | None = None
    """The house of the town that looks alike, on 12 m of the x axis, without and with the hedge beside it."""


def town_pool(kit: Kit, alike: bool) -> TownPool:
    """Paint and build everything that the town is put together from; ``alike``: the least of each."""
    rng, texel = kit.rng, kit.texel_m
    strip_m = ALIKE_M if alike else STRIP_M

    def painted(count: int, paint: str, width_m: float, texel_m: float) -> list[Rect]:
        images = (getattr(materials, paint)(rng, strip_m, width_m, texel_m) for _ in range(1 if alike else count))
        return [kit.atlas.add(image) for image in images]

    road: list[Rect]
    if alike:
        road = [kit.atlas.add(materials.even_asphalt(rng, strip_m, STREET_WIDTH_M, texel)) for _ in range(_STRIPS)]
    else:
        road = [kit.atlas.add(_road_strip(rng, texel)) for _ in range(_STRIPS)]
    count, side_m = 1 if alike else _CROSSINGS, STREET_WIDTH_M
    crossings = [materials.asphalt(rng, side_m, side_m, texel, False, "none") for _ in range(count)]
    return TownPool(
        strip_m,
        road,
        [kit.atlas.add(image) for image in crossings],
        painted(_PAVINGS, "paving", PAVEMENT_M - KERB_EDGE_M, 1.25 * texel),
        painted(_PAVINGS, "kerbstone", KERB_EDGE_M, 1.25 * texel),
        painted(_PAVINGS, "kerbstone", KERB_M, 1.25 * texel),
        [] if alike else _house_kinds(kit),
        _meshes(kit, 1 if alike else _TREES, lambda: add_tree(kit, 0.0, 0.0, float(rng.uniform(4.6, 6.4)))),
        [] if alike else _meshes(kit, _CARS, lambda: add_car(kit, 0.0, 0.0, 0.0)),
        _meshes(kit, 1 if alike else _SIGNS, lambda: add_sign(kit, 0.0, 0.0, 0.0)),
        _meshes(kit, 1 if alike else _HEDGES, lambda: _hedge(kit)),
        kit.apart(lambda: add_lamp(kit, 0.0, 0.0, 0.0)),
        _alike_plots(kit) if alike else None,
    )


def _meshes(kit: Kit, count: int, build: Callable[[], None]) -> list[Mesh]:
    return [kit.apart(build) for _ in range(count)]


def _road_strip(rng: np.random.Generator, texel_m: float) -> np.ndarray:
    """A piece of road whose brightness at both ends is that of every other piece, so that no seam is seen."""
    image = materials.asphalt(rng, STRIP_M, STREET_WIDTH_M, texel_m, True, "town", DASH_PHASE_M)
    grey = image.mean(axis=2).astype(np.float32)
    sigma = 0.4 / texel_m
    local = cv2.GaussianBlur(grey, (0, 0), sigma)
    profile = cv2.GaussianBlur(np.median(grey, axis=1, keepdims=True), (1, 0), 1, sigmaY=sigma)
    along_m = (np.arange(grey.shape[1]) + 0.5) * texel_m
    near_end = np.exp(-((np.minimum(along_m, STRIP_M - along_m) / SEAM_M) ** 2))
    factor = 1 + near_end * (np.clip(profile * (85.0 / profile.mean()) / local, 0.7, 1.4) - 1)
    return np.clip(image * factor[..., None] + 0.5, 0, 255).astype(np.uint8)


def _house_kinds(kit: Kit) -> list[tuple[float, HouseKind]]:
    widths = np.linspace(6.0, 14.0, _HOUSES)
    return [(float(width), paint_house(kit, float(width), HOUSE_DEPTH_M)) for width in widths]


def _hedge(kit: Kit) -> None:
    add_hedge(kit, (0.1, 0.4), (4.1, 0.4), float(kit.rng.uniform(1.2, 1.8)), 0.6)
    add_tree(kit, 2.1, 4.0, float(kit.rng.uniform(6.0, 9.0)))


def _alike_plots(kit: Kit) -> tuple[Mesh, Mesh]:
    width = ALIKE_M - 3.5
    house = kit.apart(lambda: build_house(
        kit, Plot(placement(0.0, 0.0, 0.0), width, HOUSE_DEPTH_M), paint_house(kit, width, HOUSE_DEPTH_M)
    ))  # fmt: skip

    def with_hedge() -> None:
        kit.mesh.stamp(house, np.eye(4))
        add_hedge(kit, (width + 0.1, 0.4), (ALIKE_M - 0.1, 0.4), 1.5, 0.6)

    return house, kit.apart(with_hedge)
