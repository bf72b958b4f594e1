"""Local features of keyframes: RootSIFT, computed once per keyframe and kept for the latest ones in use."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.errors import InputError

_CONTRAST = 0.02  # threshold of SIFT, half of OpenCV's: asphalt has little


@dataclass(frozen=True)
class Features:
    """P local features of one image."""

    pixels: np.ndarray
    """float32 [P, 2]."""

    descriptors: np.ndarray
    """Unit vectors, float32 [P, 128]: roots of SIFT's (Arandjelovic and Zisserman, CVPR 2012)."""


class FeatureCache:
    """Features by position of the keyframe; those used least recently go first."""

    def __init__(self, per_image: int, kept: int) -> None:
        self._sift = cv2.SIFT.create(per_image, contrastThreshold=_CONTRAST)
        self._kept = kept
        self._by_position: OrderedDict[int, Features] = OrderedDict()

    def __contains__(self, position: int) -> bool:
        return position in self._by_position

    def get(self, position: int, image: np.ndarray | None) -> Features:
        """Features of a keyframe; ``image`` uint8 [H, W, 3] RGB may be None where they are in the cache."""
        if position in self._by_position:
            self._by_position.move_to_end(position)
            return self._by_position[position]
        if image is None:
            raise InputError(f"image must be given for position {position}, whose features are not in the cache")
        self._by_position[position] = features = self._detect(image)
        while len(self._by_position) > self._kept:
            self._by_position.popitem(last=False)
        return features

    def _detect(self, image: np.ndarray) -> Features:
        points, descriptors = self._sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
        pixels = np.array([p.pt for p in points], np.float32).reshape(-1, 2)
        if descriptors is None:
            descriptors = np.zeros((0, 128), np.float32)
        roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
        return Features(pixels, roots.astype(np.float32))
