"""No prior: classic monocular SLAM, up to an unknown scale."""

from __future__ import annotations

from metric_slam.depth.base import DepthPrior, PriorState
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera


class NoPrior(DepthPrior):
    """A prior without depth; all outputs of the run state that the scale is unknown."""

    name = "none"
    metric = False

    def prepare(self, frame: Frame, camera: PinholeCamera) -> None:
        """Keep nothing."""

    def predict(self, state: PriorState, camera: PinholeCamera) -> None:
        """No depth."""
