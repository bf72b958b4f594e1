"""Predictions that begin before they are asked for."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from metric_slam import choices
from metric_slam.depth.base import DepthPrediction, DepthPrior
from metric_slam.depth.prefetch import PrefetchedPrior
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera
from tests.scene import CAMERA, Drive, Street, run, straight


class Slow(DepthPrior):
    """Answers with the frame's index; notes in which thread and in what order it was asked."""

    name = "slow"
    relative_sigma, scale_sigma = 0.07, 0.01

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()

    def prepare(self, frame: Frame, camera: PinholeCamera) -> int:
        """Waits until it may go on."""
        self.go.wait(10.0)
        self.threads.add(threading.current_thread().name)
        self.asked.append(frame.index)
        if frame.index == 99:
            raise ValueError("no such frame")
        return frame.index

    def predict(self, state: int, camera: PinholeCamera) -> DepthPrediction:
        """A wall as far away as the index."""
        shape = camera.grid().height, camera.grid().width
        return DepthPrediction(np.full(shape, float(state)), np.ones(shape))


FRAMES = [replace(Drive(Street(), straight(2, 0.5))[0], index=i) for i in range(5)]


def test_what_was_expected_is_begun_once_and_handed_out() -> None:
    slow = Slow()
    prior = PrefetchedPrior(slow)
    prior.prefetch(FRAMES[3], CAMERA)
    assert prior.prepare(FRAMES[3], CAMERA) == 3
    assert slow.asked == [3], "not asked twice"
    assert prior.predict(3, CAMERA).depth_m.max() == 3.0
    assert (prior.name, prior.relative_sigma, prior.scale_sigma) == ("slow", 0.07, 0.01)


def test_it_goes_on_while_the_frame_is_tracked() -> None:
    slow = Slow()
    slow.go.clear()
    prior = PrefetchedPrior(slow)
    prior.prefetch(FRAMES[1], CAMERA)  # comes back at once
    assert slow.asked == []
    slow.go.set()
    assert prior.prepare(FRAMES[1], CAMERA) == 1


def test_a_frame_that_did_not_come_is_dropped() -> None:
    slow = Slow()
    slow.go.clear()
    prior = PrefetchedPrior(slow)
    for frame in FRAMES[:4]:
        prior.prefetch(frame, CAMERA)
    slow.go.set()
    assert prior.prepare(FRAMES[4], CAMERA) == 4
    assert set(slow.asked) <= {0, 4}, "only the first had begun"
    assert len(slow.threads) == 1, "never two side by side"


def test_what_goes_wrong_is_raised_where_it_is_asked_for() -> None:
    prior = PrefetchedPrior(Slow())
    bad = replace(FRAMES[0], index=99)
    prior.prefetch(bad, CAMERA)
    with pytest.raises(ValueError, match="no such frame"):
        prior.prepare(bad, CAMERA)


def test_a_drive_is_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = replace(Drive(Street(), straight(12, 0.5)), with_depth=True)
    alone = run(drive, prior="sensor")
    expected: list[int] = []

    class Noting(PrefetchedPrior):
        def prefetch(self, frame: Frame, camera: PinholeCamera) -> None:
            expected.append(frame.index)
            super().prefetch(frame, camera)

    make = choices._make_prior
    monkeypatch.setattr("metric_slam.choices._make_prior", lambda *args: Noting(make(*args)))
    ahead = run(drive, prior="sensor")
    keyframes = set(ahead.frame_indices[ahead.is_keyframe].tolist())
    assert ahead.scale_source == "sensor" and len(expected) >= 4
    assert len(keyframes & set(expected)) >= len(keyframes) - 3, "all but the first ones and the last were expected"
    assert len(set(expected) - keyframes) <= 1, "and hardly any others"
    np.testing.assert_array_equal(ahead.T_world_cam, alone.T_world_cam)
