"""Cells that show the vehicle itself get no depth and no point, and no other keyframe is matched with them."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from metric_slam.config.schema import FusionConfig
from metric_slam.depth.no_prior import NoPrior
from metric_slam.errors import InputError
from metric_slam.reconstruction.cells import usable_confidence
from metric_slam.reconstruction.dense_depth import Observation, densify
from metric_slam.reconstruction.dense_stream import median_depth
from metric_slam.reconstruction.fusion import fuse
from metric_slam.reconstruction.keyframe_results import keyframe_results
from metric_slam.reconstruction.pair_flow import KeyframeView, PairMatcher
from metric_slam.reconstruction.point_cloud import point_cloud
from metric_slam.report.depth_panels import optimised_depth
from metric_slam.result import KeyframeResult, SlamResult
from tests.corridor import CAMERA, corridor_result
from tests.scene import CAMERA as SCENE_CAMERA
from tests.scene import Start, Street, keyframe_at, pose

BONNET = np.zeros((24, 40), bool)
BONNET[16:] = True
BONNET_DEPTH_M = 0.8
BONNET_RGB = (250, 20, 20)


@pytest.fixture(scope="module")
def with_bonnet() -> SlamResult:
    """Six keyframes whose lowest third shows something at one place of the image, with a confident wrong depth."""
    result = corridor_result(6)
    keyframes = []
    for keyframe in result.keyframes:
        image, inv_depth = np.array(keyframe.image), keyframe.inv_depth.copy()
        image[128:] = BONNET_RGB
        image[128:, ::8] = 30
        inv_depth[BONNET] = 1.0 / BONNET_DEPTH_M
        keyframes.append(dataclasses.replace(keyframe, image=image, inv_depth=inv_depth, ignore_cells=BONNET))
    return dataclasses.replace(result, keyframes=keyframes)


def without_mask(result: SlamResult) -> SlamResult:
    keyframes = [dataclasses.replace(keyframe, ignore_cells=None) for keyframe in result.keyframes]
    return dataclasses.replace(result, keyframes=keyframes)


def dense_depth_of_third(result: SlamResult) -> np.ndarray:
    views = [KeyframeView(k) for k in result.keyframes]
    matcher = PairMatcher()
    found = [Observation(views[2].epipolar(views[j]), matcher.match(views[2], views[j])[0]) for j in (0, 1, 3, 4)]
    return densify(views[2], found).depth


def test_ignored_cells_get_no_dense_depth(with_bonnet: SlamResult) -> None:
    depth = dense_depth_of_third(with_bonnet)
    assert not depth[128:].any() and (depth[:120] > 0).mean() > 0.5


def test_a_prior_does_not_bring_them_back(with_bonnet: SlamResult) -> None:
    ones = np.ones((24, 40), np.float32)
    keyframes = [
        dataclasses.replace(k, prior_depth_m=1.0 / k.inv_depth, prior_confidence=ones) for k in with_bonnet.keyframes
    ]
    depth = dense_depth_of_third(dataclasses.replace(with_bonnet, keyframes=keyframes))
    assert not depth[128:].any()
    seen = dense_depth_of_third(without_mask(dataclasses.replace(with_bonnet, keyframes=keyframes)))
    assert (seen[140:] > 0).mean() > 0.5, "the prior alone would give them a depth"


def test_no_match_ends_in_an_ignored_cell(with_bonnet: SlamResult) -> None:
    first, second = (KeyframeView(with_bonnet.keyframes[i]) for i in (4, 1))
    for match, other in zip(PairMatcher().match(first, second), (second, first), strict=True):
        row = np.rint(match.target[..., 1])
        inside = (row >= 128) & (row < CAMERA.height)
        inside &= (match.target[..., 0] > 0) & (match.target[..., 0] < CAMERA.width - 1)
        assert other.ignored is not None and inside.any() and np.isinf(match.error_px[inside]).all()
        assert np.isfinite(match.error_px[~inside]).mean() > 0.5


def test_no_point_of_the_map_is_one_of_them(with_bonnet: SlamResult, tmp_path: Path) -> None:
    o3d = pytest.importorskip("open3d")
    summary = fuse(with_bonnet, FusionConfig(voxel_m=0.08), tmp_path)
    colours = o3d.t.io.read_point_cloud(str(summary.map_path)).point.colors.numpy().astype(int)
    assert len(colours) > 1000 and not ((colours[:, 0] > 200) & (colours[:, 1] < 80)).any()
    cells = point_cloud(with_bonnet.keyframes).colours.astype(int)
    assert len(cells) == 6 * 16 * 40 and not ((cells[:, 0] > 200) & (cells[:, 1] < 80)).any()
    assert len(point_cloud(without_mask(with_bonnet).keyframes).colours) == 6 * 24 * 40


def test_they_do_not_count_for_the_median_and_are_not_drawn(with_bonnet: SlamResult) -> None:
    masked, plain = median_depth(with_bonnet.keyframes), median_depth(without_mask(with_bonnet).keyframes)
    assert masked is not None and plain is not None and masked > plain
    depth = optimised_depth(with_bonnet.keyframes[0])
    np.testing.assert_array_equal(np.isnan(depth), BONNET)


def test_a_run_hands_them_out_and_they_are_saved() -> None:
    street = Street()
    start = Start(NoPrior(), street=street)
    mask = np.zeros(SCENE_CAMERA.grid().size[::-1], bool)
    mask[-3:] = True
    for z_m in (0.0, 0.8):
        keyframe = keyframe_at(street, pose(z_m=z_m), features=pose(z_m=z_m))
        start.map.append(dataclasses.replace(keyframe, ignored=mask))
    start.map.graph.match_pairs([(0, 1), (1, 0)])
    found = keyframe_results(start.map, start.model, lambda stage: nullcontext())
    for keyframe_result in found:
        assert keyframe_result.ignore_cells is not None
        np.testing.assert_array_equal(keyframe_result.ignore_cells, mask)
        assert not keyframe_result.confidence[mask].any() and keyframe_result.confidence.any()
        again = KeyframeResult.from_arrays(keyframe_result.arrays()).ignore_cells
        assert again is not None and again.dtype == np.bool_
        np.testing.assert_array_equal(again, mask)


@pytest.mark.parametrize("mask", [np.zeros((24, 39), bool), np.zeros((24, 40), np.uint8)])
def test_another_mask_is_refused(with_bonnet: SlamResult, mask: np.ndarray) -> None:
    with pytest.raises(InputError, match="ignore_cells is"):
        usable_confidence(dataclasses.replace(with_bonnet.keyframes[0], ignore_cells=mask))


def test_an_image_of_another_size_is_refused(with_bonnet: SlamResult) -> None:
    keyframe = with_bonnet.keyframes[0]
    for image in (keyframe.pixels[:-8], keyframe.pixels.astype(np.float32), keyframe.pixels[..., 0]):
        with pytest.raises(InputError, match="320x192"):
            KeyframeView(keyframe, image)
