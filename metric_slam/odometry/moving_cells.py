"""Detects moving vehicles against the road plane of the prior and masks their cells in the graph."""

from __future__ import annotations

import numpy as np

from metric_slam.correspondence.base import Correspondence
from metric_slam.depth.base import CurrentDepth, DepthPrior
from metric_slam.geometry import lie
from metric_slam.graph.moving_mask import detect_moving
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.metric_scale import MetricScale


class MovingCellDetector:
    """Writes the moving mask of keyframes; without a road plane it does nothing."""

    def __init__(self, slam_map: SlamMap, prior: DepthPrior, scale: MetricScale) -> None:
        self._map, self._prior, self._scale = slam_map, prior, scale

    def road_inv_depth(self, current_depth: CurrentDepth, baseline: float | None = None) -> np.ndarray | None:
        """Inverse depth [h, w] of the road in every cell of a keyframe, 0 where there is none; None if unknown.

        ``baseline``: length of a motion of the keyframe, where the unit of the map may be wrong by a factor.
        """
        return self._prior.road_inv_depth(current_depth, self._map.camera, baseline)

    def update(self, position: int, expected_inv_depth: np.ndarray, backward: Correspondence) -> None:
        """Detect the moving cells of a keyframe and mask them in its matches.

        ``expected_inv_depth`` [h, w]: inverse depths transferred from the keyframe before; ``backward``: the matches
        with that one.
        """
        keyframe = self._map[position]
        T_before_new = lie.inverse(self._map.motion(position - 1, position))
        baseline = None if self._scale.measured else float(np.linalg.norm(T_before_new[:3, 3]))
        road = self.road_inv_depth(keyframe.current_depth, baseline)
        if road is None:
            return
        moving, inv_depth = detect_moving(
            keyframe.moving_cells,
            keyframe.inv_depth,
            expected_inv_depth,
            backward,
            T_before_new,
            road,
            self._map.camera.grid(),
        )
        self._map.set_moving(position, moving)
        self._map.set_inv_depth(position, inv_depth)
        self._map.graph.mask_moving_cells(position)
