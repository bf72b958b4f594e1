"""What a compiled kernel takes from a GPU, out of the words of ptxas, and how full a multiprocessor gets by it."""

from __future__ import annotations

import re
from dataclasses import dataclass

WARP = 32
REGISTERS, REGISTER_UNIT, PARTITIONS = 65536, 256, 4
"""Registers of a multiprocessor; a warp gets multiples of the unit, all of one of the partitions."""

SHARED_UNIT, SHARED_RESERVED = 128, 1024
"""Bytes of shared memory: blocks get multiples of the unit, and the system takes its part of each."""


@dataclass(frozen=True)
class Limits:
    """Of one multiprocessor."""

    warps: int
    blocks: int
    shared_bytes: int


LIMITS = {
    80: Limits(64, 32, 164 * 1024),
    86: Limits(48, 16, 100 * 1024),
    89: Limits(48, 24, 100 * 1024),
    90: Limits(64, 32, 228 * 1024),
    100: Limits(64, 32, 228 * 1024),
    120: Limits(48, 24, 100 * 1024),
}
"""By compute capability. CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability"; the rules
of allocation and the counts of blocks as in cuda_occupancy.h, which comes with CUDA 13.0."""


@dataclass(frozen=True)
class Resources:
    """Of one kernel on one architecture."""

    symbol: str
    architecture: int
    registers: int
    spill_bytes: int
    """Stored and loaded, in the code, of the kernel and of functions that it calls."""

    stack_bytes: int
    shared_bytes: int
    """Static."""


@dataclass(frozen=True)
class Occupancy:
    """How many blocks are at once on a multiprocessor."""

    blocks: int
    share: float
    """Of the warps that it can hold."""

    limit: str
    """What allows no more: registers, shared memory, warps or blocks."""


def parse_ptxas(text: str) -> list[Resources]:
    """The kernels that ``nvcc -Xptxas -v`` speaks of."""
    _, *sections = re.split(r"Compiling entry function ", text)
    return [_parse_kernel(section) for section in sections]


def _parse_kernel(section: str) -> Resources:
    heading = re.match(r"'(\w+)' for 'sm_(\d+)\w*'", section)
    used = re.search(r"Used (\d+) registers", section)
    if heading is None or used is None:
        raise ValueError(f"ptxas says something unknown of a kernel: {section.strip().splitlines()[0]}")
    usage = section[used.start() :].splitlines()[0]
    stacks = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", section)
    cumulative = re.search(r"(\d+) bytes cumulative stack size", usage)
    shared = re.search(r"(\d+)(?:\+\d+)? bytes smem", usage)
    return Resources(
        symbol=heading.group(1),
        architecture=int(heading.group(2)),
        registers=int(used.group(1)),
        spill_bytes=sum(int(stores) + int(loads) for _, stores, loads in stacks),
        stack_bytes=int(cumulative.group(1)) if cumulative else max((int(frame) for frame, _, _ in stacks), default=0),
        shared_bytes=int(shared.group(1)) if shared else 0,
    )


def occupancy(architecture: int, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """Of blocks with so many threads, registers a thread, and bytes of shared memory, static and dynamic."""
    limits = LIMITS[architecture]
    warps = -(-threads // WARP)
    a_warp = _rounded_up(max(registers, 1) * WARP, REGISTER_UNIT)
    fit_registers = REGISTERS // PARTITIONS // a_warp * PARTITIONS // warps
    if a_warp * _rounded_up(warps, PARTITIONS) > REGISTERS:  # a block takes the same from every partition
        fit_registers = 0
    a_block = _rounded_up(shared_bytes + SHARED_RESERVED, SHARED_UNIT)
    fits = {
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
        "registers": fit_registers,
        "shared memory": limits.shared_bytes // a_block,
    }
    limit = min(fits, key=fits.__getitem__)
    return Occupancy(fits[limit], fits[limit] * warps / limits.warps, limit)


def _rounded_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def short_name(demangled: str) -> str:
    """``void a::f<b::C<double> >(int)`` -> ``f<C<double>>``: no namespaces, result or arguments."""
    name = re.sub(r"\(anonymous namespace\)::|\b\w+::", "", demangled)
    name = re.sub(r"\s+>", ">", name).removeprefix("void ")
    depth, end = 0, len(name)
    for place, letter in enumerate(name):  # the arguments begin at the first bracket outside the angle ones
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            end = place
            break
    return name[:end]
