"""Background execution of slow depth priors: a worker computes the depth of a likely keyframe while it is tracked.

There is one worker, so predictions never run side by side and the results do not depend on its speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from metric_slam.depth.base import DepthPrediction, DepthPrior, PriorState
from metric_slam.errors import InputError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera


class PrefetchedPrior(DepthPrior):
    """A prior whose :meth:`prepare` is slow and depends on the frame alone, run by a worker thread."""

    def __init__(self, prior: DepthPrior) -> None:
        if prior.measures_motion:
            raise InputError(f"prior {prior.name!r} measures motion and depends on more than one frame: no prefetching")
        self.name, self.metric = prior.name, prior.metric
        self.relative_sigma, self.scale_sigma = prior.relative_sigma, prior.scale_sigma
        self._prior = prior
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="depth")
        self._likely: tuple[int, Future[PriorState]] | None = None

    def prefetch(self, frame: Frame, camera: PinholeCamera) -> None:
        """Start on a likely keyframe; the one before is dropped if the worker has not begun it."""
        if self._likely is not None:
            self._likely[1].cancel()
        self._likely = frame.index, self._worker.submit(self._prior.prepare, frame, camera)

    def prepare(self, frame: Frame, camera: PinholeCamera) -> PriorState:
        """As the wrapped prior; waits for the worker."""
        likely, self._likely = self._likely, None
        if likely is not None and likely[0] == frame.index:
            return likely[1].result()
        if likely is not None:
            likely[1].cancel()
        return self._worker.submit(self._prior.prepare, frame, camera).result()

    def predict(self, state: PriorState, camera: PinholeCamera) -> DepthPrediction | None:
        """As the wrapped prior."""
        return self._prior.predict(state, camera)

    def state(self) -> dict[str, np.ndarray]:
        """As the wrapped prior; work in progress is not part of it."""
        return self._prior.state()

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """As the wrapped prior."""
        self._prior.restore(state)

    def summary(self) -> str | None:
        """As the wrapped prior."""
        return self._prior.summary()
