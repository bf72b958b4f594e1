"""Depth images of the data set itself: RGB-D cameras, projected LiDAR, rendered depth."""

from __future__ import annotations

import numpy as np

from metric_slam.config.schema import SensorConfig
from metric_slam.depth.base import DepthPrediction, DepthPrior, depth_to_grid
from metric_slam.errors import DatasetError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera


class SensorDepth(DepthPrior):
    """Takes the depth that comes with the frame."""

    name = "sensor"

    def __init__(self, config: SensorConfig) -> None:
        self._config = config
        self.relative_sigma = config.sigma
        self.scale_sigma = config.scale_sigma

    def prepare(self, frame: Frame, camera: PinholeCamera) -> DepthPrediction:
        """Depth on the grid, within the sensor's range."""
        if frame.depth_m is None:
            raise DatasetError(f"{frame.path or f'frame {frame.index}'}: no depth image; choose another --prior")
        depth = frame.depth_m
        in_range = (depth >= self._config.min_depth_m) & (depth <= self._config.max_depth_m)
        return depth_to_grid(np.where(in_range, depth, 0.0), camera)

    def predict(self, state: DepthPrediction, camera: PinholeCamera) -> DepthPrediction:
        """The measured depth."""
        return state
