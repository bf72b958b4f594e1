"""Two keyframes of one place give the pose between them; two of different places, or of a wrong scale, do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metric_slam.geometry import lie
from metric_slam.loop_verification import LoopRejection, LoopVerifier, LoopView, VerifiedLoop, choose
from tests.scene import CAMERA, Street, grid_depth_m, pose, rotation

STREET = Street(end_m=30.0)


def seen(position: int, T_world_cam: np.ndarray, street: Street = STREET, scale: float = 1.0) -> LoopView:
    image, _ = street.render(T_world_cam)
    depth_m = grid_depth_m(street, T_world_cam)
    known = depth_m > 0
    return LoopView(position, image, 1.0 / np.where(known, scale * depth_m, 1e3), known.astype(float))


HERE = pose(R=rotation(0.01))


@pytest.mark.parametrize(
    "there", [pose(z_m=0.8, R=rotation(0.01)), pose(0.3, 1.2, R=rotation(0.02, 0.0, 0.05)), pose(z_m=-0.6)]
)
def test_the_pose_between_two_views_of_a_place_is_found(there: np.ndarray) -> None:
    found = LoopVerifier(CAMERA).verify(seen(50, there), seen(3, HERE))
    assert isinstance(found, VerifiedLoop), found
    true = lie.inverse(there) @ HERE
    assert np.linalg.norm(found.T_query_match[:3, 3] - true[:3, 3]) < 0.06
    assert np.abs(found.T_query_match[:3, :3] - true[:3, :3]).max() < 0.006
    assert abs(found.log_scale) < 0.03 and (found.query, found.match) == (50, 3)


def test_another_place_is_rejected() -> None:
    verifier = LoopVerifier(CAMERA)
    for seed in range(1, 6):
        other = seen(50 + seed, pose(z_m=2.0 * seed), Street(seed=seed, half_width_m=4.0 + seed))
        assert isinstance(verifier.verify(other, seen(3, HERE)), LoopRejection)


def test_a_darker_image_is_the_same_place() -> None:
    darker = seen(50, pose(z_m=0.5, R=rotation(0.01)))
    darker = replace(darker, image=(darker.image * 0.6).astype(np.uint8))
    assert isinstance(LoopVerifier(CAMERA).verify(darker, seen(3, HERE)), VerifiedLoop)


def test_metres_must_agree_and_an_unknown_scale_is_measured() -> None:
    there = seen(50, pose(z_m=0.8, R=rotation(0.01)), scale=0.5)
    answer = LoopVerifier(CAMERA).verify(there, seen(3, HERE))
    assert isinstance(answer, LoopRejection) and "scale" in answer.reason
    found = LoopVerifier(CAMERA).verify(there, seen(3, HERE), metric=False)
    assert isinstance(found, VerifiedLoop) and found.log_scale == pytest.approx(np.log(2.0), abs=0.03)


def test_depth_that_is_a_guess_verifies_nothing() -> None:
    guess = replace(seen(50, pose(z_m=0.5)), confidence=np.zeros((12, 40)))
    assert isinstance(LoopVerifier(CAMERA).verify(guess, seen(3, HERE)), LoopRejection)


def test_an_empty_image_is_rejected() -> None:
    black = replace(seen(50, HERE), image=np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8))
    assert isinstance(LoopVerifier(CAMERA).verify(black, seen(3, HERE)), LoopRejection)


def verified(match: int, inliers: int) -> VerifiedLoop:
    return VerifiedLoop(90, match, np.eye(4), 0.0, inliers, 0.5)


CENTRES = np.column_stack([np.arange(100.0), np.zeros((100, 2))])


def test_the_place_with_most_inliers_wins() -> None:
    winner = choose([verified(10, 80), verified(50, 30), verified(12, 75)], CENTRES)
    assert winner is not None and winner.match == 10


def test_two_places_that_fit_equally_well_are_ambiguous() -> None:
    assert choose([verified(10, 80), verified(50, 70)], CENTRES) is None
