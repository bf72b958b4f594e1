"""What all builders of the world share: random numbers, the mesh, the texture atlas and its common textures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from metric_slam.datasets.synthetic import materials
from metric_slam.datasets.synthetic.atlas import AtlasBuilder
from metric_slam.datasets.synthetic.hills import GROUND_EDGE_M, Hills
from metric_slam.datasets.synthetic.mesh import Mesh, MeshBuilder, Rect


@dataclass
class Kit:
    """Builders fill ``mesh`` and ``atlas``; ``rect`` finds the textures that many things share."""

    seed: int
    texel_m: float
    hills: Hills | None = None
    """The land that the finished mesh is lifted by (None: flat)."""

    mesh: MeshBuilder = field(default_factory=MeshBuilder)
    atlas: AtlasBuilder = field(default_factory=AtlasBuilder)
    rect: dict[str, Rect] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.hills is not None:
            self.mesh.max_edge_m = GROUND_EDGE_M
        self.rng = np.random.default_rng([self.seed, 2])
        for name, image in (
            ("plain", materials.plain(self.rng, 256, 0.02)),
            ("rough", materials.plain(self.rng, 512, 0.07)),
            ("foliage", materials.foliage(self.rng, 512)),
            ("bark", materials.bark(self.rng, 128)),
            ("tiles", materials.roof_tiles(self.rng, 512)),
            ("grass", materials.grass(self.rng, 1024)),
        ):
            self.rect[name] = self.atlas.add(image)

    @property
    def wall_texel_m(self) -> float:
        """Edge of a texel on walls, which are further away than the road."""
        return 1.3 * self.texel_m

    def lawn_z(self, ground_z: float) -> float:
        """Height of a lawn that must stay below ground at ``ground_z``."""
        if self.hills is not None:  # pieces of the two are not divided at the same places
            return ground_z - 0.06
        return 0.9 * ground_z if ground_z > 0 else -0.05

    def patch(self, name: str, size_px: int) -> Rect:
        """A random square piece of a shared texture."""
        x0, y0, x1, y1 = self.rect[name]
        x = self.rng.integers(int(x0), int(x1) - size_px + 1)
        y = self.rng.integers(int(y0), int(y1) - size_px + 1)
        return float(x), float(y), float(x + size_px), float(y + size_px)

    def apart(self, build: Callable[[], None]) -> Mesh:
        """What ``build`` adds, as a mesh of its own that can be stamped; the world's mesh stays as it is."""
        world, self.mesh = self.mesh, MeshBuilder(self.mesh.max_edge_m)
        build()
        mesh, self.mesh = self.mesh.build(), world
        return mesh
