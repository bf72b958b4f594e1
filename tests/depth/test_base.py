"""Depth images of any size to the grid."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.depth.base import DepthPrediction, depth_to_grid
from metric_slam.errors import InputError
from metric_slam.geometry.camera import PinholeCamera

CAMERA = PinholeCamera(fx=60.0, fy=60.0, cx=31.5, cy=23.5, width=64, height=48)


def test_each_cell_takes_the_median_of_its_pixels() -> None:
    random = np.random.default_rng(0)
    depth_m = random.uniform(5.0, 5.2, (48, 64)).astype(np.float32)
    got = depth_to_grid(depth_m, CAMERA)
    blocks = depth_m.reshape(6, 8, 8, 8).transpose(0, 2, 1, 3).reshape(6, 8, 64)
    np.testing.assert_allclose(got.depth_m, np.sort(blocks, axis=-1)[..., 32], rtol=1e-6)
    assert (got.confidence > 0.8).all()


def test_a_cell_on_a_depth_edge_takes_one_side_and_is_hardly_believed() -> None:
    depth_m = np.full((48, 64), 4.0)
    depth_m[:, 20:] = 30.0  # cuts through the third column of cells
    got = depth_to_grid(depth_m, CAMERA)
    np.testing.assert_array_equal(np.unique(got.depth_m), [4.0, 30.0])
    assert (got.confidence[:, 2] < 0.02).all()
    assert (got.confidence[:, [0, 1, 3, 4]] == 1.0).all()


def test_holes_and_what_is_no_number_are_unknown() -> None:
    depth_m = np.full((48, 64), 7.0)
    depth_m[:8, :8] = 0.0
    depth_m[:8, 8:16] = np.nan
    depth_m[:8, 16:24] = np.inf
    depth_m[:8, 24:32] = -3.0
    depth_m[8:16, :8] = 0.0
    depth_m[11, 3] = 9.0
    got = depth_to_grid(depth_m, CAMERA)
    assert (got.depth_m[0, :4] == 0).all() and (got.confidence[0, :4] == 0).all()
    assert got.depth_m[1, 0] == 9.0, "one measurement in a cell is enough"
    assert (got.depth_m[2:] == 7.0).all()


@pytest.mark.parametrize("shape", [(48, 64), (96, 128), (61, 83), (375, 1242), (24, 32)])
def test_a_slanted_plane_is_sampled_at_the_cells_whatever_the_size(shape: tuple[int, int]) -> None:
    H, W = shape
    y, x = np.mgrid[0:H, 0:W]
    depth_m = 10.0 + 4.0 * (x + 0.5) / W + 2.0 * (y + 0.5) / H
    got = depth_to_grid(depth_m, CAMERA)
    j, i = np.mgrid[0:6, 0:8]
    expected = 10.0 + 4.0 * (i + 0.5) / 8 + 2.0 * (j + 0.5) / 6
    np.testing.assert_allclose(got.depth_m, expected, atol=2 * 4.0 / W + 2 * 2.0 / H + 0.02)


def test_a_map_coarser_than_the_grid_leaves_holes_rather_than_inventing_depth() -> None:
    got = depth_to_grid(np.full((3, 4), 5.0), CAMERA)
    assert set(np.unique(got.depth_m)) == {0.0, 5.0} and (got.depth_m > 0).sum() == 12
    assert ((got.confidence > 0) == (got.depth_m > 0)).all()


def test_rows_beyond_the_last_whole_cell_are_left_out() -> None:
    odd = PinholeCamera(fx=60.0, fy=60.0, cx=31.5, cy=23.5, width=69, height=53)
    depth_m = np.full((53, 69), 5.0)
    depth_m[48:], depth_m[:, 64:] = 99.0, 99.0
    got = depth_to_grid(depth_m, odd)
    assert got.depth_m.shape == (6, 8) and (got.depth_m == 5.0).all()


def test_an_image_without_depth_is_unknown_everywhere() -> None:
    got = depth_to_grid(np.zeros((48, 64)), CAMERA)
    assert not got.depth_m.any() and not got.confidence.any()


def test_depth_of_another_shape_is_refused() -> None:
    for shape in ((48,), (48, 64, 1)):
        with pytest.raises(InputError, match="depth_m has the shape"):
            depth_to_grid(np.zeros(shape), CAMERA)
    with pytest.raises(InputError, match="confidence"):
        DepthPrediction(np.zeros((6, 8)), np.zeros((6, 7)))
