"""Pieces of a video and what ties them together."""

from __future__ import annotations

from metric_slam.segments import Segments


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
