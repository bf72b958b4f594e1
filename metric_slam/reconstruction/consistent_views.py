"""How many other keyframes confirm the inverse depth of each cell of the finished map.

Every keyframe has its own inverse depths, from its own matches; where two views of a surface agree, it is there. Asked
are the keyframes with which one shares edges, a piece of the drive at a time, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.optimization.view_consistency import count_views_relative

MAX_RELATIVE_ERROR = 0.05
"""Depths that differ by less than about this share agree; see :func:`count_views_relative`."""

_PIECE = 100  # keyframes that are counted together
_MOST = np.iinfo(np.uint8).max


def consistent_views(store: KeyframeStore, graph: FactorGraph, confidence: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Number of keyframes that confirm each cell, uint8 [h, w] for every keyframe.

    ``confidence`` [h, w] of all keyframes: a cell without any is a guess, which confirms nothing and is not confirmed.
    """
    found: list[np.ndarray] = []
    for begin in range(0, len(store), _PIECE):
        found += _of_piece(store, graph, confidence, range(begin, min(begin + _PIECE, len(store))))
    return found


def _of_piece(
    store: KeyframeStore, graph: FactorGraph, confidence: Sequence[np.ndarray], piece: range
) -> list[np.ndarray]:
    pairs = [(i, j) for i in piece for j in graph.targets_of(i)]
    positions = [*piece, *sorted({j for _, j in pairs} - set(piece))]
    place = {position: n for n, position in enumerate(positions)}
    known = np.stack([confidence[i] > 0 for i in positions])
    count = count_views_relative(
        np.array([store[i].pose for i in positions]),
        np.where(known, store.stacked("inv_depth", positions), 0.0),
        store.camera.grid().vector(),
        np.arange(len(piece)),
        np.array([place[i] for i, _ in pairs], np.int64),
        np.array([place[j] for _, j in pairs], np.int64),
        MAX_RELATIVE_ERROR,
        accelerator=graph.accelerator,
    )
    return list(np.minimum(count, _MOST).astype(np.uint8))
