"""Depth images of the data set itself: RGB-D cameras, projected LiDAR, rendered depth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from metric_slam.config.schema import SensorConfig
from metric_slam.depth.base import DepthPrediction, ImageDepthPrior, depth_to_grid, unknown_depth, within_range
from metric_slam.depth.missing import MissingDepth
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera


class SensorDepth(ImageDepthPrior):
    """The depth image that comes with the frame. A keyframe without one has no prior; such keyframes are counted."""

    name = "sensor"

    def __init__(self, config: SensorConfig) -> None:
        self._config = config
        self.relative_sigma = config.sigma
        self.scale_sigma = config.scale_sigma
        self._missing = MissingDepth("depth image")

    def prepare(self, frame: Frame, camera: PinholeCamera) -> DepthPrediction:
        """Depth on the grid, within the configured range.

        Raises DatasetError if none of the first keyframes has a depth image.
        """
        if frame.depth_m is None:
            self._missing.lacks(f"{frame.path or f'frame {frame.index}'} has no depth image")
            return unknown_depth(camera)
        self._missing.found()
        return depth_to_grid(within_range(frame.depth_m, self._config.min_depth_m, self._config.max_depth_m), camera)

    def state(self) -> dict[str, np.ndarray]:
        """Counts of keyframes with and without depth; see the base class."""
        return self._missing.state()

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        self._missing.restore(state)

    def summary(self) -> str | None:
        """How many keyframes had no depth image; None if all had one."""
        return self._missing.summary()
