"""Depth figures against numbers worked out by hand, and what has to hold for every map."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_slam.errors import EvaluationError
from metric_slam.evaluation.depth import CROPS, DepthProtocol, depth_metrics, mean_metrics

FIGURES = ("abs_rel", "sq_rel_m", "rmse_m", "rmse_log", "log10")


def random_depth(seed: int, low: float = 1.0, high: float = 60.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (12, 20))


def test_worked_out_by_hand() -> None:
    # pairs (p, t): (2, 1), (6, 4), (9, 10); the fourth has no truth
    found = depth_metrics(np.array([[2.0, 6.0], [9.0, 5.0]]), np.array([[1.0, 4.0], [10.0, 0.0]]))
    assert found.pixels == 3 and found.images == 1 and found.coverage == 1.0 and found.scale == 1.0
    assert found.abs_rel == pytest.approx((1.0 + 0.5 + 0.1) / 3)
    assert found.sq_rel_m == pytest.approx((1.0 + 1.0 + 0.1) / 3)
    assert found.rmse_m == pytest.approx(math.sqrt((1 + 4 + 1) / 3))
    logs = [math.log(2.0), math.log(1.5), math.log(0.9)]
    assert found.rmse_log == pytest.approx(math.sqrt(sum(x * x for x in logs) / 3))
    assert found.log10 == pytest.approx((math.log10(2.0) + math.log10(1.5) - math.log10(0.9)) / 3)
    # ratios 2, 1.5, 1.11 against 1.25, 1.5625, 1.953125
    assert (found.delta1, found.delta2, found.delta3) == pytest.approx((1 / 3, 2 / 3, 2 / 3))


@settings(deadline=None)  # a busy machine may pause the process
@given(st.integers(0, 1000), st.sampled_from(["none", "median", "scale"]), st.sampled_from(list(CROPS)))
def test_the_truth_has_no_error(seed: int, alignment: str, crop: str) -> None:
    truth = random_depth(seed)
    found = depth_metrics(truth, truth, DepthProtocol(crop=crop, alignment=alignment))
    assert [getattr(found, name) for name in FIGURES] == pytest.approx([0.0] * 5, abs=1e-12)
    assert found.delta1 == found.delta2 == found.delta3 == found.coverage == 1.0


@settings(deadline=None)  # a busy machine may pause the process
@given(st.integers(0, 1000), st.floats(0.7, 1.3).filter(lambda f: min(abs(f - 1.25), abs(f - 0.8)) > 1e-6))
def test_a_factor_shows_as_itself(seed: int, factor: float) -> None:
    truth = random_depth(seed)
    found = depth_metrics(factor * truth, truth)
    assert found.abs_rel == pytest.approx(abs(factor - 1.0), abs=1e-9)
    assert found.rmse_log == pytest.approx(abs(math.log(factor)), abs=1e-9)
    assert found.log10 == pytest.approx(abs(math.log10(factor)), abs=1e-9)
    assert found.delta1 == float(max(factor, 1 / factor) < 1.25)


@pytest.mark.parametrize("alignment", ["median", "scale"])
@pytest.mark.parametrize("factor", [0.01, 1.0, 37.0])
def test_alignment_takes_a_factor_out(alignment: str, factor: float) -> None:
    truth = random_depth(3)
    found = depth_metrics(factor * truth, truth, DepthProtocol(alignment=alignment))
    assert found.scale == pytest.approx(1.0 / factor)
    assert found.abs_rel == pytest.approx(0.0, abs=1e-12) and found.delta1 == 1.0


def test_least_squares_scale_is_the_best_one() -> None:
    truth, noisy = random_depth(4), random_depth(4) * np.random.default_rng(5).uniform(0.8, 1.1, (12, 20))
    protocol = DepthProtocol(max_depth_m=1000.0, alignment="scale")
    best = depth_metrics(noisy, truth, protocol)
    for other in (0.99, 1.01):
        assert depth_metrics(other * best.scale * noisy, truth, DepthProtocol(max_depth_m=1000.0)).rmse_m > best.rmse_m


def test_range_and_unknown_pixels() -> None:
    truth = np.array([[0.5, 1.0, 79.0, 80.0, 81.0, 0.0, np.nan, np.inf, -1.0, 20.0, 20.0, 20.0, 30.0]])
    predicted = np.full_like(truth, 500.0)
    predicted[0, 9:12] = 0.0, np.nan, np.inf
    found = depth_metrics(predicted, truth, DepthProtocol(min_depth_m=0.5))
    # 1 m, 79 m and 30 m are compared, with a prediction that is cut off at 80 m; three more have none
    assert found.pixels == 3 and found.coverage == 0.5
    assert found.abs_rel == pytest.approx((79.0 + 1 / 79 + 50 / 30) / 3)
    assert "between 0.5 m and 80 m" in found.protocol and "left out" in found.protocol


@pytest.mark.parametrize(
    ("crop", "rows", "columns"), [("garg", (153, 371), (44, 1197)), ("eigen", (124, 342), (44, 1197))]
)
def test_crops_of_a_kitti_image(crop: str, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Garg's rectangle of a 1242x375 image is known: rows 153 to 371, columns 44 to 1197."""
    counted = DepthProtocol(crop=crop).counted(np.full((375, 1242), 10.0))
    where = np.argwhere(counted)
    assert (where[0][0], where[-1][0] + 1) == rows and (where[0][1], where[-1][1] + 1) == columns
    assert counted.sum() == (rows[1] - rows[0]) * (columns[1] - columns[0])
    assert crop.capitalize() in str(DepthProtocol(crop=crop))


def test_what_lies_outside_the_crop_does_not_count() -> None:
    truth = np.full((100, 100), 10.0)
    predicted = truth.copy()
    predicted[:33] = 70.0
    assert depth_metrics(predicted, truth).abs_rel > 1.0
    assert depth_metrics(predicted, truth, DepthProtocol(crop="eigen")).abs_rel == 0.0


def test_every_image_weighs_the_same_in_the_mean() -> None:
    few, many = np.zeros((10, 10)), np.full((10, 10), 10.0)
    few[0, 0] = 10.0
    images = [depth_metrics(1.2 * few, few), depth_metrics(1.1 * many, many)]
    mean = mean_metrics(images)
    assert mean.abs_rel == pytest.approx(0.15) and mean.images == 2 and mean.pixels == 101
    assert mean.protocol == images[0].protocol
    assert mean_metrics([mean, depth_metrics(many, many)]).abs_rel == pytest.approx(0.1)
    with pytest.raises(FrozenInstanceError):
        mean.abs_rel = 0.0  # type: ignore[misc]


def test_mistakes_are_told() -> None:
    truth = random_depth(0)
    with pytest.raises(EvaluationError, match="20x11.*20x12"):
        depth_metrics(truth[1:], truth)
    with pytest.raises(EvaluationError, match="no true depth"):
        depth_metrics(truth, np.zeros_like(truth))
    with pytest.raises(EvaluationError, match="no predicted depth"):
        depth_metrics(np.zeros_like(truth), truth)
    with pytest.raises(EvaluationError, match="0 <= min < max"):
        DepthProtocol(min_depth_m=5.0, max_depth_m=5.0)
    with pytest.raises(EvaluationError, match="unknown crop 'kb'"):
        DepthProtocol(crop="kb")  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="at least one"):
        mean_metrics([])
    with pytest.raises(EvaluationError, match="different protocols"):
        mean_metrics([depth_metrics(truth, truth), depth_metrics(truth, truth, DepthProtocol(crop="garg"))])
