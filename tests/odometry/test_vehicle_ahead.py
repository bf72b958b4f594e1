"""The whole spine behind a vehicle that covers a fifth of the image and hides the lane; no alignment anywhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from metric_slam.graph.moving_mask import MovingMask
from metric_slam.odometry import moving_cells, sliding_window
from metric_slam.result import SlamResult
from tests.scene import Drive, Street, rotation, run, straight
from tests.vehicle import painted

R = rotation(0.01)
FRAMES, STEP_M = 22, 0.8
LEFT_PX, TOP_PX, RIGHT_PX, BOTTOM_PX = 112.0, 24.0, 208.0, 88.0


STREETS = pytest.mark.parametrize("seed", [0, 30, 90])


def behind(aside_px: Callable[[int], float], seed: int) -> Drive:
    """A straight drive behind a vehicle that keeps its distance and in frame i is ``aside_px(i)`` to the right."""
    street, path = Street(seed=seed), straight(FRAMES, STEP_M, R=R)
    images = {
        i: painted(street.render(T)[0], LEFT_PX + aside_px(i), TOP_PX, RIGHT_PX + aside_px(i), BOTTOM_PX)
        for i, T in enumerate(path)
    }
    return Drive(street, path, images=images)


def swaying(index: int) -> float:
    """From lane to lane, a metre or so."""
    return 25.0 * np.sin(index / 4.0)


def scale_and_error_m(result: SlamResult, drive: Drive) -> tuple[float, float]:
    """Distance from the fourth frame to the last over the true one, and the largest error of a position."""
    found, truth = (T[3:, :3, 3] for T in (result.T_world_cam, drive.T_world_cam_true))
    scale = np.linalg.norm(found[-1] - found[0]) / np.linalg.norm(truth[-1] - truth[0])
    return float(scale), float(np.linalg.norm(found - truth, axis=1).max())


def seeing_nothing_move(moving: np.ndarray, inv_depth: np.ndarray, *rest: object) -> MovingMask:
    """In place of detect_moving."""
    return MovingMask(np.zeros_like(moving), inv_depth)


@STREETS
def test_a_vehicle_that_sways_does_not_take_the_camera_with_it(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """And it would, were its cells not left out."""
    drive = behind(swaying, seed)
    result = run(drive)
    scale, error_m = scale_and_error_m(result, drive)
    assert result.tracked.all() and result.scale_source == "ground_plane"
    assert scale == pytest.approx(1.0, abs=0.03) and error_m < 0.04 * FRAMES * STEP_M
    for module in (sliding_window, moving_cells):
        monkeypatch.setattr(module, "detect_moving", seeing_nothing_move)
    _, without_m = scale_and_error_m(run(drive), drive)
    assert without_m > 3 * error_m and without_m > 0.1 * FRAMES * STEP_M


@STREETS
def test_metres_are_found_behind_a_vehicle_that_is_there_from_the_first_frame(seed: int) -> None:
    """It never moves in the image, and all of the lane that it hides seems to be as far away as the stars."""
    drive = behind(lambda index: 0.0, seed)
    result = run(drive)
    scale, _ = scale_and_error_m(result, drive)
    assert result.tracked.all() and result.scale_source == "ground_plane"
    assert scale == pytest.approx(1.0, abs=0.05)
