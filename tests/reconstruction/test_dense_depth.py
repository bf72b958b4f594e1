"""Dense matching and triangulation against the exact depths of a rendered corridor."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from metric_slam.reconstruction.dense_depth import Observation, densify, guided_filter, sky_mask
from metric_slam.reconstruction.dense_stream import checked_depths, choose_partners, dense_depths, median_depth
from metric_slam.reconstruction.images import KeyframeImages
from metric_slam.reconstruction.pair_flow import KeyframeView, PairMatcher, upsample_grid
from metric_slam.result import SlamResult
from tests.corridor import CAMERA, corridor_pose, corridor_result, render


@pytest.fixture(scope="module")
def result() -> SlamResult:
    return corridor_result(7)


def densify_third(result: SlamResult, *, fine: bool = False) -> np.ndarray:
    """Dense depth of keyframe 3 from its neighbours 1, 2, 4 and 5."""
    views = [KeyframeView(k) for k in result.keyframes]
    matcher = PairMatcher(fine=fine)
    observations = [
        Observation(views[3].epipolar(views[j]), matcher.match(views[3], views[j])[0]) for j in (1, 2, 4, 5)
    ]
    return densify(views[3], observations).depth


def test_epipolar_geometry_is_the_projection(result: SlamResult) -> None:
    first, second = KeyframeView(result.keyframes[1]), KeyframeView(result.keyframes[4])
    depth = render(corridor_pose(1))[1]
    target = first.epipolar(second).target(1.0 / depth)
    points = CAMERA.rays() * depth[..., None]
    T = np.linalg.inv(second.T_world_cam) @ first.T_world_cam
    expected = CAMERA.project(points @ T[:3, :3].T + T[:3, 3])
    inside = (np.abs(expected) < 500).all(axis=-1)
    assert inside.mean() > 0.8
    np.testing.assert_allclose(target[inside], expected[inside], atol=0.01)


def test_points_behind_the_other_camera_land_outside(result: SlamResult) -> None:
    first, second = KeyframeView(result.keyframes[0]), KeyframeView(result.keyframes[6])
    target = first.epipolar(second).target(np.full((CAMERA.height, CAMERA.width), 1 / 1.0, np.float32))
    assert (target < -1000).all()


def test_upsampled_grid_keeps_planes_and_fills_guesses() -> None:
    v, u = np.mgrid[0:12, 0:20].astype(np.float32)
    plane = 0.1 + 0.01 * u + 0.02 * v
    confidence = np.ones_like(plane)
    up, _ = upsample_grid(plane, confidence, 160, 96)
    y, x = np.mgrid[8:88, 8:152]
    np.testing.assert_allclose(up[8:88, 8:152], 0.1 + 0.01 * (x - 3.5) / 8 + 0.02 * (y - 3.5) / 8, atol=1e-4)
    wrong, doubt = plane.copy(), confidence.copy()
    wrong[5:7, 8:10], doubt[5:7, 8:10] = 5.0, 0.0
    repaired, certain = upsample_grid(wrong, doubt, 160, 96)
    np.testing.assert_allclose(repaired, up, rtol=0.35)
    assert certain[48, 72] < 0.1 < certain[10, 10]


@pytest.mark.parametrize("fine", [False, True])
def test_dense_depth_is_accurate_and_dense(result: SlamResult, fine: bool) -> None:
    true = render(corridor_pose(3))[1]
    coarse = 1.0 / KeyframeView(result.keyframes[3]).coarse[0]
    depth = densify_third(result, fine=fine)
    known = depth > 0
    assert known.mean() > 0.6
    error = np.abs(depth[known] / true[known] - 1)
    assert np.median(error) < 0.01
    assert np.percentile(error, 90) < 0.04
    assert np.median(error) < 0.4 * np.median(np.abs(coarse / true - 1)), "no better than the grid it started from"


def test_moving_things_get_no_depth(result: SlamResult) -> None:
    patch = np.random.default_rng(3).integers(0, 140, (40, 60, 3), np.uint8)
    patch = cv2.GaussianBlur(patch, (0, 0), 1.5)
    keyframes = []
    for step, keyframe in enumerate(result.keyframes):
        image = keyframe.image.copy()
        # straight ahead of a camera that drives forward, epipolar lines there are nearly vertical or short
        image[20:60, 100 + 6 * step : 160 + 6 * step] = patch
        keyframes.append(dataclasses.replace(keyframe, image=image))
    depth = densify_third(dataclasses.replace(result, keyframes=keyframes))
    on_patch = depth[25:55, 123:173] > 0
    elsewhere = depth[130:, 60:260] > 0
    assert on_patch.mean() < 0.35 < 0.8 < elsewhere.mean()


def test_without_parallax_nothing_is_claimed(result: SlamResult) -> None:
    still = [dataclasses.replace(k, T_world_cam=np.eye(4), image=result.keyframes[0].image) for k in result.keyframes]
    assert not densify_third(dataclasses.replace(result, keyframes=still)).any()


def test_a_confirmed_prior_fills_what_flow_cannot_see(result: SlamResult) -> None:
    blank = np.full_like(result.keyframes[0].image, 120)
    keyframes = []
    for index, keyframe in enumerate(result.keyframes):
        true = cv2.resize(1.0 / render(corridor_pose(index))[1], (40, 24), interpolation=cv2.INTER_AREA)
        prior, ones = 1.0 / true, np.ones_like(true)
        prior[:, :20] *= 1.5  # contradicts the optimised depth: must not count
        known = {"inv_depth": true, "confidence": 0.5 * ones, "prior_depth_m": prior, "prior_confidence": ones}
        keyframes.append(dataclasses.replace(keyframe, image=blank, **known))
    depth = densify_third(dataclasses.replace(result, keyframes=keyframes))
    true = render(corridor_pose(3))[1]
    known = depth > 0
    assert known[100:, 170:].mean() > 0.9 and known[:, :150].mean() < 0.02
    assert np.median(np.abs(depth / true - 1)[known]) < 0.01


def test_without_neighbours_nothing_is_claimed(result: SlamResult) -> None:
    assert not densify(KeyframeView(result.keyframes[0]), []).depth.any()


def test_guided_filter_keeps_steps_of_the_image_and_removes_noise() -> None:
    grey = np.full((60, 80), 60, np.uint8)
    grey[:, 40:] = 180
    truth = np.where(grey > 100, 0.5, 0.1).astype(np.float32)
    noisy = truth + np.random.default_rng(0).normal(0, 0.02, truth.shape).astype(np.float32)
    smooth = guided_filter(grey, noisy, np.ones_like(noisy))
    assert np.abs(smooth - truth).mean() < 0.25 * np.abs(noisy - truth).mean()
    assert np.abs(smooth[:, 39] - 0.1).max() < 0.03 and np.abs(smooth[:, 40] - 0.5).max() < 0.03


def test_guided_filter_trusts_weight() -> None:
    value = np.full((40, 40), 0.2, np.float32)
    value[20, 20] = 9.0
    weight = np.ones_like(value)
    weight[20, 20] = 0.0
    np.testing.assert_allclose(guided_filter(np.full(value.shape, 90, np.uint8), value, weight), 0.2, atol=1e-4)


def test_sky_is_bright_flat_and_at_the_top() -> None:
    image = np.full((100, 120, 3), 90, np.uint8)
    image[:30] = (180, 200, 240)
    image[60:80, 40:80] = (200, 200, 200)
    mask = sky_mask(image)
    assert mask[:28].all() and not mask[40:].any()


def test_partners_have_parallax(result: SlamResult) -> None:
    views = [KeyframeView(k) for k in result.keyframes]
    assert choose_partners(views, typical_depth=4.0) == [1, 4]
    assert choose_partners(views, typical_depth=100.0) == [1, 6]
    assert choose_partners(views[:2], 4.0) == [1] and choose_partners(views[:1], 4.0) == []


def test_stream_is_ordered_and_complete(result: SlamResult) -> None:
    typical = median_depth(result.keyframes)
    assert typical is not None
    stream = list(dense_depths(result.keyframes, KeyframeImages(result.keyframes), typical, 0.1))
    assert [view.keyframe.index for view, _ in stream] == list(range(7))
    assert all((dense.depth > 0).mean() > 0.3 for _, dense in stream)
    checked = list(
        checked_depths(
            result.keyframes,
            KeyframeImages(result.keyframes),
            typical_depth=typical,
            max_depth=8.0,
            min_views=2,
            max_relative_error=0.05,
        )
    )
    assert [c.position for c in checked] == list(range(7))
    for c in checked:
        known = c.view.depth > 0
        assert known.mean() > 0.2 and c.view.depth.max() <= 8.0
        assert np.median(np.abs(c.view.depth / render(corridor_pose(c.position))[1] - 1)[known]) < 0.012
