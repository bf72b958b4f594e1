"""Metres from a road: right where there is one, withdrawn where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metric_slam.config.schema import GroundPlaneConfig
from metric_slam.depth.base import CurrentDepth, MotionObservation
from metric_slam.depth.ground_plane.pitch import PitchCalibration
from metric_slam.depth.ground_plane.prior import GroundPlane
from metric_slam.depth.ground_plane.road_alignment import RoadPatch
from metric_slam.errors import InputError
from metric_slam.frame import CameraMount, Frame
from tests.scene import CAMERA, HEIGHT_M, Street, grid_depth_m, pose, relative, rotation
from tests.vehicle import Block, painted

R = rotation(0.01, 0.0)
WIDE = CAMERA.resized(640, 192)


def ground_plane() -> GroundPlane:
    return GroundPlane(GroundPlaneConfig(), CameraMount(HEIGHT_M))


def motions(pitch_rad: float, count: int, *, turn_rad: float = 0.0, step_m: float = 1.0) -> np.ndarray:
    """T_next_previous [count, 4, 4] of a car that drives circles of ``turn_rad`` a step."""
    camera = rotation(pitch_rad)
    step = relative(pose(R=camera), pose(0.0, step_m, R=rotation(yaw_rad=turn_rad) @ camera))
    return np.repeat(step[None], count, axis=0)


def observe(
    prior: GroundPlane, first: tuple[Street, np.ndarray], second: tuple[Street, np.ndarray], *, search: bool = False
) -> MotionObservation | None:
    states = [prior.prepare(Frame(0, 0.0, street.render(T)[0], CAMERA), CAMERA) for street, T in (first, second)]
    return prior.observe(*states, relative(first[1], second[1]), CAMERA, search=search)


# ---------------------------------------------------------------- pitch


@pytest.mark.parametrize("pitch_rad", [-0.03, 0.0, 0.017])
def test_pitch_is_the_direction_of_travel(pitch_rad: float) -> None:
    calibration = PitchCalibration(np.radians(0.15))
    before_rad = calibration.sigma_rad
    calibration.update(motions(pitch_rad, 20))
    assert calibration.pitch_rad == pytest.approx(pitch_rad, abs=1e-9)
    assert np.radians(0.15) < calibration.sigma_rad < 0.5 * before_rad


def test_a_change_of_slope_is_followed() -> None:
    """Only the latest ten straight motions count; a turn after them leaves what they said."""
    calibration = PitchCalibration(np.radians(0.15))
    before, after, turning = motions(0.02, 40), motions(-0.015, 10), motions(0.09, 8, turn_rad=np.radians(5))
    calibration.update(np.concatenate([before, after]))
    assert calibration.pitch_rad == pytest.approx(-0.015, abs=1e-9)
    calibration.update(np.concatenate([before, after, turning]))
    assert calibration.pitch_rad == pytest.approx(-0.015, abs=1e-9)
    known_rad = calibration.sigma_rad
    calibration.update(turning)
    assert calibration.pitch_rad == pytest.approx(-0.015, abs=1e-9) and calibration.sigma_rad == known_rad


@pytest.mark.parametrize("pitch_rad", [-0.02, 0.015])
def test_reversing_calibrates_the_same_pitch(pitch_rad: float) -> None:
    calibration = PitchCalibration(np.radians(0.15))
    calibration.update(motions(pitch_rad, 20, step_m=-0.7))
    assert calibration.pitch_rad == pytest.approx(pitch_rad, abs=1e-9)
    calibration.update(np.concatenate([motions(pitch_rad, 5), motions(pitch_rad, 5, step_m=-0.7)]))
    assert calibration.pitch_rad == pytest.approx(pitch_rad, abs=1e-9)


def test_sliding_sideways_is_no_travel_along_the_road() -> None:
    calibration = PitchCalibration(np.radians(0.15))
    aside = relative(pose(), pose(1.0, 0.2, y_m=0.3))
    calibration.update(np.repeat(aside[None], 12, axis=0))
    assert calibration.pitch_rad == 0.0 and calibration.sigma_rad > np.radians(0.5)


def test_noise_averages_out() -> None:
    random = np.random.default_rng(1)
    noisy = np.concatenate([motions(0.02 + random.normal(0, 0.004), 1) for _ in range(60)])
    calibration = PitchCalibration(np.radians(0.15))
    calibration.update(noisy)
    assert calibration.pitch_rad == pytest.approx(0.02, abs=0.004)


def test_turns_and_stops_are_left_out() -> None:
    calibration = PitchCalibration(np.radians(0.15))
    straight, turning = motions(0.02, 12), motions(0.09, 30, turn_rad=np.radians(5))
    standing = motions(-0.3, 8, step_m=0.001)
    calibration.update(np.concatenate([straight, turning, standing]))
    assert calibration.pitch_rad == pytest.approx(0.02, abs=1e-6)


def test_before_any_travel_the_pitch_is_unknown() -> None:
    calibration = PitchCalibration(np.radians(0.15))
    for nothing in (np.zeros((0, 4, 4)), np.eye(4)[None], motions(0.2, 3, turn_rad=0.2)):
        calibration.update(nothing)
        assert calibration.pitch_rad == 0.0 and calibration.sigma_rad > np.radians(0.5)


# ---------------------------------------------------------------- metres


@pytest.mark.parametrize("factor", [0.4, 0.9, 1.0, 1.1, 2.5])
def test_the_ratio_is_metres_over_present_length(factor: float) -> None:
    prior, street = ground_plane(), Street(seed=3)
    prior.calibrate(motions(0.01, 20))
    states = [prior.prepare(Frame(0, 0.0, street.render(pose(z_m=z, R=R))[0], CAMERA), CAMERA) for z in (0.0, 1.0)]
    T = relative(pose(R=R), pose(z_m=1.0, R=R))
    T[:3, 3] *= factor
    got = prior.observe(*states, T, CAMERA, search=False)
    assert got is not None and got.used
    assert got.log_ratio == pytest.approx(-np.log(factor), abs=0.015)
    assert 0.05 <= got.sigma < 0.2


@pytest.mark.parametrize("unit_m", [0.4, 1.0, 2.0])
def test_a_search_finds_metres_without_any_scale(unit_m: float) -> None:
    prior, street = ground_plane(), Street(seed=3)
    prior.calibrate(motions(0.01, 20))
    states = [prior.prepare(Frame(0, 0.0, street.render(pose(z_m=z, R=R))[0], CAMERA), CAMERA) for z in (0.0, unit_m)]
    T = relative(pose(R=R), pose(z_m=unit_m, R=R))
    T[:3, 3] /= unit_m
    got = prior.observe(*states, T, CAMERA, search=True)
    assert got is not None and np.exp(got.log_ratio) == pytest.approx(unit_m, rel=0.03)


def test_a_camera_that_stands_tells_nothing() -> None:
    first, second = pose(R=R), pose(z_m=0.05, R=R)
    assert observe(ground_plane(), (Street(), first), (Street(), second)) is None
    assert observe(ground_plane(), (Street(), first), (Street(), first), search=True) is None


def test_the_configured_height_comes_before_the_mount() -> None:
    assert GroundPlane(GroundPlaneConfig(camera_height_m=2.0), CameraMount(1.5)).height_m == 2.0
    assert ground_plane().height_m == HEIGHT_M


def test_one_image_alone_predicts_nothing() -> None:
    prior = ground_plane()
    assert prior.predict(prior.prepare(Frame(0, 0.0, Street().render(pose())[0], CAMERA), CAMERA), CAMERA) is None


def test_the_measured_plane_is_the_road_of_the_first_image() -> None:
    prior = ground_plane()
    prior.calibrate(motions(0.01, 20))
    for z in (0.0, 30.0):
        got = observe(prior, (Street(seed=3), pose(z_m=z, R=R)), (Street(seed=3), pose(z_m=z + 1.0, R=R)))
        assert got is not None and got.used and got.previous_depth_m is not None
        depth_m, truth_m = got.previous_depth_m, grid_depth_m(Street(walls=False), pose(R=R))
        known = depth_m > 0
        assert known.sum() > 25 and depth_m.max() <= 20.0, "the corridor and no more"
        np.testing.assert_allclose(depth_m[known], truth_m[known], rtol=0.04)
        x_m = (CAMERA.grid().rays()[..., 0] * depth_m)[known]
        assert np.abs(x_m).max() <= 2.2 and x_m.min() < -1 and x_m.max() > 1
        assert not depth_m[:3].any(), "nothing above the horizon"


def test_what_stands_in_the_corridor_is_no_road() -> None:
    """A wall across the street, five to ten metres ahead of the second half of the patch: its cells are left out."""
    prior = ground_plane()
    prior.calibrate(motions(0.01, 20))
    blocked = Street(seed=3, end_m=14.0)
    got = observe(prior, (blocked, pose(R=R)), (blocked, pose(z_m=1.0, R=R)))
    assert got is not None and got.previous_depth_m is not None
    truth_m = grid_depth_m(blocked, pose(R=R))
    wall = np.abs(truth_m - 14.0) < 0.3
    assert wall.any() and (got.previous_depth_m[wall] > 0).mean() < 0.2


def test_the_measured_plane_is_in_metres_whatever_the_length_of_the_baseline() -> None:
    prior, street = ground_plane(), Street(seed=3)
    prior.calibrate(motions(0.01, 20))
    states = [prior.prepare(Frame(0, 0.0, street.render(pose(z_m=z, R=R))[0], CAMERA), CAMERA) for z in (0.0, 1.0)]
    T = relative(pose(R=R), pose(z_m=1.0, R=R))
    found = []
    for factor in (0.9, 1.1):
        T_scaled = T.copy()
        T_scaled[:3, 3] *= factor
        got = prior.observe(*states, T_scaled, CAMERA, search=False)
        assert got is not None and got.previous_depth_m is not None
        found.append(got.previous_depth_m)
    both = (found[0] > 0) & (found[1] > 0)
    np.testing.assert_allclose(found[0][both], found[1][both], rtol=0.02)


# ---------------------------------------------------------------- from a car to a small robot

ROBOT = 0.2
"""A world in which every length, the camera's height included (0.33 m), is a fifth: its images are the same."""


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("step_m", [0.12, 0.5, 1.0, 2.0])
def test_a_robot_near_the_floor_measures_as_a_car_does(step_m: float, search: bool) -> None:
    """The same defaults, and the same results in units of the camera's height."""
    views, found = (pose(R=R), pose(z_m=step_m, R=R)), []
    for size in (1.0, ROBOT):
        prior = GroundPlane(GroundPlaneConfig(), CameraMount(size * HEIGHT_M))
        prior.calibrate(motions(0.01, 20, step_m=size))
        states = [prior.prepare(Frame(0, 0.0, Street(seed=3).render(T)[0], CAMERA), CAMERA) for T in views]
        T = relative(*views)
        T[:3, 3] *= size
        found.append(prior.observe(*states, T, CAMERA, search=search))
    car, robot = found
    assert car is not None and robot is not None and robot.used == car.used
    assert robot.log_ratio == pytest.approx(car.log_ratio, abs=1e-6)
    assert robot.sigma == pytest.approx(car.sigma, rel=1e-6)
    if step_m >= 0.5:
        assert robot.used and robot.log_ratio == pytest.approx(0.0, abs=0.03)
        assert car.previous_depth_m is not None and robot.previous_depth_m is not None
        np.testing.assert_allclose(robot.previous_depth_m, ROBOT * car.previous_depth_m, rtol=1e-6)


