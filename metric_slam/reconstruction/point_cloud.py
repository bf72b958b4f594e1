"""A coloured point cloud of keyframe cells: what is known of the map at any moment, before anything is fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metric_slam.geometry.camera import FEATURE_STRIDE
from metric_slam.reconstruction.cells import usable_confidence
from metric_slam.result import KeyframeResult


class PointCloud(NamedTuple):
    """Points in the world frame."""

    points_m: np.ndarray
    """float32 [P, 3], in metres where the scale is known."""

    colours: np.ndarray
    """uint8 [P, 3] RGB."""


def point_cloud(keyframes: Sequence[KeyframeResult], min_consistent_views: int = 1) -> PointCloud:
    """Points of confident cells whose depth at least ``min_consistent_views`` other keyframes agree with."""
    points, colours = [np.zeros((0, 3), np.float32)], [np.zeros((0, 3), np.uint8)]
    for keyframe in keyframes:
        keep = (usable_confidence(keyframe) > 0) & (keyframe.inv_depth > 0)
        if keyframe.consistent_views is not None:
            keep &= keyframe.consistent_views >= min_consistent_views
        X_cam = keyframe.camera.grid().rays()[keep] / keyframe.inv_depth[keep][:, None]
        X_world = X_cam @ keyframe.T_world_cam[:3, :3].T + keyframe.T_world_cam[:3, 3]
        points.append(X_world.astype(np.float32))
        centre = FEATURE_STRIDE // 2
        colours.append(
            keyframe.pixels[centre::FEATURE_STRIDE, centre::FEATURE_STRIDE][: keep.shape[0], : keep.shape[1]][keep]
        )
    return PointCloud(np.concatenate(points), np.concatenate(colours))
