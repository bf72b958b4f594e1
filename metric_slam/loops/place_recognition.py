"""Retrieval of places that look alike: one global descriptor per keyframe, compared by cosine similarity.

The descriptor is a histogram of oriented gradients (Dalal and Triggs, CVPR 2005) of a small picture: the layout of
edges in the image, which a change of brightness leaves alone. Its square root is taken (Arandjelovic and Zisserman,
CVPR 2012, do so with SIFT), which makes it tolerate a shifted view. It needs no training and distinguishes places that
a vehicle passes on the same lane; what it proposes is verified geometrically.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.checkpointable import StateTree, array_in
from metric_slam.errors import InputError


@dataclass(frozen=True)
class DescriptorLayout:
    """Sizes of the histogram of oriented gradients; chosen once, results change little with either."""

    cell_px: int = 16
    """Side of a cell of the small picture, pixels."""

    long_side_px: int = 192
    """Longer side of the small picture, pixels."""

    orientations: int = 8
    """Bins of the gradient's direction over 180 degrees."""

    gradient_floor: float = 10.0
    """Gradient of a block, grey levels, below which it counts for less."""

    distinct: int = 10
    """Keyframes that are fewer positions apart show the same place."""


@dataclass(frozen=True)
class Place:
    """A keyframe that resembles the query."""

    position: int
    similarity: float
    """Cosine of the angle between the descriptors, at most 1."""


class PlaceIndex:
    """Descriptors of keyframes in the order of the video; one matrix product answers a query."""

    def __init__(self, layout: DescriptorLayout | None = None) -> None:
        self._layout = layout or DescriptorLayout()
        self._matrix = np.zeros((0, 0), np.float32)  # rows beyond the number of positions are spare
        self._positions: list[int] = []

    def __len__(self) -> int:
        return len(self._positions)

    def add(self, position: int, image: np.ndarray) -> None:
        """Add a keyframe, uint8 [H, W, 3] RGB; positions must grow, and all images have one size."""
        if self._positions and position <= self._positions[-1]:
            raise InputError(f"position {position} must be greater than {self._positions[-1]}, the last one added")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(f"image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        self._append(position, self._describe(image))

    def query(self, position: int, *, exclude_after: int, count: int) -> list[Place]:
        """Up to ``count`` distinct places among the keyframes up to ``exclude_after``.

        Those most similar to keyframe ``position`` come first.
        """
        among = int(np.searchsorted(self._positions, exclude_after, side="right"))
        if among == 0:
            return []
        similarity = self._matrix[:among] @ self._descriptor(position)
        places: list[Place] = []
        for row in np.argsort(-similarity, kind="stable").tolist():
            if len(places) == count:
                break
            candidate = self._positions[row]
            if all(abs(candidate - place.position) >= self._layout.distinct for place in places):
                places.append(Place(candidate, float(similarity[row])))
        return places

    def most_alike(self, position: int, among: np.ndarray, *, count: int, apart: int) -> list[int]:
        """Up to ``count`` of the keyframes ``among`` [M] that are most similar to keyframe ``position``.

        They are at least ``apart`` positions from each other, the most similar first; positions that were never added
        are skipped.
        """
        among = np.intersect1d(among, self._positions)
        rows = np.searchsorted(self._positions, among)
        similarity = self._matrix[rows] @ self._descriptor(position)
        chosen: list[int] = []
        for other in among[np.argsort(-similarity, kind="stable")].tolist():
            if len(chosen) < count and all(abs(other - one) >= apart for one in chosen):
                chosen.append(other)
        return chosen

    def _descriptor(self, position: int) -> np.ndarray:
        row = int(np.searchsorted(self._positions, position))
        if row == len(self._positions) or self._positions[row] != position:
            raise InputError(f"position {position} was never added to the place index")
        return self._matrix[row]

    def _append(self, position: int, descriptor: np.ndarray) -> None:
        count, length = len(self._positions), len(descriptor)
        if count and self._matrix.shape[1] != length:
            raise InputError("image must have the size of the images added before")
        if count == len(self._matrix):  # doubling keeps the copies linear in the number of keyframes
            grown = np.zeros((max(64, 2 * count), length), np.float32)
            grown[:count] = self._matrix.reshape(count, length)
            self._matrix = grown
        self._matrix[count] = descriptor
        self._positions.append(position)

    def _describe(self, image: np.ndarray) -> np.ndarray:
        """Unit vector, float32 [D]."""
        layout = self._layout
        height, width = image.shape[:2]
        shrink = layout.long_side_px / max(height, width)
        columns, rows = (max(2, round(side * shrink / layout.cell_px)) for side in (width, height))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (columns * layout.cell_px, rows * layout.cell_px), interpolation=cv2.INTER_AREA)
        gx, gy = (cv2.Sobel(grey, cv2.CV_32F, *axes, ksize=3) for axes in ((1, 0), (0, 1)))
        length, bins = cv2.magnitude(gx, gy), layout.orientations
        turn = np.mod(cv2.phase(gx, gy), np.pi) * (bins / np.pi)  # light on dark is as good as dark on light
        shares = [np.maximum(1.0 - np.minimum(np.abs(turn - k), bins - np.abs(turn - k)), 0.0) for k in range(bins)]
        cells = np.stack(
            [cv2.resize(share * length, (columns, rows), interpolation=cv2.INTER_AREA) for share in shares], axis=-1
        )
        # each block of 2 x 2 cells is normalised on its own: a shadow changes its part of the image alone
        blocks = np.concatenate([cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]], axis=-1)
        blocks /= np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + layout.gradient_floor**2)
        # roots: one strong edge, which lies in another block from a metre aside, must not outweigh all others
        descriptor = np.sqrt(blocks).reshape(-1).astype(np.float32)
        descriptor -= descriptor.mean()
        return descriptor / max(float(np.linalg.norm(descriptor)), 1e-9)

    def state(self) -> dict[str, np.ndarray]:
        """Positions and descriptors as arrays, for a checkpoint."""
        return {
            "positions": np.array(self._positions, np.int64),
            "descriptors": self._matrix[: len(self._positions)].copy(),
        }

    def restore(self, state: StateTree) -> None:
        """Replace the index by a :meth:`state`."""
        self._positions = array_in(state, "positions").tolist()
        self._matrix = np.array(array_in(state, "descriptors"), np.float32)
