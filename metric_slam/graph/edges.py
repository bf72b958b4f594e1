"""Directed edges between keyframes with their matches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from metric_slam.checkpointable import StateTree, array_in
from metric_slam.correspondence.base import Correspondence, packed
from metric_slam.disk_store import DiskArray
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.geometry.grid_array import GridArray
from metric_slam.graph.offload import Offloader
from metric_slam.optimization.solver import Solver

_MATCH_DTYPE = "<f4"


@dataclass
class Edge:
    """Matches of one directed pair of keyframes, in single precision."""

    source: int
    target: int
    matches: GridArray
    """float32 [h, w, 3 or 4]: target of each cell in grid cells (x, y), and its confidence 0..1, one or one per axis;
    replaced, never written into."""


class EdgeSet:
    """Edges by source and target; matches of the window stay where the solver reads them, older ones on the disk."""

    def __init__(self, solver: Solver, offloader: Offloader) -> None:
        self._solver, self._offloader = solver, offloader
        self._edges: dict[int, dict[int, Edge]] = defaultdict(dict)
        self._in_memory: list[Edge] = []

    def __len__(self) -> int:
        return sum(len(leaving) for leaving in self._edges.values())

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return pair[1] in self._edges.get(pair[0], {})

    def __getitem__(self, pair: tuple[int, int]) -> Edge:
        return self._edges[pair[0]][pair[1]]

    def leaving(self, source: int) -> Iterator[Edge]:
        """Edges that start at a keyframe."""
        return iter(self._edges.get(source, {}).values())

    def add(self, source: int, target: int, matches: GridArray) -> None:
        """Add a directed edge, or replace it, with matches as :class:`Edge` has them."""
        offloaded = isinstance(matches, DiskArray)
        edge = Edge(source, target, matches if isinstance(matches, DiskArray) else self._solver.held(matches))
        self._edges[source][target] = edge
        if not offloaded:
            self._in_memory.append(edge)

    def update(self, source: int, target: int, match: Correspondence) -> None:
        """Give a directed edge new matches; it is added if it is not there."""
        edge = self._edges.get(source, {}).get(target)
        if edge is None or isinstance(edge.matches, DiskArray):
            self.add(source, target, packed(match))
        else:
            edge.matches = self._solver.held(packed(match))

    def pairs(self, begin: int = 0) -> np.ndarray:
        """Source and target of every edge between keyframes from ``begin`` on, int64 [E, 2]."""
        found = [(s, t) for s, leaving in self._edges.items() if s >= begin for t in leaving if t >= begin]
        return np.array(found, np.int64).reshape(-1, 2)

    def targets_of(self, source: int) -> list[int]:
        """Keyframes that a keyframe is matched with."""
        return list(self._edges.get(source, {}))

    def remove_pair(self, first: int, second: int) -> None:
        """Remove the edges between two keyframes, both ways."""
        self._edges[first].pop(second, None)
        self._edges[second].pop(first, None)

    def remove_keyframe(self, position: int) -> None:
        """Remove all edges of a keyframe; the numbers of later keyframes decrease by one."""
        kept = [e for leaving in self._edges.values() for e in leaving.values() if position not in (e.source, e.target)]
        self._edges = defaultdict(dict)
        for edge in kept:
            edge.source, edge.target = (end - (end > position) for end in (edge.source, edge.target))
            self._edges[edge.source][edge.target] = edge
        staying = {id(edge) for edge in kept}
        self._in_memory = [edge for edge in self._in_memory if id(edge) in staying]

    def evict_before(self, position: int) -> None:
        """Offload the matches between keyframes before ``position``."""
        staying = []
        for edge in self._in_memory:
            if edge.source >= position or edge.target >= position:
                staying.append(edge)
            elif self._edges[edge.source].get(edge.target) is edge:
                edge.matches = self._offloader.put(edge.matches)
        self._in_memory = staying

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> StateTree:
        """Arrays for a checkpoint; matches go to the disk first."""
        rows = []
        for leaving in self._edges.values():
            for edge in leaving.values():
                in_memory = not isinstance(edge.matches, DiskArray)
                stored = self._offloader.put(edge.matches)
                rows.append((edge.source, edge.target, stored.offset, stored.checksum, in_memory, stored.shape[-1]))
        return {"rows": np.array(rows, np.int64).reshape(-1, 6)}

    def restore(self, state: StateTree, camera: PinholeCamera) -> None:
        """Replace everything by what :meth:`state` returned."""
        grid = camera.grid()
        for source, target, offset, checksum, in_memory, channels in array_in(state, "rows").tolist():
            shape = (grid.height, grid.width, channels)
            stored = DiskArray(self._offloader.disk, offset, _MATCH_DTYPE, shape, checksum)
            if in_memory:
                loaded = stored.load()
                self._offloader.note(loaded, stored)
                self.add(source, target, loaded)
            else:
                self.add(source, target, stored)
