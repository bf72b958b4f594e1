"""The inner loop of odometry `droid` as a row of bench_gpu.py: one update of the network and its bundle adjustment.

Random weights, because only the time counts: reprojection, correlation on the fly, one step of the network on all
edges, two iterations of the solver over the window. "CUDA" and "C++" are the program with and without a GPU. "torch
GPU" is a GPU without our kernels: network and torch's correlation there, the rest by C++ on the CPU; "torch CPU" has
torch's correlation on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import bench_ba
import numpy as np
import torch
from gpu_machine import SIDES, Case, Machine, NotHere, Side
from kernel_floors import Size, ba_iteration, features_lookup
from torch import Tensor

from metric_slam.config.droid import DroidConfig
from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.correspondence.droid import correlation_reference
from metric_slam.correspondence.droid.model import DroidCorrespondence
from metric_slam.correspondence.droid.network import DroidNetwork
from metric_slam.geometry import lie
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from metric_slam.geometry.cuda_kernels import CudaKernels
from metric_slam.graph.keyframes import Keyframe
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.droid.active_edges import ActiveEdges
from metric_slam.optimization.cuda.solver import CudaSolver
from metric_slam.optimization.solver import CpuSolver

SOLVER_ITERATIONS = 2


def frontend_case(size: Size, machine: Machine) -> Case:
    """Return one update of a window; sides are timed but not compared, since the network has random weights."""
    both = features_lookup(size) + SOLVER_ITERATIONS * ba_iteration(size)
    name = f"update and BA, {size.keyframes} keyframes, {size.edges} edges, {size.height} x {size.width}"
    return Case(name, both, {side: frontend_side(size, side, machine) for side in SIDES}, tolerance=None)


def frontend_side(size: Size, side: str, machine: Machine) -> Side:
    """Return the preparation of keyframes and graph for a side."""

    def prepared() -> Callable[[], object]:
        device = machine.need(side)
        cuda = machine.cuda if side == "CUDA" else None
        if side == "CUDA" and cuda is None:
            raise NotHere(machine.why_not)
        return make_update(size, device, cuda, by_torch=side.startswith("torch"))

    return prepared


def make_update(size: Size, device: torch.device, cuda: CudaKernels | None, *, by_torch: bool) -> Callable[[], object]:
    """Return the call that is measured; each starts from the same state."""
    torch.manual_seed(0)
    network = DroidNetwork().eval().to(device)
    model = DroidCorrespondence(network, DroidConfig(), str(device), _reference if by_torch else None)
    camera = PinholeCamera(
        0.8 * 8 * size.width, 0.8 * 8 * size.width, 4.0 * size.width, 4.0 * size.height, 8 * size.width, 8 * size.height
    )
    settings = BundleAdjustmentConfig()
    solver = CpuSolver(settings) if cuda is None else CudaSolver(settings, cuda)
    slam_map = SlamMap(camera, model, solver)
    rng = np.random.default_rng(0)
    nothing = np.zeros((size.height, size.width))
    start = np.tile(np.eye(4), (size.keyframes, 1, 1))
    start[:, 2, 3] = 0.3 * np.arange(size.keyframes)
    depths = 1.0 / rng.uniform(4.0, 9.0, (size.keyframes, size.height, size.width))
    for index, T_world_cam in enumerate(start):
        image = rng.integers(0, 256, (FEATURE_STRIDE * size.height, FEATURE_STRIDE * size.width, 3), np.uint8)
        pose, features = lie.matrix_to_pose_vec(lie.inverse(T_world_cam)), model.encode(image, camera)
        prior = nothing, nothing, nothing, nothing
        slam_map.append(Keyframe(index, 0.1 * index, image, features, None, pose, depths[index].copy(), *prior))
    inv_depth = [keyframe.inv_depth for keyframe in slam_map]
    active = ActiveEdges(slam_map, model)
    pairs = bench_ba.neighbours(size.keyframes, 3)[: size.edges].tolist()
    active.add([(i, j) for i, j in pairs])

    def run() -> object:
        slam_map.set_poses(start)
        for position, array in enumerate(inv_depth):
            slam_map.set_inv_depth(position, array)
        active.update(dense=False)
        return slam_map.solve(0, size.keyframes, {0, 1}, SOLVER_ITERATIONS)

    return run


def _reference(features: Tensor, source: Tensor, target: Tensor) -> correlation_reference.CorrelationOnTheFly:
    return correlation_reference.CorrelationOnTheFly(features[source], features[target])
