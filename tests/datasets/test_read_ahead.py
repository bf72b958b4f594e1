"""Frames come in order, errors come where their frame would have come, and the thread ends."""

from __future__ import annotations

import threading
import time

import pytest

from metric_slam.datasets.read_ahead import read_ahead
from metric_slam.errors import ImageError


class Numbers:
    """A data set of numbers that notes what was read and fails at one of them."""

    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad
        self.read: list[int] = []

    def __getitem__(self, index: int) -> int:
        if index == self.bad:
            raise ImageError(f"frame {index} is broken")
        self.read.append(index)
        return index


def reader_threads() -> list[threading.Thread]:
    """Threads of read_ahead that are alive."""
    return [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


@pytest.mark.parametrize("depth", [1, 3, 50])
def test_order_is_kept(depth: int) -> None:
    indices = range(3, 40, 2)
    assert list(read_ahead(Numbers(), indices, depth)) == list(indices)  # type: ignore[arg-type]
    assert reader_threads() == []


def test_nothing_to_read() -> None:
    assert list(read_ahead(Numbers(), [])) == []  # type: ignore[arg-type]


def test_an_error_comes_in_its_turn() -> None:
    frames = read_ahead(Numbers(bad=5), range(10))  # type: ignore[arg-type]
    assert [next(frames) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ImageError, match="frame 5"):
        next(frames)
    assert reader_threads() == []


def test_reads_ahead_but_not_without_bound() -> None:
    numbers = Numbers()
    frames = read_ahead(numbers, range(100), depth=4)  # type: ignore[arg-type]
    assert next(frames) == 0
    deadline = time.monotonic() + 5.0
    while len(numbers.read) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert numbers.read == [0, 1, 2, 3, 4]
    frames.close()
    assert reader_threads() == []
