"""The truth about returns: which frames see a place from where an earlier frame saw it."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from metric_slam.datasets.synthetic.route import drive_motion
from metric_slam.datasets.synthetic.spec import DriveSpec

NEAR_M, TURNED_DEG, PATH_BETWEEN_M = 3.0, 20.0, 100.0


def revisits(spec: DriveSpec) -> list[tuple[int, int]]:
    """Pairs (frame now, frame before) of the drive of ``spec``, at most one for every frame now, ascending.

    The frame before is the nearest of those within 3 m whose camera looks the same way within 20 degrees, and from
    which the car drove more than 100 m to be here again.
    """
    motion = drive_motion(spec)
    position, forward = motion.poses[:, :2, 3], motion.poses[:, :2, 2]
    forward = forward / np.linalg.norm(forward, axis=1, keepdims=True)
    tree = cKDTree(position)
    pairs = []
    for now, near in enumerate(tree.query_ball_point(position, NEAR_M)):
        before = np.array(near)
        before = before[motion.s_m[now] - motion.s_m[before] > PATH_BETWEEN_M]
        before = before[forward[before] @ forward[now] > np.cos(np.radians(TURNED_DEG))]
        if len(before):
            distance = np.linalg.norm(position[before] - position[now], axis=1)
            pairs.append((now, int(before[np.argmin(distance)])))
    return pairs
