"""Counts the keyframes that agree with the inverse depth of each cell of the finished map.

Every keyframe has its own inverse depths, from its own matches, so that agreement of two views is evidence of a
surface. Compared are keyframes that share edges, a piece of the drive at a time, which bounds the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metric_slam.graph.slam_map import SlamMap

MAX_RELATIVE_ERROR = 0.05
"""Depths that differ by less than about this share agree; see
:func:`metric_slam.optimization.view_consistency.count_views_relative`."""

_PIECE = 100  # keyframes that are counted together
_MOST = np.iinfo(np.uint8).max


def consistent_views(slam_map: SlamMap, confidence: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Count the keyframes that agree with each cell, uint8 [h, w] for every keyframe.

    ``confidence`` [h, w] of all keyframes: cells with confidence 0 are guesses and take no part.
    """
    found: list[np.ndarray] = []
    for begin in range(0, len(slam_map), _PIECE):
        found += _of_piece(slam_map, confidence, range(begin, min(begin + _PIECE, len(slam_map))))
    return found


def _of_piece(slam_map: SlamMap, confidence: Sequence[np.ndarray], piece: range) -> list[np.ndarray]:
    pairs = [(i, j) for i in piece for j in slam_map.graph.targets_of(i)]
    positions = [*piece, *sorted({j for _, j in pairs} - set(piece))]
    place = {position: n for n, position in enumerate(positions)}
    known = np.stack([confidence[i] > 0 for i in positions])
    count = slam_map.solver.count_consistent_views(
        slam_map.pose_vectors(positions),
        np.where(known, slam_map.stacked_on_host("inv_depth", positions), 0.0),
        slam_map.camera.grid().vector(),
        np.arange(len(piece)),
        np.array([(place[i], place[j]) for i, j in pairs], np.int64).reshape(-1, 2),
        MAX_RELATIVE_ERROR,
    )
    return list(np.minimum(count, _MOST).astype(np.uint8))
