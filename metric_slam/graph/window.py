"""Assembles a bundle adjustment problem from keyframes, edges and measured baselines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from metric_slam.geometry.grid_array import Array
from metric_slam.graph.baselines import BaselineSet
from metric_slam.graph.edges import EdgeSet
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.optimization.bundle_adjustment import Baselines, BaWindow
from metric_slam.optimization.solver import Solver

# share of the damping that a recurrent model predicts, and what is added to it (DROID-SLAM, factor_graph.py)
_DAMPING_WEIGHT, _DAMPING_FLOOR = 0.2, 1e-7
_FIRST_DAMPING = 1e-6  # of keyframes that no update has seen yet


@dataclass(frozen=True)
class WindowParts:
    """What a problem is made of."""

    keyframes: KeyframeStore
    edges: EdgeSet
    baselines: BaselineSet
    solver: Solver
    scale_sigma: float
    """Standard deviation of the prior's log-scale per keyframe; 0 holds it."""


def build_window(
    parts: WindowParts,
    positions: Sequence[int],
    fixed: Collection[int],
    *,
    cell_step: int = 1,
    depth_free: Collection[int] | None = None,
) -> BaWindow:
    """The problem over these keyframes, in this order; the poses of the keyframes in ``fixed`` stay.

    ``cell_step`` takes every so many-th row and column of the grid; ``depth_free``: only the depths of these keyframes
    are free, and only their edges take part (None: all). Grids lie where the solver works.
    """
    store, solver = parts.keyframes, parts.solver
    place = {position: n for n, position in enumerate(positions)}
    free: Collection[int] = place.keys() if depth_free is None else depth_free
    edges = [e for i in positions if i in free for e in parts.edges.leaving(i) if e.target in place]
    baselines = [b for i in positions for b in parts.baselines.leaving(i) if b.target in place]
    has_prior = any(store.has_prior(i) for i in positions)
    flow_target, confidence = solver.stack_matches([e.matches for e in edges], cell_step, store.camera.grid().size)
    offset = cell_step // 2
    intrinsics = store.camera.grid().vector()
    intrinsics[2:] -= offset

    def stacked(field: str) -> Array:
        return solver.stack([getattr(store[i], field) for i in positions], cell_step)

    return BaWindow(
        intrinsics=intrinsics / cell_step,
        poses=np.array([store[i].pose for i in positions]),
        inv_depth=stacked("inv_depth"),
        source=np.array([place[e.source] for e in edges], np.int64),
        target=np.array([place[e.target] for e in edges], np.int64),
        flow_target=flow_target,
        confidence=confidence,
        pose_free=np.array([i not in fixed for i in positions]),
        depth_free=np.array([i in free for i in positions]),
        prior_depth_m=stacked("prior_depth_m") if has_prior else None,
        prior_weight=stacked("prior_weight") * cell_step**2 if has_prior else None,
        prior_log_scale=np.array([store[i].prior_log_scale for i in positions]),
        scale_previous=_scale_previous(store, place),
        scale_sigma=parts.scale_sigma,
        depth_damping=_stacked_damping(parts, positions, cell_step),
        baselines=Baselines(
            pair=np.array([[place[b.source], place[b.target]] for b in baselines], np.int64).reshape(-1, 2),
            length_m=np.array([b.length_m for b in baselines]),
            sigma=np.array([b.sigma for b in baselines]),
        ),
        cell_step=cell_step,
    )


def _stacked_damping(parts: WindowParts, positions: Sequence[int], cell_step: int) -> Array | None:
    """Damping that a recurrent model predicted for these keyframes, weighted as in DROID-SLAM; None without any."""
    store, solver = parts.keyframes, parts.solver
    damping = [store[i].depth_damping for i in positions]
    if all(d is None for d in damping):
        return None
    unknown = solver.filled(store[positions[0]].inv_depth.shape, _FIRST_DAMPING)
    stacked = solver.stack([unknown if d is None else d for d in damping], cell_step)
    return (_DAMPING_WEIGHT * stacked + _DAMPING_FLOOR) * cell_step**2


def _scale_previous(store: KeyframeStore, place: dict[int, int]) -> np.ndarray:
    """Place of each keyframe's predecessor in the same submap; -1: none."""
    return np.array(
        [place.get(i - 1, -1) if i > 0 and store[i - 1].submap == store[i].submap else -1 for i in place],
        np.int64,
    )
