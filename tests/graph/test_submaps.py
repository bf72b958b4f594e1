"""Pieces of a video and what ties them together."""

from __future__ import annotations

import numpy as np

from metric_slam.segments import Segments
from tests.scene import pose, rotation


def three() -> Segments:
    segments = Segments()
    assert [segments.begin(position) for position in (0, 4, 9)] == [0, 1, 2]
    return segments


def test_every_segment_stands_alone_at_first() -> None:
    segments = three()
    assert segments.current_begin == 9 and segments.anchors() == {0, 4, 9} and len(segments) == 3
    assert segments.range(1, 12) == range(4, 9) and segments.range(2, 12) == range(9, 12)
    assert not segments.joined(0, 2) and segments.members(1) == [1]


def test_joined_segments_share_an_anchor() -> None:
    segments = three()
    segments.join(2, 1)
    assert segments.joined(1, 2) and segments.anchors() == {0, 4} and segments.component(2) == 1
    segments.join(0, 2)
    assert segments.anchors() == {0} and segments.members(0) == [0, 1, 2] and segments.joined(0, 1)


def test_a_checkpoint_keeps_everything() -> None:
    segments, other = three(), Segments()
    segments.join(0, 2)
    other.restore(segments.state())
    assert other.begins == segments.begins and other.anchors() == segments.anchors()


def test_the_guessed_motion_across_a_loss_is_kept() -> None:
    segments, other = Segments(), Segments()
    gap = pose(0.1, 0.8, R=rotation(0.0, 0.0, 0.05))
    segments.begin(0)
    segments.begin(5, gap)
    np.testing.assert_array_equal(segments.gaps, [np.eye(4), gap])
    other.restore(segments.state())
    assert len(other.gaps) == 2
    np.testing.assert_array_equal(other.gaps, segments.gaps)
    other.begin(9, np.linalg.inv(gap))
    assert len(other.gaps) == 3 and len(segments.gaps) == 2, "a list of its own"


def test_no_segment_has_no_gap_to_restore() -> None:
    other = Segments()
    other.restore(Segments().state())
    assert len(other) == 0 and other.gaps == []
