"""Which keyframes share edges where a recurrent network refines them: neighbours, and those near in flow.

The rules are those of DROID-SLAM (factor_graph.py, ``add_neighborhood_factors`` and ``add_proximity_factors``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

Pair = tuple[int, int]

_BEYOND_CELLS = 100.0  # never an edge, whatever the threshold


@dataclass(frozen=True)
class ProximityRule:
    """How edges are chosen among keyframes that are near each other."""

    radius: int
    """Pairs up to one keyframe farther than this are taken in any case; candidates lie at least this far apart."""

    suppression: int
    """An edge keeps others away whose ends differ from its own by this many keyframes together."""

    threshold_cells: float
    """Largest distance of an edge, in flow."""

    max_edges: int
    """No more are added once there are so many."""


def neighbourhood(begin: int, end: int, radius: int) -> list[Pair]:
    """All directed pairs of keyframes begin..end-1 that are at most ``radius`` apart."""
    members = range(begin, end)
    return [(i, j) for i in members for j in members if 0 < abs(i - j) <= radius]


def candidates(sources: range, targets: range, radius: int) -> np.ndarray:
    """Pairs whose distance decides, int64 [P, 2]: the target comes at least ``radius`` before the source."""
    i, j = np.meshgrid(np.arange(sources.start, sources.stop), np.arange(targets.start, targets.stop), indexing="ij")
    return np.column_stack([i.ravel(), j.ravel()])[(i - radius >= j).ravel()]


def proximity(
    sources: range,
    targets: range,
    pairs: np.ndarray,
    distance_cells: np.ndarray,
    there: Iterable[Pair],
    rule: ProximityRule,
) -> list[Pair]:
    """Directed pairs to be added, both ways each, the nearest first.

    ``pairs`` are the :func:`candidates` with their distances [P]; ``there`` the edges that exist already: around them
    nothing is added. Neighbours are part of the answer, whether they exist or not.
    """
    distance = {(int(i), int(j)): float(d) for (i, j), d in zip(pairs, distance_cells, strict=True)}
    open_pairs = {pair for pair, d in distance.items() if d <= min(rule.threshold_cells, _BEYOND_CELLS)}
    for pair in there:
        open_pairs -= _around(pair, rule.suppression)
    chosen: list[Pair] = []
    for i in sources:
        for j in range(max(i - rule.radius - 1, targets.start), i):
            chosen += [(i, j), (j, i)]
            open_pairs.discard((i, j))
    for pair in sorted(open_pairs, key=lambda p: (distance[p], p)):
        if pair not in open_pairs:
            continue
        if len(chosen) > rule.max_edges:
            break
        chosen += [pair, pair[::-1]]
        open_pairs -= _around(pair, rule.suppression)
    return chosen


def _around(pair: Pair, suppression: int) -> set[Pair]:
    """Pairs that an edge makes superfluous; the fewer, the nearer its own ends are to each other."""
    i, j = pair
    reach = max(min(abs(i - j) - 2, suppression), 0)
    steps = range(-reach, reach + 1)
    return {(i + di, j + dj) for di in steps for dj in steps if abs(di) + abs(dj) <= reach}
