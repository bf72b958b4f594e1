"""Decoded images of the keyframes: each is decoded once for all stages of the map, within bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from metric_slam.errors import InputError
from metric_slam.result import KeyframeResult

IMAGE_CACHE_BYTES = 128 * 2**20
"""Images kept decoded: 160 keyframes of 960x288 pixels, or 140 of 640x480."""


class KeyframeImages:
    """Cache of the decoded images of a list of keyframes; drops the least recently used ones beyond ``max_bytes``."""

    def __init__(self, keyframes: Sequence[KeyframeResult], max_bytes: int = IMAGE_CACHE_BYTES) -> None:
        if max_bytes < 0:
            raise InputError(f"max_bytes must not be negative, not {max_bytes}")
        self._keyframes = keyframes
        self._max_bytes = max_bytes
        self._byte_count = 0
        self._decoded: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keyframes)

    def __getitem__(self, position: int) -> np.ndarray:
        """Colour image of the keyframe at ``position`` in the list, uint8 [H, W, 3] RGB; not to be written into."""
        image = self._decoded.get(position)
        if image is None:
            image = self._keyframes[position].pixels
            self._decoded[position] = image
            self._byte_count += image.nbytes
        self._decoded.move_to_end(position)
        while self._byte_count > self._max_bytes:
            self._byte_count -= self._decoded.popitem(last=False)[1].nbytes
        return image
