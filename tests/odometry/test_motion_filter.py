"""Which frames become keyframes."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.config.schema import MotionFilterConfig
from metric_slam.correspondence.base import Correspondence
from metric_slam.odometry.motion_filter import MotionFilter
from metric_slam.odometry.tracking import TrackedFrame

CONFIG = MotionFilterConfig(min_flow_px=6.0, min_coverage=0.5, max_gap=4, still_flow_px=0.5)


def frame(flow_px: float, *, coverage: float = 0.9, tracked: bool = True) -> TrackedFrame:
    match = Correspondence(np.zeros((2, 2, 2)), np.ones((2, 2)))
    return TrackedFrame(match, match, np.eye(4), flow_px, coverage, tracked)


def test_a_standing_camera_never_makes_a_keyframe() -> None:
    motion_filter = MotionFilter(CONFIG)
    assert not any(motion_filter.wants(frame(0.3, coverage=0.1)) for _ in range(10 * CONFIG.max_gap))


@pytest.mark.parametrize(("flow_px", "wanted"), [(5.9, False), (6.0, True), (80.0, True)])
def test_enough_motion_makes_one(flow_px: float, wanted: bool) -> None:
    assert MotionFilter(CONFIG).wants(frame(flow_px)) is wanted


def test_views_that_hardly_overlap_make_one() -> None:
    assert MotionFilter(CONFIG).wants(frame(2.0, coverage=0.49))
    assert not MotionFilter(CONFIG).wants(frame(2.0, coverage=0.51))


def test_slow_motion_makes_one_after_the_longest_gap() -> None:
    motion_filter = MotionFilter(CONFIG)
    assert [motion_filter.wants(frame(2.0)) for _ in range(8)] == [False, False, False, True] * 2


def test_a_frame_that_was_not_tracked_makes_none() -> None:
    assert not MotionFilter(CONFIG).wants(frame(50.0, coverage=0.0, tracked=False))


def test_frames_of_a_standing_camera_do_not_count_towards_the_longest_gap() -> None:
    motion_filter = MotionFilter(CONFIG)
    for _ in range(3 * CONFIG.max_gap):
        motion_filter.wants(frame(0.1))
    assert not motion_filter.wants(frame(0.8)), "a baseline of millimetres after a red light"
