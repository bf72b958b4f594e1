"""How the CUDA kernels are launched and what each must at least move and compute.

Threads per block and dynamic shared memory stand in the launches, not in the binary, so they are repeated here, by the
name of the kernel. ``scripts/kernel_report.py`` and ``benchmarks/bench_gpu.py`` read this file. A floor counts every
number of the inputs and outputs once, as if caches were perfect, and the operations that the formula asks for: an
addition, a product, a division, a root or a sine each count as one. A kernel can come near its floor, not below it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

FLOAT32, FLOAT64 = "float32", "float64"
NUMBER_BYTES = {FLOAT32: 4, FLOAT64: 8}


@dataclass(frozen=True)
class Size:
    """A problem: N keyframes and E edges on a grid of h x w cells, and the features that are correlated on it."""

    name: str
    height: int
    width: int
    keyframes: int = 25
    edges: int = 96
    channels: int = 128
    levels: int = 4
    radius: int = 3

    @property
    def cells(self) -> int:
        """Of one keyframe."""
        return self.height * self.width

    @property
    def pairs(self) -> int:
        """Ordered pairs of keyframes."""
        return self.keyframes**2

    @property
    def level_cells(self) -> list[int]:
        """Cells of the target on every level of the correlation pyramid."""
        return [(self.height >> level) * (self.width >> level) for level in range(self.levels)]


SIZES = (Size("KITTI", 30, 100), Size("EuRoC", 40, 64), Size("TUM", 30, 40))


@dataclass(frozen=True)
class Floor:
    """The least that a piece of work takes from a machine."""

    bytes: float
    flops: float
    precision: str
    """Of the operations: FLOAT32 or FLOAT64."""

    def bounds_s(self, bytes_per_s: float, flops_per_s: dict[str, float]) -> tuple[float, float]:
        """(seconds for the bytes, seconds for the operations)."""
        return self.bytes / bytes_per_s, self.flops / flops_per_s[self.precision]


Parameters = tuple[str, ...]
"""What stands between the angle brackets of an instance, all words of it: ("Mul", "SE3", "double", "double")."""


# ---- the pieces of work, of which a kernel may do a part

OPERATIONS = {
    "Exp": ("K", "", "N"),
    "Log": ("N", "", "K"),
    "Inv": ("N", "", "N"),
    "Mul": ("N", "N", "N"),
    "Adj": ("N", "K", "K"),
    "AdjT": ("N", "K", "K"),
    "Act": ("N", "3", "3"),
    "Act4": ("N", "4", "4"),
    "ActGradElement": ("3", "3", "K"),
    "ActGradPoint": ("N", "3", "3"),
    "Act4GradElement": ("4", "4", "K"),
    "Act4GradPoint": ("N", "4", "4"),
    "SmallAdjT": ("K", "K", "K"),
    "JacobianT": ("K", "K", "K"),
    "JacobianInverseT": ("K", "K", "K"),
    "JacobianInverse": ("K", "K", "K"),
    "Project": ("N", "N", "K"),
    "Lift": ("N", "K", "N"),
}
"""Widths of a, b and out (lietorch/ops.h); N numbers are stored per element, K are its degrees of freedom."""

GROUPS = {"SO3": (4, 3), "RxSO3": (5, 4), "SE3": (7, 6), "Sim3": (8, 7)}
"""(N, K)."""

ROW_FLOPS = {
    "SO3": (14, 26, 13, 54, 43, 43, 43, 43, 9, 43, 9, 49, 9, 286, 78, 78, 44, 47),
    "RxSO3": (15, 27, 14, 55, 43, 43, 46, 46, 14, 46, 14, 52, 9, 320, 78, 78, 45, 48),
    "SE3": (76, 104, 43, 87, 85, 85, 46, 49, 12, 43, 12, 49, 30, 992, 1151, 1151, 56, 59),
    "Sim3": (79, 107, 47, 91, 94, 94, 49, 52, 17, 46, 17, 52, 41, 1200, 1362, 1376, 63, 66),
}
"""Of each of OPERATIONS, counted by running ops.h on a number type that counts, for a rotation by 0.5 rad."""


def group_operation(operation: str, group: str, precision: str, rows: int) -> Floor:
    """One operation of lietorch on a batch."""
    stored, freedom = GROUPS[group]
    numbers = sum({"": 0, "N": stored, "K": freedom}.get(w) or int(w or 0) for w in OPERATIONS[operation])
    flops = ROW_FLOPS[group][list(OPERATIONS).index(operation)]
    return Floor(rows * numbers * NUMBER_BYTES[precision], rows * flops, precision)


FLOW_LENGTH_FLOPS = 38
"""Of a cell under one motion (droid_backends/view_pairs.h): projection 26, length 10, sums 2."""


def frame_distance(size: Size) -> Floor:
    """All ordered pairs of keyframes, both ways, each under its motion and under the translation alone."""
    flops = 2 * size.pairs * size.cells * (4 + 2 * FLOW_LENGTH_FLOPS)
    return Floor(8 * (size.keyframes * size.cells + 3 * size.pairs), flops, FLOAT64)


LINEARISE_FLOPS, EVALUATE_FLOPS = 220, 55
"""Of a cell of an edge (droid_backends/pixel.h): projection 26, Jacobians 30, residual and weight 25, H of the target
pose alone, which gives that of the source by its adjoint, 84, E and v 24 each, C and b 7; evaluation: without those."""


def ba_iteration(size: Size) -> Floor:
    """An accepted Levenberg-Marquardt step with a prior: linearise, eliminate depths, solve, step, evaluate.

    Flow and confidence are read to linearise and to evaluate; nothing is stored per cell and edge.
    """
    per_edge, per_keyframe = size.edges * size.cells, size.keyframes * size.cells
    moved = 2 * 32 * per_edge + 8 * per_keyframe * (2 * 3 + 3)  # twice d, z and weight; C, b and d are written
    rows = 6 * (size.edges / size.keyframes + 1) + 1  # poses and scale that a cell sees
    flops = per_edge * (LINEARISE_FLOPS + EVALUATE_FLOPS) + per_keyframe * rows * (rows + 1)
    return Floor(moved, flops + (7 * size.keyframes) ** 3 / 3, FLOAT64)


# the passes of our own solver (thirdparty/droid_backends/src/cuda), each reading what the one before has written

GEOMETRY_BYTES, GEOMETRY_FLOPS = 8 * 48, 400
"""Relative pose of an edge and the adjoint of it."""

FLOW_FLOPS = 81
"""Of a cell of an edge: projection 26, Jacobians 30, residual and weight 25."""


def _per_edge(size: Size) -> int:
    return size.edges * size.cells


def _per_keyframe(size: Size) -> int:
    return size.keyframes * size.cells


def _measured_bytes(parameters: Parameters) -> int:
    """Flow and confidence of a cell of an edge, x and y each."""
    return 4 * NUMBER_BYTES[{"float": FLOAT32, "double": FLOAT64}[parameters[0]]]


def edge_geometry(size: Size, parameters: Parameters) -> Floor:
    """Two poses in, a relative one and its adjoint out."""
    return Floor(size.edges * (8 * 14 + GEOMETRY_BYTES), size.edges * GEOMETRY_FLOPS, FLOAT64)


def linearise(size: Size, parameters: Parameters) -> Floor:
    """Flow in; Jacobians of pose and depth [6] and a 32nd of 32 sums out, for every cell of every edge."""
    moved = _per_edge(size) * (_measured_bytes(parameters) + 48 + 8) + _per_keyframe(size) * 8 * (3 + 3)
    return Floor(moved, _per_edge(size) * (LINEARISE_FLOPS + 62), FLOAT64)


def eliminate(size: Size, parameters: Parameters) -> Floor:
    """Jacobians in; products of all pairs of a source's edges, six by six, summed over its cells."""
    n = size.edges / size.keyframes
    flops = _per_keyframe(size) * ((n + 1) * (n + 2) / 2 * 78 + 12 * (n + 1))
    return Floor(48 * _per_edge(size) + 24 * _per_keyframe(size), flops, FLOAT64)


