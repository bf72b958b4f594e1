"""The way of working around a recurrent network, frame by frame: what MetricSlam does instead of tracking.

frame -> motion filter (one update against the last keyframe) -> waits, or wants to become a keyframe
does it show what the last keyframe shows? -> becomes one, or is lost
keyframe -> frontend -> is the one before it superfluous? -> frames between are placed -> loops
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import cv2
import numpy as np

from metric_slam.config.droid import DroidConfig
from metric_slam.correspondence.base import Correspondence, EdgeQuery, RecurrentModel, confidence_per_cell
from metric_slam.geometry.camera import FEATURE_STRIDE
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.loops.closure import LoopClosure
from metric_slam.odometry.droid.active_edges import ActiveEdges
from metric_slam.odometry.droid.frame_poses import DroidFramePoses
from metric_slam.odometry.droid.sliding_window import DroidSlidingWindow
from metric_slam.odometry.sliding_window import KeyframeCandidate

Timed = Callable[[str], AbstractContextManager[None]]

_TEXTURE = 1.0
"""RMS gradient of a cell from which it can be matched, grey levels a pixel."""

_TEXTURED_SHARE = 0.1
"""Share of such cells from which an image shows anything."""

_ROUND_TRIP_CELLS = 1.0
"""A cell is found again where the matches there and back end so near to it."""

_SURE = 0.1
"""Least confidence of such a cell: the network's is never 0."""

_FOLLOWED_SHARE = 0.12
"""Share of cells found again without which tracking is lost; as in the usual way of working."""

_CHECK_EVERY = 8
"""Of frames that seem to have moved little: unrelated images may seem so, too."""


class DroidOdometry:
    """Takes frames after the first one in."""

    def __init__(
        self,
        store: KeyframeStore,
        graph: FactorGraph,
        model: RecurrentModel,
        active: ActiveEdges,
        frontend: DroidSlidingWindow,
        frames: DroidFramePoses,
        loops: LoopClosure,
        config: DroidConfig,
        timed: Timed,
    ) -> None:
        self._store, self._graph, self._model, self._active = store, graph, model, active
        self._frontend, self._frames, self._loops = frontend, frames, loops
        self._config, self._timed = config, timed
        self._settled = 0
        """Keyframes that stay for good and were looked at for loops."""

        self._unchecked = 0
        """Frames since the last one that was found to show what the last keyframe shows."""

    def wants(self, features: object) -> bool:
        """Did the view change enough since the last keyframe?"""
        with self._timed("track"):
            moved_px = self._model.motion_px(self._store[-1].features, features)
        return moved_px > self._config.motion_threshold_cells * FEATURE_STRIDE

    def follows(self, features: object, *, wanted: bool) -> bool:
        """Does the frame show what the last keyframe shows? Matches the two both ways, without poses: what a network
        makes of unrelated images does not lead back to where it began, however sure it is. Unless ``wanted`` as a
        keyframe, a few frames are believed to after one that did."""
        self._unchecked += 1
        if not wanted and self._unchecked < _CHECK_EVERY:
            return True
        last = self._store[-1].features
        with self._timed("track"):
            there, back = self._model.track([EdgeQuery(last, features), EdgeQuery(features, last)])
        found = forward_backward_share(there, back) >= _FOLLOWED_SHARE
        self._unchecked = 0 if found else _CHECK_EVERY
        return found

    def lose(self, index: int, time_s: float) -> None:
        """A frame that shows nothing, or nothing known: it goes on at the speed of the last keyframes."""
        self._frames.add_lost(index, time_s)

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

    def add(self, view: KeyframeCandidate) -> None:
        """A frame that becomes a keyframe, for the time being at least."""
        with self._timed("frontend"):
            superfluous = self._frontend.add(view)
            self._frames.add_keyframe(view.index, view.time_s, tracked=True, inlier_ratio=0.0)
            if superfluous is not None:
                self.remove_keyframe(superfluous)
                self._frontend.after_removal()
        if self._frontend.ready:
            self._settle(len(self._store) - 1)  # the newest one may still go

    def finish(self) -> None:
        """The end of the video, or of a submap: nothing goes any more, and nothing is refined further."""
        if not self._frontend.ready:
            with self._timed("frontend"):
                self._frontend.initialise()
        if len(self._store) > 1:
            self._settle(len(self._store))
        with self._timed("frames_between"):
            self._frames.place_before(len(self._store))
        self._active.retire(self._active.pairs())

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
            self._frames.set_inlier_ratio(position, float(self._graph.confidence_of(position).mean()))
            with self._timed("loops"):
                self._loops.look(position)
        self._settled = count

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> dict[str, np.ndarray]:
        """As plain arrays."""
        state = {f"active/{name}": value for name, value in self._active.state().items()}
        numbers = {"settled": self._settled, "ready": self._frontend.ready, "unchecked": self._unchecked}
        return state | {name: np.array(value) for name, value in numbers.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over a :meth:`state`, after store and graph took over theirs."""
        self._active.restore({key[7:]: value for key, value in state.items() if key.startswith("active/")})
        self._settled, self._frontend.ready = int(state["settled"]), bool(state["ready"])
        self._unchecked = int(state["unchecked"])


def is_textured(image: np.ndarray) -> bool:
    """Does an image [H, W, 3] RGB show enough to be matched at all?"""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    gx, gy = (cv2.Scharr(grey, cv2.CV_32F, dx, 1 - dx, scale=1 / 32) for dx in (1, 0))
    size = image.shape[1] // FEATURE_STRIDE, image.shape[0] // FEATURE_STRIDE
    energy = cv2.resize(gx * gx + gy * gy, size, interpolation=cv2.INTER_AREA)
    return bool((energy > _TEXTURE**2).mean() >= _TEXTURED_SHARE)


def forward_backward_share(there: Correspondence, back: Correspondence) -> float:
    """Share of the cells of an image whose matches ``there`` lead into another one from where those ``back`` return."""
    u, v = (there.target[..., k].astype(np.float32) for k in (0, 1))
    outside = (-1e4, -1e4)
    returned = cv2.remap(
        back.target.astype(np.float32), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
    )
    sure = cv2.remap(confidence_per_cell(back.confidence), u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    y, x = np.mgrid[0 : u.shape[0], 0 : u.shape[1]]
    near = np.hypot(returned[..., 0] - x, returned[..., 1] - y) < _ROUND_TRIP_CELLS
    return float((near & (np.minimum(sure, confidence_per_cell(there.confidence)) > _SURE)).mean())
