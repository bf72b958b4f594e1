"""The inverse search in torch against exact matches of rendered images, and against what it promises of batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metric_slam.config.schema import DisConfig
from metric_slam.correspondence import inverse_search
from metric_slam.correspondence.base import Correspondence, EdgeQuery
from metric_slam.correspondence.dis import DisCorrespondence
from metric_slam.correspondence.inverse_search import InverseSearch, coarsest_scale
from metric_slam.correspondence.patch_search import make_grid
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from tests.correspondence.flow_pairs import FIRST, STREET, R, features, match, several_motions
from tests.scene import CAMERA, exact_matches, pose, rotation

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def search() -> InverseSearch:
    return InverseSearch(DisConfig(), "cpu")


def assert_same(one: Correspondence, other: Correspondence) -> None:
    np.testing.assert_allclose(one.target, other.target, atol=1e-4)
    np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-3)


@several_motions
@pytest.mark.parametrize("finest_scale", [0, 1])
def test_flow_is_found_to_a_fraction_of_a_pixel(
    second: np.ndarray, median_px: float, p90_px: float, finest_scale: int
) -> None:
    found, error_px, seen = match(InverseSearch(DisConfig(finest_scale=finest_scale), "cpu"), second)
    believed = seen & (found.confidence > 0.5)
    assert found.target.dtype == found.confidence.dtype == np.float64
    assert believed.sum() > (0.65 - 0.2 * finest_scale) * seen.sum()
    assert np.median(error_px[believed]) < median_px * (1 + finest_scale)
    assert np.percentile(error_px[believed], 90) < p90_px * (1 + finest_scale)


def test_a_shifted_image_is_found_everywhere(search: InverseSearch) -> None:
    """Flow that is the same for all pixels, and brightness that changes."""
    wide = STREET.render(pose(), PinholeCamera(185, 185, 170, 50, 340, 110))[0]
    first, second = wide[7:103, 12:332], np.clip(0.9 * wide[4:100, 7:327].astype(float) + 15, 0, 255).astype(np.uint8)
    (found,) = search.track([EdgeQuery(search.encode(first, CAMERA), search.encode(second, CAMERA))])
    y, x = np.mgrid[0:12, 0:40]
    shift_px = FEATURE_STRIDE * (found.target - np.stack([x, y], axis=-1))
    believed = found.confidence > 0.5
    assert believed.mean() > 0.6
    np.testing.assert_allclose(np.median(shift_px[believed], axis=0), (5, 3), atol=0.05)
    assert np.percentile(np.abs(shift_px[believed] - (5, 3)), 90) < 0.3


def test_no_confidence_outside_the_image_or_without_texture(search: InverseSearch) -> None:
    found, _, _ = match(search, pose(z_m=1.5, R=R))
    x, y = np.moveaxis(found.target, -1, 0)
    outside = (x < -0.5) | (y < -0.5) | (x > 39.5) | (y > 11.5)
    assert outside.sum() > 20 and not found.confidence[outside].any()
    for grey in (np.full((96, 320), 90), 100 + 0.05 * np.mgrid[0:96, 0:320][1]):
        a, b = (search.encode(np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1), CAMERA) for _ in range(2))
        (found,) = search.track([EdgeQuery(a, b)])
        assert np.isfinite(found.target).all() and np.median(found.confidence) < 0.05


@pytest.mark.parametrize("yaw_rad", [0.2, 0.3])
def test_the_prediction_is_where_the_search_starts(search: InverseSearch, yaw_rad: float) -> None:
    turned = pose(R=rotation(0.01, 0.005, yaw_rad))
    _, cold_px, seen = match(search, turned)
    warm, warm_px, _ = match(search, turned, warm=True)
    assert np.median(cold_px[seen]) > 5, "a motion that is found without help proves nothing"
    assert np.median(warm_px[seen]) < 0.3 and (warm.confidence[seen] > 0.5).mean() > 0.75
    ignoring = InverseSearch(DisConfig(warm_start=False), "cpu")
    np.testing.assert_array_equal(match(ignoring, turned, warm=True)[1], cold_px)


def test_impossible_predictions_do_no_harm(search: InverseSearch) -> None:
    a, b = features(search, FIRST), features(search, pose(z_m=0.5, R=R))
    wild = np.full((12, 40, 2), 1e12)
    wild[:6] = np.nan
    for found in search.track([EdgeQuery(a, b, wild), EdgeQuery(b, a, -wild)]):
        assert np.isfinite(found.target).all() and np.isfinite(found.confidence).all()


def test_a_batch_gives_what_its_edges_give_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without predictions, of neighbours and wide pairs, in one piece and in several."""
    search = InverseSearch(DisConfig(finest_scale=1, wide_finest_scale=2), "cpu")
    a, b, c = (features(search, pose(z_m=z, R=R)) for z in (0.0, 0.6, 1.2))
    known = exact_matches(STREET, FIRST, pose(z_m=0.6, R=R))[0]
    edges = [EdgeQuery(a, c, neighbours=False), EdgeQuery(a, b, known), EdgeQuery(b, c), EdgeQuery(c, b)]
    alone = [search.track([edge])[0] for edge in edges[:2]] + search.track(edges[2:])
    together = search.track(edges)
    monkeypatch.setattr(inverse_search, "_PIXELS_AT_ONCE", 3 * 160 * 48)
    in_pieces = search.track(edges)
    for one, other, piece in zip(alone[2:], together[2:], in_pieces[2:], strict=True):
        assert_same(one, other)
        assert_same(one, piece)
    for one, other, piece in zip(together[:1], alone[:1], in_pieces[:1], strict=True):
        # beside neighbours, flow of wide pairs is brought to their scale before it is sampled
        assert np.median(np.abs(one.target - other.target)) < 0.005
        assert_same(one, piece)
    assert_same(alone[1], together[1])
    assert search.track([]) == []


