from __future__ import annotations

import numpy as np
import pytest

from metric_slam.datasets.synthetic import degrade_depth

EXACT = np.full((48, 160), 12.5)


def test_errors_have_the_stated_deviations() -> None:
    errors = np.stack([np.log(degrade_depth(EXACT, seed) / EXACT) for seed in range(400)])
    assert errors.std() == pytest.approx(np.hypot(0.10, 0.03), rel=0.06)
    # the deviation is the same everywhere, and the mean error vanishes
    assert np.abs(errors.std(axis=0) / np.hypot(0.10, 0.03) - 1).max() < 0.2
    assert abs(errors.mean()) < 0.01
    only_common = np.stack([degrade_depth(EXACT, seed, smooth_sigma=0) / EXACT for seed in range(400)])
    assert np.ptp(only_common, axis=(1, 2)).max() < 1e-5
    assert np.log(only_common[:, 0, 0]).std() == pytest.approx(0.03, rel=0.12)


def test_errors_are_slow() -> None:
    error = np.log(degrade_depth(EXACT, 3) / EXACT)
    assert np.abs(np.diff(error, axis=1)).max() < 0.02
    assert np.ptp(error) > 0.1


def test_seed_and_unknown_depth() -> None:
    exact = EXACT.copy()
    exact[:10] = 0
    a, b, c = degrade_depth(exact, 1), degrade_depth(exact, 1), degrade_depth(exact, 2)
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0.1
    assert (a[:10] == 0).all() and a.dtype == np.float32
    np.testing.assert_allclose(degrade_depth(exact, 1, smooth_sigma=0, frame_sigma=0), exact)
