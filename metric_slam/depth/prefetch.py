"""Depth networks run ahead: a worker predicts the depth of a frame while the frame is still being tracked.

A frame that is expected to become a keyframe is given to the worker at once; when it does become one, its answer is
there or on its way. One worker, so predictions never run side by side, and the answers do not depend on who was faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from metric_slam.depth.base import DepthPrediction, DepthPrior
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera


class PrefetchedPrior(DepthPrior):
    """A prior whose :meth:`prepare` is slow and depends on nothing but the frame, with a worker in front of it."""

    def __init__(self, prior: DepthPrior) -> None:
        assert not prior.measures_motion, prior.name
        self.name, self.metric = prior.name, prior.metric
        self.relative_sigma, self.scale_sigma = prior.relative_sigma, prior.scale_sigma
        self._prior = prior
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="depth")
        self._expected: tuple[int, Future[Any]] | None = None

    def prefetch(self, frame: Frame, camera: PinholeCamera) -> None:
        """Begins with a frame; one that was expected before and did not come is dropped if it has not begun."""
        if self._expected is not None:
            self._expected[1].cancel()
        self._expected = frame.index, self._worker.submit(self._prior.prepare, frame, camera)

    def prepare(self, frame: Frame, camera: PinholeCamera) -> Any:
        """As the prior itself does it; waits for the worker."""
        expected, self._expected = self._expected, None
        if expected is not None and expected[0] == frame.index:
            return expected[1].result()
        if expected is not None:
            expected[1].cancel()
        return self._worker.submit(self._prior.prepare, frame, camera).result()

    def predict(self, state: Any, camera: PinholeCamera) -> DepthPrediction | None:
        """As the prior itself."""
        return self._prior.predict(state, camera)

    def state(self) -> dict[str, np.ndarray]:
        """As the prior itself; what is only expected is not part of it."""
        return self._prior.state()

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """As the prior itself."""
        self._prior.restore(state)
