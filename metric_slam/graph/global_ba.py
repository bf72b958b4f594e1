"""Global bundle adjustment: all keyframes at once, at the end and when the map has grown since a loop was closed.

The reduced system in the poses is sparse: keyframes are put in an order that keeps it narrow, so that the cost is near
linear where loops are few. Its memory is bounded: of a long drive every second or third row and column of the grid
takes part, and afterwards the depths of all cells follow with the poses fixed, a piece of the drive at a time.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from metric_slam.config.schema import BundleAdjustmentConfig, GlobalBaConfig
from metric_slam.geometry import lie
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.graph.submaps import Submaps
from metric_slam.odometry.metric_scale import MetricScale
from metric_slam.optimization.bundle_adjustment import BaReport, solve_window
from metric_slam.optimization.cuda.arrays import on_host
from metric_slam.optimization.ordering import narrow_order

log = logging.getLogger(__name__)

_PIECE = 100  # keyframes whose depths are solved together
_DEPTH_ITERATIONS = 6


class GlobalBundleAdjustment:
    """Optimises everything; state lives in the store and the graph."""

    def __init__(
        self,
        store: KeyframeStore,
        graph: FactorGraph,
        submaps: Submaps,
        config: GlobalBaConfig,
        solver: BundleAdjustmentConfig,
    ) -> None:
        self._store, self._graph, self._submaps = store, graph, submaps
        self._config, self._solver = config, solver
        self.growth = config.growth
        self.cell_step = 1
        """Every so many-th row and column took part in the latest solve."""

    def optimise(self, iterations: int | None = None) -> BaReport:
        """Bundle adjustment over the whole trajectory; one pose of every frame of reference stays."""
        iterations = self._config.iterations if iterations is None else iterations
        count, pairs = len(self._store), self._graph.pairs()
        if count < 3 or not len(pairs) or iterations == 0:
            return BaReport("nothing_to_do")
        self.cell_step = self._affordable_step(len(pairs))
        order = [int(i) for i in narrow_order(count, pairs)]
        window = self._graph.window(order, self._submaps.anchors(), cell_step=self.cell_step)
        window, report = solve_window(
            window, self._solver, iterations=iterations, tight_convergence=True, accelerator=self._graph.accelerator
        )
        fine = self.cell_step == 1
        self._graph.take_over(order, window, depths=fine)
        del window
        if not fine:
            self.refine_depths()
        return self._graph.count(report)

    def finish(self, scale: MetricScale) -> None:
        """The last word on everything: optimise, let the prior revise what it said, optimise again, settle depths."""
        scale.collect()
        if self.optimise().status == "nothing_to_do":
            return
        if scale.revise():
            self.optimise()
        self.refine_depths(scale.cell_sigma)
        self._close_gaps()

    def _close_gaps(self) -> None:
        """Submaps that no loop has joined follow the one before them, as far away as was guessed when tracking was
        lost; the map before has moved since."""
        for submap, begin in enumerate(self._submaps.begins):
            if begin == 0 or self._submaps.component(submap) != submap:
                continue
            before, first = lie.pose_vec_to_matrix(self._store.poses(begin - 1, begin + 1))
            T_new_old = lie.inverse(before) @ lie.inverse(self._submaps.gaps[submap]) @ first
            self._store.move(self._submaps.sharing(submap, len(self._store)), T_new_old)

    def refine_depths(self, cell_sigma: float | None = None) -> None:
        """Inverse depths alone, all poses fixed, a piece of the drive at a time.

        With ``cell_sigma`` the prior depth that so far was only shown takes part, with this relative error: on asphalt
        the flow of a cell is easily wrong and would move the poses; for the map the road's plane is right.
        """
        count = len(self._store)
        for begin in range(0, count, _PIECE):
            piece = range(begin, min(begin + _PIECE, count))
            if any(self._graph.targets_of(i) for i in piece):
                self._refine_piece(piece, cell_sigma)

    def _refine_piece(self, piece: range, cell_sigma: float | None) -> None:
        seen = sorted({t for i in piece for t in self._graph.targets_of(i)} - set(piece))
        positions = [*piece, *seen]
        window = self._graph.window(positions, set(positions), depth_free=set(piece))
        if cell_sigma is not None:
            shown = self._store.stacked("prior_confidence", positions) / cell_sigma**2
            if not shown.any():
                return
            weight = shown if window.prior_weight is None else np.maximum(on_host(window.prior_weight), shown)
            depth_m = self._store.stacked("prior_depth_m", positions)
            window = replace(window, prior_weight=weight, prior_depth_m=depth_m)
        window = replace(window, scale_sigma=0.0)
        window, report = solve_window(
            window, self._solver, iterations=_DEPTH_ITERATIONS, accelerator=self._graph.accelerator
        )
        self._graph.take_over(piece, window)
        self._graph.count(report)

    def _affordable_step(self, edge_count: int) -> int:
        grid = self._store.camera.grid()
        cells = edge_count * grid.width * grid.height
        step = 1
        while cells / step**2 > self._config.max_cells and step < min(grid.width, grid.height) // 8:
            step += 1
        if step > 1:
            log.info(
                "global bundle adjustment takes every %d. row and column of the grid: %d edges have %.0f million cells",
                step,
                edge_count,
                cells / 1e6,
            )
        return step
