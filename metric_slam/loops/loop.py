"""A loop: two keyframes that show one place, with a state and the matches that become its edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from metric_slam.checkpointable import StateTree, array_in
from metric_slam.correspondence.base import Correspondence, packed, unpacked
from metric_slam.disk_store import DiskArray, DiskStore
from metric_slam.errors import InputError
from metric_slam.geometry import lie
from metric_slam.geometry.grid_array import on_host


class LoopState(Enum):
    """State of a loop; only the edges of a confirmed one are in the factor graph."""

    CANDIDATE = 0
    """Verified by its images; nothing else has supported or contradicted it yet."""

    CONFIRMED = 1
    """Agrees with the rest of the map; the pose graph may still reject it."""

    REJECTED = 2
    """Contradicts the rest of the map; the pose graph may still confirm it."""


class EdgeStore(Protocol):
    """The part of the factor graph that loops use."""

    def add_matched(self, source: int, target: int, match: Correspondence) -> None:
        """Add a directed edge."""
        ...

    def remove_pair(self, first: int, second: int) -> None:
        """Remove the edges between two keyframes."""
        ...

    def __contains__(self, pair: tuple[int, int]) -> bool: ...


@dataclass(frozen=True)
class LoopMatches:
    """Dense matches between the two keyframes on the disk, each packed float32 [h, w, 3 or 4]."""

    forward: DiskArray
    """match -> query."""

    backward: DiskArray
    """query -> match."""

    @classmethod
    def stored(cls, disk: DiskStore, forward: Correspondence, backward: Correspondence) -> LoopMatches:
        """Write the matches to the disk store."""
        return cls(disk.put(on_host(packed(forward))), disk.put(on_host(packed(backward))))


@dataclass
class Loop:
    """A place seen twice, measured by dense matches between two keyframes."""

    query: int
    """Position of the later keyframe."""

    match: int
    """Position of the earlier one."""

    T_query_match: np.ndarray
    """float64 [4, 4], lengths in the unit of the map around ``match``."""

    log_scale: float
    """log(length in the map around ``match`` / the same length around ``query``); 0 between metric places."""

    correction_m: float
    """Distance of the query from where the loop puts it when it was found, lengths of the map."""

    matches: LoopMatches
    weight: float = 1.0
    """0..1, of the latest pose graph."""

    state: LoopState = LoopState.CANDIDATE

    def __post_init__(self) -> None:
        if not 0 <= self.match < self.query:
            raise InputError(f"match {self.match} must be a keyframe before query {self.query}")
        if self.T_query_match.shape != (4, 4):
            raise InputError(f"T_query_match must be [4, 4], not {list(self.T_query_match.shape)}")

    def confirm(self, graph: EdgeStore) -> bool:
        """Add the edges to the graph unless they are there; True if the loop was not confirmed before."""
        if (self.match, self.query) not in graph:
            graph.add_matched(self.match, self.query, unpacked(self.matches.forward.load()))
            graph.add_matched(self.query, self.match, unpacked(self.matches.backward.load()))
        changed = self.state is not LoopState.CONFIRMED
        self.state = LoopState.CONFIRMED
        return changed

    def reject(self, graph: EdgeStore) -> bool:
        """Remove the edges from the graph; the loop keeps its matches. True if it was not rejected before."""
        if self.state is LoopState.CONFIRMED:
            graph.remove_pair(self.query, self.match)
        changed = self.state is not LoopState.REJECTED
        self.state = LoopState.REJECTED
        return changed

    def rescale(self, log_scale: np.ndarray) -> None:
        """Follow a change of the keyframes' units of length by exp(``log_scale`` [N])."""
        T = self.T_query_match.copy()
        T[:3, 3] *= np.exp(log_scale[self.match])
        self.T_query_match = T
        self.log_scale += float(log_scale[self.match] - log_scale[self.query])

    def query_pose(self, T_world_match: np.ndarray) -> np.ndarray:
        """T_world_query [4, 4] by this loop, from the pose of its match."""
        return T_world_match @ lie.inverse(self.T_query_match)


_VALUES = 6  # numbers of a row before the pose


def loops_to_arrays(loops: Sequence[Loop]) -> dict[str, np.ndarray]:
    """Loops as plain arrays for a checkpoint; their matches are on the disk already."""
    values = [
        [loop.query, loop.match, loop.state.value, loop.log_scale, loop.correction_m, loop.weight] for loop in loops
    ]
    stored = [[[m.offset, m.checksum, *m.shape] for m in (x.matches.forward, x.matches.backward)] for x in loops]
    return {
        "values": np.array(values, np.float64).reshape(-1, _VALUES),
        "T_query_match": np.array([loop.T_query_match for loop in loops]).reshape(-1, 4, 4),
        "matches": np.array(stored, np.int64).reshape(-1, 2, 5),
    }


def loops_from_arrays(state: StateTree, disk: DiskStore) -> list[Loop]:
    """The inverse of :func:`loops_to_arrays`."""
    loops = []
    values, T_query_match, matches = (array_in(state, name) for name in ("values", "T_query_match", "matches"))
    for row, T, stored in zip(values, T_query_match, matches, strict=True):
        query, match, kind = (int(value) for value in row[:3])
        forward, backward = (
            DiskArray(disk, offset, "<f4", tuple(shape), checksum) for offset, checksum, *shape in stored.tolist()
        )
        log_scale, correction_m, weight = (float(value) for value in row[3:])
        edges = LoopMatches(forward, backward)
        loops.append(Loop(query, match, T.copy(), log_scale, correction_m, edges, weight, LoopState(kind)))
    return loops
