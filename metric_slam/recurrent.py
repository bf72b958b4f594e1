"""The way of working around a recurrent network, frame by frame: what MetricSlam does instead of tracking.

    frame -> motion filter (one update against the last keyframe) -> waits, or becomes a keyframe
    keyframe -> frontend -> is the one before it superfluous? -> frames between are placed -> loops
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np

from metric_slam.active_edges import ActiveEdges
from metric_slam.config_droid import DroidConfig
from metric_slam.correspondence.base import RecurrentModel
from metric_slam.factor_graph import FactorGraph
from metric_slam.frontend import View
from metric_slam.geometry.camera import FEATURE_STRIDE
from metric_slam.keyframes import KeyframeStore
from metric_slam.loop_closure import LoopClosure
from metric_slam.recurrent_frames import RecurrentFramePoses
from metric_slam.recurrent_frontend import RecurrentFrontend

Timed = Callable[[str], AbstractContextManager[None]]


class RecurrentPath:
    """Takes frames after the first one in."""

    def __init__(
        self,
        store: KeyframeStore,
        graph: FactorGraph,
        model: RecurrentModel,
        active: ActiveEdges,
        frontend: RecurrentFrontend,
        frames: RecurrentFramePoses,
        loops: LoopClosure,
        config: DroidConfig,
        timed: Timed,
    ) -> None:
        self._store, self._graph, self._model, self._active = store, graph, model, active
        self._frontend, self._frames, self._loops = frontend, frames, loops
        self._config, self._timed = config, timed
        self._settled = 0
        """Keyframes that stay for good and were looked at for loops."""

    def wants(self, features: object) -> bool:
        """Did the view change enough since the last keyframe?"""
        with self._timed("track"):
            moved_px = self._model.motion_px(self._store[-1].features, features)
        return moved_px > self._config.motion_threshold_cells * FEATURE_STRIDE

    def wait(self, index: int, time_s: float, features: object) -> None:
        """A frame that becomes no keyframe."""
        self._frames.add_waiting(index, time_s, features)
        if not self._frames.overflowing:
            return
        with self._timed("frames_between"):
            if self._frontend.ready:
                self._frames.place_before(len(self._store))
            else:
                self._frames.forget_waiting()

    def add(self, view: View) -> None:
        """A frame that becomes a keyframe, for the time being at least."""
        with self._timed("frontend"):
            superfluous = self._frontend.add(view)
            self._frames.add_keyframe(view.index, view.time_s, tracked=True, quality=0.0)
            if superfluous is not None:
                self.remove_keyframe(superfluous)
                self._frontend.after_removal()
        if self._frontend.ready:
            self._settle(len(self._store) - 1)  # the newest one may still go

    def finish(self) -> None:
        """The end of the video: nothing goes any more."""
        if not self._frontend.ready:
            with self._timed("frontend"):
                self._frontend.initialise()
        if len(self._store) > 1:
            self._settle(len(self._store))
        with self._timed("frames_between"):
            self._frames.place_before(len(self._store))

    def remove_keyframe(self, position: int) -> None:
        """Takes a keyframe of the window out of everything that counts keyframes."""
        assert position >= self._settled, (position, self._settled)
        self._frontend.scale.collect()
        self._frames.remove_keyframe(position)
        self._active.remove_keyframe(position)
        self._graph.remove_keyframe(position)
        self._store.remove(position)
        self._frontend.scale.remove_keyframe(position)

    def _settle(self, count: int) -> None:
        """Keyframes before ``count`` stay: they may be part of loops, and the frames between them are placed."""
        with self._timed("frames_between"):
            self._frames.place_before(count - 1)
        for position in range(self._settled, count):
            self._frames.set_quality(position, float(self._graph.confidence_of(position).mean()))
            with self._timed("loops"):
                self._loops.look(position)
        self._settled = count

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> dict[str, np.ndarray]:
        """As plain arrays."""
        state = {f"active/{name}": value for name, value in self._active.state().items()}
        return state | {"settled": np.array(self._settled), "ready": np.array(self._frontend.ready)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over a :meth:`state`, after store and graph took over theirs."""
        self._active.restore({key[7:]: value for key, value in state.items() if key.startswith("active/")})
        self._settled, self._frontend.ready = int(state["settled"]), bool(state["ready"])
