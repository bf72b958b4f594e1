"""The protocol of dense matching: where does every grid cell of one image lie in another, and how sure is that?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from metric_slam.geometry.camera import PinholeCamera


@dataclass(frozen=True)
class Correspondence:
    """Targets of the cells of one directed edge, on the 1/8 grid."""

    target: np.ndarray
    """Where each source cell lies in the target image, grid cells (x, y), float64 [h, w, 2]."""

    confidence: np.ndarray
    """0..1 per cell, float64 [h, w]; 0 where the match must not be used."""

    depth_damping: np.ndarray | None = None
    """Damping of the source's inverse depths, float64 [h, w], from models that predict it."""


@dataclass(frozen=True)
class EdgeQuery:
    """One directed edge to be matched."""

    source: Any
    """Features of the source image, as the model's ``encode`` returned them."""

    target: Any
    """Features of the target image."""

    predicted: np.ndarray | None = None
    """Present reprojection of the source cells, grid cells, float64 [h, w, 2]: the model refines it. None: unknown."""

    neighbours: bool = True
    """Do the two keyframes follow each other? Their flow decides the scale and deserves the finest work; wider pairs
    steady rotation, for which coarser flow will do."""


class CorrespondenceModel(Protocol):
    """Dense matching; features are opaque to everyone but the model itself."""

    name: str

    def encode(self, image: np.ndarray, camera: PinholeCamera) -> Any:
        """Features of one working-resolution image, uint8 [H, W, 3] RGB."""
        ...

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """Match directed edges, in the given order. An edge and its reverse in one call may share work."""
        ...
