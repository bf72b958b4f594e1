"""Dense, checked depths of the keyframes one after the other, with only a window of them in memory.

Place in the flow: from the keyframes of a :class:`~metric_slam.result.SlamResult` to the depth maps of
:mod:`metric_slam.reconstruction.fusion`. Every keyframe is matched with the next one and with a later one that has
enough parallax. Each pair is used for both its ends, so that a keyframe in the middle has two neighbours on either side
for two pairs of flows.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from metric_slam.reconstruction.cells import usable_confidence
from metric_slam.reconstruction.consistency import DepthView, filter_depth, select_neighbours
from metric_slam.reconstruction.dense_depth import DenseDepth, Observation, densify
from metric_slam.reconstruction.images import KeyframeImages
from metric_slam.reconstruction.pair_flow import KeyframeView, PairMatcher
from metric_slam.result import KeyframeResult

FAR_BASELINE_FRACTION = 0.2
"""Baseline of the far partner over the median depth: 50 px of parallax at half a 960 px wide image from the epipole."""

MAX_PARTNER_STEPS = 6
"""Number of following keyframes among which the far partner is chosen."""

CHECK_REACH = 4
"""Keyframes before and after with which a depth map is compared."""

CHECK_VIEWS = 6
"""Number of those that are used, spread over their baselines."""


@dataclass(frozen=True)
class CheckedDepth:
    """Depth of one keyframe after the multi-view check."""

    position: int
    """Index in the list of keyframes."""

    view: DepthView
    relative_sigma: np.ndarray
    """float32 [H, W], see :class:`~metric_slam.reconstruction.dense_depth.DenseDepth`."""

    dense_count: int
    """Pixels with a depth before the check."""


def median_depth(keyframes: Sequence[KeyframeResult]) -> float | None:
    """Median depth of the supported cells of all keyframes in world units; None where no cell is supported."""
    parts = []
    for keyframe in keyframes:
        good = (usable_confidence(keyframe) > 0.1) & (keyframe.inv_depth > 0)
        parts.append(1.0 / keyframe.inv_depth[good][::7])
    depths = np.concatenate(parts) if parts else np.empty(0)
    return float(np.median(depths)) if depths.size else None


def choose_partners(views: Sequence[KeyframeView], typical_depth: float) -> list[int]:
    """Choose positions in ``views`` to match with ``views[0]``: the next one and one with parallax, [] for one view."""
    if len(views) < 2:
        return []
    if len(views) == 2:
        return [1]
    baselines = [views[0].baseline(v) for v in views]
    wanted = FAR_BASELINE_FRACTION * typical_depth
    far = next((i for i in range(2, len(views)) if baselines[i] >= wanted), int(np.argmax(baselines[2:])) + 2)
    return [1, far]


def dense_depths(
    keyframes: Sequence[KeyframeResult],
    images: KeyframeImages,
    typical_depth: float,
    max_relative_sigma: float,
    *,
    fine_flow: bool = False,
) -> Iterator[tuple[KeyframeView, DenseDepth]]:
    """Compute the dense depth of every keyframe, in order."""
    matcher = PairMatcher(fine=fine_flow)
    views: deque[KeyframeView] = deque()
    waiting: dict[int, list[Observation]] = defaultdict(list)
    for position in range(len(keyframes)):
        while len(views) <= MAX_PARTNER_STEPS and position + len(views) < len(keyframes):
            following = position + len(views)
            views.append(KeyframeView(keyframes[following], images[following]))
        view = views[0]
        for step in choose_partners(views, typical_depth):
            there, back = matcher.match(view, views[step])
            waiting[position].append(Observation(view.epipolar(views[step]), there))
            waiting[position + step].append(Observation(views[step].epipolar(view), back))
        yield view, densify(view, waiting.pop(position, []), max_relative_sigma)
        views.popleft()


def checked_depths(
    keyframes: Sequence[KeyframeResult],
    images: KeyframeImages,
    *,
    typical_depth: float,
    max_depth: float,
    min_views: int,
    max_relative_error: float,
    fine_flow: bool = False,
) -> Iterator[CheckedDepth]:
    """Compute the dense depths with which ``min_views`` other keyframes agree, in order of the keyframes."""
    window: deque[tuple[int, DepthView, np.ndarray]] = deque()
    stream = enumerate(dense_depths(keyframes, images, typical_depth, 2 * max_relative_error, fine_flow=fine_flow))
    for centre in range(len(keyframes)):
        while window and window[0][0] < centre - CHECK_REACH:
            window.popleft()
        while not window or window[-1][0] < min(centre + CHECK_REACH, len(keyframes) - 1):
            position, (view, dense) = next(stream)
            depth_view = DepthView(dense.depth, view.camera, view.T_world_cam)
            window.append((position, depth_view, dense.relative_sigma))
        here, sigma = next((v, s) for p, v, s in window if p == centre)
        neighbours = select_neighbours(here, [v for p, v, _ in window if p != centre], CHECK_VIEWS)
        depth = filter_depth(
            here, neighbours, min_views=min_views, max_relative_error=max_relative_error, max_depth=max_depth
        )
        dense_count = int(np.count_nonzero(here.depth))
        yield CheckedDepth(centre, DepthView(depth, here.camera, here.T_world_cam), sigma, dense_count)