def _local_numbers(size: Size) -> float:
    """Elements of the local systems of all sources."""
    return size.keyframes * (6 * size.edges / size.keyframes + 7) ** 2


def expand(size: Size, parameters: Parameters) -> Floor:
    """Partial sums in, H and G of each source with its own pose out."""
    n = size.edges / size.keyframes
    flops = _per_edge(size) + size.keyframes * 2 * 2 * (6 * 6 * n * (6 * n + 1) + 36 * 6 * n)
    return Floor(8 * _per_edge(size) + 3 * 8 * _local_numbers(size), flops, FLOAT64)


def gather(size: Size, parameters: Parameters) -> Floor:
    """Half of all local systems in, the lower half of the reduced one out."""
    return Floor(8 * (_local_numbers(size) + (7 * size.keyframes) ** 2 / 2), _local_numbers(size), FLOAT64)


def substitute(size: Size, parameters: Parameters) -> Floor:
    """Flow in once more, depths out."""
    moved = _per_edge(size) * _measured_bytes(parameters) + _per_keyframe(size) * 8 * (3 + 1)
    return Floor(moved, _per_edge(size) * (FLOW_FLOPS + 30), FLOAT64)


def of_keyframes(size: Size, parameters: Parameters) -> Floor:
    """A few numbers of each keyframe in and out: poses, scales, costs."""
    return Floor(size.keyframes * 8 * 2 * 8, size.keyframes * 100, FLOAT64)


