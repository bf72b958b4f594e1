"""A loop owns its matches: they are edges of the graph exactly while it is confirmed."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.correspondence.base import Correspondence
from metric_slam.disk_store import DiskStore
from metric_slam.errors import InputError
from metric_slam.loops.loop import Loop, LoopMatches, LoopState, loops_from_arrays, loops_to_arrays


class Graph:
    """Edges by pair."""

    def __init__(self) -> None:
        self.edges: dict[tuple[int, int], Correspondence] = {}

    def add_matched(self, source: int, target: int, match: Correspondence) -> None:
        self.edges[source, target] = match

    def remove_pair(self, first: int, second: int) -> None:
        self.edges.pop((first, second), None)
        self.edges.pop((second, first), None)

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return pair in self.edges


def matches(seed: int, per_axis: bool = False) -> Correspondence:
    rng = np.random.default_rng(seed)
    shape = (4, 6, 2) if per_axis else (4, 6)
    return Correspondence(rng.uniform(0, 6, (4, 6, 2)), rng.uniform(0, 1, shape))


def make(disk: DiskStore, query: int = 30, match: int = 4) -> Loop:
    T = np.eye(4)
    T[:3, 3] = (0.2, 0.1, 2.0)
    stored = LoopMatches.stored(disk, matches(1), matches(2, per_axis=True))
    return Loop(query, match, T, 0.1, 0.5, stored)


def test_edges_are_in_the_graph_while_the_loop_is_confirmed_and_come_back() -> None:
    graph, loop = Graph(), make(DiskStore())
    assert loop.state is LoopState.CANDIDATE and not graph.edges
    assert loop.reject(graph) and not graph.edges
    for _ in range(2):
        assert loop.confirm(graph) and loop.state is LoopState.CONFIRMED
        assert set(graph.edges) == {(4, 30), (30, 4)}
        np.testing.assert_allclose(graph.edges[4, 30].target, matches(1).target, rtol=1e-6)
        np.testing.assert_allclose(graph.edges[30, 4].confidence, matches(2, per_axis=True).confidence, rtol=1e-6)
        assert not loop.confirm(graph), "nothing changed"
        assert loop.reject(graph) and not loop.reject(graph) and not graph.edges


def test_a_rejected_candidate_leaves_edges_of_others_alone() -> None:
    graph, loop = Graph(), make(DiskStore())
    graph.add_matched(4, 30, matches(7))
    loop.reject(graph)
    assert (4, 30) in graph


def test_a_loop_follows_its_units() -> None:
    loop = make(DiskStore())
    log_scale = np.linspace(0.0, 0.31, 32)
    loop.rescale(log_scale)
    np.testing.assert_allclose(loop.T_query_match[:3, 3], np.exp(0.04) * np.array([0.2, 0.1, 2.0]))
    assert loop.log_scale == pytest.approx(0.1 + 0.04 - 0.30)


def test_a_checkpoint_holds_every_field() -> None:
    disk = DiskStore()
    loops = [make(disk), make(disk, 50, 9)]
    loops[1].state, loops[1].weight = LoopState.REJECTED, 0.25
    again = loops_from_arrays(loops_to_arrays(loops), disk)
    for one, other in zip(loops, again, strict=True):
        assert (one.query, one.match, one.state, one.weight) == (other.query, other.match, other.state, other.weight)
        assert (one.log_scale, one.correction_m) == (other.log_scale, other.correction_m)
        np.testing.assert_array_equal(one.T_query_match, other.T_query_match)
        np.testing.assert_array_equal(one.matches.forward.load(), other.matches.forward.load())
        np.testing.assert_array_equal(one.matches.backward.load(), other.matches.backward.load())
    assert loops_from_arrays(loops_to_arrays([]), disk) == []


def test_wrong_arguments_are_refused() -> None:
    good = make(DiskStore())
    with pytest.raises(InputError, match="match 30 must be a keyframe before query 30"):
        Loop(30, 30, np.eye(4), 0.0, 0.0, good.matches)
    with pytest.raises(InputError, match="T_query_match"):
        Loop(30, 4, np.eye(3), 0.0, 0.0, good.matches)
