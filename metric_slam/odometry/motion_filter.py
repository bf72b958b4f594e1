"""Which frames become keyframes: enough motion to triangulate, not so much that the views no longer overlap."""

from __future__ import annotations

import numpy as np

from metric_slam.checkpointable import StateTree, array_in
from metric_slam.config.schema import MotionFilterConfig
from metric_slam.odometry.tracking import TrackedFrame


class MotionFilter:
    """Decides frame by frame."""

    def __init__(self, config: MotionFilterConfig) -> None:
        self._config = config
        self._since_keyframe = 0
        self._flow_px = self._step_px = 0.0  # since the last keyframe, and of the latest frame alone

    @property
    def likely_keyframe(self) -> bool:
        """True if the next frame becomes a keyframe, should it move as far as the latest one."""
        return self._flow_px + self._step_px >= self._config.min_flow_px

    def wants(self, frame: TrackedFrame) -> bool:
        """True when the frame should become a keyframe."""
        cfg = self._config
        if not frame.tracked or frame.mean_flow_px < cfg.still_flow_px:
            return False  # a standing camera adds nothing, and a lost frame would break the chain of matches
        self._since_keyframe += 1
        wanted = (
            frame.mean_flow_px >= cfg.min_flow_px
            or frame.coverage < cfg.min_coverage
            or self._since_keyframe >= cfg.max_gap
        )
        self._step_px = max(frame.mean_flow_px - self._flow_px, 0.0)
        self._flow_px = 0.0 if wanted else frame.mean_flow_px
        if wanted:
            self._since_keyframe = 0
        return wanted

    def state(self) -> StateTree:
        """Arrays for a checkpoint."""
        return {
            "since_keyframe": np.array(self._since_keyframe),
            "flow_px": np.array([self._flow_px, self._step_px]),
        }

    def restore(self, state: StateTree) -> None:
        """Replace everything by what :meth:`state` returned."""
        self._since_keyframe = int(array_in(state, "since_keyframe"))
        self._flow_px, self._step_px = array_in(state, "flow_px").tolist()
