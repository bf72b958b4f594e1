"""What bench_gpu.py measures: problems, and the four ways to solve each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace

import bench_correlation
import lietorch
import numpy as np
import torch
from bench_ba import SCALE_SIGMA, drive, neighbours, straight_m
from gpu_frontend import frontend_case
from gpu_machine import SIDES, Case, Machine, NotHere, Side
from gpu_matching import matching_case
from kernel_floors import (
    SIZES,
    Size,
    ba_iteration,
    features_lookup,
    frame_distance,
    group_operation,
    volume_build,
    volume_lookup,
)
from lietorch import _autograd, _torch_reference
from tables import NOTHING

from metric_slam.config.schema import BundleAdjustmentConfig
from metric_slam.optimization.bundle_adjustment import BaWindow, native_options, solve_window
from metric_slam.optimization.frame_distance import frame_distance as frame_distance_on_cpu
from metric_slam.optimization.reference import dense_ba as dense_ba_reference
from metric_slam.optimization.reference import frame_distance as frame_distance_reference

FURTHER_ITERATIONS = 3
EDGES = {48: (1, ()), 96: (2, ((0, 3), (3, 0)))}
"""Count -> (radius in which all of 25 keyframes are joined, edges beside those)."""

CORRELATION_EDGES = 48


def all_cases(machine: Machine) -> Iterator[Case]:
    """All rows; few and small ones where it must be quick."""
    sizes = SIZES[-1:] if machine.quick else SIZES
    for size in sizes:
        for edges in (48,) if machine.quick else EDGES:
            yield from ba_cases(replace(size, edges=edges), machine)
    for size in sizes:
        edges = 12 if machine.quick else CORRELATION_EDGES
        yield from correlation_cases(replace(size, edges=edges, keyframes=bench_correlation.N_KEYFRAMES), machine)
    for rows in (200, 20_000) if machine.quick else (200, 20_000, 1_000_000):
        for operation in ("exp", "mul", "act", "log"):
            yield group_case(operation, rows, machine)
    for size in sizes:
        yield frame_distance_case(size, machine)
    for size in sizes:
        keyframes, edges = (4, 6) if machine.quick else (12, CORRELATION_EDGES)
        yield frontend_case(replace(size, keyframes=keyframes, edges=edges), machine)
    yield matching_case(machine)


def named(size: Size) -> str:
    """Grid of a problem."""
    return f"{size.height} x {size.width}"


# ---- bundle adjustment


def window_of(size: Size) -> BaWindow:
    """A drive of so many keyframes and edges."""
    radius, more = EDGES[size.edges]
    pairs = np.array([*neighbours(size.keyframes, radius), *more], np.int64)
    assert len(pairs) == size.edges, (len(pairs), size)
    return drive(size.height, size.width, straight_m(size.keyframes), pairs)


def on_device(window: BaWindow, device: torch.device) -> BaWindow:
    """The large arrays as tensors of a device; the twin works where its inputs are."""
    names = ("intrinsics", "poses", "inv_depth", "flow_target", "confidence", "prior_depth_m", "prior_weight")
    return replace(window, **{name: torch.from_numpy(getattr(window, name)).to(device) for name in names})


def ba_cases(size: Size, machine: Machine) -> Iterator[Case]:
    """A call with one iteration, which also takes the window to the device, and each further one."""
    window = window_of(size)
    one, more = ba_sides(window, 1, machine), ba_sides(window, 1 + FURTHER_ITERATIONS, machine)
    floor = ba_iteration(size)
    name = f"BA {size.edges} edges, {named(size)}"
    yield Case(f"{name}: one iteration", floor, one)
    yield Case(f"{name}: a further one", floor, more, calls=FURTHER_ITERATIONS, less=one)


def ba_sides(window: BaWindow, iterations: int, machine: Machine) -> dict[str, Side]:
    """The final cost after so many iterations."""
    config = BundleAdjustmentConfig()
    grid = window.inv_depth.shape[1], window.inv_depth.shape[2]
    options = native_options(config, has_prior=True, scale_sigma=SCALE_SIGMA, grid=grid)
    options.iterations = iterations
    options.initial_damping, options.min_relative_decrease = (
        1e-8,
        1e-7,
    )  # as with `tight_convergence`, which goes on longer

    def checked(report: object) -> float:
        if report.status != "max_iterations":
            raise NotHere(f"it ended before: {report.status}")
        return report.cost_final

    def ours() -> Callable[[], float]:
        return lambda: checked(solve_window(window, config, iterations=iterations, tight_convergence=True)[1])

    def on_cuda() -> Callable[[], float]:
        if "cuda" not in inspect.signature(solve_window).parameters:
            raise NotHere("solve_window has no kernels for a GPU")
        given = {"iterations": iterations, "tight_convergence": True, "cuda": machine.cuda}
        return lambda: checked(solve_window(window, config, **given)[1])

    def torch_on(side: str) -> Side:
        def prepared() -> Callable[[], float]:
            device = machine.need(side)
            tensors = on_device(window, device)

            def run() -> float:
                with device:  # what the twin makes anew is made there
                    return checked(dense_ba_reference.solve(tensors, options)[1])

            return run

        return prepared

    return {"CUDA": on_cuda, "C++": ours, "torch GPU": torch_on("torch GPU"), "torch CPU": torch_on("torch CPU")}


# ---- correlation


def correlation_kernels(machine: Machine) -> bool:
    """Whether the correlation runs on kernels of ours where the table is measured."""
    return machine.gpu is None or (machine.cuda is not None and hasattr(machine.cuda.module, "lookup_volume"))


def correlation_sides(form: str, size: Size, machine: Machine, look_up: bool) -> dict[str, Side]:
    """Building a form, whose result is the first row of a lookup, or a whole lookup."""

    def on(side: str) -> Side:
        def prepared() -> Callable[[], torch.Tensor]:
            device = machine.need(side)
            if side == "CUDA" and not correlation_kernels(machine):
                raise NotHere("the kernels of the correlation are not built")
            by = "torch" if side.startswith("torch") else "kernel"
            problem = bench_correlation.problem(size.edges, size.height, size.width)
            features, source, target, coords = (tensor.to(device) for tensor in problem)

            def build() -> object:
                return bench_correlation.build(form, by, features, source, target)

            if not look_up:
                return build
            built = build()
            return lambda: built.lookup(coords)

        return prepared

    return {side: on(side) for side in SIDES}


def correlation_cases(size: Size, machine: Machine) -> Iterator[Case]:
    """Volume and on the fly; building the latter is halving features, whose floor is next to nothing."""
    floors = {"volume": volume_lookup(size), "on the fly": features_lookup(size)}
    name = f"correlation {size.edges} edges, {named(size)}"
    yield Case(
        f"{name}: build volume", volume_build(size), correlation_sides("volume", size, machine, False), tolerance=None
    )
    for form, floor in floors.items():
        yield Case(f"{name}: {form}", floor, correlation_sides(form, size, machine, True), tolerance=1e-4)


def memory_rows(machine: Machine) -> Iterator[list[str]]:
    """What the two forms keep, and what the GPU holds at most while they are built and read."""
    size = SIZES[-1] if machine.quick else SIZES[0]
    size = replace(size, edges=12 if machine.quick else CORRELATION_EDGES)
    device = machine.gpu or torch.device("cpu")
    for form in bench_correlation.FORMS:
        for by in ("kernel", "torch") if correlation_kernels(machine) else ("torch",):
            problem = bench_correlation.problem(size.edges, size.height, size.width)
            features, source, target, coords = (tensor.to(device) for tensor in problem)
            if machine.gpu is not None:
                torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device) if machine.gpu is not None else 0
            built = bench_correlation.build(form, by, features, source, target)
            built.lookup(coords)
            stored = f"{bench_correlation.stored_bytes(built) / 1e6:.0f}"
            peak = NOTHING
            if machine.gpu is not None:
                peak = f"{(torch.cuda.max_memory_allocated(device) - before) / 1e6:.0f}"
            yield [f"{form} by {by}, {size.edges} edges, {named(size)}", stored, peak]
            del built


# ---- group operations


def group_case(operation: str, rows: int, machine: Machine) -> Case:
    """An operation of SE3 in float64 on so many rows."""
    spec, generator = lietorch.SE3.spec, torch.Generator().manual_seed(0)
    tangents = 0.5 * torch.randn(2, rows, 6, generator=generator, dtype=torch.float64)
    elements = [_autograd.run("exp", spec, xi) for xi in tangents]
    points = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    inputs = {"exp": tangents[:1], "log": elements[:1], "mul": elements, "act": [elements[0], points]}[operation]

    def on(side: str) -> Side:
        def prepared() -> Callable[[], torch.Tensor]:
            given = [tensor.to(machine.need(side)) for tensor in inputs]
            if side.startswith("torch"):
                return lambda: getattr(_torch_reference, operation)(spec, *given)
            if side == "CUDA" and _autograd._lietorch_cuda is None:
                raise NotHere("the CUDA kernels of lietorch are not built")
            return lambda: _autograd.run(operation, spec, *given)

        return prepared

    floor = group_operation(operation.capitalize(), "SE3", rows)
    return Case(f"SE3 {operation}, {rows} rows", floor, {side: on(side) for side in SIDES})


# ---- distances


def frame_distance_case(size: Size, machine: Machine) -> Case:
    """All pairs of keyframes; the GPU is given what it needs beforehand."""
    window = drive(size.height, size.width, straight_m(size.keyframes), neighbours(size.keyframes))
    source, target = (ends.ravel() for ends in np.mgrid[: size.keyframes, : size.keyframes])
    problem = (window.poses, window.inv_depth, window.intrinsics, source, target)

    def on_cuda() -> Callable[[], torch.Tensor]:
        acc = machine.cuda
        poses, inv_depth = acc.upload(window.poses), acc.upload(window.inv_depth)
        ends = [acc.indices(numbers, size.keyframes) for numbers in (source, target)]
        distance = torch.empty(size.pairs, dtype=torch.float64, device=acc.device)

        def run() -> torch.Tensor:
            how = {"translation_weight": 0.7, "bidirectional": True}
            acc.call("frame_distance", poses, inv_depth, window.intrinsics, *ends, distance, **how)
            return distance

        return run

    def torch_on(side: str) -> Side:
        def prepared() -> Callable[[], torch.Tensor]:
            device = machine.need(side)
            given = [torch.from_numpy(array).to(device) for array in problem]

            def run() -> torch.Tensor:
                with device:
                    return frame_distance_reference.frame_distance(*given, 0.7, True)

            return run

        return prepared

    sides: dict[str, Side] = {
        "CUDA": on_cuda,
        "C++": lambda: lambda: frame_distance_on_cpu(*problem),
        "torch GPU": torch_on("torch GPU"),
        "torch CPU": torch_on("torch CPU"),
    }
    return Case(f"{size.pairs} distances, {named(size)}", frame_distance(size), sides)
