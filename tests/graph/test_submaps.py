"""Pieces of a video and what ties them together."""

from __future__ import annotations

import numpy as np

from metric_slam.graph.submaps import Submaps
from tests.scene import pose, rotation


def three() -> Submaps:
    submaps = Submaps()
    assert [submaps.begin(position) for position in (0, 4, 9)] == [0, 1, 2]
    return submaps


def test_every_submap_stands_alone_at_first() -> None:
    submaps = three()
    assert submaps.current_begin == 9 and submaps.anchors() == {0, 4, 9} and len(submaps) == 3
    assert submaps.range(1, 12) == range(4, 9) and submaps.range(2, 12) == range(9, 12)
    assert not submaps.joined(0, 2) and submaps.members(1) == [1]


def test_joined_submaps_share_an_anchor() -> None:
    submaps = three()
    submaps.join(2, 1)
    assert submaps.joined(1, 2) and submaps.anchors() == {0, 4} and submaps.component(2) == 1
    submaps.join(0, 2)
    assert submaps.anchors() == {0} and submaps.members(0) == [0, 1, 2] and submaps.joined(0, 1)


def test_a_checkpoint_keeps_everything() -> None:
    submaps, other = three(), Submaps()
    submaps.join(0, 2)
    other.restore(submaps.state())
    assert other.begins == submaps.begins and other.anchors() == submaps.anchors()


def test_the_guessed_motion_across_a_loss_is_kept() -> None:
    submaps, other = Submaps(), Submaps()
    gap = pose(0.1, 0.8, R=rotation(0.0, 0.0, 0.05))
    submaps.begin(0)
    submaps.begin(5, gap)
    np.testing.assert_array_equal(submaps.gaps, [np.eye(4), gap])
    other.restore(submaps.state())
    assert len(other.gaps) == 2
    np.testing.assert_array_equal(other.gaps, submaps.gaps)
    other.begin(9, np.linalg.inv(gap))
    assert len(other.gaps) == 3 and len(submaps.gaps) == 2, "a list of its own"


def test_no_submap_has_no_gap_to_restore() -> None:
    other = Submaps()
    other.restore(Submaps().state())
    assert len(other) == 0 and other.gaps == []
