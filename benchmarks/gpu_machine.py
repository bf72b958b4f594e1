"""What a row of bench_gpu.py is, and the machine that it is measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from metric_slam.geometry.cuda_kernels import CudaKernels, find_cuda_kernels

SIDES = ("CUDA", "C++", "torch GPU", "torch CPU")
GPU_SIDES = ("CUDA", "torch GPU")


class NotHere(Exception):
    """Why a side cannot be measured on this machine."""


Side = Callable[[], Callable[[], object]]
"""Prepares a side, memory included, and returns the call that is measured; raises NotHere."""


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str
    floor_bytes: int
    """The least that must be moved (kernel_floors.py)."""

    sides: dict[str, Side]
    """By one of SIDES; the results of their calls must agree."""

    calls: int = 1
    """By which times are divided."""

    less: dict[str, Side] = field(default_factory=dict)
    """Calls whose time is taken off first."""

    tolerance: float | None = 1e-6
    """Of results, relative to the largest number; None: not compared."""


@dataclass(frozen=True)
class Machine:
    """Where it is measured."""

    gpu: torch.device | None
    cuda: CudaKernels | None
    why_not: str
    """No GPU or no kernels for it."""

    quick: bool = False

    def need(self, side: str) -> torch.device:
        """The device of a side."""
        if side not in GPU_SIDES:
            return torch.device("cpu")
        if self.gpu is None or (side == "CUDA" and self.cuda is None):
            raise NotHere(self.why_not)
        return self.gpu

    @property
    def ours(self) -> str:
        """The side that is compared with the floor."""
        return "CUDA" if self.gpu is not None else "C++"

    def gpu_runs(self) -> int:
        """Calls for a median."""
        return 5 if self.quick else 20

    def cpu_budget_s(self) -> float:
        """After so long no further call is begun."""
        return 0.2 if self.quick else 1.5


def this_machine(device: str, quick: bool) -> Machine:
    """What ``--device`` names."""
    if torch.device(device).type != "cuda":
        return Machine(None, None, "no CUDA device (--device cpu)", quick)
    if not torch.cuda.is_available():
        return Machine(None, None, "no CUDA device that torch can use", quick)
    cuda, what = find_cuda_kernels(device)
    gpu = cuda.device if cuda else torch.device("cuda", torch.cuda.current_device())
    return Machine(gpu, cuda, what, quick)
