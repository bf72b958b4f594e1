"""Metres from a road: right where there is one, withdrawn where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.config import GroundPlaneConfig
from metric_slam.depth.base import MotionObservation
from metric_slam.depth.ground_plane import GroundPlane, PitchCalibration
from metric_slam.frame import CameraMount, Frame
from tests.scene import CAMERA, HEIGHT_M, Street, grid_depth_m, pose, relative, rotation

R = rotation(0.01, 0.0)


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
    return prior.observe(*states, relative(first[1], second[1]), search=search)


# ---------------------------------------------------------------- pitch


@pytest.mark.parametrize("pitch_rad", [-0.03, 0.0, 0.017])
def test_pitch_is_the_direction_of_travel(pitch_rad: float) -> None:
    calibration = PitchCalibration(np.radians(0.15))
    before_rad = calibration.sigma_rad
    calibration.update(motions(pitch_rad, 20))
    assert calibration.pitch_rad == pytest.approx(pitch_rad, abs=1e-9)
    assert np.radians(0.15) < calibration.sigma_rad < 0.5 * before_rad


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


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_the_ratio_is_metres_over_present_length(factor: float) -> None:
    prior, street = ground_plane(), Street(seed=3)
    prior.calibrate(motions(0.01, 20))
    states = [
        prior.prepare(Frame(0, 0.0, street.render(pose(z_m=z, R=R))[0], CAMERA), CAMERA) for z in (0.0, 1.0)
    ]
    T = relative(pose(R=R), pose(z_m=1.0, R=R))
    T[:3, 3] *= factor
    got = prior.observe(*states, T, search=False)
    assert got is not None and got.used
    assert got.log_ratio == pytest.approx(-np.log(factor), abs=0.015)
    assert 0.05 <= got.sigma < 0.2


@pytest.mark.parametrize("unit_m", [0.4, 1.0, 2.0])
def test_a_search_finds_metres_without_any_scale(unit_m: float) -> None:
    prior, street = ground_plane(), Street(seed=3)
    prior.calibrate(motions(0.01, 20))
    states = [
        prior.prepare(Frame(0, 0.0, street.render(pose(z_m=z, R=R))[0], CAMERA), CAMERA) for z in (0.0, unit_m)
    ]
    T = relative(pose(R=R), pose(z_m=unit_m, R=R))
    T[:3, 3] /= unit_m
    got = prior.observe(*states, T, search=True)
    assert got is not None and np.exp(got.log_ratio) == pytest.approx(unit_m, rel=0.03)


def test_a_camera_that_stands_tells_nothing() -> None:
    first, second = pose(R=R), pose(z_m=0.1, R=R)
    assert observe(ground_plane(), (Street(), first), (Street(), second)) is None
    assert observe(ground_plane(), (Street(), first), (Street(), first), search=True) is None


def test_the_configured_height_comes_before_the_mount() -> None:
    assert GroundPlane(GroundPlaneConfig(camera_height_m=2.0), CameraMount(1.5)).height_m == 2.0
    assert ground_plane().height_m == HEIGHT_M


def test_one_image_alone_predicts_nothing() -> None:
    prior = ground_plane()
    assert prior.predict(prior.prepare(Frame(0, 0.0, Street().render(pose())[0], CAMERA), CAMERA), CAMERA) is None


def test_the_calibrated_plane_is_the_road() -> None:
    prior = ground_plane()
    prior.calibrate(motions(0.01, 20))
    depth_m, truth_m = prior.plane_depth(CAMERA), grid_depth_m(Street(walls=False), pose(R=R))
    near = (truth_m > 0) & (truth_m < 40)
    np.testing.assert_allclose(depth_m[near], truth_m[near], rtol=1e-3)
    assert not depth_m[:3].any(), "nothing above the horizon"


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


@pytest.mark.xfail(reason="two unrelated roads pass for one in about one pair of eight before any other was accepted")
def test_images_that_do_not_belong_together_are_withdrawn_from_the_first() -> None:
    camera = CAMERA.resized(640, 192)
    used = []
    for seed in range(10, 18):
        prior = ground_plane()
        views = (Street(seed=seed), pose()), (Street(seed=seed + 100), pose(z_m=1.0))
        states = [prior.prepare(Frame(0, 0.0, s.render(T, camera)[0], camera), camera) for s, T in views]
        got = prior.observe(*states, relative(views[0][1], views[1][1]), search=False)
        used.append(got is not None and got.used)
    assert not any(used), np.flatnonzero(used)
