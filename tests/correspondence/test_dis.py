"""DIS against exact matches of rendered images."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.config.schema import DisConfig
from metric_slam.correspondence.base import EdgeQuery
from metric_slam.correspondence.dis import DisCorrespondence
from metric_slam.errors import InputError
from metric_slam.geometry.camera import FEATURE_STRIDE
from tests.correspondence.flow_pairs import FIRST, STREET, R, features, match, several_motions
from tests.scene import CAMERA, Street, exact_matches, pose, rotation

ROOM = Street(end_m=30.0)


@pytest.fixture(scope="module")
def dis() -> DisCorrespondence:
    return DisCorrespondence(DisConfig(), threads=2)


@several_motions
def test_flow_is_found_to_a_fraction_of_a_pixel(
    dis: DisCorrespondence, second: np.ndarray, median_px: float, p90_px: float
) -> None:
    found, error_px, seen = match(dis, second)
    believed = seen & (found.confidence > 0.5)
    assert believed.sum() > 0.65 * seen.sum()
    assert np.median(error_px[believed]) < median_px
    assert np.percentile(error_px[believed], 90) < p90_px


def test_no_confidence_outside_the_image(dis: DisCorrespondence) -> None:
    found, _, _ = match(dis, pose(z_m=1.5, R=R))
    x, y = np.moveaxis(found.target, -1, 0)
    outside = (x < -0.5) | (y < -0.5) | (x > 39.5) | (y > 11.5)
    assert outside.sum() > 30 and not found.confidence[outside].any()
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()


def test_what_is_hidden_is_not_believed(dis: DisCorrespondence) -> None:
    """A pole-like block of other texture slides over the background: cells that it covers have no match."""
    background = STREET.render(FIRST)[0]
    block = Street(seed=9).render(FIRST)[0][:, 100:148]
    first, second = background.copy(), background.copy()
    first[:, 60:108] = block
    second[:, 84:132] = block
    (found,) = dis.track([EdgeQuery(dis.encode(first, CAMERA), dis.encode(second, CAMERA))])
    covered = np.zeros((12, 40), bool)
    covered[:, 14:16] = True  # pixels 112..127: seen in the first image, behind the block in the second
    away = np.zeros((12, 40), bool)
    away[:, 24:39] = True
    assert (found.confidence[covered] > 0.2).mean() < 0.15
    assert (found.confidence[away] > 0.2).mean() > 0.9


def test_a_smooth_image_is_not_believed(dis: DisCorrespondence) -> None:
    y, x = np.mgrid[0:96, 0:320]
    soft = np.repeat((100 + 0.05 * x + 0.03 * y).astype(np.uint8)[..., None], 3, axis=-1)
    a = dis.encode(soft, CAMERA)
    (found,) = dis.track([EdgeQuery(a, a)])
    assert np.median(found.confidence) < 0.05


def test_an_image_matches_itself(dis: DisCorrespondence) -> None:
    a = features(dis, FIRST)
    (found,) = dis.track([EdgeQuery(a, a)])
    y, x = np.mgrid[0:12, 0:40]
    np.testing.assert_allclose(found.target, np.stack([x, y], axis=-1), atol=0.01)


@pytest.mark.parametrize("yaw_rad", [0.2, 0.3])
def test_the_prediction_is_where_the_search_starts(dis: DisCorrespondence, yaw_rad: float) -> None:
    turned = pose(R=rotation(0.01, 0.005, yaw_rad))
    _, cold_px, seen = match(dis, turned, street=STREET)
    warm, warm_px, _ = match(dis, turned, street=STREET, warm=True)
    assert np.median(cold_px[seen]) > 5, "a motion that DIS finds without help proves nothing"
    assert np.median(warm_px[seen]) < 0.3 and (warm.confidence[seen] > 0.5).mean() > 0.8
    ignoring = DisCorrespondence(DisConfig(warm_start=False), threads=1)
    _, ignored_px, _ = match(ignoring, turned, street=STREET, warm=True)
    np.testing.assert_array_equal(ignored_px, cold_px)


def test_impossible_predictions_do_no_harm(dis: DisCorrespondence) -> None:
    a, b = features(dis, FIRST), features(dis, pose(z_m=0.5, R=R))
    wild = np.full((12, 40, 2), 1e12)
    wild[:6] = np.nan
    for found in dis.track([EdgeQuery(a, b, wild), EdgeQuery(b, a, -wild)]):
        assert np.isfinite(found.target).all() and np.isfinite(found.confidence).all()


def test_answers_come_in_the_order_of_the_questions(dis: DisCorrespondence) -> None:
    a, b, c = (features(dis, pose(z_m=z, R=R), ROOM) for z in (0.0, 0.6, 1.2))
    alone = [dis.track([EdgeQuery(s, t)])[0].target for s, t in ((a, b), (c, a), (b, a), (b, c))]
    together = dis.track([EdgeQuery(s, t) for s, t in ((a, b), (c, a), (b, a), (b, c))])
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other.target)
    assert dis.track([]) == []


def test_threads_do_not_change_the_answer() -> None:
    pairs = [(pose(z_m=0.4 * i, R=R), pose(z_m=0.4 * i + 0.8, R=R)) for i in range(6)]

    def answers(threads: int) -> list[np.ndarray]:
        model = DisCorrespondence(DisConfig(), threads=threads)
        edges = [EdgeQuery(features(model, s), features(model, t)) for s, t in pairs]
        found = model.track(edges) + model.track(edges[::-1])[::-1]
        return [array for c in found for array in (c.target, c.confidence)]

    for one, other in zip(answers(1), answers(4), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_every_preset_works(preset: str) -> None:
    model = DisCorrespondence(DisConfig(preset=preset, finest_scale=1, patch_stride=3), threads=1)
    found, error_px, seen = match(model, pose(z_m=0.4, R=R))
    assert np.median(error_px[seen & (found.confidence > 0.3)]) < 0.5


def test_a_prediction_for_one_pair_does_not_reach_the_next() -> None:
    """OpenCV's object keeps an initial flow for ever, also when later searches are given none."""
    model = DisCorrespondence(DisConfig(), threads=1)
    a, b, c = (features(model, pose(z_m=z, R=R)) for z in (0.0, 0.6, 1.2))
    before = model.track([EdgeQuery(a, b)])[0]
    elsewhere = np.full((12, 40, 2), 25.0)
    model.track([EdgeQuery(b, c, elsewhere), EdgeQuery(c, b, elsewhere)])
    after = model.track([EdgeQuery(a, b)])[0]
    np.testing.assert_array_equal(after.target, before.target)
    np.testing.assert_array_equal(after.confidence, before.confidence)


