"""The whole system with a CUDA device: what it gives without one, and no waiting inside an update of the network."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

from metric_slam.correspondence.base import Correspondence, EdgeMemory, EdgeQuery
from metric_slam.correspondence.droid.model import DroidCorrespondence
from metric_slam.disk_store import DiskArray, DiskStore
from metric_slam.geometry.cuda_kernels import CudaKernels
from metric_slam.geometry.grid_array import on_host
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.droid.active_edges import ActiveEdges
from metric_slam.optimization.cuda import solver as cuda_solver
from metric_slam.result import SlamResult
from metric_slam.slam import Slam
from tests.device_guard import noticed, unnoticed
from tests.table_network import FRAMES, World, make_world, table_slam

TOLERANCE = 1e-6
Answers = list[tuple[Correspondence, EdgeMemory]]


@lru_cache(maxsize=1)
def world() -> World:
    return make_world()


def drive(slam: Slam, frames: range) -> None:
    for index in frames:
        slam.process_frame(world().frame(index))


@lru_cache(maxsize=2)
def on_cpu(recurrent: bool = True) -> SlamResult:
    """The whole drive without a CUDA device."""
    slam = table_slam(world(), None, recurrent=recurrent)
    drive(slam, range(FRAMES))
    return slam.finish()


@pytest.mark.parametrize("recurrent", [True, False])
def test_the_matches_lead_to_the_drive(recurrent: bool) -> None:
    """Or the others would compare nonsense."""
    result = on_cpu(recurrent)
    assert result.tracked.all() and 5 < result.is_keyframe.sum() < FRAMES - 2
    T_cam_world = np.linalg.inv(result.T_world_cam)
    np.testing.assert_allclose(T_cam_world[:, :3, 3], world().poses[:, :3], atol=1e-3)


@pytest.mark.parametrize("recurrent", [True, False])
def test_the_whole_system_gives_what_the_cpu_gives(cuda: CudaKernels, recurrent: bool) -> None:
    slam = table_slam(world(), cuda, recurrent=recurrent)
    drive(slam, range(FRAMES))
    result, expected = slam.finish(), on_cpu(recurrent)
    np.testing.assert_array_equal(result.is_keyframe, expected.is_keyframe)
    np.testing.assert_array_equal(result.tracked, expected.tracked)
    np.testing.assert_allclose(result.T_world_cam, expected.T_world_cam, atol=TOLERANCE)
    np.testing.assert_allclose(result.inlier_ratio, expected.inlier_ratio, atol=TOLERANCE)
    for one, other in zip(result.keyframes, expected.keyframes, strict=True):
        np.testing.assert_allclose(one.inv_depth, other.inv_depth, atol=TOLERANCE)
        np.testing.assert_allclose(one.confidence, other.confidence, atol=TOLERANCE)
        np.testing.assert_array_equal(one.consistent_views, other.consistent_views)
        assert (one.dense_inv_depth is None) == (not recurrent)
        if recurrent:
            np.testing.assert_allclose(one.dense_inv_depth.load(), other.dense_inv_depth.load(), atol=TOLERANCE)
        assert one.prior_log_scale == pytest.approx(other.prior_log_scale, abs=TOLERANCE)


@pytest.mark.parametrize("moving", [False, True], ids=["all stands still", "something moves"])
def test_nothing_comes_back_inside_an_update(cuda: CudaKernels, moving: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a step of the network, of keyframes or of frames between them, nor while its problem is put together;
    after the solve the depths come back, once."""
    step, update, solve = DroidCorrespondence.update, ActiveEdges.update, SlamMap.solve
    window, solved = FactorGraph.window, cuda_solver.solve_window
    counts = {"steps": 0, "updates": 0, "solves": 0}

    def stepping(self: DroidCorrespondence, queries: list[EdgeQuery], memories: list[EdgeMemory]) -> Answers:
        with noticed(cuda.device) as called:
            answers = step(self, queries, memories)
        assert not called and isinstance(answers[0][0].confidence, torch.Tensor)
        counts["steps"] += 1
        return answers

    def updating(self: ActiveEdges, *, dense: bool = True) -> None:
        with noticed(cuda.device) as called:
            update(self, dense=dense)
        assert not called
        counts["updates"] += 1

    def building(*arguments: object, **options: object) -> object:
        with noticed(cuda.device) as called:
            found = window(*arguments, **options)
        assert not called
        return found

    def solving(*arguments: object, **options: object) -> object:
        with noticed(cuda.device, may_wait=True) as called:
            report = solve(*arguments, **options)
        assert called == ["cpu", "numpy"]
        counts["solves"] += 1
        return report

    def solving_itself(*arguments: object, **options: object) -> object:
        with unnoticed():  # its own way back is not ours to count
            return solved(*arguments, **options)

    slam = table_slam(world(), cuda)
    monkeypatch.setattr(DroidCorrespondence, "update", stepping)
    monkeypatch.setattr(ActiveEdges, "update", updating)
    monkeypatch.setattr(FactorGraph, "window", building)
    monkeypatch.setattr(SlamMap, "solve", solving)
    monkeypatch.setattr(cuda_solver, "solve_window", solving_itself)
    for index in range(9):
        drive(slam, range(index, index + 1))
        if moving:
            slam_map = slam._parts.slam_map
            slam_map.set_moving(len(slam_map) - 1, np.kron([[0, 1], [0, 0]], np.ones((4, 4))).astype(np.uint8))
    assert counts["updates"] > 6 and counts["steps"] > counts["updates"] and counts["solves"] == counts["updates"]


@pytest.mark.parametrize("recurrent", [True, False])
def test_a_run_goes_on_after_a_checkpoint(cuda: CudaKernels, recurrent: bool) -> None:
    disk, at = DiskStore(), 7
    first, second = (table_slam(world(), cuda, disk, recurrent=recurrent) for _ in range(2))
    drive(first, range(at))
    second.restore(first.state(), world().frame)
    maps = [slam._parts.slam_map for slam in (first, second)]
    edges = [maps[1].graph.edges[i, j] for i, j in maps[1].graph.pairs().tolist()]
    assert any(isinstance(edge.matches, torch.Tensor) for edge in edges)
    assert all(isinstance(edge.matches, torch.Tensor | DiskArray) for edge in edges)
    for slam in (first, second):
        drive(slam, range(at, at + 2))
    assert len(maps[0]) == len(maps[1])
    for one, other in zip(*maps, strict=True):
        for name in ("pose", "inv_depth", *(("depth_damping", "upsample_weights") if recurrent else ())):
            np.testing.assert_allclose(on_host(getattr(one, name)), on_host(getattr(other, name)), atol=1e-12)