def volume_build(size: Size) -> Floor:
    """All correlations of all edges on all levels, float32, products on the ordinary cores."""
    values = size.edges * size.cells * sum(size.level_cells)
    features = 2 * size.edges * size.channels * size.cells
    return Floor(4 * (values + features), 2 * size.channels * values, FLOAT32)


def _window(size: Size) -> tuple[int, int, float]:
    """(correlations read, values written, operations of the interpolation) of a cell on all levels."""
    side = 2 * size.radius + 1
    read = sum(min((side + 1) ** 2, cells) for cells in size.level_cells)
    return read, size.levels * side**2, size.levels * 3 * (side * (side + 1) + side**2)


def volume_lookup(size: Size) -> Floor:
    """Windows around a position for every cell of every edge, float32."""
    read, written, flops = _window(size)
    cells = size.edges * size.cells
    return Floor(4 * cells * (read + written + 2), cells * flops, FLOAT32)


def features_lookup(size: Size) -> Floor:
    """The same without a stored volume: features are read once, correlations computed."""
    read, written, flops = _window(size)
    cells = size.edges * size.cells
    features = size.keyframes * size.channels * sum(size.level_cells)
    return Floor(4 * (features + cells * (written + 2)), cells * (flops + 2 * size.channels * read), FLOAT32)


# ---- the kernels


@dataclass(frozen=True)
class Launch:
    """A kernel as it is launched."""

    threads: int | Callable[[Parameters], int]
    """Per block."""

    floor: Callable[[Size, Parameters], Floor]
    dynamic_shared: Callable[[Parameters], int] = lambda parameters: 0
    """Bytes."""

    def block(self, parameters: Parameters) -> tuple[int, int]:
        """(threads, bytes of dynamic shared memory) of a block of an instance."""
        threads = self.threads if isinstance(self.threads, int) else self.threads(parameters)
        return threads, self.dynamic_shared(parameters)


def _rows_floor(size: Size, parameters: Parameters) -> Floor:
    operation, group, scalar = parameters[:3]
    precision = {"float": FLOAT32, "double": FLOAT64}[scalar]
    return group_operation(operation, group, precision, size.edges * size.cells)


# shared memory of the lookups (src/cuda/lookup.h): a window of each pixel, an odd number of cells of it, and its place


def _computed_bytes(parameters: Parameters) -> int:
    """Of the type in which an instance computes: Half and Brain are added up in float."""
    return NUMBER_BYTES[FLOAT64 if parameters[0] == "double" else FLOAT32]


def _windows_bytes(pixels: int, parameters: Parameters) -> int:
    number = _computed_bytes(parameters)
    cells = (2 * int(parameters[1]) + 2) ** 2 | 1
    return pixels * (cells * number + (32 if number == NUMBER_BYTES[FLOAT64] else 20))


def _tile_pixels(parameters: Parameters) -> int:
    """Of a block on the fly (correlate.h); two threads each."""
    return 64 if parameters[0] == "double" else 128


def _tile_launch(floor: Callable[[Size, Parameters], Floor]) -> Launch:
    return Launch(
        threads=lambda parameters: 2 * _tile_pixels(parameters),
        floor=floor,
        dynamic_shared=lambda parameters: _windows_bytes(_tile_pixels(parameters), parameters),
    )


def _as(parameters: Parameters, floor: Floor) -> Floor:
    """A floor counted for float32, for numbers of another size; its operations stay those of the type they run in."""
    stored = {"Half": 2, "Brain": 2, "float": 4, "double": 8}[parameters[0]]
    precision = FLOAT64 if parameters[0] == "double" else FLOAT32
    return Floor(floor.bytes * stored / 4, floor.flops, precision)


