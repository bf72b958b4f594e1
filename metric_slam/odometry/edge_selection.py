"""Which pairs of keyframes are matched."""

from __future__ import annotations

from metric_slam.config.schema import SlidingWindowConfig


def new_keyframe_pairs(position: int, config: SlidingWindowConfig) -> list[tuple[int, int]]:
    """Directed pairs, both ways, of a new keyframe with those before it beyond its direct neighbour.

    The direct neighbour is matched by tracking already.
    """
    first = max(0, position - config.radius)
    earlier = range(first, position - 1)
    return [pair for i in earlier for pair in ((i, position), (position, i))]
