"""Cells of vehicles on exact matches: found by the road, followed, forgiven; none where all stands still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from metric_slam.config.schema import GroundPlaneConfig
from metric_slam.correspondence.base import Correspondence
from metric_slam.depth.base import CurrentDepth
from metric_slam.depth.ground_plane.prior import GroundPlane
from metric_slam.frame import CameraMount
from metric_slam.graph.moving_mask import MOVING_FOR, MovingMask, detect_moving, mask_moving, propagate_mask
from tests.scene import CAMERA, HEIGHT_M, Street, exact_matches, grid_depth_m, pose, relative, rotation
from tests.vehicle import Block, cells, grown

CAMERA_WIDE = CAMERA.resized(640, 192)
GRID = CAMERA_WIDE.grid()
SHAPE = (GRID.height, GRID.width)
PITCH_RAD = 0.01
R = rotation(PITCH_RAD)
STREET = Street(end_m=25.0)
AHEAD = Block(top=6, bottom=21, left=33, right=47)
"""A van eight metres ahead: its roof above the horizon, its wheels in row 20."""

NOTHING = np.zeros(SHAPE, np.uint8)


def true_inv_depth(street: Street, T_world_cam: np.ndarray) -> np.ndarray:
    depth_m = grid_depth_m(street, T_world_cam, CAMERA_WIDE)
    return 1.0 / np.where(depth_m > 0, np.minimum(depth_m, 500.0), 500.0)


def matched(street: Street, T_new: np.ndarray, T_before: np.ndarray) -> Correspondence:
    target, seen = exact_matches(street, T_new, T_before, CAMERA_WIDE)
    return Correspondence(target, seen.astype(np.float64))


def road_in(inv_depth: np.ndarray, moving: np.ndarray = NOTHING) -> np.ndarray:
    """The road as the ground plane finds it in the estimate itself."""
    prior = GroundPlane(GroundPlaneConfig(), CameraMount(HEIGHT_M))
    prior.pitch.measured = np.full(10, PITCH_RAD)
    road = prior.road_inv_depth(CurrentDepth(inv_depth, moving > 0), CAMERA_WIDE, None)
    assert road is not None
    return road


def is_road(T_world_cam: np.ndarray, street: Street = STREET) -> np.ndarray:
    """Cells that show road from here, bool [h, w]."""
    depth_m = grid_depth_m(street, T_world_cam, CAMERA_WIDE)
    y_m = (GRID.rays() @ T_world_cam[1, :3]) * depth_m
    return (depth_m > 0) & (np.abs(y_m - HEIGHT_M) < 0.02)


def with_vehicle(
    block: Block, step_m: float, moved: tuple[float, float] = (0.0, 0.0), *, moving: np.ndarray = NOTHING
) -> MovingMask:
    """One look after ``step_m`` ahead, at a block whose cells came from ``moved`` cells aside. To bundle adjustment its
    cells are stars."""
    first, second = pose(z_m=1.0 - step_m, R=R), pose(z_m=1.0, R=R)
    inv_depth = np.where(block.mask(SHAPE), 1e-3, true_inv_depth(STREET, second))
    match = block.held(matched(STREET, second, first), moved)
    road = road_in(inv_depth, moving)
    return detect_moving(moving, inv_depth, inv_depth, match, relative(second, first), road, GRID)


# ---------------------------------------------------------------- found


@pytest.mark.parametrize("step_m", [1.0, 1.5, 2.0])
def test_a_vehicle_ahead_is_found_up_to_its_top(step_m: float) -> None:
    look = with_vehicle(AHEAD, step_m)
    here, found = AHEAD.mask(SHAPE), look.moving > 0
    assert found[here].mean() > 0.95 and found[AHEAD.top, AHEAD.left : AHEAD.right].mean() > 0.9
    assert set(np.unique(look.moving)) == {0, MOVING_FOR}
    beside = found & ~grown(here)
    assert not beside[AHEAD.top :].any(), "not one cell beside it or below"
    assert not found[is_road(pose(z_m=1.0, R=R)) & ~here].any()


def test_a_vehicle_that_is_too_far_to_tell_is_left_alone() -> None:
    """Its wheels at twenty metres: whether they move shows as little as the road there."""
    assert not with_vehicle(Block(top=8, bottom=14, left=37, right=43), 1.0).moving.any()


def test_the_depth_of_what_moves_is_what_its_own_motion_says() -> None:
    """So that the next look has something to compare with; that of all others stays."""
    look = with_vehicle(AHEAD, 1.0, (0.3, 0.0))
    found, inv_depth = look.moving > 0, true_inv_depth(STREET, pose(z_m=1.0, R=R))
    assert found[AHEAD.mask(SHAPE)].mean() > 0.9
    assert np.isfinite(look.inv_depth).all() and (look.inv_depth > 0).all()
    outside = ~found & ~AHEAD.mask(SHAPE)
    np.testing.assert_array_equal(look.inv_depth[outside], inv_depth[outside])


def oncoming(times: float) -> tuple[Correspondence, np.ndarray, np.ndarray]:
    """Matches new -> before where a car in the next lane comes ``times`` the own step nearer, its cells, and the road
    in its place. It stands on the road nine metres ahead."""
    first, second = pose(R=R), pose(z_m=1.0, R=R)
    block = Block(top=9, bottom=19, left=20, right=30)
    X = GRID.rays() * 9.0
    before = GRID.project(X + R.T @ np.array([0.0, 0.0, times]))
    match, here = matched(STREET, second, first), block.mask(SHAPE)
    match = replace(
        match,
        target=np.where(here[..., None], before, match.target),
        confidence=np.where(here, 1.0, match.confidence),
    )
    return match, here, road_in(true_inv_depth(STREET, second))


@pytest.mark.parametrize("times", [2.0, 3.0])
def test_a_block_that_floats_is_found(times: float) -> None:
    """What comes nearer faster than the camera drives seems nearer than the road below it."""
    match, here, road = oncoming(times)
    T = relative(pose(z_m=1.0, R=R), pose(R=R))
    inv_depth = true_inv_depth(STREET, pose(z_m=1.0, R=R))
    inv_depth = np.where(here, times / 9.0, inv_depth)
    found = detect_moving(NOTHING, inv_depth, inv_depth, match, T, road, GRID).moving > 0
    assert found[here].mean() > 0.9
    assert not (found & ~grown(here))[9:].any()


def test_a_parked_car_does_not_float() -> None:
    match, here, road = oncoming(1.0)
    T = relative(pose(z_m=1.0, R=R), pose(R=R))
    inv_depth = np.where(here, 1 / 9.0, true_inv_depth(STREET, pose(z_m=1.0, R=R)))
    assert not detect_moving(NOTHING, inv_depth, inv_depth, match, T, road, GRID).moving.any()


# ---------------------------------------------------------------- nothing moves


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("noise_px", [0.0, 0.3])
@pytest.mark.parametrize("street", [Street(), STREET, Street(half_width_m=4.0)], ids=["open", "closed", "narrow"])
def test_a_street_that_stands_still_gives_no_mask(street: Street, noise_px: float, scale: float) -> None:
    """Whatever the step and the turn, with noise on matches and depth, and with lengths wrong by a third."""
    random = np.random.default_rng(7)
    for step_m in (0.3, 0.8, 2.0):
        for yaw_rad in (0.0, 0.05):
            first, second = pose(R=R), pose(z_m=step_m, R=rotation(PITCH_RAD, 0.0, yaw_rad))
            match = matched(street, second, first)
            match = replace(match, target=match.target + random.normal(0, noise_px / 8, match.target.shape))
            inv_depth = scale * true_inv_depth(street, second) * np.exp(random.normal(0, noise_px / 3, SHAPE))
            T = relative(second, first)
            T[:3, 3] /= scale
            look = detect_moving(NOTHING, inv_depth, inv_depth, match, T, road_in(inv_depth), GRID)
            assert not look.moving.any(), (step_m, yaw_rad)
            np.testing.assert_array_equal(look.inv_depth, inv_depth)


def test_a_camera_that_stands_sees_nothing_move() -> None:
    first = pose(R=R)
    inv_depth = true_inv_depth(STREET, first)
    look = detect_moving(
        NOTHING, inv_depth, inv_depth, matched(STREET, first, first), np.eye(4), road_in(inv_depth), GRID
    )
    assert not look.moving.any() and np.isfinite(look.inv_depth).all()


@pytest.mark.parametrize("believed", [5, MOVING_FOR])
def test_road_is_never_masked(believed: int) -> None:
    """Whatever was believed: cells that are seen to be road are road. Single cells that are not sure are left."""
    first, second = pose(R=R), pose(z_m=1.0, R=R)
    inv_depth, match = true_inv_depth(STREET, second), matched(STREET, second, first)
    moving = np.full(SHAPE, believed, np.uint8)
    look = detect_moving(moving, inv_depth, inv_depth, match, relative(second, first), road_in(inv_depth), GRID)
    lane = is_road(second) & (match.confidence > 0) & (np.abs(GRID.rays()[..., 0]) < 0.3)
    assert lane.sum() > 200 and (look.moving[lane] > 0).mean() < 0.02


# ---------------------------------------------------------------- followed and forgiven


def turning(keyframes: int, straight: int, shift: float) -> Iterator[tuple[np.ndarray, Block, Correspondence]]:
    """A vehicle ahead that turns right after a while, ``shift`` cells a keyframe: inverse depth of a new keyframe, the
    block, and the matches new -> before."""
    left = float(AHEAD.left)
    for k in range(keyframes):
        first, second = pose(z_m=0.5 * k - 1.0, R=R), pose(z_m=0.5 * k, R=R)
        moved = shift if k >= straight else 0.0
        left += moved
        block = replace(AHEAD, left=round(left), right=round(left) + AHEAD.right - AHEAD.left)
        inv_depth = np.where(block.mask(SHAPE), 1e-3, true_inv_depth(STREET, second))
        yield inv_depth, block, block.held(matched(STREET, second, first), (-moved, 0.0))


def test_a_vehicle_that_turns_away_is_followed() -> None:
    T = relative(pose(z_m=1.0, R=R), pose(R=R))
    moving, inv_depth = NOTHING, np.full(SHAPE, 1e-3)
    covered, left_behind = [], []
    for estimate, block, match in turning(keyframes=12, straight=2, shift=1.5):
        moving = propagate_mask(moving, match)
        look = detect_moving(moving, estimate, estimate, match, T, road_in(estimate, moving), GRID)
        moving, inv_depth = look.moving, look.inv_depth
        here = block.mask(SHAPE)
        covered.append((moving > 0)[here].mean())
        left_behind.append(int(((moving > 0) & ~grown(here))[AHEAD.top + 4 :].sum()))
    assert min(covered) > 0.8 and np.isfinite(inv_depth).all()
    assert max(left_behind) < 0.15 * here.sum(), "it does not leave a trail"


def test_what_stands_still_after_all_is_forgiven() -> None:
    """A wall that was taken for a vehicle is cleared in a few keyframes, without waiting till belief has run out."""
    wall = Block(top=8, bottom=20, left=4, right=14)
    moving = np.where(wall.mask(SHAPE), MOVING_FOR, 0).astype(np.uint8)
    left = []
    for k in range(6):
        first, second = pose(z_m=0.3 * k - 1.0, R=R), pose(z_m=0.3 * k, R=R)
        match, inv_depth = matched(STREET, second, first), true_inv_depth(STREET, second)
        moving = propagate_mask(moving, match)
        road = road_in(inv_depth, moving)
        moving = detect_moving(moving, inv_depth, inv_depth, match, relative(second, first), road, GRID).moving
        left.append(int((moving > 0).sum()))
    assert left[0] > 0.5 * wall.mask(SHAPE).sum(), "one look is no proof"
    assert left[-1] == 0, left


def test_what_is_not_seen_again_is_forgotten_in_time() -> None:
    here = Correspondence(cells(SHAPE), np.ones(SHAPE))
    moving = np.where(AHEAD.mask(SHAPE), 3, 0).astype(np.uint8)
    for left in (2, 1, 0):
        moving = propagate_mask(moving, here)
        assert moving.dtype == np.uint8 and moving.max() == left


def test_a_mask_goes_where_the_matches_lead() -> None:
    moving = np.where(AHEAD.mask(SHAPE), 30, 0).astype(np.uint8)
    confidence = np.ones(SHAPE)
    confidence[12] = 0.0
    new = propagate_mask(moving, Correspondence(cells(SHAPE) + (4.0, -2.0), confidence))
    there = replace(AHEAD, top=AHEAD.top + 2, bottom=AHEAD.bottom + 2, left=AHEAD.left - 4, right=AHEAD.right - 4)
    expected = np.where(there.mask(SHAPE), 29, 0)
    expected[12] = 0  # no match, no belief
    np.testing.assert_array_equal(new, expected)
    assert not propagate_mask(moving, Correspondence(cells(SHAPE) + 200.0, np.ones(SHAPE))).any(), "out of the image"


# ---------------------------------------------------------------- left out


@pytest.mark.parametrize("axes", [(), (2,)], ids=["one confidence", "one for each axis"])
def test_matches_of_what_moves_are_left_out_with_a_margin(axes: tuple[int, ...]) -> None:
    """Where they are many; the sky says nothing."""
    confidence = np.full((*SHAPE, *axes), 0.8)
    confidence[:8] = 0.0
    match, lorry = Correspondence(cells(SHAPE), confidence), Block(top=6, bottom=21, left=20, right=60)
    moving = np.where(lorry.mask(SHAPE), 1, 0).astype(np.uint8)
    left = mask_moving(match, moving)
    out = grown(lorry.mask(SHAPE))
    out = out if not axes else out[..., None]
    np.testing.assert_array_equal(left.confidence, np.where(out, 0.0, confidence))
    np.testing.assert_array_equal(left.target, match.target)
    assert (match.confidence[8:] == 0.8).all(), "the match itself stays whole"
    np.testing.assert_array_equal(mask_moving(left, moving).confidence, left.confidence)


def test_few_that_move_are_left_to_the_robust_loss() -> None:
    match, small = Correspondence(cells(SHAPE), np.ones(SHAPE)), Block(top=10, bottom=16, left=36, right=44)
    assert mask_moving(match, np.where(small.mask(SHAPE), 40, 0).astype(np.uint8)) is match


def test_where_nothing_moves_the_match_is_handed_on() -> None:
    match = Correspondence(cells(SHAPE), np.ones(SHAPE))
    assert mask_moving(match, NOTHING) is match
