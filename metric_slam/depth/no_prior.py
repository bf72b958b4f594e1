"""No prior: classic monocular SLAM, up to an unknown scale."""

from __future__ import annotations

from metric_slam.depth.base import DepthPrior
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera


class NoPrior(DepthPrior):
    """Knows nothing; all outputs of the run say that the scale is unknown."""

    name = "none"
    metric = False

    def prepare(self, frame: Frame, camera: PinholeCamera) -> None:
        """Nothing to keep."""

    def predict(self, state: None, camera: PinholeCamera) -> None:
        """Nothing to say."""
