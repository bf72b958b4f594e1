"""Builds the results of all keyframes: estimate, confidence, and the number of keyframes that agree with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from metric_slam.correspondence.base import CorrespondenceModel, RecurrentModel
from metric_slam.disk_store import DiskArray
from metric_slam.errors import OutputError
from metric_slam.geometry.grid_array import on_host
from metric_slam.graph.slam_map import SlamMap
from metric_slam.reconstruction.consistent_views import consistent_views
from metric_slam.result import KeyframeResult

log = logging.getLogger(__name__)


def keyframe_results(
    slam_map: SlamMap, model: CorrespondenceModel, timed: Callable[[str], AbstractContextManager[None]]
) -> list[KeyframeResult]:
    """Build one result for each keyframe of the map, in order; ``timed(stage)`` clocks the long stages."""
    count = len(slam_map)
    T_world_cam = slam_map.T_world_cam()
    confidence = [_confidence(slam_map, position) for position in range(count)]
    with timed("view_consistency"):
        agreeing = consistent_views(slam_map, confidence)
    with timed("dense_depth"):
        dense = _dense_inv_depths(slam_map, model)
    return [
        _result(slam_map, position, T_world_cam[position], confidence[position], agreeing[position], dense[position])
        for position in range(count)
    ]


def _confidence(slam_map: SlamMap, position: int) -> np.ndarray:
    """How well flow supports each cell, float32 [h, w]; 0 where the image shows the vehicle itself."""
    confidence = slam_map.graph.confidence_of(position).astype(np.float32)
    ignored = slam_map[position].ignored
    return confidence if ignored is None else np.where(ignored, np.float32(0.0), confidence)


def _dense_inv_depths(slam_map: SlamMap, model: CorrespondenceModel) -> list[DiskArray | None]:
    """Inverse depth of all pixels of each keyframe where the model upsamples it, on the disk; else None."""
    found: list[DiskArray | None] = [None] * len(slam_map)
    if not isinstance(model, RecurrentModel):
        return found
    position = 0
    try:
        for position, keyframe in enumerate(slam_map):
            if keyframe.upsample_weights is not None:
                weights = on_host(keyframe.upsample_weights)
                found[position] = slam_map.disk.put(model.upsampled(keyframe.inv_depth, weights))
    except OutputError as error:  # the map works without them
        log.warning("no dense depths of the network from keyframe %d on: %s", position, error)
    return found


def _result(
    slam_map: SlamMap,
    position: int,
    T_world_cam: np.ndarray,
    confidence: np.ndarray,
    agreeing: np.ndarray | None,
    dense_inv_depth: DiskArray | None,
) -> KeyframeResult:
    keyframe = slam_map[position]
    prior_depth_m, prior_confidence = np.asarray(keyframe.prior_depth_m), np.asarray(keyframe.prior_confidence)
    if not prior_confidence.any():  # then the result shows the measured road
        prior_depth_m = np.asarray(keyframe.road_depth_m)
        prior_confidence = (prior_depth_m > 0).astype(np.float64)
    has_prior = bool(prior_confidence.any())
    return KeyframeResult(
        index=keyframe.index,
        time_s=keyframe.time_s,
        T_world_cam=T_world_cam,
        camera=slam_map.camera,
        image=keyframe.image,
        inv_depth=keyframe.inv_depth.astype(np.float32),
        confidence=confidence,
        prior_depth_m=prior_depth_m.astype(np.float32) if has_prior else None,
        prior_confidence=prior_confidence.astype(np.float32) if has_prior else None,
        prior_log_scale=keyframe.prior_log_scale,
        consistent_views=agreeing,
        dense_inv_depth=dense_inv_depth,
        ignore_cells=keyframe.ignored,
    )