def test_the_path_of_a_robot_corrects_its_pitch_as_that_of_a_car() -> None:
    observation = MotionObservation(0.02, 0.05, True, detail=(0.0, 4.0))
    path = np.arange(0.0, 15.5)[:, None] * [0.0, 0.01, 1.0]
    car, robot = (
        GroundPlane(GroundPlaneConfig(), CameraMount(size * HEIGHT_M)).revised(observation, size * path)
        for size in (1.0, ROBOT)
    )
    assert car.log_ratio == pytest.approx(0.02 - 4.0 * 0.01, abs=1e-4)
    assert robot.log_ratio == pytest.approx(car.log_ratio, abs=1e-9)


def test_the_road_of_a_robot_is_found_in_its_cells() -> None:
    depth_m = grid_depth_m(Street(), pose(R=R), WIDE)
    inv_depth, still = 1.0 / np.where(depth_m > 0, depth_m, 500.0), np.zeros(depth_m.shape, bool)
    for baseline in (None, 1.0):
        found = []
        for size in (1.0, ROBOT):
            prior = GroundPlane(GroundPlaneConfig(), CameraMount(size * HEIGHT_M))
            prior.calibrate(motions(0.01, 20, step_m=size))
            road = prior.road_inv_depth(
                CurrentDepth(inv_depth / size, still), WIDE, None if baseline is None else size * baseline
            )
            assert road is not None
            found.append(size * road)
        np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


