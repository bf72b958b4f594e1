"""The plan of the town: a grid of streets, and a drive over its crossings that comes back as often as it is asked to.

World: x east, y north, metres. Crossings are pairs (column, row); a drive is the list of crossings that it passes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from metric_slam.datasets.synthetic.spec import FIRST_LOOP_M, DriveSpec
from metric_slam.errors import ConfigError

Crossing = tuple[int, int]
Street = tuple[Crossing, Crossing]
"""A stretch between neighbouring crossings, in the direction of the drive."""

PITCH_X_M, PITCH_Y_M = (84.0, 124.0), (80.0, 110.0)
"""Range of the distances between streets."""

START_M = 20.0
"""How far behind its first crossing the drive begins."""

SPARE_M = 90.0
"""How far the plan goes on behind the drive's end, for the cars ahead."""

LAST_RETURN_M = 120.0
"""The last return begins so far from the end, for a whole street."""

DETOUR_M = 150.0
"""Least way between the end of a street's first drive and its return; most returns are drawn to be much longer."""

TURN_SAVES_M = 4.5
"""By how much the arc of a turn is shorter than its corner."""

_ATTEMPTS, _STEPS = 150, 20_000
_DEMANDING_ATTEMPTS = 30
_MOST_STREETS_AGAIN = 2


@dataclass(frozen=True)
class TownPlan:
    """Middle lines of the streets (``xs`` of those to the north, ``ys`` of those to the east) and the drive."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    drive: tuple[Crossing, ...]

    def place(self, crossing: Crossing) -> np.ndarray:
        """Middle of a crossing, [2]."""
        return np.array([self.xs[crossing[0]], self.ys[crossing[1]]])

    def streets(self) -> set[Street]:
        """The driven stretches, each once, in the direction of growing column or row."""
        return {(min(a, b), max(a, b)) for a, b in zip(self.drive[:-1], self.drive[1:], strict=True)}


@lru_cache(maxsize=16)
def town_plan(spec: DriveSpec) -> TownPlan:
    """The town of ``spec`` and the drive through it. Raises ConfigError if no such drive is found."""
    rng = np.random.default_rng([spec.seed, 4])
    streets = (spec.length_m + SPARE_M) / np.mean([PITCH_X_M, PITCH_Y_M])
    size = max(4, int(np.ceil(np.sqrt(0.75 * streets))) + 1)
    for attempt in range(_ATTEMPTS):
        xs, ys = (np.cumsum(rng.uniform(*pitch, size)) for pitch in (PITCH_X_M, PITCH_Y_M))
        drive = _Search(spec, xs, ys, rng, demanding=attempt < _DEMANDING_ATTEMPTS).find()
        if drive is not None:
            return _cropped(xs, ys, drive)
    raise ConfigError(f"no drive of {spec.length_m:g} m with {spec.loops} loops was found: make it longer")


def _cropped(xs: np.ndarray, ys: np.ndarray, drive: list[Crossing]) -> TownPlan:
    """The same without the streets that the drive never meets; the town's south-west crossing is (0, 0) m."""
    low, high = np.min(drive, axis=0), np.max(drive, axis=0) + 1
    xs, ys = (c[a:b] - c[a] for c, a, b in zip((xs, ys), low, high, strict=True))
    crossings = tuple((int(i - low[0]), int(j - low[1])) for i, j in drive)
    return TownPlan(tuple(map(float, xs)), tuple(map(float, ys)), crossings)


@dataclass
class _Search:
    """Depth-first search with random choices. Streets are new, but for one return in each of ``loops`` spans of way."""

    spec: DriveSpec
    xs: np.ndarray
    ys: np.ndarray
    rng: np.random.Generator
    demanding: bool
    """Whether returns have to come after long detours, which are drawn at random."""

    walk: list[Crossing] = field(default_factory=list)
    first_end_m: dict[Street, float] = field(default_factory=dict)  # street -> where its first drive ended
    steps: int = 0

    def __post_init__(self) -> None:
        self._detours_m = [
            self.rng.uniform(DETOUR_M, max(DETOUR_M, 0.8 * self._span(k)[0])) if self.demanding else DETOUR_M
            for k in range(self.spec.loops)
        ]

    def find(self) -> list[Crossing] | None:
        """The crossings of a drive; None if the search was given up."""
        self.walk = [(int(self.rng.integers(len(self.xs))), int(self.rng.integers(len(self.ys))))]
        return self.walk if self._extend(-START_M, 0, 0) else None

    def _span(self, number: int) -> tuple[float, float]:
        """Way between which the return ``number`` (from 0) must begin."""
        last = self.spec.length_m - LAST_RETURN_M
        width = (last - FIRST_LOOP_M) / max(self.spec.loops, 1)
        return FIRST_LOOP_M + number * width, FIRST_LOOP_M + (number + 1) * width

    def _extend(self, length_m: float, returns: int, again: int) -> bool:
        """Go on from the end of the walk; ``again``: how many streets in a row, up to now, were driven before."""
        if length_m > self.spec.length_m + SPARE_M:
            return returns == self.spec.loops
        self.steps += 1
        missing = returns < self.spec.loops
        if self.steps > _STEPS or (missing and length_m > self._span(returns)[1]):
            return False
        here = self.walk[-1]
        moves = [(here[0] + dx, here[1] + dy) for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        return any(
            self._step((here, moves[k]), length_m, returns, again)
            for k in self.rng.permutation(4)
            if 0 <= moves[k][0] < len(self.xs) and 0 <= moves[k][1] < len(self.ys)
        )

    def _step(self, street: Street, length_m: float, returns: int, again: int) -> bool:
        here, there = street
        if len(self.walk) > 1 and there == self.walk[-2]:
            return False
        end_m = length_m + abs(self.xs[here[0]] - self.xs[there[0]]) + abs(self.ys[here[1]] - self.ys[there[1]])
        straight = len(self.walk) < 2 or there[0] - here[0] == here[0] - self.walk[-2][0]
        end_m -= 0.0 if straight else TURN_SAVES_M
        is_new = street not in self.first_end_m
        if is_new:
            if (there, here) in self.first_end_m:
                return False
            returns_then, again_then = returns, 0
            self.first_end_m[street] = end_m
        else:
            if not self._may_return(street, length_m, returns, again):
                return False
            returns_then, again_then = returns + (again == 0), again + 1
        self.walk.append(there)
        if self._extend(end_m, returns_then, again_then):
            return True
        self.walk.pop()
        if is_new:
            del self.first_end_m[street]
        return False

    def _may_return(self, street: Street, length_m: float, returns: int, again: int) -> bool:
        if again:  # a longer return goes the very way of the first drive, so that it stays one return
            way = list(zip(self.walk[:-2], self.walk[1:-1], strict=True))
            before = (self.walk[-2], self.walk[-1])
            follows = any(a == before and b == street for a, b in zip(way[:-1], way[1:], strict=True))
            return again < _MOST_STREETS_AGAIN and follows
        if returns == self.spec.loops or length_m - self.first_end_m[street] < self._detours_m[returns]:
            return False
        low, high = self._span(returns)
        return low <= length_m <= high
