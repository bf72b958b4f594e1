"""Bookkeeping of voxel blocks and tiles."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metric_slam.reconstruction.tiles import CELL_BLOCKS, BlockIndex, Tile, pack_blocks, unpack_blocks

coordinate = st.integers(-(2**20), 2**20 - 1)
LIST = st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=1, max_size=50)


@given(LIST)
def test_packing_is_reversible_and_ordered(blocks: list[tuple[int, int, int]]) -> None:
    array = np.array(blocks)
    np.testing.assert_array_equal(unpack_blocks(pack_blocks(array)), array)
    assert [tuple(b) for b in unpack_blocks(np.sort(pack_blocks(array)))] == sorted(blocks)


def test_tiles_hold_every_block_once_and_keep_the_limit() -> None:
    rng = np.random.default_rng(0)
    blocks = np.unique(np.round(rng.normal(0, 30, (20_000, 3))).astype(np.int64), axis=0)
    index = BlockIndex()
    for part in np.array_split(blocks, 70):
        cells = index.add(part)
        assert {tuple(c) for c in cells} == {tuple(c) for c in part // CELL_BLOCKS}
        index.add(part[:10])
    assert index.block_count == len(blocks)
    tiles = index.tiles(max_blocks=1500)
    assert sum(t.block_count for t in tiles) == len(blocks)
    owners = sum(((blocks >= t.lower) & (blocks < t.upper)).all(axis=1).astype(int) for t in tiles)
    assert (owners == 1).all()
    assert all(t.block_count <= 1500 or (t.upper - t.lower == CELL_BLOCKS).all() for t in tiles)
    assert len(index.tiles(max_blocks=10**9)) < len(tiles)


def test_the_margin_of_a_tile_is_one_block() -> None:
    tile = Tile(np.array([0, 0, 0]), np.array([4, 4, 4]), 1)
    blocks = np.array([[0, 0, 0], [3, 3, 3], [4, 4, 4], [-1, 0, 0], [5, 0, 0], [0, -2, 0]])
    np.testing.assert_array_equal(tile.with_margin(blocks), blocks[:4])
