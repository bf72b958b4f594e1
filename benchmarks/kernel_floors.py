"""Lower bounds on the bytes that the operations of the CUDA kernels move, for bench_gpu.py.

A bound counts every number of the inputs and outputs once, as if caches were perfect. At the bandwidth of a large copy
it is the time that a kernel can approach but not beat, unless its arithmetic takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT32_BYTES, FLOAT64_BYTES = 4, 8


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
        """Cells of one keyframe."""
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

GROUPS = {"SO3": (4, 3), "RxSO3": (5, 4), "SE3": (7, 6), "Sim3": (8, 7)}
"""(N numbers stored per element, K degrees of freedom)."""

GROUP_OPERATIONS = {"Exp": ("K", "N"), "Log": ("N", "K"), "Mul": ("N", "N", "N"), "Act": ("N", "3", "3")}
"""Widths of the inputs and of the output (lietorch/ops.h), for the operations that bench_gpu.py measures."""


def group_operation(operation: str, group: str, rows: int) -> int:
    """Bytes of one lietorch operation on a batch of float64 elements."""
    stored, freedom = GROUPS[group]
    widths = {"N": stored, "K": freedom}
    return rows * FLOAT64_BYTES * sum(widths.get(width) or int(width) for width in GROUP_OPERATIONS[operation])


def frame_distance(size: Size) -> int:
    """Bytes of the distances between all ordered pairs of keyframes: inverse depths in, indices and distance out."""
    return FLOAT64_BYTES * (size.keyframes * size.cells + 3 * size.pairs)


def ba_iteration(size: Size) -> int:
    """Bytes of an accepted Levenberg-Marquardt step with a prior: linearise, eliminate depths, solve, step, evaluate.

    Flow and confidence (four numbers) are read to linearise and again to evaluate; nothing is stored per cell and edge.
    Per cell of a keyframe, inverse depth, prior and weight are read twice, and C, b and the inverse depth are written.
    """
    flow = 2 * 4 * FLOAT64_BYTES * size.edges * size.cells
    return flow + FLOAT64_BYTES * size.keyframes * size.cells * (2 * 3 + 3)


def volume_build(size: Size) -> int:
    """Bytes of the float32 correlations of all edges on all levels, and of the features they are computed from."""
    values = size.edges * size.cells * sum(size.level_cells)
    return FLOAT32_BYTES * (values + 2 * size.edges * size.channels * size.cells)


def _window(size: Size) -> tuple[int, int]:
    """Correlations read and values written per cell on all levels."""
    side = 2 * size.radius + 1
    return sum(min((side + 1) ** 2, cells) for cells in size.level_cells), size.levels * side**2


def volume_lookup(size: Size) -> int:
    """Bytes of the windows around a position for every cell of every edge, read from a float32 volume."""
    read, written = _window(size)
    return FLOAT32_BYTES * size.edges * size.cells * (read + written + 2)


def features_lookup(size: Size) -> int:
    """Bytes of the same windows without a stored volume: features are read once, correlations computed."""
    _, written = _window(size)
    features = size.keyframes * size.channels * sum(size.level_cells)
    return FLOAT32_BYTES * (features + size.edges * size.cells * (written + 2))
