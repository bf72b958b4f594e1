"""The data set's own depth images."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metric_slam.config.schema import SensorConfig
from metric_slam.depth.missing import MAX_WITHOUT_ANY
from metric_slam.depth.sensor import SensorDepth
from metric_slam.errors import DatasetError
from metric_slam.frame import Frame
from tests.scene import CAMERA, Drive, Street, run, straight

CONFIG = SensorConfig(min_depth_m=1.0, max_depth_m=20.0, sigma=0.04, scale_sigma=0.01)


def frame(depth_m: np.ndarray | None, path: Path | None = None) -> Frame:
    image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    return Frame(17, 1.7, image, CAMERA, depth_m=depth_m, path=path)


def test_depths_out_of_range_are_dropped() -> None:
    depth_m = np.full((CAMERA.height, CAMERA.width), 5.0, np.float32)
    depth_m[:8, :8], depth_m[:8, 8:16], depth_m[:8, 16:24], depth_m[:8, 24:32] = 0.5, 25.0, np.nan, np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = SensorDepth(CONFIG).prepare(frame(depth_m), CAMERA)
    assert not got.depth_m[0, :4].any() and not got.confidence[0, :4].any()
    assert (got.depth_m[1:] == 5.0).all()


def test_the_limits_themselves_are_in_range() -> None:
    depth_m = np.full((CAMERA.height, CAMERA.width), 1.0, np.float32)
    depth_m[:, 160:] = 20.0
    assert set(np.unique(SensorDepth(CONFIG).prepare(frame(depth_m), CAMERA).depth_m)) == {1.0, 20.0}


def test_it_predicts_what_it_measured_and_believes_what_is_configured() -> None:
    prior = SensorDepth(CONFIG)
    state = prior.prepare(frame(np.full((CAMERA.height, CAMERA.width), 3.0, np.float32)), CAMERA)
    assert prior.predict(state, CAMERA) is state
    assert prior.metric and (prior.relative_sigma, prior.scale_sigma) == (0.04, 0.01)


def test_all_depths_are_kept_by_default() -> None:
    """From the desk to the far end of a LiDAR."""
    depth_m = np.full((CAMERA.height, CAMERA.width), 0.12, np.float32)
    depth_m[:, 160:] = 140.0
    assert set(np.unique(SensorDepth(SensorConfig()).prepare(frame(depth_m), CAMERA).depth_m)) == {
        np.float32(0.12),
        140.0,
    }


FULL = np.full((CAMERA.height, CAMERA.width), 5.0, np.float32)


def test_a_frame_without_depth_gives_no_prior(caplog: pytest.LogCaptureFixture) -> None:
    """It is warned of once and counted."""
    prior = SensorDepth(SensorConfig())
    for k in range(80):
        got = prior.prepare(frame(FULL if k % 4 else None, Path(f"{k}.png")), CAMERA)
        assert bool(got.depth_m.any()) == bool(got.confidence.any()) == bool(k % 4)
        assert got.depth_m.shape == (CAMERA.grid().height, CAMERA.grid().width)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 1 and "0.png has no depth image" in warned[0]
    assert prior.summary() == "20 of 80 keyframes had no depth image"


def test_nothing_is_reported_where_every_frame_has_depth(caplog: pytest.LogCaptureFixture) -> None:
    prior = SensorDepth(SensorConfig())
    for _ in range(3):
        prior.prepare(frame(FULL), CAMERA)
    assert prior.summary() is None and not caplog.records


def test_no_depth_at_all_is_an_error_that_names_the_file() -> None:
    prior = SensorDepth(CONFIG)
    for _ in range(MAX_WITHOUT_ANY - 1):
        assert not prior.prepare(frame(None), CAMERA).depth_m.any()
    with pytest.raises(DatasetError, match="7.png has no depth image.*--prior"):
        prior.prepare(frame(None, Path("7.png")), CAMERA)
    late = SensorDepth(CONFIG)
    for depth_m in [None] * (MAX_WITHOUT_ANY - 1) + [FULL] + [None] * (2 * MAX_WITHOUT_ANY):
        late.prepare(frame(depth_m), CAMERA)


def test_the_counts_go_on_after_a_checkpoint() -> None:
    before = SensorDepth(CONFIG)
    for depth_m in (None, FULL, None):
        before.prepare(frame(depth_m), CAMERA)
    after = SensorDepth(CONFIG)
    after.prepare(frame(None), CAMERA)  # what a resumed run reads again
    after.restore(before.state())
    after.prepare(frame(FULL), CAMERA)
    assert after.summary() == "2 of 4 keyframes had no depth image"


def test_a_drive_with_gaps_stays_metric() -> None:
    """Nearly half of the depth images are missing, the very first among them; the scale is that of the others."""
    street = Street()

    class Gaps(Drive):
        def __getitem__(self, index: int) -> Frame:
            got = super().__getitem__(index)
            return replace(got, depth_m=None) if index % 9 < 4 else got

    drive = Gaps(street, straight(24, 0.5), with_depth=True, mount=None)
    result = run(drive, prior="sensor")
    assert result.scale_source == "sensor"
    length_m = np.linalg.norm(result.T_world_cam[-1, :3, 3] - result.T_world_cam[0, :3, 3])
    assert length_m == pytest.approx(11.5, rel=0.02)