def test_an_edge_and_its_reverse_share_their_flows(search: InverseSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    flows = InverseSearch._flows

    def counted(self: InverseSearch, pairs: list[EdgeQuery]) -> object:
        searched.append(len(pairs))
        return flows(self, pairs)

    monkeypatch.setattr(InverseSearch, "_flows", counted)
    a, b = features(search, FIRST), features(search, pose(z_m=0.5, R=R))
    forward, backward = search.track([EdgeQuery(a, b), EdgeQuery(b, a)])
    assert_same(search.track([EdgeQuery(a, b)])[0], forward)
    assert_same(search.track([EdgeQuery(b, a)])[0], backward)
    assert searched == [2, 2, 2]
    target, seen = exact_matches(STREET, pose(z_m=0.5, R=R), FIRST)
    believed = seen & (backward.confidence > 0.5)
    assert np.median(np.linalg.norm(backward.target - target, axis=-1)[believed]) < 0.15 / FEATURE_STRIDE


def test_its_confidence_is_that_of_dis() -> None:
    """Two searches of the same images agree on most cells, and believe them alike."""
    config = DisConfig(preset="ultrafast", finest_scale=1)
    images = [STREET.render(T)[0] for T in (FIRST, pose(z_m=0.5, R=R))]
    found = []
    for model in (InverseSearch(config, "cpu"), DisCorrespondence(config, threads=1)):
        a, b = (model.encode(image, CAMERA) for image in images)
        np.testing.assert_array_equal(np.asarray(a.grey), np.asarray(model.encode(images[0], CAMERA).grey))
        found += model.track([EdgeQuery(a, b)])
    ours, opencv = found
    both = (ours.confidence > 0.5) & (opencv.confidence > 0.5)
    assert both.sum() > 0.85 * (opencv.confidence > 0.5).sum()
    assert FEATURE_STRIDE * np.median(np.linalg.norm(ours.target - opencv.target, axis=-1)[both]) < 0.15


def test_all_work_is_done_on_the_device() -> None:
    """A device without memory refuses to be mixed with the CPU, as a GPU does, and to tell what a number is."""
    search = InverseSearch(DisConfig(), "meta")
    a, b, c = (features(search, pose(z_m=z, R=R)) for z in (0.0, 0.6, 1.2))
    predicted = exact_matches(STREET, FIRST, pose(z_m=0.6, R=R))[0]
    edges = [EdgeQuery(a, b, predicted), EdgeQuery(b, a), EdgeQuery(a, c, None, False), EdgeQuery(c, a, None, False)]
    with torch.inference_mode():
        flows, scale = search._flows(edges)
        ends = torch.tensor([(0, 1), (2, 3)]).to("meta")
        found = search._forward_and_backward(flows, scale, (12, 40), ends)
    assert (flows.shape, scale, found.shape) == ((4, 2, 96, 320), 0, (2, 2, 12, 40, 2))
    assert a.grey.device.type == flows.device.type == found.device.type == "meta"


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (64, 72), (40, 328)])
@pytest.mark.parametrize("stride", [None, 3, 8])
def test_small_and_odd_images(height: int, width: int, stride: int | None) -> None:
    search = InverseSearch(DisConfig(finest_scale=0, patch_stride=stride), "cpu")
    camera = PinholeCamera(100.0, 100.0, width / 2, height / 2, width, height)
    noise = np.random.default_rng(1).integers(0, 255, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    image = np.kron(noise, np.ones((4, 4, 1), np.uint8))[:height, :width]
    a, b = search.encode(image, camera), search.encode(image, camera)
    (found,) = search.track([EdgeQuery(a, b)])
    assert found.target.shape == (height // 8, width // 8, 2) and found.confidence.shape == (height // 8, width // 8)
    y, x = np.mgrid[0 : height // 8, 0 : width // 8]
    np.testing.assert_allclose(found.target, np.stack([x, y], axis=-1), atol=0.02)
    assert (found.confidence > 0.5).all()


@pytest.mark.parametrize(("height", "width", "stride"), [(8, 8, 4), (5, 9, 4), (96, 320, 4), (96, 320, 3), (47, 61, 5)])
def test_patches_cover_every_pixel(height: int, width: int, stride: int) -> None:
    grid = make_grid(height, width, stride, CPU)
    covered_height, covered_width = grid.padded
    assert height <= covered_height < max(height, 8) + stride and width <= covered_width < max(width, 8) + stride
    assert len(grid.centres) == len(grid.pixels) == grid.rows * grid.columns
    centre = (grid.pixels.mean(dim=1) + 1.0) / grid.per_px
    torch.testing.assert_close(centre, grid.centres)
    own, left, right, above, below = grid.neighbours.view(5, grid.rows, grid.columns)
    assert (own.flatten() == torch.arange(grid.rows * grid.columns)).all()
    assert (left[:, 1:] == own[:, :-1]).all() and (right[:, :-1] == own[:, 1:]).all()
    assert (above[1:] == own[:-1]).all() and (below[-1] == own[-1]).all()


def test_the_coarsest_level_holds_a_patch() -> None:
    scales = {(192, 640): 4, (288, 960): 5, (640, 192): 4, (64, 64): 1, (16, 16): 0, (8, 8): 0}
    assert {size: coarsest_scale(*size) for size in scales} == scales
