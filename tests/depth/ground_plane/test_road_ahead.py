"""The path that was driven afterwards corrects the pitch that was assumed when the road was measured."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.config.schema import GroundPlaneConfig
from metric_slam.depth.base import MotionObservation
from metric_slam.depth.ground_plane.prior import GroundPlane
from metric_slam.frame import CameraMount, Frame
from tests.scene import CAMERA, HEIGHT_M, Street, pose, relative, rotation

PITCH_RAD = 0.012


def measured() -> tuple[GroundPlane, MotionObservation]:
    """One pair of a pitched camera, measured by a prior that still believes in no pitch at all."""
    camera, street = CAMERA.resized(640, 192), Street()
    R = rotation(PITCH_RAD)
    first, second = pose(R=R), pose(0.0, 1.0, R=R)
    prior = GroundPlane(GroundPlaneConfig(), CameraMount(HEIGHT_M))
    states = [prior.prepare(Frame(0, 0.0, street.render(T, camera)[0], camera), camera) for T in (first, second)]
    observation = prior.observe(*states, relative(first, second), camera, search=False)
    assert observation is not None
    return prior, observation


def path(length_m: float, *, pitch_rad: float = PITCH_RAD, yaw_rad: float = 0.0) -> np.ndarray:
    """Positions every metre along a straight line, in axes of a camera that looks ``pitch_rad`` above that line."""
    direction = np.array([np.sin(yaw_rad), np.sin(pitch_rad), np.cos(yaw_rad) * np.cos(pitch_rad)])
    return np.arange(0.0, length_m + 0.5)[:, None] * direction


def test_a_wrong_pitch_is_mended_by_the_path() -> None:
    prior, observation = measured()
    assert abs(observation.log_ratio) > 0.03, "0.7 degrees of pitch have to matter, or this test shows nothing"
    revised = prior.revised(observation, path(15.0))
    assert abs(revised.log_ratio) < 0.015
    assert revised.sigma == observation.sigma and revised.used == observation.used


@pytest.mark.parametrize("where", [path(6.0), path(15.0, yaw_rad=0.6), np.zeros((1, 3))])
def test_a_short_path_and_a_turn_correct_nothing(where: np.ndarray) -> None:
    prior, observation = measured()
    assert prior.revised(observation, where) is observation
