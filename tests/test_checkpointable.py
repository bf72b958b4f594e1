"""Trees of arrays: flattened for a file and nested again."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest

from metric_slam.checkpointable import array_in, flattened, nested, tree_in

TREE = {
    "count": np.array(3),
    "map": {"pose": np.eye(4), "graph": {"edges": np.zeros((0, 2), np.int64), "names": np.array(["a", "b"])}},
    "map_like": np.ones(2, np.float32),
}


def test_paths_name_the_way_through_the_tree() -> None:
    assert list(flattened(TREE)) == ["count", "map/pose", "map/graph/edges", "map/graph/names", "map_like"]


def test_a_tree_survives_the_way_through_a_file() -> None:
    file = BytesIO()
    np.savez(file, **flattened(TREE))
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        tree = nested({name: stored[name] for name in stored.files})
    assert set(tree) == set(TREE) and set(tree_in(tree, "map")) == {"pose", "graph"}
    for path, array in flattened(TREE).items():
        found = flattened(tree)[path]
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype and found.shape == array.shape


def test_a_part_that_saved_nothing_has_an_empty_tree() -> None:
    """An empty tree leaves no trace in a file."""
    tree = nested(flattened({"prior": {}, "count": np.array(1)}))
    assert "prior" not in tree and tree_in(tree, "prior") == {}


def test_arrays_and_trees_are_not_mistaken_for_each_other() -> None:
    assert array_in(TREE, "count") == 3
    with pytest.raises(KeyError, match="map holds a tree"):
        array_in(TREE, "map")
    with pytest.raises(KeyError, match="count holds an array"):
        tree_in(TREE, "count")
    with pytest.raises(KeyError, match="nothing"):
        array_in(TREE, "nothing")
