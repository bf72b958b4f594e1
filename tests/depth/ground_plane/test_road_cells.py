"""Cells of the road told from those on it and those that move, on exact depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metric_slam.depth.ground_plane.road_alignment import plane_normal
from metric_slam.depth.ground_plane.road_cells import RoadCells, classify_cells
from tests.scene import CAMERA, HEIGHT_M, Street, grid_depth_m, pose, rotation
from tests.vehicle import Block

CAMERA_WIDE = CAMERA.resized(640, 192)
GRID = CAMERA_WIDE.grid()
SHAPE = (GRID.height, GRID.width)
PITCH_RAD, ROLL_RAD = 0.01, 0.005
NORMAL = plane_normal(PITCH_RAD, ROLL_RAD)
STREET = Street()
DEPTH_M = grid_depth_m(STREET, pose(R=rotation(PITCH_RAD, ROLL_RAD)), CAMERA_WIDE)
INV_DEPTH = 1.0 / np.where(DEPTH_M > 0, np.minimum(DEPTH_M, 500.0), 500.0)
SLOPE = GRID.rays() @ NORMAL
IS_ROAD = (SLOPE > HEIGHT_M / 50.0) & (np.abs(SLOPE * DEPTH_M - HEIGHT_M) < 0.01)
LANE = (SLOPE > HEIGHT_M / 20.0) & (SLOPE < HEIGHT_M / 5.0) & (np.abs(GRID.rays()[..., 0]) < 2.2 / HEIGHT_M * SLOPE)
HALF_HIDDEN = Block(top=8, bottom=24, left=20, right=40)
"""A vehicle in front of the left half of the lane."""


def sort(
    inv_depth: np.ndarray,
    *,
    block: Block | None = None,
    unit_m: float = 1.0,
    normal: np.ndarray = NORMAL,
    farthest_m: float = 20.0,
) -> RoadCells | None:
    """Sorted with the limits of the configuration; ``block``: cells that move; ``unit_m``: metres per unit of depth."""
    height = HEIGHT_M / unit_m
    return classify_cells(
        inv_depth,
        np.zeros(SHAPE, bool) if block is None else block.mask(SHAPE),
        GRID,
        normal,
        inner=2.2 / HEIGHT_M,
        depths=(5.0 / HEIGHT_M, farthest_m / HEIGHT_M),
        heights=(0.55 * height, 1.8 * height),
    )


def sorted_cells(inv_depth: np.ndarray, **options: Any) -> RoadCells:
    found = sort(inv_depth, **options)
    assert found is not None
    return found


def with_block(inv_depth_there: float, block: Block = HALF_HIDDEN) -> np.ndarray:
    return np.where(block.mask(SHAPE), inv_depth_there, INV_DEPTH)


def far(seed: int = 0) -> np.ndarray:
    """A vehicle that hardly moves in the image, and noise of a tenth on all depths."""
    return with_block(1e-3) * np.exp(np.random.default_rng(seed).normal(0, 0.1, SHAPE))


def test_an_open_road_is_free_and_only_road_is() -> None:
    found = sorted_cells(INV_DEPTH)
    assert found.hidden == 0.0
    assert found.free[LANE].all(), "the lane ahead"
    off_the_road = SLOPE * DEPTH_M < 0.7 * HEIGHT_M
    assert off_the_road.any() and not found.free[off_the_road].any()
    assert not found.free[(SLOPE < HEIGHT_M / 20.0) | (SLOPE > HEIGHT_M / 5.0)].any(), "too far or too near"


@pytest.mark.parametrize("seed", range(3))
def test_the_road_is_found_where_half_the_lane_is_hidden(seed: int) -> None:
    found = sorted_cells(far(seed), block=HALF_HIDDEN)
    assert 0.4 < found.hidden < 0.6
    np.testing.assert_allclose(found.inv_depth[IS_ROAD], (SLOPE / HEIGHT_M)[IS_ROAD], rtol=0.04)
    assert not found.free[HALF_HIDDEN.mask(SHAPE)].any()
    assert found.free[:, 40:].sum() > 60, "the other half of the lane"


def test_a_cell_of_margin_is_left_around_what_is_hidden() -> None:
    found = sorted_cells(with_block(1e-3), block=HALF_HIDDEN)
    wider = Block(HALF_HIDDEN.top - 1, HALF_HIDDEN.bottom + 1, HALF_HIDDEN.left - 1, HALF_HIDDEN.right + 1)
    assert not found.free[wider.mask(SHAPE)].any()
    assert found.free[17, wider.right] and not found.free[17, wider.right - 1]


def test_what_stands_on_the_road_is_not_free_and_hides_nothing_that_moves() -> None:
    found = sorted_cells(with_block(1 / 6.0))
    on_it = HALF_HIDDEN.mask(SHAPE) & (SLOPE < 0.7 * HEIGHT_M / 6.0)
    assert on_it.any() and not found.free[on_it].any() and found.hidden == 0.0


@pytest.mark.parametrize("unit_m", [1 / 3, 3.0])
def test_the_unit_does_not_matter(unit_m: float) -> None:
    """Three times as large or small: the same cells."""
    metres = sorted_cells(far(), block=HALF_HIDDEN)
    units = sorted_cells(far() * unit_m, block=HALF_HIDDEN, unit_m=unit_m)
    np.testing.assert_array_equal(units.free, metres.free)
    assert units.hidden == metres.hidden
    np.testing.assert_allclose(units.inv_depth, metres.inv_depth * unit_m, rtol=1e-9)


@pytest.mark.parametrize("scale", [0.7, 1.3])
def test_a_scale_that_is_wrong_by_a_third_is_not_taken_for_a_vehicle(scale: float) -> None:
    found = sorted_cells(INV_DEPTH * scale)
    assert found.free[LANE].all() and found.hidden == 0.0
    np.testing.assert_allclose(found.inv_depth[IS_ROAD], scale * (SLOPE / HEIGHT_M)[IS_ROAD], rtol=0.04)


def test_the_road_itself_is_in_every_cell_whose_ray_meets_it() -> None:
    found = sorted_cells(far(), block=HALF_HIDDEN)
    assert (found.inv_depth[HALF_HIDDEN.bottom - 1, HALF_HIDDEN.left :] > 0).all(), "behind the vehicle too"
    assert not found.inv_depth[SLOPE < 0.02].any() and (found.inv_depth >= 0).all()


def test_too_few_cells_say_nothing() -> None:
    assert sort(np.full(SHAPE, 1e-3)) is None, "all far away"
    assert sort(INV_DEPTH, normal=plane_normal(0.6, 0.0)) is None, "the road is not in view"
    assert sort(INV_DEPTH, farthest_m=5.2) is None, "a strip that no cell lies in"
    assert sort(INV_DEPTH, block=Block(0, 24, 0, 80)) is None, "everything moves"


def test_what_moves_has_no_say_in_where_the_road_is() -> None:
    """A vehicle in front of nearly all of the lane, all of whose cells agree on another height."""
    vehicle = Block(top=8, bottom=24, left=22, right=58)
    inv_depth = np.where(vehicle.mask(SHAPE), 1.4 * np.abs(SLOPE) / HEIGHT_M, INV_DEPTH)
    road, agreed = SLOPE / HEIGHT_M, vehicle.mask(SHAPE) & (SLOPE > HEIGHT_M / 20.0)
    misled, found = sorted_cells(inv_depth), sorted_cells(inv_depth, block=vehicle)
    np.testing.assert_allclose(misled.inv_depth[agreed], 1.4 * road[agreed], rtol=0.04)
    np.testing.assert_allclose(found.inv_depth[IS_ROAD], road[IS_ROAD], rtol=0.04)
    assert found.hidden > 0.8


def test_asphalt_that_is_matched_too_far_away_is_no_vehicle() -> None:
    """What moves is told by others; cells of the lane whose depth is wrong hide nothing and turn no height."""
    wrong = Block(top=16, bottom=20, left=36, right=44)
    found = sorted_cells(with_block(0.5 / 9.0, wrong))
    assert found.hidden == 0.0 and found.free[LANE].mean() > 0.7
    np.testing.assert_allclose(found.inv_depth[IS_ROAD], (SLOPE / HEIGHT_M)[IS_ROAD], rtol=0.04)
