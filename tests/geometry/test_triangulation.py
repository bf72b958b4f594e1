"""Depth from two views on exact matches, and the slope of the one over the other."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.geometry.triangulation import triangulate
from tests.scene import CAMERA, Street, exact_matches, grid_depth_m, pose, relative, rotation

STREET = Street(end_m=40.0)
GRID = CAMERA.grid()
FIRST = pose(R=rotation(0.01))
MOTIONS = {
    "ahead": pose(z_m=1.0, R=rotation(0.01)),
    "back": pose(z_m=-0.8, R=rotation(0.01)),
    "aside": pose(0.7, 0.1, y_m=-0.1, R=rotation(0.01)),
    "in a turn": pose(0.1, 0.9, R=rotation(0.02, -0.01, 0.08)),
}


def projected(inv_depth: np.ndarray, T_target_source: np.ndarray) -> np.ndarray:
    """Where the source's cells with this inverse depth lie in the target, [h, w, 2]."""
    return GRID.project(GRID.rays() @ T_target_source[:3, :3].T + T_target_source[:3, 3] * inv_depth[..., None])


@pytest.mark.parametrize("unit_m", [1.0, 2.5])
@pytest.mark.parametrize("motion", MOTIONS)
def test_exact_matches_give_the_exact_depth(motion: str, unit_m: float) -> None:
    target, seen = exact_matches(STREET, FIRST, MOTIONS[motion])
    T = relative(FIRST, MOTIONS[motion])
    T[:3, 3] /= unit_m
    inv_depth, px = triangulate(target, T, GRID)
    tells = seen & (px > 0.05)  # at the point that the camera drives towards no depth shows
    assert tells.sum() > 200 and inv_depth.shape == px.shape == (GRID.height, GRID.width)
    np.testing.assert_allclose(inv_depth[tells], unit_m / grid_depth_m(STREET, FIRST)[tells], rtol=1e-5)


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_slope_is_that_of_the_projection(motion: str) -> None:
    T, inv_depth = relative(FIRST, MOTIONS[motion]), np.random.default_rng(1).uniform(0.02, 0.3, (12, 40))
    found, px = triangulate(projected(inv_depth, T), T, GRID)
    step = 1e-5
    change = projected(inv_depth + step, T) - projected(inv_depth - step, T)
    np.testing.assert_allclose(px, np.linalg.norm(change, axis=-1) / (2 * step), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[px > 0.05], inv_depth[px > 0.05], rtol=1e-6)


def test_an_error_of_a_match_is_an_error_of_depth_by_the_slope() -> None:
    T, inv_depth = relative(FIRST, MOTIONS["ahead"]), np.full((12, 40), 0.1)
    target = projected(inv_depth, T)
    outwards = projected(inv_depth + 1e-6, T) - target
    outwards /= np.maximum(np.linalg.norm(outwards, axis=-1, keepdims=True), 1e-12)
    _, px = triangulate(target, T, GRID)
    found, _ = triangulate(target + 1e-3 * outwards, T, GRID)
    far_out = px > 5.0
    assert far_out.sum() > 200
    np.testing.assert_allclose(found[far_out] - 0.1, (1e-3 / px)[far_out], rtol=0.02)


def test_what_moves_against_the_others_has_a_negative_depth() -> None:
    T = relative(FIRST, MOTIONS["ahead"])
    still = projected(np.zeros((12, 40)), T)
    found, px = triangulate(2 * still - projected(np.full((12, 40), 0.1), T), T, GRID)
    assert (found[px > 2.0] < -0.03).all()


def test_without_translation_nothing_is_infinite() -> None:
    found, px = triangulate(projected(np.zeros((12, 40)), np.eye(4)), np.eye(4), GRID)
    assert np.isfinite(found).all() and not px.any()
