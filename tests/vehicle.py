"""A vehicle in the world of tests/scene.py: a block of cells in exact matches, a textured rectangle in images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from metric_slam.correspondence.base import Correspondence, EdgeQuery
from tests.scene import ExactMatching, Street

_TEXTURE_PX = 150


@dataclass(frozen=True)
class Block:
    """Cells top..bottom-1, left..right-1 of the grid, which show a vehicle."""

    top: int
    bottom: int
    left: int
    right: int

    def mask(self, shape: tuple[int, ...]) -> np.ndarray:
        """Bool [h, w]."""
        found = np.zeros(shape[:2], bool)
        found[self.top : self.bottom, self.left : self.right] = True
        return found

    def held(self, match: Correspondence, moved: tuple[float, float] = (0.0, 0.0)) -> Correspondence:
        """The match where the block's cells lie ``moved`` (x, y) cells from where they are."""
        here = self.mask(match.target.shape)
        return replace(
            match,
            target=np.where(here[..., None], cells(match.target.shape) + moved, match.target),
            confidence=np.where(here, 1.0, match.confidence),
        )


def grown(mask: np.ndarray) -> np.ndarray:
    """The mask bool [h, w] with a margin of one cell."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def cells(shape: tuple[int, ...]) -> np.ndarray:
    """Position (x, y) of every cell, float64 [h, w, 2]."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float64)
    return np.stack([x, y], axis=-1)


class Convoy(ExactMatching):
    """Exact matches with a vehicle ahead that keeps its distance: it stays where it is in every image."""

    def __init__(self, street: Street, block: Block) -> None:
        super().__init__(street)
        self._block = block

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """As of the street; what the vehicle hides in the target is not seen."""
        return [self._hidden(match) for match in super().track(edges)]

    def _hidden(self, match: Correspondence) -> Correspondence:
        here = self._block.mask(match.target.shape)
        h, w = here.shape
        x, y = (np.rint(match.target[..., k]).astype(int) for k in (0, 1))
        inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        behind = inside & here[np.where(inside, y, 0), np.where(inside, x, 0)]
        return self._block.held(replace(match, confidence=np.where(behind, 0.0, match.confidence)))


def painted(image: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The image uint8 [H, W, 3] with a textured rectangle, in pixels; the texture moves and grows with it."""
    v, u = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float64)
    x, y = (((c - first) * _TEXTURE_PX / (right - left)).astype(np.float32) for c, first in ((u, left), (v, top)))
    grey = cv2.remap(_texture(), x, y, cv2.INTER_LINEAR)
    inside = (u >= left) & (u < right) & (v >= top) & (v < bottom)
    return np.where(inside[..., None], np.rint(grey)[..., None], image).astype(np.uint8)


def _texture() -> np.ndarray:
    noise = np.random.default_rng(5).uniform(0, 255, (400, 600)).astype(np.float32)
    return np.clip(3.0 * (cv2.GaussianBlur(noise, (0, 0), 1.5) - 127.0) + 127.0, 0, 255)
