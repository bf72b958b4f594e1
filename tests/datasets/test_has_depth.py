"""Whether a data set has depth images, whatever its first frame has."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from metric_slam.choices import InputFacts, choose_prior
from metric_slam.config.schema import Config
from metric_slam.datasets.base import PROBED_FRAMES, Dataset, has_depth
from metric_slam.errors import ImageError
from metric_slam.frame import Frame
from tests.scene import Drive, Street, straight


@dataclass
class Gappy(Drive):
    """Depth from frame ``first`` up to frame ``last`` only; counts the frames that are read."""

    first: int = 0
    last: int = 0
    read: list[int] = field(default_factory=list)

    def __getitem__(self, index: int) -> Frame:
        self.read.append(index)
        frame = super().__getitem__(0)
        return replace(frame, index=index, depth_m=frame.depth_m if self.first <= index <= self.last else None)


def gappy(frames: int, first: int, last: int) -> Gappy:
    return Gappy(Street(), straight(frames, 0.5), with_depth=True, mount=None, first=first, last=last)


def test_a_drive_follows_the_protocol() -> None:
    assert isinstance(gappy(2, 0, 0), Dataset)


@pytest.mark.parametrize(("first", "last"), [(0, 199), (1, 199), (60, 199), (0, 15), (185, 199)])
def test_depth_is_found_wherever_it_is(first: int, last: int) -> None:
    dataset = gappy(200, first, last)
    assert has_depth(dataset)
    assert choose_prior(Config(), InputFacts.of(dataset)).prior.name == "sensor"


@pytest.mark.parametrize("frames", [0, 1, 5, 200])
def test_none_is_found_where_none_is_and_few_frames_are_read(frames: int) -> None:
    dataset = gappy(frames, 1000, 1000)
    assert not has_depth(dataset)
    assert len(dataset.read) == len(set(dataset.read)) == min(frames, PROBED_FRAMES)
    if frames:
        assert choose_prior(Config(), InputFacts.of(dataset)).prior.name == "none"


def test_depth_in_the_first_frame_is_enough() -> None:
    dataset = gappy(200, 0, 199)
    assert has_depth(dataset) and dataset.read == [0]


class Broken(Gappy):
    """Every second frame cannot be read."""

    def __getitem__(self, index: int) -> Frame:
        if index % 2:
            raise ImageError(f"frame {index} cannot be read")
        return super().__getitem__(index)


@pytest.mark.parametrize(("first", "found"), [(2, True), (1000, False)])
def test_a_frame_that_cannot_be_read_is_left_to_the_run(first: int, found: bool) -> None:
    dataset = Broken(Street(), straight(7, 0.5), with_depth=True, mount=None, first=first, last=999)
    assert has_depth(dataset) is found
