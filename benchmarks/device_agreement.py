#!/usr/bin/env python
"""Agreement of the CUDA kernels with those for the CPU: every operation, at the sizes of real runs.

    python benchmarks/device_agreement.py [--device emulated|cuda] [--only NAME] [--markdown FILE]
                                          [--drive DATA [--frames 12]]

`emulated` runs the sources of the kernels on the CPU, thread by thread: minutes where a GPU takes milliseconds. The
figure is the largest difference over the largest number of the CPU's result; one above 1e-4 gives exit status 1.
Bundle adjustment is a window of 25 keyframes and 96 edges on a grid of 30 x 100; the others are on that grid, too.
With `--drive` the first frames of a data set are also tracked and optimised by both (preset fast, no loops).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import bench_ba
import bench_correlation
import lietorch
import numpy as np
import torch
from lietorch import _autograd
from rich.console import Console
from rich.table import Table
from tables import markdown_table
from torch import Tensor

from metric_slam.choices import InputFacts
from metric_slam.config.resolve import resolve_config
from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.correspondence.droid import correlation
from metric_slam.datasets import open_dataset
from metric_slam.factory import build_parts
from metric_slam.geometry.cuda_kernels import CudaKernels, emulated_kernels, emulation, find_cuda_kernels
from metric_slam.optimization.bundle_adjustment import BaWindow, reproject, solve_window
from metric_slam.optimization.cuda.solver import CudaSolver
from metric_slam.optimization.frame_distance import frame_distance
from metric_slam.optimization.solver import CpuSolver
from metric_slam.optimization.view_consistency import count_views_relative
from metric_slam.slam import Slam

LIMIT = 1e-4
GRID, KEYFRAMES = (30, 100), 25
CORRELATION_EDGES, GRADIENT_EDGES = 12, 2
GROUP_ROWS = 20_000

Result = dict[str, np.ndarray]


def window() -> BaWindow:
    """25 keyframes, 96 edges."""
    pairs = np.concatenate([bench_ba.neighbours(KEYFRAMES), [(0, 3), (3, 0)]])
    return bench_ba.drive(*GRID, bench_ba.straight_m(KEYFRAMES), pairs)


def bundle_adjustment(solver: str) -> Callable[[CudaKernels | None], Result]:
    """Three iterations of a solver."""
    config = BundleAdjustmentConfig(solver=solver)

    def run(cuda: CudaKernels | None) -> Result:
        found, report = solve_window(window(), config, iterations=3, tight_convergence=True, cuda=cuda)
        assert report.status == "max_iterations", report
        return {
            "poses": found.poses,
            "inverse depths": found.inv_depth,
            "scales": found.prior_log_scale,
            **({} if solver == "gauss_newton" else {"cost": np.array([report.cost_final])}),  # which computes none
        }

    return run


def reprojection(cuda: CudaKernels | None) -> Result:
    """All edges of the window."""
    w = window()
    found = reproject(w.poses, w.inv_depth, w.intrinsics, w.source, w.target, cuda=cuda)
    return dict(zip(("places", "inverse depths", "in front"), found, strict=True))


def distances(cuda: CudaKernels | None) -> Result:
    """All pairs of keyframes."""
    w = window()
    source, target = (ends.ravel() for ends in np.mgrid[:KEYFRAMES, :KEYFRAMES])
    found = frame_distance(w.poses, w.inv_depth, w.intrinsics, source, target, cuda=cuda)
    return {"distances": found}


def confirmations(cuda: CudaKernels | None) -> Result:
    """Counts of views that confirm a depth."""
    w = window()
    scene = w.poses, w.inv_depth, w.intrinsics, np.unique(w.source), w.source, w.target
    return {"counts": count_views_relative(*scene, 0.1, cuda=cuda)}


def lookups(form: str, edges: int, gradients: bool) -> Callable[[CudaKernels | None], Result]:
    """Correlation windows, or the gradients of features and positions."""

    def run(cuda: CudaKernels | None) -> Result:
        device = torch.device("cpu") if cuda is None else cuda.device
        features, source, target, coords = bench_correlation.problem(edges, *GRID)
        inputs = [tensor.to(device).requires_grad_(gradients) for tensor in (features, coords)]
        emulated = cuda is not None and device.type == "cpu"
        with emulation() if emulated else nullcontext():
            if form == "volume":
                built: correlation.CorrelationVolume | correlation.CorrelationOnTheFly
                built = correlation.CorrelationVolume(inputs[0][source], inputs[0][target])
            else:
                built = correlation.CorrelationOnTheFly(inputs[0], source, target)
            out = built.lookup(inputs[1])
            if not gradients:
                return {"windows": _array(out)}
            out.backward(torch.linspace(-1, 1, out.numel(), device=device).view_as(out))
        return {name: _array(tensor.grad) for name, tensor in zip(("features", "places"), inputs, strict=True)}

    return run


def group_operations(cuda: CudaKernels | None) -> Result:
    """Some of SE3 and Sim3, in float64."""
    generator = torch.Generator().manual_seed(0)
    found: Result = {}
    for group in (lietorch.SE3, lietorch.Sim3):
        spec = group.spec
        xi, other = 0.5 * torch.randn(2, GROUP_ROWS, spec.K, generator=generator, dtype=torch.float64)
        x = _autograd.run("exp", spec, xi)
        for name, inputs in {"exp": (xi,), "log": (x,), "inv": (x,), "mul": (x, x), "adjT": (x, other)}.items():
            found[f"{spec.name} {name}"] = _array(_group_operation(name, spec, inputs, cuda))
    return found


def _group_operation(
    name: str, spec: _autograd.GroupSpec, inputs: tuple[Tensor, ...], cuda: CudaKernels | None
) -> Tensor:
    if cuda is None:
        return _autograd.run(name, spec, *inputs)
    if cuda.device.type != "cpu":
        return _autograd.run(name, spec, *(tensor.to(cuda.device) for tensor in inputs))
    from lietorch import _lietorch_emulated

    out = torch.empty_like(_autograd.run(name, spec, *inputs))
    getattr(_lietorch_emulated, name)(spec.number, *inputs, out, stream=0)
    return out


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def drive(data: str, frames: int) -> Callable[[CudaKernels | None], Result]:
    """Return trajectory and inverse depths of the first frames of a data set."""

    def run(cuda: CudaKernels | None) -> Result:
        config = resolve_config(settings=["preset=fast", "loop.enabled=false"])
        dataset = open_dataset(data)
        settings = config.bundle_adjustment
        solver = CpuSolver(settings) if cuda is None else CudaSolver(settings, cuda)
        slam = Slam.from_parts(
            dataset.camera, build_parts(config, dataset.camera, InputFacts.of(dataset), solver=solver)
        )
        for index in range(frames):
            slam.process_frame(dataset[index])
        found = slam.finish()
        return {"poses": found.T_world_cam, "inverse depths": np.stack([k.inv_depth for k in found.keyframes])}

    return run


OPERATIONS: dict[str, Callable[[CudaKernels | None], Result]] = {
    "bundle adjustment, Levenberg-Marquardt": bundle_adjustment("levenberg_marquardt"),
    "bundle adjustment, Gauss-Newton": bundle_adjustment("gauss_newton"),
    "reproject": reprojection,
    "frame_distance": distances,
    "depth_filter": confirmations,
    "lookup in a volume": lookups("volume", CORRELATION_EDGES, False),
    "lookup on the fly": lookups("on the fly", CORRELATION_EDGES, False),
    "lookup in a volume, backward": lookups("volume", GRADIENT_EDGES, True),
    "lookup on the fly, backward": lookups("on the fly", GRADIENT_EDGES, True),
    "group operations": group_operations,
}


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest number; infinite where one is NaN and the other is not."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    unknown = ~np.isfinite(expected)
    if found.shape != expected.shape or (unknown != ~np.isfinite(found)).any():
        return float("inf")
    error = np.abs(found - expected)[~unknown]
    return float(error.max() / max(np.abs(expected[~unknown]).max(), 1e-300)) if error.size else 0.0


def rows(cuda: CudaKernels, only: str) -> Iterator[tuple[str, str, float]]:
    """(operation, of what, difference)."""
    for name, run in OPERATIONS.items():
        if only in name:
            expected, found = run(None), run(cuda)
            yield from ((name, what, difference(found[what], array)) for what, array in expected.items())


def main() -> int:
    """The table; 1 if something differs too much, 2 if there is no such device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["emulated", "cuda"], default="emulated")
    parser.add_argument("--only", default="", help="operations whose name contains this")
    parser.add_argument("--drive", help="a data set whose first frames are run, too")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    arguments = parser.parse_args()
    if arguments.device == "emulated":
        cuda, what = emulated_kernels(), "the emulation"
    else:
        if not torch.cuda.is_available():
            print("no CUDA device that torch can use", file=sys.stderr)
            return 2
        found, what = find_cuda_kernels("cuda")
        if found is None:
            print(what, file=sys.stderr)
            return 2
        cuda = found
    if arguments.drive:
        OPERATIONS[f"drive, {arguments.frames} frames"] = drive(arguments.drive, arguments.frames)
    header = ("operation", "of", "difference, relative")
    table, lines, worst = Table(*header, title=f"CPU against {what}"), [], 0.0
    for name, of, error in rows(cuda, arguments.only):
        lines.append((name, of, f"{error:.1e}"))
        table.add_row(*lines[-1])
        worst = max(worst, error)
    Console().print(table)
    if arguments.markdown:
        arguments.markdown.write_text(markdown_table(header, lines))
    return int(not lines or worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
