"""Rendered pairs with exact matches, for all matchers by optical flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metric_slam.correspondence.base import Correspondence, CorrespondenceModel, EdgeQuery
from metric_slam.geometry.camera import FEATURE_STRIDE
from tests.scene import CAMERA, Street, exact_matches, pose, rotation

STREET = Street()
R = rotation(0.01, 0.005)
FIRST = pose(R=R)

several_motions = pytest.mark.parametrize(
    ("second", "median_px", "p90_px"),
    [
        (pose(z_m=0.3, R=R), 0.08, 0.35),
        (pose(z_m=1.0, R=R), 0.15, 0.6),
        (pose(0.3, 0.2, R=R), 0.15, 0.6),
        (pose(R=rotation(0.03, -0.02, 0.05)), 0.08, 0.3),
    ],
    ids=["slow", "fast", "sideways", "turn"],
)
"""Second poses, and how far a matcher may be off."""


def features(model: CorrespondenceModel, T_world_cam: np.ndarray, street: Street = STREET) -> Any:
    """Of a rendered image."""
    return model.encode(street.render(T_world_cam)[0], CAMERA)


def match(
    model: CorrespondenceModel, T_world_second: np.ndarray, *, street: Street = STREET, warm: bool = False
) -> tuple[Correspondence, np.ndarray, np.ndarray]:
    """Match, error in pixels [h, w] and visibility of first -> second; with ``warm`` both ways start at the truth."""
    target, seen = exact_matches(street, FIRST, T_world_second)
    back, _ = exact_matches(street, T_world_second, FIRST)
    a, b = features(model, FIRST, street), features(model, T_world_second, street)
    forward, _ = model.track([EdgeQuery(a, b, target if warm else None), EdgeQuery(b, a, back if warm else None)])
    return forward, FEATURE_STRIDE * np.linalg.norm(forward.target - target, axis=-1), seen