def test_wide_pairs_are_matched_at_their_own_scale() -> None:
    """Neighbours are matched as finely as ever, also in one call with others."""
    mixed = DisCorrespondence(DisConfig(finest_scale=0, wide_finest_scale=2), threads=1)
    a, b, c = (features(mixed, pose(z_m=z, R=R)) for z in (0.0, 0.6, 1.2))
    near, wide = mixed.track([EdgeQuery(a, b, neighbours=True), EdgeQuery(a, c, neighbours=False)])
    for found, target, scale in ((near, b, 0), (wide, c, 2)):
        model = DisCorrespondence(DisConfig(finest_scale=scale), threads=1)
        (alone,) = model.track([EdgeQuery(a, target)])
        np.testing.assert_array_equal(found.target, alone.target)
        np.testing.assert_array_equal(found.confidence, alone.confidence)
    (fine,) = mixed.track([EdgeQuery(a, c, neighbours=True)])
    truth, seen = exact_matches(STREET, FIRST, pose(z_m=1.2, R=R))
    fine_px, wide_px = (
        np.median(FEATURE_STRIDE * np.linalg.norm(found.target - truth, axis=-1)[seen]) for found in (fine, wide)
    )
    assert fine_px < 0.8 * wide_px


@pytest.mark.parametrize("other", ["no features", np.zeros((96, 320), np.uint8), None])
def test_features_of_another_model_are_refused(dis: DisCorrespondence, other: object) -> None:
    own = features(dis, FIRST)
    with pytest.raises(InputError, match="expected DisFeatures"):
        dis.track([EdgeQuery(own, other)])
