"""From parameters to the world: which builder makes which route's surroundings."""

from __future__ import annotations

from metric_slam.datasets.synthetic.hills import Hills
from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.datasets.synthetic.spec import DriveSpec
from metric_slam.datasets.synthetic.town import build_town
from metric_slam.datasets.synthetic.world import build_block, build_street

BUILDERS = {"block": build_block, "street": build_street, "town": build_town}


def build_world(spec: DriveSpec) -> Kit:
    """Mesh and textures of everything that the drive of ``spec`` can see."""
    kit = Kit(spec.seed, spec.texel_m, Hills.of(spec) if spec.hills_m else None)
    BUILDERS[spec.route](kit, spec)
    return kit
