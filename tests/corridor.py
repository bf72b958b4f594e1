"""A textured corridor of four planes with exact depths, as a finished SlamResult. For tests of the map."""

from __future__ import annotations

import cv2
import numpy as np

from metric_slam.geometry.camera import PinholeCamera
from metric_slam.result import KeyframeResult, SlamResult

CAMERA = PinholeCamera(fx=200.0, fy=200.0, cx=159.5, cy=95.5, width=320, height=192)
FLOOR_Y, WALL_X, END_Z = 1.5, 3.0, 14.0
"""Floor below, walls on both sides of, and wall ahead of the first camera, in metres."""

TEXTURE = cv2.GaussianBlur(np.random.default_rng(7).integers(0, 255, (1024, 1024, 3), np.uint8), (0, 0), 1.2)
TEXTURE = np.clip((TEXTURE.astype(np.float32) - 127) * 3 + 120, 0, 145).astype(np.uint8)
TEXEL_M = 0.05


def corridor_pose(index: int, spacing_m: float = 0.25) -> np.ndarray:
    """``T_world_cam`` of keyframe ``index``: forward with a little sway."""
    angle = 0.02 * np.sin(index)
    T_world_cam = np.eye(4)
    T_world_cam[:3, :3] = cv2.Rodrigues(np.array([0.0, angle, 0.0]))[0]
    T_world_cam[:3, 3] = (0.1 * np.sin(0.7 * index), 0.0, spacing_m * index)
    return T_world_cam


def render(T_world_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and exact depth along z float32 [H, W] of the corridor."""
    directions = CAMERA.rays() @ T_world_cam[:3, :3].T
    origin = T_world_cam[:3, 3]
    planes = [(1, FLOOR_Y, (0, 2)), (0, -WALL_X, (1, 2)), (0, WALL_X, (1, 2)), (2, END_Z, (0, 1))]
    depth = np.full(directions.shape[:2], np.inf)
    image = np.zeros((*depth.shape, 3), np.uint8)
    for number, (axis, place, across) in enumerate(planes):
        with np.errstate(divide="ignore"):
            distance = (place - origin[axis]) / directions[..., axis]
        nearer = (distance > 0) & (distance < depth)
        depth[nearer] = distance[nearer]
        point = origin + np.where(nearer, distance, 0.0)[..., None] * directions
        where = (point[..., list(across)] / TEXEL_M + 217.0 * number).astype(np.float32) % 1000
        colour = cv2.remap(TEXTURE, where, None, cv2.INTER_LINEAR)
        image[nearer] = colour[nearer]
    return image, depth.astype(np.float32)


def distance_to_corridor(points: np.ndarray) -> np.ndarray:
    """Distance in metres of world points [n, 3] from the nearest of the four planes, [n]."""
    x, y, z = points.T
    return np.min([np.abs(y - FLOOR_Y), np.abs(np.abs(x) - WALL_X), np.abs(z - END_Z)], axis=0)


def corridor_result(count: int = 10, *, depth_error: float = 0.04, scale_source: str = "sensor") -> SlamResult:
    """``count`` keyframes with exact poses and a grid of inverse depths that is off by a smooth ``depth_error``."""
    rng = np.random.default_rng(1)
    keyframes = []
    for index in range(count):
        image, depth = render(corridor_pose(index))
        # the exact depth at the cell centres, which lie between pixels 8x+3 and 8x+4
        cells = cv2.resize(1.0 / depth, (CAMERA.width // 8, CAMERA.height // 8), interpolation=cv2.INTER_AREA)
        error = cv2.GaussianBlur(rng.normal(0, 1, cells.shape).astype(np.float32), (0, 0), 3) * 6
        keyframes.append(
            KeyframeResult(
                index=index,
                time_s=0.1 * index,
                T_world_cam=corridor_pose(index),
                camera=CAMERA,
                image=image,
                inv_depth=(cells * (1 + depth_error * error)).astype(np.float32),
                confidence=np.ones_like(cells),
                prior_depth_m=None,
                prior_confidence=None,
                prior_log_scale=0.0,
            )
        )
    return SlamResult(
        frame_indices=np.arange(count),
        times_s=0.1 * np.arange(count),
        T_world_cam=np.stack([k.T_world_cam for k in keyframes]),
        is_keyframe=np.ones(count, bool),
        tracked=np.ones(count, bool),
        keyframes=keyframes,
        scale_source=scale_source,
    )
