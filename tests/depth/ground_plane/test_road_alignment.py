"""The road patch on exact images with exact motion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from metric_slam.config.schema import GroundPlaneConfig
from metric_slam.depth.ground_plane.road_alignment import (
    Corridor,
    PlanePrior,
    RoadFit,
    RoadPatch,
    fit_road,
    plane_normal,
)
from metric_slam.depth.ground_plane.road_image import RoadImage, prepare_road_image
from metric_slam.geometry.camera import PinholeCamera
from tests.scene import CAMERA, HEIGHT_M, Street, pose, relative, rotation

ROAD_CAMERA = CAMERA.resized(640, 192)
CORRIDOR = Corridor(half_width=1.33, nearest=3.0, farthest=12.1)
KITTI_SIZE = CAMERA.resized(1280, 384)
NEAR = HEIGHT_M * np.array([0.55, 0.65, 0.75, *np.arange(0.88, 1.13, 0.03), 1.35, 1.55, 1.8])
BLUR_PX = GroundPlaneConfig().blur_px
PITCH_SIGMA_RAD = np.radians(0.15)


def road_image(street: Street, T_world_cam: np.ndarray, camera: PinholeCamera, blur_px: float) -> RoadImage:
    return prepare_road_image(street.render(T_world_cam, camera)[0], camera, blur_px)


def believed(pitch_rad: float, roll_rad: float) -> PlanePrior:
    return PlanePrior(pitch_rad, roll_rad, PITCH_SIGMA_RAD, np.radians(0.4))


def patch(
    first: np.ndarray,
    second: np.ndarray,
    prior: PlanePrior,
    *,
    unit: float = 1.0,
    seeds: tuple[int, int] = (3, 3),
    camera: PinholeCamera = ROAD_CAMERA,
    blur_px: float = BLUR_PX,
    free: np.ndarray | None = None,
) -> RoadPatch:
    """The patch between two poses; ``unit``: metres per unit of the translation that is handed over; ``seeds``: of the
    street seen by the first and the second image; ``free``: the cells that are taken, bool [h, w]."""
    T = relative(first, second)
    T[:3, 3] /= unit
    images = (road_image(Street(seed=s), T_i, camera, blur_px) for s, T_i in zip(seeds, (first, second), strict=True))
    cells = None if free is None else (free, camera.grid())
    return RoadPatch(*images, T, prior=prior, corridor=CORRIDOR, samples=4000, cells=cells)


def fit(pitch_rad: float, roll_rad: float, step_m: float, prior: PlanePrior, seed: int = 3) -> RoadFit:
    R = rotation(pitch_rad, roll_rad)
    found = fit_road(patch(pose(R=R), pose(z_m=step_m, R=R), prior, seeds=(seed, seed)), prior, NEAR)
    assert found is not None
    return found


def mean_height(step_m: float, blur_px: float) -> float:
    """Of four roads at full size, over the true height."""
    R, prior = rotation(0.01, 0.005), believed(0.01, 0.005)
    heights = []
    for seed in range(4):
        views = pose(R=R), pose(z_m=step_m, R=R)
        road = patch(*views, prior, seeds=(seed, seed), camera=KITTI_SIZE, blur_px=blur_px)
        found = fit_road(road, prior, NEAR)
        assert found is not None
        heights.append(found.height)
    return float(np.mean(heights)) / HEIGHT_M


def test_the_normal_is_the_road_seen_from_the_camera() -> None:
    for pitch, roll in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.2), (-0.07, 0.05)):
        down = rotation(pitch, roll).T @ np.array([0.0, 1.0, 0.0])
        np.testing.assert_allclose(plane_normal(pitch, roll), down, atol=1e-12)


@pytest.mark.parametrize(
    ("pitch_rad", "roll_rad", "step_m", "bound"),
    [(0.01, 0.005, 1.0, 0.01), (0.03, -0.02, 1.0, 0.01), (-0.02, 0.01, 1.5, 0.01), (0.0, 0.0, 0.5, 0.02)],
)
def test_the_height_is_found(pitch_rad: float, roll_rad: float, step_m: float, bound: float) -> None:
    """On the median of four roads; at half a metre the far end of the patch moves by less than a pixel."""
    found = [fit(pitch_rad, roll_rad, step_m, believed(pitch_rad, roll_rad), seed) for seed in range(4)]
    heights = np.array([f.height for f in found]) / HEIGHT_M
    assert np.median(heights) == pytest.approx(1.0, abs=bound)
    np.testing.assert_allclose(heights, 1.0, atol=2.5 * bound)
    for road in found:
        assert road.pitch_rad == pytest.approx(pitch_rad, abs=1e-3)
        assert road.roll_rad == pytest.approx(roll_rad, abs=2e-3)
        assert road.inlier_share > 0.4 and road.log_height_sigma < 0.15 and road.samples >= 1000


def test_a_pitch_a_little_off_costs_what_the_slope_says() -> None:
    """The patch alone hardly tells pitch from height: an error in the believed pitch goes into the height."""
    wrong_rad = np.radians(0.1)
    right, wrong = (fit(0.01, 0.0, 1.0, believed(0.01 + offset, 0.0)) for offset in (0.0, wrong_rad))
    change = np.log(wrong.height / right.height)
    assert change == pytest.approx(right.dlog_height_dpitch * wrong_rad, rel=0.35)
    assert abs(change) < 0.015


@pytest.mark.parametrize("step_m", [0.5, 1.0])
def test_the_default_blur_hardly_biases_the_height(step_m: float) -> None:
    assert mean_height(step_m, BLUR_PX) == pytest.approx(1.0, abs=0.004)


def test_more_blur_makes_the_road_seem_lower() -> None:
    """Why the default is so fine: short steps suffer first."""
    assert mean_height(0.5, 2.5) > mean_height(0.5, BLUR_PX) + 0.003


def test_turning_between_the_images_does_not_matter() -> None:
    first = pose(R=rotation(0.01, 0.0, -0.02))
    second = pose(0.1, 1.0, R=rotation(0.012, 0.01, 0.03))
    prior = believed(0.01, 0.0)
    found = fit_road(patch(first, second, prior), prior, NEAR)
    assert found is not None and found.height == pytest.approx(HEIGHT_M, rel=0.015)


def test_height_comes_in_the_unit_of_the_translation() -> None:
    prior = believed(0.01, 0.0)
    R = rotation(0.01)
    found = fit_road(patch(pose(R=R), pose(z_m=1.0, R=R), prior, unit=2.5), prior, NEAR / 2.5)
    assert found is not None and found.height == pytest.approx(HEIGHT_M / 2.5, rel=0.01)


@pytest.mark.parametrize("baseline_m", [0.15, 0.3, 0.6, 1.0, 2.0])
def test_a_wide_search_finds_the_height_at_any_scale(baseline_m: float) -> None:
    prior = believed(0.01, 0.0)
    R = rotation(0.01)
    unit = patch(pose(R=R), pose(z_m=baseline_m, R=R), prior, unit=baseline_m)
    found = fit_road(unit, prior, HEIGHT_M / np.geomspace(0.15, 4.0, 80))
    assert found is not None and found.height * baseline_m == pytest.approx(HEIGHT_M, rel=0.04)


def test_jacobian_is_the_derivative_of_the_warped_brightness() -> None:
    """Against differences of smooth residuals; both sides interpolate linearly, hence not to the last digit."""
    R = rotation(0.01, 0.005)
    road = patch(pose(R=R), pose(z_m=1.0, R=R), believed(0.01, 0.005), blur_px=1.5)
    p = np.array([1 / 1.7, 0.012, 0.004])
    _, usable, J = road._residual(p, True)
    assert J is not None and usable.mean() > 0.6
    for k, step in enumerate((4e-3, 1e-3, 6e-3)):  # each moves the pixels by about one
        d = np.eye(3)[k] * step
        (after, ok_after, _), (before, ok_before, _) = road._residual(p + d, False), road._residual(p - d, False)
        ok = usable & ok_after & ok_before
        numeric = (after - before)[ok] / (2 * step)
        # the residual's median is taken out, which J leaves out
        x, y = J[ok, k] - np.median(J[ok, k]), numeric - np.median(numeric)
        assert np.corrcoef(x, y)[0, 1] > 0.97, k
        assert (x @ y) / (x @ x) == pytest.approx(1.0, abs=0.12), k


def test_the_slope_of_height_over_pitch_is_that_of_refits() -> None:
    def height_at(pitch_rad: float) -> RoadFit:
        return fit(0.01, 0.005, 1.0, PlanePrior(pitch_rad, 0.005, 1e-7, 1e-7))

    delta = 3e-3
    slope = (np.log(height_at(0.01 + delta).height) - np.log(height_at(0.01 - delta).height)) / (2 * delta)
    assert height_at(0.01).dlog_height_dpitch == pytest.approx(slope, rel=0.2)


def test_no_fit_without_overlap() -> None:
    prior = believed(0.0, 0.0)
    aside = patch(pose(), pose(R=rotation(yaw_rad=1.2)), prior)
    assert fit_road(aside, prior, NEAR) is None


def test_no_fit_without_a_corridor_in_view() -> None:
    prior = believed(0.5, 0.0)  # looks far up: the road is nowhere
    assert fit_road(patch(pose(), pose(z_m=1.0), prior), prior, NEAR) is None


def test_another_road_costs_far_more_than_the_same_one() -> None:
    prior = believed(0.0, 0.0)
    same, other = (fit_road(patch(pose(), pose(z_m=1.0), prior, seeds=(3, s)), prior, NEAR) for s in (3, 50))
    assert same is not None and other is not None
    assert other.cost > 5 * same.cost and other.inlier_share < 0.6 * same.inlier_share


@pytest.mark.parametrize("step_m", [0.5, 1.0, 2.0])
def test_a_road_stands_out_against_other_heights_and_two_roads_do_not(step_m: float) -> None:
    prior = believed(0.0, 0.0)
    for heights in (NEAR, HEIGHT_M * step_m / np.geomspace(0.15, 4.0, 80)):
        for seed in range(10, 13):
            same, other = (
                fit_road(patch(pose(), pose(z_m=step_m), prior, seeds=(seed, s)), prior, heights)
                for s in (seed, seed + 100)
            )
            assert same is not None and same.distinctness < 0.5
            assert other is None or other.distinctness > 0.8


def test_a_fit_that_was_compared_with_nothing_is_not_distinct() -> None:
    prior = believed(0.0, 0.0)
    found = fit_road(patch(pose(), pose(z_m=1.0), prior), prior, HEIGHT_M * np.array([0.9, 1.0, 1.1]))
    assert found is not None and found.distinctness == 1.0


# ---------------------------------------------------------------- some cells only

RIGHT_HALF = np.zeros((24, 80), bool)
RIGHT_HALF[:, 40:] = True


def test_only_pixels_of_free_cells_are_taken() -> None:
    prior, views = believed(0.01, 0.0), (pose(R=rotation(0.01)), pose(z_m=1.0, R=rotation(0.01)))
    every_cell = np.ones((24, 80), bool)
    everything, all_free, half, none = (
        patch(*views, prior, free=free) for free in (None, every_cell, RIGHT_HALF, ~every_cell)
    )
    assert len(all_free) == len(everything) and len(none) == 0
    np.testing.assert_array_equal(all_free._rays, everything._rays)
    u = half._rays[0] * ROAD_CAMERA.fx + ROAD_CAMERA.cx
    assert len(half) > 1000 and u.min() >= 8 * 40 - 1 and u.max() < ROAD_CAMERA.width
    assert fit_road(none, prior, NEAR) is None


def test_half_of_the_corridor_is_enough_for_the_height() -> None:
    prior, heights = believed(0.01, 0.0), []
    for seed in range(4):
        views = pose(R=rotation(0.01)), pose(z_m=1.0, R=rotation(0.01))
        road = patch(*views, prior, seeds=(seed, seed), free=RIGHT_HALF)
        found = fit_road(road, prior, NEAR)
        assert found is not None
        heights.append(found.height / HEIGHT_M)
        support = road.support(found, ROAD_CAMERA.grid())
        assert not support[~RIGHT_HALF].any() and support[17, 42] > 0.8
    assert np.median(heights) == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(heights, 1.0, atol=0.03)


# ---------------------------------------------------------------- pixels without texture


def altered_patch(
    alter: Callable[[np.ndarray], np.ndarray],
    ignore: np.ndarray | None = None,
    *,
    seed: int = 3,
    camera: PinholeCamera = ROAD_CAMERA,
) -> RoadPatch:
    """One metre along the road, both images changed by ``alter``."""
    R = rotation(0.01, 0.005)
    views = pose(R=R), pose(z_m=1.0, R=R)
    images = (
        prepare_road_image(alter(Street(seed=seed).render(T, camera)[0].copy()), camera, BLUR_PX, ignore) for T in views
    )
    return RoadPatch(*images, relative(*views), prior=believed(0.01, 0.005), corridor=CORRIDOR, samples=4000)


def with_bonnet(image: np.ndarray) -> np.ndarray:
    """The lowest rows painted black."""
    image[-60:] = 0
    return image


def uniform_below(image: np.ndarray) -> np.ndarray:
    """One grey level in the whole lower half."""
    image[image.shape[0] // 2 - 20 :] = 90
    return image


@pytest.mark.parametrize(("camera", "bound"), [(KITTI_SIZE, 0.005), (ROAD_CAMERA, 0.04)], ids=["wide", "small"])
def test_the_height_is_found_above_a_black_bonnet(camera: PinholeCamera, bound: float) -> None:
    """In the small image only the farthest part of the patch is left."""
    for seed in range(4):
        road = altered_patch(with_bonnet, seed=seed, camera=camera)
        found = fit_road(road, road.prior, NEAR)
        assert found is not None and found.distinctness < 0.3
        assert found.height / HEIGHT_M == pytest.approx(1.0, abs=bound)


def test_no_fit_on_a_uniform_road() -> None:
    road = altered_patch(uniform_below)
    assert fit_road(road, road.prior, NEAR) is None


def test_no_fit_where_the_second_image_is_uniform() -> None:
    R = rotation(0.01, 0.005)
    views = pose(R=R), pose(z_m=1.0, R=R)
    images = [Street(seed=3).render(T, ROAD_CAMERA)[0].copy() for T in views]
    first, second = images[0], uniform_below(images[1])
    road = RoadPatch(
        *(prepare_road_image(image, ROAD_CAMERA, BLUR_PX) for image in (first, second)),
        relative(*views),
        prior=believed(0.01, 0.005),
        corridor=CORRIDOR,
        samples=4000,
    )
    assert fit_road(road, road.prior, NEAR) is None


def test_no_fit_without_motion() -> None:
    """Two equal images without a baseline: every height fits, and the normal equations are singular."""
    image = prepare_road_image(Street(seed=3).render(pose(), ROAD_CAMERA)[0], ROAD_CAMERA, BLUR_PX)
    road = RoadPatch(image, image, np.eye(4), prior=believed(0.0, 0.0), corridor=CORRIDOR, samples=4000)
    assert fit_road(road, road.prior, NEAR) is None


def test_ignored_pixels_take_no_part() -> None:
    """A bonnet that mirrors the world: whatever it shows, the same samples and the same height as without it."""
    ignore = np.zeros((ROAD_CAMERA.height, ROAD_CAMERA.width), bool)
    ignore[-40:, 200:440] = True
    random = np.random.default_rng(0)

    def mirrored(image: np.ndarray) -> np.ndarray:
        image[ignore] = random.integers(0, 256, (int(ignore.sum()), 3))
        return image

    plain, ignored = altered_patch(lambda image: image, ignore), altered_patch(mirrored, ignore)
    np.testing.assert_array_equal(plain._brightness, ignored._brightness)
    v = np.rint(ignored._rays[1] * ROAD_CAMERA.fy + ROAD_CAMERA.cy).astype(int)
    u = np.rint(ignored._rays[0] * ROAD_CAMERA.fx + ROAD_CAMERA.cx).astype(int)
    assert not ignore[v, u].any() and len(ignored) > 1000
    found = fit_road(ignored, ignored.prior, NEAR)
    assert found is not None and found.height / HEIGHT_M == pytest.approx(1.0, abs=0.02)
    blind = altered_patch(mirrored)
    misled = fit_road(blind, blind.prior, NEAR)
    assert misled is None or misled.cost > 2 * found.cost
