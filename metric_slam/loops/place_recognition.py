"""Places that look alike: a global descriptor of every keyframe in a faiss index.

The descriptor is a histogram of oriented gradients (Dalal and Triggs, CVPR 2005) of a small picture: the layout of
edges in the image, which a change of brightness leaves alone. Its square root is taken (Arandjelovic and Zisserman,
CVPR 2012, do so with SIFT), which makes it forgive a shifted view. It needs no training and tells places apart that a
vehicle passes on the same lane; what it proposes is verified geometrically.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import cv2
import numpy as np

from metric_slam.errors import MissingDependencyError

_CELL_PX = 16
_LONG_SIDE_PX = 192
_ORIENTATIONS = 8
_FLOOR = 10.0
"""Gradient of a block, grey levels, below which it counts for less."""

_DISTINCT = 10
"""Keyframes nearer to each other on the way show the same place."""


@dataclass(frozen=True)
class Place:
    """A keyframe that looks like the one asked for."""

    position: int
    similarity: float
    """Cosine of the angle between the descriptors, at most 1."""


class PlaceIndex:
    """Descriptors of keyframes, in the order of the video."""

    def __init__(self) -> None:
        self._faiss = _faiss()
        self._index = None
        self._positions: list[int] = []

    def add(self, position: int, image: np.ndarray) -> None:
        """Takes in a keyframe, uint8 [H, W, 3] RGB; positions grow."""
        assert not self._positions or position > self._positions[-1], (position, self._positions[-1:])
        self._append(position, self._described(image))

    def query(self, position: int, *, exclude_after: int, count: int) -> list[Place]:
        """Up to ``count`` distinct places among keyframes up to ``exclude_after`` that look like keyframe ``position``,
        the most alike first."""
        among = int(np.searchsorted(self._positions, exclude_after, side="right"))
        if self._index is None or among == 0:
            return []
        descriptor = self._descriptor(position)
        allowed = self._faiss.SearchParameters(sel=self._faiss.IDSelectorRange(0, among))
        similarity, rows = self._index.search(descriptor[None], min(among, count * 2 * _DISTINCT), params=allowed)
        places: list[Place] = []
        for value, row in zip(similarity[0].tolist(), rows[0].tolist(), strict=True):
            if row < 0 or len(places) == count:
                break
            candidate = self._positions[row]
            if all(abs(candidate - place.position) >= _DISTINCT for place in places):
                places.append(Place(candidate, value))
        return places

    def most_alike(self, position: int, among: np.ndarray, *, count: int, apart: int) -> list[int]:
        """Up to ``count`` of the keyframes ``among`` [M] that look most like keyframe ``position``, at least ``apart``
        positions from each other, the most alike first."""
        asked = self._descriptor(position)
        similarity = np.array([float(self._descriptor(other) @ asked) for other in among.tolist()])
        chosen: list[int] = []
        for other in among[np.argsort(-similarity, kind="stable")].tolist():
            if len(chosen) < count and all(abs(other - one) >= apart for one in chosen):
                chosen.append(other)
        return chosen

    def _descriptor(self, position: int) -> np.ndarray:
        assert self._index is not None, position
        return self._index.reconstruct(int(np.searchsorted(self._positions, position)))

    def _append(self, position: int, descriptor: np.ndarray) -> None:
        if self._index is None:
            self._index = self._faiss.IndexFlatIP(len(descriptor))
        self._index.add(descriptor[None])
        self._positions.append(position)

    def _described(self, image: np.ndarray) -> np.ndarray:
        """Unit vector, float32 [D]."""
        height, width = image.shape[:2]
        shrink = _LONG_SIDE_PX / max(height, width)
        columns, rows = (max(2, round(side * shrink / _CELL_PX)) for side in (width, height))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (columns * _CELL_PX, rows * _CELL_PX), interpolation=cv2.INTER_AREA)
        gx, gy = (cv2.Sobel(grey, cv2.CV_32F, *axes, ksize=3) for axes in ((1, 0), (0, 1)))
        length = cv2.magnitude(gx, gy)
        turn = np.mod(cv2.phase(gx, gy), np.pi) * (_ORIENTATIONS / np.pi)  # light on dark is as good as dark on light
        bins = [
            np.maximum(1.0 - np.minimum(np.abs(turn - k), _ORIENTATIONS - np.abs(turn - k)), 0.0) * length
            for k in range(_ORIENTATIONS)
        ]
        cells = np.stack([cv2.resize(b, (columns, rows), interpolation=cv2.INTER_AREA) for b in bins], axis=-1)
        # each block of 2 x 2 cells is normalised on its own: a shadow changes its part of the image alone
        blocks = np.concatenate([cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]], axis=-1)
        blocks /= np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + _FLOOR**2)
        # roots: one strong edge, which lies in another block from a metre aside, must not outweigh all others
        descriptor = np.sqrt(blocks).reshape(-1).astype(np.float32)
        descriptor -= descriptor.mean()
        return descriptor / max(float(np.linalg.norm(descriptor)), 1e-9)

    def state(self) -> dict[str, np.ndarray]:
        """As plain arrays, for a checkpoint."""
        n = len(self._positions)
        descriptors = self._index.reconstruct_n(0, n) if n else np.zeros((0, 0), np.float32)
        return {"positions": np.array(self._positions, np.int64), "descriptors": descriptors}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over a :meth:`state`."""
        for position, descriptor in zip(state["positions"].tolist(), state["descriptors"], strict=True):
            self._append(position, descriptor)


def _faiss() -> ModuleType:
    """The one door to faiss."""
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        raise MissingDependencyError(f"loop closure needs faiss ({error}): `pip install faiss-cpu`") from error
    faiss.omp_set_num_threads(1)
    return faiss