def test_a_height_that_cannot_be_is_refused() -> None:
    for height_m in (0.0, -1.65, float("nan")):
        with pytest.raises(InputError):
            GroundPlane(GroundPlaneConfig(), CameraMount(height_m))


# ---------------------------------------------------------------- the vehicle itself


def test_the_bonnet_of_the_vehicle_is_ignored() -> None:
    """A bonnet that mirrors the sky stays where it is; marked as to be ignored it does not touch the measurement."""
    views = pose(R=R), pose(z_m=1.0, R=R)
    ignore = np.zeros((WIDE.height, WIDE.width), bool)
    ignore[-45:, 120:520] = True
    mirror = np.random.default_rng(0).integers(0, 256, (int(ignore.sum()), 3)).astype(np.uint8)
    found = []
    for mask in (ignore, None):
        prior = ground_plane()
        prior.calibrate(motions(0.01, 20))
        images = [Street(seed=3).render(T, WIDE)[0].copy() for T in views]
        for image in images:
            image[ignore] = mirror
        frames = [Frame(0, 0.0, image, WIDE, mask=mask) for image in images]
        found.append(prior.observe(*(prior.prepare(f, WIDE) for f in frames), relative(*views), WIDE, search=False))
    masked, blind = found
    assert masked is not None and masked.used and masked.log_ratio == pytest.approx(0.0, abs=0.015)
    assert masked.previous_depth_m is not None and not masked.previous_depth_m[19:, 15:65].any()
    assert blind is None or not blind.used or abs(blind.log_ratio) > 2 * abs(masked.log_ratio)


