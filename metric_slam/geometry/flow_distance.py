"""How far two keyframes are apart, in flow: the reference version in numpy."""

from __future__ import annotations

import numpy as np

from metric_slam.geometry import lie

UNRELATED = 1000.0
"""Distance of keyframes that see too little of each other, grid cells."""

_ENOUGH_VALID = 0.75
_MIN_DEPTH = 0.25  # over the depth in the other view: droid_kernels.cu


def flow_distance(
    poses: np.ndarray,
    inv_depth: np.ndarray,
    intrinsics: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    translation_weight: float = 0.7,
    bidirectional: bool = True,
) -> np.ndarray:
    """Mean flow between pairs of keyframes, grid cells, float64 [P].

    Flow by the whole motion and flow by the translation alone are blended; ``translation_weight`` is the share of the
    latter (1 - beta in DROID-SLAM's frame_distance_kernel). 1000 where less than three quarters of the cells stay in
    front of the other camera. ``poses`` T_cam_world [N, 7], ``inv_depth`` [N, h, w], ``source``, ``target`` int64 [P].
    """
    T = lie.pose_vec_to_matrix(poses)
    ends = [(source, target), (target, source)] if bidirectional else [(source, target)]
    distance = np.empty(len(source))
    for p in range(len(source)):
        length = valid = total = 0.0
        for a, b in ends:
            relative = T[b[p]] @ lie.inverse(T[a[p]])
            translated = np.eye(4)
            translated[:3, 3] = relative[:3, 3]
            for motion, weight in ((relative, 1.0 - translation_weight), (translated, translation_weight)):
                flow, seen = _flow(inv_depth[a[p]], motion, intrinsics)
                length += weight * float(flow[seen].sum())
                valid += weight * float(seen.sum())
                total += weight * seen.size
        distance[p] = length / valid if valid >= _ENOUGH_VALID * total else UNRELATED
    return distance


def _flow(inv_depth: np.ndarray, T: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length of each cell's flow [h, w] and whether it stays in front of the camera [h, w]."""
    fx, fy, cx, cy = intrinsics
    y, x = np.mgrid[0 : inv_depth.shape[0], 0 : inv_depth.shape[1]].astype(np.float64)
    rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], axis=-1)
    X = rays @ T[:3, :3].T + inv_depth[..., None] * T[:3, 3]
    seen = X[..., 2] > _MIN_DEPTH
    z = np.where(seen, X[..., 2], 1.0)
    return np.hypot(fx * X[..., 0] / z + cx - x, fy * X[..., 1] / z + cy - y), seen
