"""Two keyframes of one place give the pose between them; two of different places, or of a wrong scale, do not."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from metric_slam.errors import InputError
from metric_slam.geometry import lie
from metric_slam.loops.limits import VerificationLimits
from metric_slam.loops.verification import (
    LoopRejection,
    LoopVerifier,
    LoopView,
    VerifiedLoop,
)
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


def test_a_whole_scene_of_another_size_gives_the_same_answer() -> None:
    """Lengths are compared with the depth: a street of a tenth of the size is as good, and as strict."""
    there = pose(0.3, 1.2, R=rotation(0.02, 0.0, 0.05))
    full = LoopVerifier(CAMERA).verify(seen(50, there), seen(3, HERE))
    small = LoopVerifier(CAMERA).verify(seen(50, there, scale=0.1), seen(3, HERE, scale=0.1))
    assert isinstance(full, VerifiedLoop) and isinstance(small, VerifiedLoop)
    np.testing.assert_allclose(small.T_query_match[:3, 3], 0.1 * full.T_query_match[:3, 3], atol=1e-3)
    assert small.inliers == full.inliers


def test_features_are_computed_once() -> None:
    verifier = LoopVerifier(CAMERA)
    here, there = seen(3, HERE), seen(50, pose(z_m=0.5, R=rotation(0.01)))
    first = verifier.verify(there, here)
    assert verifier.has_features(3) and verifier.has_features(50) and not verifier.has_features(4)
    assert isinstance(first, VerifiedLoop)
    again = verifier.verify(replace(there, image=None), replace(here, image=None))
    assert isinstance(again, VerifiedLoop) and again.inliers == first.inliers
    with pytest.raises(InputError, match="image must be given for position 4"):
        verifier.verify(there, replace(here, position=4, image=None))


def test_features_of_few_keyframes_stay_in_memory() -> None:
    verifier = LoopVerifier(CAMERA, VerificationLimits(features_kept=2))
    views = [seen(n, pose(z_m=0.2 * n)) for n in range(3)]
    verifier.verify(views[0], views[1])
    verifier.verify(views[0], views[2])
    assert [verifier.has_features(n) for n in range(3)] == [True, False, True]


def test_an_empty_image_is_rejected() -> None:
    black = replace(seen(50, HERE), image=np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8))
    assert isinstance(LoopVerifier(CAMERA).verify(black, seen(3, HERE)), LoopRejection)


@pytest.mark.parametrize("there", [pose(z_m=2.5, R=rotation(0.01)), pose(0.8, 2.0, R=rotation(0.01, 0.0, -0.1))])
def test_a_place_is_recognised_from_some_metres_away(there: np.ndarray) -> None:
    found = LoopVerifier(CAMERA).verify(seen(50, there), seen(3, HERE))
    assert isinstance(found, VerifiedLoop), found
    true = lie.inverse(there) @ HERE
    assert np.linalg.norm(found.T_query_match[:3, 3] - true[:3, 3]) < 0.1


def test_depths_that_err_by_some_per_cent_cost_no_place() -> None:
    """Each on its own, so that no other pose explains them."""
    rng = np.random.default_rng(0)
    views = [seen(50, pose(z_m=2.0, R=rotation(0.01))), seen(3, HERE)]
    views = [replace(v, inv_depth=v.inv_depth * np.exp(rng.normal(0, 0.08, v.inv_depth.shape))) for v in views]
    found = LoopVerifier(CAMERA).verify(*views)
    assert isinstance(found, VerifiedLoop), found
    true = lie.inverse(pose(z_m=2.0, R=rotation(0.01))) @ HERE
    assert np.linalg.norm(found.T_query_match[:3, 3] - true[:3, 3]) < 0.2


# ---- what only looks alike


def tiled(position: int, seed: int, shift_px: tuple[int, int]) -> LoopView:
    """A wall 8 m away on which one and the same picture repeats; dirt, noise and the place on the wall are its own."""
    tile = cv2.GaussianBlur(np.random.default_rng(7).normal(size=(96, 96)), (0, 0), 1.5)[32:64, 32:64]
    wall = np.tile(120 + 50 * tile / tile.std(), (CAMERA.height // 32 + 2, CAMERA.width // 32 + 2))
    wall = wall[shift_px[1] :, shift_px[0] :][: CAMERA.height, : CAMERA.width]
    rng = np.random.default_rng(seed)
    dirt = cv2.GaussianBlur(rng.normal(size=wall.shape), (0, 0), 12)
    grey = np.clip(wall + 20 * dirt / dirt.std() + rng.normal(0, 2, wall.shape), 0, 255).astype(np.uint8)
    return LoopView(position, np.repeat(grey[..., None], 3, axis=-1), np.full((12, 40), 1 / 8.0), np.ones((12, 40)))


@pytest.mark.parametrize("seed", range(6))
def test_a_texture_that_repeats_is_no_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shift = tuple(int(n) for n in rng.integers(0, 32, 2))
    answer = LoopVerifier(CAMERA).verify(tiled(50, 100 + seed, shift), tiled(3, 200 + seed, (0, 0)))
    assert isinstance(answer, LoopRejection), answer


def test_one_thing_that_stands_in_two_places_is_no_place() -> None:
    """The same poster, as large and as far away, in two streets: a pose fits it perfectly, but little around it."""
    rows, columns = slice(16, 64), slice(112, 208)
    fooled = 0
    for seed in range(1, 8):
        here, there = seen(3, HERE), seen(50, HERE, Street(seed=40 + seed, half_width_m=5.0))
        image, inv_depth = there.image.copy(), there.inv_depth.copy()
        image[rows, columns] = here.image[rows, columns]
        inv_depth[2:8, 14:26] = here.inv_depth[2:8, 14:26]
        there = replace(there, image=image, inv_depth=inv_depth)
        answer = LoopVerifier(CAMERA).verify(there, here)
        assert isinstance(answer, LoopRejection), (seed, answer)
        without_shares = LoopVerifier(CAMERA, VerificationLimits(min_share=0.0, min_better_share=0.0))
        fooled += isinstance(without_shares.verify(there, here), VerifiedLoop)
    assert fooled, "counting points alone would have accepted some"


def verified(match: int, inliers: int) -> VerifiedLoop:
    return VerifiedLoop(90, match, np.eye(4), 0.0, inliers, 0.5)


CENTRES = np.column_stack([np.arange(100.0), np.zeros((100, 2))])


def test_the_place_with_most_inliers_wins() -> None:
    loops = [verified(10, 80), verified(50, 30), verified(12, 75)]
    winner = LoopVerifier(CAMERA).choose(loops, CENTRES, 12.5)
    assert winner is not None and winner.match == 10


def test_two_places_that_fit_equally_well_are_ambiguous() -> None:
    loops = [verified(10, 80), verified(50, 70)]
    assert LoopVerifier(CAMERA).choose(loops, CENTRES, 12.5) is None
    assert LoopVerifier(CAMERA).choose(loops, CENTRES, 100.0) is not None, "one place of a scene so large"
    assert LoopVerifier(CAMERA).choose([], CENTRES, 12.5) is None