# ---------------------------------------------------------------- a vehicle ahead

IN_THE_LANE = Block(top=4, bottom=24, left=22, right=58)
"""Hides the own lane from five to twenty metres."""

IN_HALF_OF_IT = Block(top=4, bottom=24, left=20, right=40)


def behind(
    block: Block, seed: int, *, aware: bool, factor: float = 1.0, search: bool = False
) -> tuple[GroundPlane, MotionObservation | None]:
    """One metre behind a vehicle that keeps its distance, in a unit of 1/``factor`` metres; ``aware``: the prior is
    told what matching says, else it sees images alone."""
    prior, views = ground_plane(), (pose(R=R), pose(z_m=1.0, R=R))
    prior.calibrate(motions(0.01, 20))
    corners = [8 * c for c in (block.left, block.top, block.right, block.bottom)]
    images = [painted(Street(seed=seed).render(T, WIDE)[0], *corners) for T in views]
    states = [prior.prepare(Frame(0, 0.0, image, WIDE), WIDE) for image in images]
    depth_m = factor * grid_depth_m(Street(seed=seed), views[0], WIDE)
    moving = block.mask(depth_m.shape)
    seen = CurrentDepth(np.where(moving, 1e-3, 1.0 / np.where(depth_m > 0, depth_m, 500.0)), moving)
    T = relative(*views)
    T[:3, 3] *= factor
    return prior, prior.observe(*states, T, WIDE, search=search, current_depth=seen if aware else None)


@pytest.mark.parametrize("search", [False, True])
def test_the_road_is_measured_beside_a_vehicle(search: bool) -> None:
    """Two per cent on the median of four roads; images alone lock on the vehicle, and that is withdrawn."""
    found = []
    for seed in range(3, 7):
        _, got = behind(IN_THE_LANE, seed, aware=True, search=search)
        assert got is not None and got.used and abs(got.log_ratio) < 0.04
        found.append(got.log_ratio)
        _, blind = behind(IN_THE_LANE, seed, aware=False, search=search)
        assert blind is None or not blind.used or abs(blind.log_ratio) > 0.1
    assert abs(np.median(found)) < 0.02


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_the_scale_is_measured_where_half_of_the_lane_is_hidden(factor: float) -> None:
    _, got = behind(IN_HALF_OF_IT, 3, aware=True, factor=factor)
    assert got is not None and got.used and got.log_ratio == pytest.approx(-np.log(factor), abs=0.02)


def test_beside_a_vehicle_the_road_is_not_made_much_lower() -> None:
    """A fit that shortens the map by a third is what a vehicle that moves along leads to; on an open road it counts."""
    factor = 1.4
    _, got = behind(IN_THE_LANE, 3, aware=True, factor=factor)
    assert got is not None and got.log_ratio == pytest.approx(-np.log(factor), abs=0.03) and not got.used
    _, longer = behind(IN_THE_LANE, 3, aware=True, factor=1 / factor)
    assert longer is not None and longer.used and longer.log_ratio == pytest.approx(np.log(factor), abs=0.03)
    aside = Block(top=4, bottom=10, left=70, right=80)
    _, free = behind(aside, 3, aware=True, factor=factor)
    assert free is not None and free.used and free.log_ratio == pytest.approx(-np.log(factor), abs=0.03)


