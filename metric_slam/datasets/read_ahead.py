"""Decoding of the next images in a thread while the present one is being processed."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from metric_slam.datasets.base import Dataset
from metric_slam.errors import InputError
from metric_slam.frame import Frame

READ_AHEAD_FRAMES = 4
"""Decoded frames that wait at most; a KITTI frame is 1.4 MB, so memory stays bounded by a few MB."""


def read_ahead(
    dataset: Dataset, indices: Sequence[int], depth: int = READ_AHEAD_FRAMES
) -> Generator[Frame, None, None]:
    """Yield ``dataset[i]`` for each of ``indices`` in order, with up to ``depth`` of them read in advance in a thread.

    An error of the data set is raised where its frame would have come. Closing the generator ends the thread.
    """
    if depth < 1:
        raise InputError(f"depth is {depth}: at least one frame must be read in advance")
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    waiting: deque[Future[Frame]] = deque()
    try:
        for index in indices:
            waiting.append(reader.submit(dataset.__getitem__, index))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        reader.shutdown(wait=True, cancel_futures=True)
