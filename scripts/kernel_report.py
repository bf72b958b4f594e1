#!/usr/bin/env python
"""What the CUDA kernels take from a GPU, and what bounds them: writes docs/kernels.md.

    python scripts/kernel_report.py [--architectures 80 90 120] [--out docs/kernels.md]

Compiles every .cu file below thirdparty/*/src/cuda with ``nvcc -cubin -Xptxas -v``; no GPU is needed and nothing is
run. Launches and floors come from kernel_launches.py. Exits with 1 if a kernel has no entry there (it is listed with a
dash), 2 if something cannot be compiled.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kernel_launches import FLOAT32, FLOAT64, SIZES, Launch, launch_of, parameters_of
from kernel_resources import LIMITS, Resources, occupancy, parse_ptxas, short_name

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = (80, 90, 120)
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "-diag-suppress=20012")
"""As setup.py has them."""

H100_BYTES_PER_S = 3.35e12
H100_FLOPS_PER_S = {FLOAT32: 67e12, FLOAT64: 34e12}
"""The vendor's figures for the H100 SXM, without tensor cores (NVIDIA H100 Tensor Core GPU data sheet)."""

HEADER = ("kernel", "threads", "shared", "stack", "spills", "registers", "occupancy %", "limited by")
NOTHING = "–"


class ReportError(Exception):
    """One line for the user."""


def built_architectures() -> tuple[int, ...]:
    """Those that setup.py builds for by default; it cannot be imported, for then it builds."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARCHITECTURES":
            return ast.literal_eval(node.value)
    raise ReportError(f"{ROOT / 'setup.py'} names no ARCHITECTURES")


def kernel_files() -> list[Path]:
    """All .cu files."""
    return sorted(ROOT.glob("thirdparty/*/src/cuda/**/*.cu"))


def find_nvcc() -> str:
    """Where setup.py looks, too."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [str(Path(home) / "bin" / "nvcc") for home in homes if home] + [shutil.which("nvcc") or ""]
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    raise ReportError("no nvcc in CUDA_HOME, /usr/local/cuda or PATH: install the CUDA toolkit")


def compiled(nvcc: str, file: Path, architecture: int) -> list[Resources]:
    """The kernels of a file on one architecture."""
    includes = [f"-I{folder}" for folder in sorted(ROOT.glob("thirdparty/*/include"))]
    with tempfile.TemporaryDirectory() as folder:
        target = ["-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v", "-o", str(Path(folder) / "kernels.cubin")]
        done = subprocess.run(
            [nvcc, *FLAGS, *includes, *target, str(file.relative_to(ROOT))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        error = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-200:])
        raise ReportError(f"{file.relative_to(ROOT)} does not compile for sm_{architecture}: {error}")
    return parse_ptxas(done.stdout + done.stderr)


def demangled(symbols: Sequence[str]) -> dict[str, str]:
    """symbol -> short name, by c++filt."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if tool is None:
        raise ReportError("no c++filt: install binutils")
    done = subprocess.run([tool], input="\n".join(symbols), capture_output=True, text=True, check=True)
    return {s: short_name(name) for s, name in zip(symbols, done.stdout.splitlines(), strict=True)}


def by_kernel(resources: Sequence[Resources]) -> dict[str, list[Resources]]:
    """short name -> that kernel on every architecture, in the order given; names sorted."""
    # the mangled name of one kernel may differ between compilations, the short one does not
    names = demangled(sorted({r.symbol for r in resources}))
    kernels: dict[str, list[Resources]] = {}
    for r in resources:
        kernels.setdefault(names[r.symbol], []).append(r)
    return dict(sorted(kernels.items()))


def one_or_all(values: Sequence[object]) -> str:
    """A value that is the same everywhere, or those of all architectures."""
    return str(values[0]) if len(set(values)) == 1 else "/".join(map(str, values))


def row(kernel: str, resources: Sequence[Resources], launch: Launch | None) -> list[str]:
    """One line of a table."""
    spills, stack = ([getattr(r, name) for r in resources] for name in ("spill_bytes", "stack_bytes"))
    cells = [f"`{kernel}`", NOTHING, one_or_all([r.shared_bytes for r in resources]), one_or_all(stack)]
    cells += [one_or_all(spills), one_or_all([r.registers for r in resources])]
    if launch is None:
        return [*cells, *[NOTHING] * (len(HEADER) - len(cells) + len(SIZES) + 3)]
    threads, dynamic = launch.block(parameters_of(kernel))
    fits = [occupancy(r.architecture, threads, r.registers, r.shared_bytes + dynamic) for r in resources]
    cells[1:3] = [str(threads), cells[2] + (f" + {dynamic}" if dynamic else "")]
    shares = one_or_all([f"{100 * fit.share:.3g}" for fit in fits])
    return [*cells, shares, one_or_all([fit.limit for fit in fits]), *bounds(kernel, launch)]


def bounds(kernel: str, launch: Launch) -> list[str]:
    """MB and MFLOP of the first of SIZES; microseconds that an H100 needs at least, for each, and what for."""
    first = launch.floor(SIZES[0], parameters_of(kernel))
    cells, what = [f"{number / 1e6:.3g}" for number in (first.bytes, first.flops)], []
    for size in SIZES:
        floor = launch.floor(size, parameters_of(kernel))
        for_bytes, for_flops = floor.bounds_s(H100_BYTES_PER_S, H100_FLOPS_PER_S)
        cells.append(f"{1e6 * max(for_bytes, for_flops):.3g}")
        what.append("bytes" if for_bytes > for_flops else "operations")
    return [*cells, one_or_all(what)]


def table(kernels: dict[str, list[Resources]]) -> str:
    """Markdown."""
    rows = [
        [*HEADER, f"{SIZES[0].name} MB", f"{SIZES[0].name} MFLOP", *(f"{size.name} µs" for size in SIZES), "bound by"]
    ]
    rows += [["---"] + ["---:"] * 6 + ["---"] + ["---:"] * (len(SIZES) + 2) + ["---"]]
    rows += [row(name, resources, launch_of(name)) for name, resources in kernels.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


INTRODUCTION = """# What the CUDA kernels take from a GPU

