"""The edges that a recurrent network goes on refining, and their memory; their matches live in the factor graph.

An edge that retires keeps its latest matches there and takes part in bundle adjustment as before. Where the graph has
a CUDA device, an update takes place on its device from beginning to end: nothing comes back to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from metric_slam.checkpointable import StateTree, array_in
from metric_slam.correspondence.base import Correspondence, EdgeMemory, EdgeQuery, RecurrentModel, masked_by_ignored
from metric_slam.geometry.grid_array import Array
from metric_slam.graph.moving_mask import mask_all_moving
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.droid.edge_selection import Pair

_DEPTHS_AT_ONCE = 256  # edges whose reprojections are made together


@dataclass
class _Active:
    memory: EdgeMemory | None = None
    """None until the first update."""

    age: int = 0
    """Updates so far."""


class ActiveEdges:
    """Directed edges in the order in which they were added."""

    def __init__(
        self,
        slam_map: SlamMap,
        model: RecurrentModel,
        features_of: Callable[[int], object] | None = None,
    ) -> None:
        """``features_of(position)``: where the features of keyframes come from; the map when None."""
        self._map, self._model = slam_map, model
        self._features_of = features_of or (lambda position: slam_map[position].features)
        self._edges: dict[Pair, _Active] = {}

    def __len__(self) -> int:
        return len(self._edges)

    def __contains__(self, pair: Pair) -> bool:
        return pair in self._edges

    def pairs(self) -> list[Pair]:
        """All of them."""
        return list(self._edges)

    @property
    def first_source(self) -> int:
        """The earliest keyframe from which one starts."""
        return min(source for source, _ in self._edges)

    @property
    def first_end(self) -> int:
        """The earliest keyframe that one touches."""
        return min(min(pair) for pair in self._edges)

    def add(self, pairs: Iterable[Pair], *, max_edges: int | None = None, again: bool = False) -> None:
        """Adds directed pairs that are new to the graph, or ``again`` those it has as well; with ``max_edges`` the
        oldest ones retire to make room.
        """
        new = [p for p in dict.fromkeys(pairs) if p not in self._edges and (again or p not in self._map.graph)]
        if max_edges is not None:
            surplus = len(self._edges) + len(new) - max_edges
            oldest = sorted(self._edges, key=lambda pair: -self._edges[pair].age)  # stable: first added first
            self.retire(oldest[: max(surplus, 0)])
        self._edges |= {pair: _Active() for pair in new}

    def retire(self, pairs: Iterable[Pair]) -> None:
        """These are refined no further."""
        for pair in list(pairs):
            del self._edges[pair]

    def retire_older_than(self, max_age: int) -> None:
        """Edges that have seen more updates than that."""
        self.retire(pair for pair, edge in self._edges.items() if edge.age > max_age)

    def retire_sources_before(self, position: int) -> None:
        """Edges that start at earlier keyframes."""
        self.retire(pair for pair in self._edges if pair[0] < position)

    def remove_keyframe(self, position: int) -> None:
        """Edges of a keyframe vanish; those of later ones move up by one."""
        self._edges = {
            (i - (i > position), j - (j > position)): edge
            for (i, j), edge in self._edges.items()
            if position not in (i, j)
        }

    def update(self, *, dense: bool = True) -> None:
        """One step of the network from the present poses and depths; matches and dampings are written back, and with
        ``dense`` what it says of the pixels between the cells.
        """
        batch: list[Pair] = []
        for group in self._by_source():
            if batch and len(batch) + len(group) > _DEPTHS_AT_ONCE:
                self._update(batch, dense)
                batch = []
            batch += group
        if batch:
            self._update(batch, dense)

    def _by_source(self) -> list[list[Pair]]:
        """The edges of a source stay together, because the network averages over them."""
        groups: dict[int, list[Pair]] = {}
        for pair in self._edges:
            groups.setdefault(pair[0], []).append(pair)
        return list(groups.values())

    def _update(self, pairs: Sequence[Pair], dense: bool) -> None:
        predicted = self._reprojections(pairs)
        features = {i: self._features_of(i) for i in dict.fromkeys(i for pair in pairs for i in pair)}
        queries = [
            EdgeQuery(
                features[i],
                features[j],
                coords,
                source_ignored=self._map[i].ignored,
                target_ignored=self._map[j].ignored,
            )
            for (i, j), coords in zip(pairs, predicted, strict=True)
        ]
        memories = [
            self._model.begin(query) if (memory := self._edges[pair].memory) is None else memory
            for pair, query in zip(pairs, queries, strict=True)
        ]
        stepped = self._model.update(queries, memories)
        found = masked_by_ignored(queries, [match for match, _ in stepped])
        matches = mask_all_moving(found, [self._map[i].moving_cells for i, _ in pairs])
        outputs: dict[int, Correspondence] = {}  # the edges of a source share what the network predicts of it
        for (i, j), match, (_, memory) in zip(pairs, matches, stepped, strict=True):
            self._map.graph.set_matches(i, j, match)
            edge = self._edges[i, j]
            edge.memory, edge.age = memory, edge.age + 1
            outputs[i] = match
        for position, match in outputs.items():
            self._map.set_network_output(position, match, dense=dense)

    def _reprojections(self, pairs: Sequence[Pair]) -> Array:
        """Where the cells of each pair's source lie in its target as the map has it now, float64 [E, h, w, 2]."""
        positions = sorted({i for pair in pairs for i in pair})
        place = {position: n for n, position in enumerate(positions)}
        return self._map.graph.reprojections(
            self._map.pose_vectors(positions),
            self._map.graph.stacked("inv_depth", positions),
            np.array([place[i] for i, _ in pairs]),
            np.array([place[j] for _, j in pairs]),
        )

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> StateTree:
        """As plain arrays; every edge has seen an update by then."""
        hidden = [self._model.memory_to_array(edge.memory) for edge in self._edges.values() if edge.memory is not None]
        assert len(hidden) == len(self._edges)
        return {
            "pairs": np.array(self.pairs(), np.int64).reshape(-1, 2),
            "age": np.array([edge.age for edge in self._edges.values()], np.int64),
            "hidden": np.stack(hidden) if hidden else np.zeros(0, np.float32),
        }

    def restore(self, state: StateTree) -> None:
        """Replace everything by what :meth:`state` returned, after the graph was restored."""
        pairs, ages = array_in(state, "pairs").tolist(), array_in(state, "age").tolist()
        for (i, j), age, hidden in zip(pairs, ages, array_in(state, "hidden"), strict=True):
            target = self._map.graph.matches_of(i, j)[..., :2]
            self._edges[i, j] = _Active(self._model.memory_from_array(hidden, target), age)
