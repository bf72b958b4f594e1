"""What all builders of the world share: random numbers, the mesh, the texture atlas and its common textures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from metric_slam.datasets.synthetic import materials
from metric_slam.datasets.synthetic.atlas import AtlasBuilder
from metric_slam.datasets.synthetic.mesh import MeshBuilder, Rect


@dataclass
class Kit:
    """Builders fill ``mesh`` and ``atlas``; ``rect`` finds the textures that many things share."""

    seed: int
    texel_m: float
    mesh: MeshBuilder = field(default_factory=MeshBuilder)
    atlas: AtlasBuilder = field(default_factory=AtlasBuilder)
    rect: dict[str, Rect] = field(default_factory=dict)

    def __post_init__(self) -> None:
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

    def patch(self, name: str, size_px: int) -> Rect:
        """A random square piece of a shared texture."""
        x0, y0, x1, y1 = self.rect[name]
        x = self.rng.integers(x0, x1 - size_px + 1)
        y = self.rng.integers(y0, y1 - size_px + 1)
        return float(x), float(y), float(x + size_px), float(y + size_px)