def _of_radius(size: Size, parameters: Parameters) -> Size:
    return replace(size, radius=int(parameters[1]))


def _one_level(floor: Floor, size: Size) -> Floor:
    """A launch does one of the levels, on the average."""
    return Floor(floor.bytes / size.levels, floor.flops / size.levels, floor.precision)


def volume_read(size: Size, parameters: Parameters) -> Floor:
    """Forward: windows in and out. Backward moves as much again for each of its two gradients, at least."""
    return _one_level(_as(parameters, volume_lookup(_of_radius(size, parameters))), size)


def features_read(size: Size, parameters: Parameters) -> Floor:
    """Forward on the fly, and as much for each of its three gradients."""
    return _one_level(_as(parameters, features_lookup(_of_radius(size, parameters))), size)


PROJECT_FLOPS, JACOBIAN_FLOPS = 26, 30 + 72
"""Of a cell of an edge: projection; Jacobians of depth and target pose, and those of the source pose from them."""


def reprojection(size: Size, parameters: Parameters) -> Floor:
    """Depths in; place, inverse depth and validity out."""
    return Floor(8 * _per_keyframe(size) + 25 * _per_edge(size), PROJECT_FLOPS * _per_edge(size), FLOAT64)


def reprojection_jacobians(size: Size, parameters: Parameters) -> Floor:
    """Depths in, 26 numbers out."""
    flops = (PROJECT_FLOPS + JACOBIAN_FLOPS) * _per_edge(size)
    return Floor(8 * _per_keyframe(size) + 8 * 26 * _per_edge(size), flops, FLOAT64)


def confirmation(size: Size, parameters: Parameters) -> Floor:
    """Depths in, a count out; four cells of each neighbour are compared."""
    return Floor(12 * _per_keyframe(size), (PROJECT_FLOPS + 4 * 5) * _per_edge(size), FLOAT64)


LAUNCHES: dict[str, Launch] = {
    "rows_kernel": Launch(threads=128, floor=_rows_floor),  # a row for every cell of every edge
    "geometry_kernel": Launch(threads=128, floor=edge_geometry),
    "linearise_kernel": Launch(threads=128, floor=linearise),
    "eliminate_kernel": Launch(threads=128, floor=eliminate),
    "expand_kernel": Launch(threads=128, floor=expand),
    "baseline_kernel": Launch(threads=64, floor=edge_geometry),  # one for every edge, say
    "gather_kernel": Launch(threads=64, floor=gather),
    "begin_kernel": Launch(threads=256, floor=of_keyframes),
    "decide_kernel": Launch(threads=256, floor=of_keyframes),
    "move_kernel": Launch(threads=128, floor=of_keyframes),
    "substitute_kernel": Launch(threads=128, floor=substitute),
    "volume_kernel": Launch(threads=256, floor=volume_read, dynamic_shared=lambda p: _windows_bytes(64, p)),
    "volume_backward_kernel": Launch(threads=256, floor=volume_read, dynamic_shared=lambda p: _windows_bytes(64, p)),
    "features_kernel": _tile_launch(features_read),
    "features_coords_kernel": _tile_launch(features_read),
    "features_source_kernel": Launch(threads=128, floor=features_read, dynamic_shared=lambda p: _windows_bytes(32, p)),
    "features_target_kernel": Launch(
        threads=64,
        floor=features_read,
        dynamic_shared=lambda p: _windows_bytes(64, p) + 64 * (36 * _computed_bytes(p) + 4),
    ),
    "reproject_kernel": Launch(threads=256, floor=reprojection),
    "jacobians_kernel": Launch(threads=256, floor=reprojection_jacobians),
    "filter_kernel": Launch(threads=256, floor=confirmation),
    "probe_kernel": Launch(threads=32, floor=lambda size, _: Floor(0.0, 0.0, FLOAT64)),  # only asked after
    "distance_kernel": Launch(threads=256, floor=lambda size, _: frame_distance(size)),
}
"""By the name without namespaces; with its parameters where instances differ: "kernel<float, 3>"."""


def launch_of(kernel: str) -> Launch | None:
    """The launch of a kernel by its short name; None: nobody has written it down here."""
    return LAUNCHES.get(kernel) or LAUNCHES.get(kernel.split("<")[0])


def parameters_of(kernel: str) -> Parameters:
    """``f<Mul<SE3<double>>, 3>`` -> ("Mul", "SE3", "double", "3")."""
    return tuple(re.findall(r"[^<>,\s]+", kernel)[1:])