def test_no_metres_are_given_to_the_cells_of_a_vehicle() -> None:
    _, got = behind(IN_HALF_OF_IT, 3, aware=True)
    assert got is not None and got.previous_depth_m is not None
    vehicle = IN_HALF_OF_IT.mask(got.previous_depth_m.shape)
    assert not got.previous_depth_m[vehicle].any() and (got.previous_depth_m[~vehicle] > 0).sum() > 60


def test_other_lanes_are_looked_at_only_where_the_own_is_mostly_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: dict[str, float] = {}
    blocks = {"lane": IN_THE_LANE, "half": Block(4, 24, 20, 36), "aside": Block(4, 10, 70, 80)}
    for name, block in blocks.items():

        def noting(*images: object, name: str = name, **options: Any) -> RoadPatch:
            widths[name] = options["corridor"].half_width
            return RoadPatch(*images, **options)

        monkeypatch.setattr("metric_slam.depth.ground_plane.prior.RoadPatch", noting)
        behind(block, 3, aware=True)
    config = GroundPlaneConfig()
    assert widths == {
        "lane": config.wide_corridor_heights,
        "half": config.corridor_heights,
        "aside": config.corridor_heights,
    }


@pytest.mark.parametrize("unit_m", [0.5, 1.0, 2.0])
def test_the_road_is_known_in_every_cell_in_the_unit_of_the_map(unit_m: float) -> None:
    """Behind the vehicle too; without metres it is looked for at any scale."""
    depth_m = grid_depth_m(Street(), pose(R=R), WIDE)
    moving = IN_THE_LANE.mask(depth_m.shape)
    inv_depth = unit_m * np.where(moving, 1e-3, 1.0 / np.where(depth_m > 0, depth_m, 500.0))
    prior = ground_plane()
    prior.calibrate(motions(0.01, 20))
    road = prior.road_inv_depth(CurrentDepth(inv_depth, moving), WIDE, 1.0 / unit_m)
    assert road is not None
    slope = WIDE.grid().rays() @ (R.T @ [0.0, 1.0, 0.0])
    near = slope > HEIGHT_M / 40.0
    np.testing.assert_allclose(road[near], unit_m * slope[near] / HEIGHT_M, rtol=0.04)
    assert not road[slope < 0].any()


def test_where_no_road_is_seen_it_is_known_nowhere() -> None:
    nothing = CurrentDepth(np.full((24, 80), 1e-3), np.zeros((24, 80), bool))
    assert ground_plane().road_inv_depth(nothing, WIDE, None) is None


# ---------------------------------------------------------------- honesty

WALLS_ONLY = Street(road=False)
WALL_AHEAD = Street(road=False, walls=False, end_m=15.0)


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("street", [WALLS_ONLY, WALL_AHEAD], ids=["walls", "wall ahead"])
def test_walls_are_no_road(street: Street, search: bool) -> None:
    got = observe(ground_plane(), (street, pose(R=R)), (street, pose(z_m=1.0, R=R)), search=search)
    assert got is None or not got.used


def test_an_image_that_does_not_belong_is_withdrawn_once_the_road_is_known() -> None:
    prior = ground_plane()
    prior.calibrate(motions(0.01, 20))
    for z in range(3):
        got = observe(prior, (Street(), pose(z_m=z, R=R)), (Street(), pose(z_m=z + 1, R=R)))
        assert got is not None and got.used
    for seed in range(1, 11):
        got = observe(prior, (Street(), pose(R=R)), (Street(seed=40 + seed), pose(z_m=1.0, R=R)))
        assert got is None or not got.used


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("step_m", [0.5, 1.0, 2.0])
def test_images_that_do_not_belong_together_are_withdrawn_from_the_first(step_m: float, search: bool) -> None:
    camera = CAMERA.resized(640, 192)
    used = {True: [], False: []}
    for seed in range(10, 18):
        for same in (True, False):
            prior = ground_plane()
            views = (Street(seed=seed), pose()), (Street(seed=seed + (0 if same else 100)), pose(z_m=step_m))
            states = [prior.prepare(Frame(0, 0.0, s.render(T, camera)[0], camera), camera) for s, T in views]
            got = prior.observe(*states, relative(views[0][1], views[1][1]), camera, search=search)
            used[same].append(got is not None and got.used)
    assert not any(used[False]), np.flatnonzero(used[False])
    assert all(used[True]), "the gate keeps what belongs together"
