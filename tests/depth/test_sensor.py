"""The data set's own depth images."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from metric_slam.config.schema import SensorConfig
from metric_slam.depth.sensor import SensorDepth
from metric_slam.errors import DatasetError
from metric_slam.frame import Frame
from tests.scene import CAMERA

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


def test_a_frame_without_depth_is_explained() -> None:
    with pytest.raises(DatasetError, match="frame 17.*--prior"):
        SensorDepth(CONFIG).prepare(frame(None), CAMERA)
    with pytest.raises(DatasetError, match="7.png.*--prior"):
        SensorDepth(CONFIG).prepare(frame(None, Path("7.png")), CAMERA)