Written by `python scripts/kernel_report.py` with CUDA {cuda}; do not edit. **Nothing here was measured on a GPU**: the
left half of a table is what the compiler says, the right half is arithmetic.

- Where {architectures} differ, figures stand in that order, with strokes between.
- *Shared* is bytes of shared memory per block, static and (behind +) dynamic for {first}; *stack* and *spills* are
  bytes per thread, spills those stored and loaded in the code. A stack of 32 to 40 bytes without spills belongs to
  the sine of large angles, which is taken apart in memory.
- *Occupancy* is the share of the warps of a multiprocessor that can be there at once, and what allows no more, by the
  rules of `cuda_occupancy.h` and the table of compute capabilities in the CUDA C++ Programming Guide.
- *MB* and *MFLOP* are the least that must move and be done for KITTI's problem, by what a kernel reads and writes, each
  number once. The *µs* are a floor for an H100: the bytes that must move at {bandwidth:.2f} TB/s or the operations at
  {f64:.0f} (float64) and {f32:.0f} TFLOP/s (float32), whichever takes longer. These rates are the vendor's peaks for
  the SXM board without tensor cores, so a kernel will be slower, and a launch alone takes some µs; only
  `features_kernel` and `features_coords_kernel` in 16 and 32 bits multiply on tensor cores, for which the operations
  are no bound. What is counted stands in `scripts/kernel_launches.py`. Group operations run on one row for every cell
  of every edge.
- Problems: {sizes}.
"""


def document(files: dict[str, dict[str, list[Resources]]], architectures: Sequence[int], cuda: str) -> str:
    """The whole page."""
    sizes = ", ".join(f"{s.name} {s.height} x {s.width} cells" for s in SIZES)
    introduction = INTRODUCTION.format(
        cuda=cuda,
        architectures=", ".join(f"sm_{a}" for a in architectures),
        first=SIZES[0].name,
        bandwidth=H100_BYTES_PER_S / 1e12,
        f64=H100_FLOPS_PER_S[FLOAT64] / 1e12,
        f32=H100_FLOPS_PER_S[FLOAT32] / 1e12,
        sizes=f"{sizes}, {SIZES[0].keyframes} keyframes, {SIZES[0].edges} edges",
    )
    parts = [f"## {name}\n\n{table(kernels)}\n" for name, kernels in files.items() if kernels]
    return "\n".join([introduction, *parts])


def report(arguments: argparse.Namespace) -> int:
    """Compile, write, and say which kernels lack a launch."""
    nvcc = arguments.nvcc or find_nvcc()
    unknown = set(arguments.architectures) - (set(built_architectures()) & set(LIMITS))
    if unknown:
        raise ReportError(f"--architectures: {sorted(unknown)} are not among those of setup.py and kernel_resources.py")
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    jobs = [(file, architecture) for file in kernel_files() for architecture in arguments.architectures]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        found = list(pool.map(lambda job: compiled(nvcc, *job), jobs))
    files = {}
    for file in kernel_files():
        of_file = [r for (path, _), resources in zip(jobs, found, strict=True) if path == file for r in resources]
        files[file.relative_to(ROOT).as_posix()] = by_kernel(of_file) if of_file else {}
    cuda = re.search(r"release ([\d.]+)", version)
    arguments.out.write_text(document(files, arguments.architectures, cuda.group(1) if cuda else "?"), encoding="utf-8")
    homeless = sorted({name for kernels in files.values() for name in kernels if launch_of(name) is None})
    if homeless:
        print(f"scripts/kernel_launches.py lacks {', '.join(homeless)}: add how it is launched", file=sys.stderr)
    return 1 if homeless else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", default=list(ARCHITECTURES), metavar="SM")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "kernels.md")
    parser.add_argument("--nvcc", default=None, help="the compiler; default: the one that setup.py finds")
    parser.add_argument("--jobs", type=int, default=2, help="how many files compile at once")
    try:
        return report(parser.parse_args(arguments))
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
