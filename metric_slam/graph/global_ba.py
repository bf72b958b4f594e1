"""Global bundle adjustment: all keyframes at once, at the end and when the map has grown since a loop was closed.

The reduced system in the poses is sparse: keyframes are put in an order that keeps it narrow, so that the cost is near
linear where loops are few. Its memory is bounded: of a long drive every second or third row and column of the grid
takes part, and afterwards the depths of all cells follow with the poses fixed, a piece of the drive at a time.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

import numpy as np

from metric_slam.config.schema import GlobalBaConfig
from metric_slam.geometry import lie
from metric_slam.geometry.grid_array import on_host
from metric_slam.graph.slam_map import SlamMap
from metric_slam.optimization.bundle_adjustment import BaReport, SolveStatus
from metric_slam.optimization.ordering import narrow_order

log = logging.getLogger(__name__)

_PIECE = 100  # keyframes whose depths are solved together
_DEPTH_ITERATIONS = 6


class RevisableScale(Protocol):
    """Scale measurements that can be corrected once the whole path is known."""

    @property
    def cell_sigma(self) -> float:
        """Standard deviation of the relative error of one cell of the prior's depth."""
        ...

    def collect(self) -> None:
        """Add a measurement in progress to the graph."""
        ...

    def revise(self) -> bool:
        """Correct the measurements by the path that was driven afterwards; False if there are none."""
        ...


class GlobalBundleAdjustment:
    """Optimises the whole map in place."""

    def __init__(self, slam_map: SlamMap, config: GlobalBaConfig) -> None:
        self._map, self._config = slam_map, config
        self.growth = config.growth
        self.cell_step = 1
        """Grid subsampling factor of the latest solve."""

    def optimise(self, iterations: int | None = None) -> BaReport:
        """Bundle adjustment over the whole trajectory; one pose of every frame of reference stays."""
        iterations = self._config.iterations if iterations is None else iterations
        count, pairs, graph = len(self._map), self._map.graph.pairs(), self._map.graph
        if count < 3 or not len(pairs) or iterations == 0:
            return BaReport(SolveStatus.NOTHING_TO_DO)
        self.cell_step = self._affordable_step(len(pairs))
        order = [int(i) for i in narrow_order(count, pairs)]
        window = graph.window(order, self._map.submaps.anchors(), cell_step=self.cell_step)
        window, report = self._map.solver.solve(window, iterations=iterations, tight_convergence=True)
        fine = self.cell_step == 1
        self._map.take_over(order, window, depths=fine)
        del window
        if not fine:
            self.refine_depths()
        return graph.count(report)

    def finish(self, scale: RevisableScale) -> None:
        """Final optimisation: global BA, scale measurements revised along the final path, global BA, refined depths."""
        scale.collect()
        self.optimise()
        if scale.revise():
            self.optimise()
        self.refine_depths(scale.cell_sigma)
        self._close_gaps()

    def _close_gaps(self) -> None:
        """Move submaps that no loop has joined behind the submap before them, by the motion predicted at the loss."""
        submaps = self._map.submaps
        for submap, begin in enumerate(submaps.begins):
            if begin == 0 or submaps.component(submap) != submap:
                continue
            before, first = self._map.T_cam_world([begin - 1, begin])
            T_new_old = lie.inverse(before) @ lie.inverse(submaps.gaps[submap]) @ first
            self._map.move(submaps.sharing(submap, len(self._map)), T_new_old)

    def refine_depths(self, cell_sigma: float | None = None) -> None:
        """Solve inverse depths alone, all poses fixed, a piece of the drive at a time.

        With ``cell_sigma`` the depth of the measured road takes part, with this relative error: on asphalt the flow of
        a cell is easily wrong and would move the poses; for the map the road's plane is right.
        """
        count = len(self._map)
        for begin in range(0, count, _PIECE):
            piece = range(begin, min(begin + _PIECE, count))
            if any(self._map.graph.targets_of(i) for i in piece):
                self._refine_piece(piece, cell_sigma)

    def _refine_piece(self, piece: range, cell_sigma: float | None) -> None:
        graph = self._map.graph
        seen = sorted({t for i in piece for t in graph.targets_of(i)} - set(piece))
        positions = [*piece, *seen]
        window = graph.window(positions, set(positions), depth_free=set(piece))
        if cell_sigma is not None:
            road_m = self._map.stacked_on_host("road_depth_m", positions)
            if not road_m.any() and window.prior_weight is None:
                return  # nothing is known that the last solve did not use
            weight, depth_m = (road_m > 0) / cell_sigma**2, road_m
            if window.prior_weight is not None and window.prior_depth_m is not None:
                prior_weight, prior_m = on_host(window.prior_weight), on_host(window.prior_depth_m)
                depth_m = np.where(prior_weight > 0, prior_m, road_m)
                weight = np.where(prior_weight > 0, prior_weight, weight)
            window = replace(window, prior_weight=weight, prior_depth_m=depth_m)
        window = replace(window, scale_sigma=0.0)
        window, report = self._map.solver.solve(window, iterations=_DEPTH_ITERATIONS)
        self._map.take_over(piece, window)
        graph.count(report)

    def _affordable_step(self, edge_count: int) -> int:
        grid = self._map.camera.grid()
        cells = edge_count * grid.width * grid.height
        step = 1
        while cells / step**2 > self._config.max_cells and step < min(grid.width, grid.height) // 8:
            step += 1
        if step > 1:
            log.info(
                "global bundle adjustment uses every %d. row and column of the grid: %d edges have %.0f million cells",
                step,
                edge_count,
                cells / 1e6,
            )
        return step
