"""Measured metric distances between keyframes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from metric_slam.checkpointable import StateTree, array_in


@dataclass(frozen=True)
class BaselineFactor:
    """A measured metric distance between two keyframes."""

    source: int
    target: int
    length_m: float
    sigma: float
    """Standard deviation of log(length)."""


class BaselineSet:
    """Baseline factors by source and target."""

    def __init__(self) -> None:
        self._factors: dict[int, dict[int, BaselineFactor]] = defaultdict(dict)

    def __iter__(self) -> Iterator[BaselineFactor]:
        return (factor for leaving in self._factors.values() for factor in leaving.values())

    def leaving(self, source: int) -> Iterator[BaselineFactor]:
        """Factors that start at a keyframe."""
        return iter(self._factors.get(source, {}).values())

    def set(self, factor: BaselineFactor) -> None:
        """Add the measurement of a pair, or replace it."""
        self._factors[factor.source][factor.target] = factor

    def remove(self, source: int, target: int) -> None:
        """Withdraw the measurement of a pair."""
        del self._factors[source][target]

    def remove_keyframe(self, position: int) -> None:
        """Remove the measurements of a keyframe; the numbers of later keyframes decrease by one."""
        factors = list(self)
        self._factors = defaultdict(dict)
        for factor in factors:
            if position not in (factor.source, factor.target):
                source, target = (end - (end > position) for end in (factor.source, factor.target))
                self.set(replace(factor, source=source, target=target))

    def state(self) -> StateTree:
        """Arrays for a checkpoint."""
        return {
            "pairs": np.array([(b.source, b.target) for b in self], np.int64).reshape(-1, 2),
            "values": np.array([(b.length_m, b.sigma) for b in self]).reshape(-1, 2),
        }

    def restore(self, state: StateTree) -> None:
        """Replace everything by what :meth:`state` returned."""
        for (i, j), (length_m, sigma) in zip(array_in(state, "pairs"), array_in(state, "values"), strict=True):
            self.set(BaselineFactor(int(i), int(j), float(length_m), float(sigma)))
