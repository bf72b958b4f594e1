"""Builds the native modules with plain setuptools; all metadata is in pyproject.toml.

Of lietorch and droid_backends each: the kernels for the CPU, and where nvcc is found those for NVIDIA GPUs, in a module
of their own so that what fails to load there harms nothing else.

METRIC_SLAM_CUDA=auto|0|1         build for GPUs: if nvcc is there (default), never, or fail without
METRIC_SLAM_CUDA_ARCHITECTURES    for which ones, as in "86;90"; default: those of the GPUs here, else all the usual
METRIC_SLAM_EMULATION=1           also build the GPU kernels for the CPU, slow and strict, for the tests (make does);
                                  sanitize: with the sanitizers of g++ (scripts/sanitize_kernels.sh)
METRIC_SLAM_NATIVE=1              -march=native (faster here, not portable)
METRIC_SLAM_JOBS                  how many files compile at once

After a change of native code `python setup.py build_ext --inplace` compiles what has changed.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nanobind
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

ROOT = Path(__file__).resolve().parent
THIRDPARTY = ROOT / "thirdparty"
PACKAGES = ("lietorch", "droid_backends")
INCLUDES = [THIRDPARTY / package / "include" for package in PACKAGES]
NANOBIND = Path(nanobind.source_dir())
NANOBIND_INCLUDES = [NANOBIND.parent / "include", NANOBIND.parent / "ext" / "robin_map" / "include"]
EMULATION = THIRDPARTY / "lietorch" / "src" / "cuda" / "emulation.cpp"
DEVICE = THIRDPARTY / "lietorch" / "src" / "cuda" / "device.cu"

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
"""A100, RTX 30, RTX 40, H100, B100, RTX 50; older ones lack tensor operations that are used. The newest also as PTX,
which later GPUs compile themselves."""


EMULATION_WISH = os.environ.get("METRIC_SLAM_EMULATION", "0")
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-omit-frame-pointer"]


@dataclass(frozen=True)
class Kind:
    """One of the modules of a package."""

    suffix: str
    with_cuda: bool = False
    emulated: bool = False


CPU, GPU, EMULATED = Kind(""), Kind("_cuda", with_cuda=True), Kind("_emulated", emulated=True)


def native_extension(package: str, kind: Kind) -> Extension:
    """The nanobind module of a package: what lies below src, or below src/cuda."""
    folder = THIRDPARTY / package / "src"
    cuda = folder / "cuda"
    if kind is CPU:
        sources = [path for path in sorted(folder.rglob("*.cpp")) if cuda not in path.parents]
    else:
        sources = sorted({*cuda.glob("*.cu"), *cuda.glob("*.cpp"), DEVICE} - {EMULATION})
        sources += [EMULATION] if kind.emulated else []
    if not sources:
        raise SystemExit(f"{folder} lacks its sources: the checkout is incomplete, fetch it again")
    extension = Extension(
        f"{package}._{package}{kind.suffix}",
        [str(path.relative_to(ROOT)) for path in sources],
        language="c++",
        optional=kind is GPU and os.environ.get("METRIC_SLAM_CUDA") != "1",
    )
    extension.kind = kind
    return extension


def compile_flags() -> tuple[list[str], list[str]]:
    """(compiler flags, linker flags) for this platform."""
    openmp = ["-fopenmp"] if sys.platform.startswith("linux") else []  # elsewhere the loops run on one thread
    native = ["-march=native"] if os.environ.get("METRIC_SLAM_NATIVE") == "1" else []
    warnings = ["-Wall", "-Wextra", "-Wno-psabi"]
    math = ["-fno-math-errno", "-fno-trapping-math"]  # square roots and selections in vector registers
    return ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", *math, *openmp, *native, *warnings], openmp


class Nvcc:
    """The CUDA compiler and what it can make."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.version = re.search(r"release ([\d.]+)", self._ask("--version")).group(1)
        known = {int(name.removeprefix("compute_")) for name in self._ask("--list-gpu-arch").split()}
        wanted = self._wanted()
        self.architectures = [a for a in wanted if a in known and a >= ARCHITECTURES[0]]
        if not self.architectures:
            raise OSError(
                f"CUDA {self.version} and these sources have nothing for sm_{', sm_'.join(map(str, wanted))}; "
                f"sm_{ARCHITECTURES[0]} is the oldest that they know"
            )

    def _ask(self, *arguments: str) -> str:
        return subprocess.run([self.path, *arguments], check=True, capture_output=True, text=True).stdout

    @staticmethod
    def _wanted() -> list[int]:
        chosen = os.environ.get("METRIC_SLAM_CUDA_ARCHITECTURES")
        if chosen:
            return sorted({int(number) for number in re.findall(r"\d+", chosen)})
        smi = shutil.which("nvidia-smi")
        if smi:
            asked = [smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
            here = subprocess.run(asked, check=False, capture_output=True, text=True).stdout
            found = sorted({int(major) * 10 + int(minor) for major, minor in re.findall(r"^(\d+)\.(\d)$", here, re.M)})
            if found:
                return found
        return list(ARCHITECTURES)

    def flags(self) -> list[str]:
        """Of every .cu file."""
        targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.architectures]
        newest = self.architectures[-1]
        targets.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
        host = "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wno-psabi"
        return ["-std=c++17", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "-diag-suppress=20012", host, *targets]

    def libraries(self) -> list[str]:
        """Linker flags for a static CUDA runtime, so that only the driver must be there to run."""
        planned = subprocess.run([self.path, "--dryrun", "x.cu"], check=False, capture_output=True, text=True).stderr
        folders = re.findall(r'"-L([^"]+)"', planned)
        return [*(f"-L{folder}" for folder in folders), "-lcudart_static", "-lrt", "-ldl", "-lpthread"]


def find_nvcc() -> Nvcc | None:
    """The CUDA compiler as METRIC_SLAM_CUDA wants it; says in one line what it found."""
    wish = os.environ.get("METRIC_SLAM_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        raise SystemExit(f"METRIC_SLAM_CUDA={wish} is none of auto, 0 and 1")
    if wish == "0":
        print("CUDA kernels: left out (METRIC_SLAM_CUDA=0)")
        return None
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    candidates = [str(Path(home) / "bin" / "nvcc") for home in homes if home] + [shutil.which("nvcc")]
    path = next((c for c in candidates if c and os.access(c, os.X_OK)), None)
    try:
        if path is None:
            raise FileNotFoundError("no nvcc in CUDA_HOME, PATH or /usr/local/cuda")
        nvcc = Nvcc(path)
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        if wish == "1":
            raise SystemExit(f"METRIC_SLAM_CUDA=1, but the CUDA kernels cannot be built: {error}") from error
        print(f"CUDA kernels: left out ({error})")
        return None
    print(f"CUDA kernels: built with CUDA {nvcc.version} for sm_{', sm_'.join(map(str, nvcc.architectures))}")
    return nvcc


def modules(nvcc: Nvcc | None) -> list[Extension]:
    """All modules that are built here."""
    kinds = [CPU] + ([GPU] if nvcc else []) + ([EMULATED] if EMULATION_WISH in ("1", "sanitize") else [])
    return [native_extension(package, kind) for kind in kinds for package in PACKAGES]


class BuildNative(build_ext):
    """Compiles all files of a module in parallel, skipping those whose object is newer than every header."""

    def build_extension(self, ext: Extension) -> None:
        """One module; a GPU module that cannot be built is left out, unless it was demanded."""
        try:
            self._build(ext)
        except (CompileError, LinkError, subprocess.CalledProcessError) as error:
            what = f"{ext.name} cannot be built: {getattr(error, 'stderr', None) or error}"
            if not ext.optional:
                raise SystemExit(what) from error
            print(f"CUDA kernels: left out ({what})")
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # not one of another time

    def _build(self, ext: Extension) -> None:
        kind: Kind = ext.kind
        flags, link_flags = compile_flags()
        if kind is not CPU:
            flags = [*flags, f"-DGPU_MODULE={ext.name.split('.')[-1]}"]
        if kind.emulated:
            flags = [*flags, "-O1", "-DMETRIC_SLAM_EMULATED", "-Wno-unknown-pragmas"]
        sanitizers = SANITIZERS if kind.emulated and EMULATION_WISH == "sanitize" else []
        flags, link_flags = [*flags, *sanitizers], [*link_flags, *sanitizers]
        headers = [path for package in PACKAGES for path in (THIRDPARTY / package).rglob("*.h")]
        # one object folder per interpreter, binding library and set of flags, so that none is reused for another
        tag = f"{sys.implementation.cache_tag}-nanobind{nanobind.__version__}"
        folder = ROOT / "build" / (f"native-{tag}" + ("-march" if "-march=native" in flags else "") + kind.suffix)
        folder = folder.with_name(folder.name + "-sanitize") if sanitizers else folder
        if ".cu" not in self.compiler.src_extensions:
            self.compiler.src_extensions.append(".cu")
        own = [(str(Path(source)), [ROOT / source, ROOT / "setup.py", *headers]) for source in ext.sources]
        library = (str(NANOBIND / "nb_combined.cpp"), [ROOT / "setup.py"])

        def compile_one(job: tuple[str, Sequence[Path]]) -> str:
            source, depends = job
            if source.endswith(".cu") and kind.with_cuda:
                return self.compile_cuda(source, depends, folder)
            return self.compile_source(source, depends, folder, flags)

        shared = folder.with_name(f"native-{tag}" + ("-march" if "-march=native" in flags else ""))
        with ThreadPoolExecutor(int(os.environ.get("METRIC_SLAM_JOBS", "2"))) as pool:
            plain = [*compile_flags()[0], "-fno-strict-aliasing", "-w"]
            first = pool.submit(self.compile_source, *library, shared, plain)
            objects = [*pool.map(compile_one, own), first.result()]
        libraries = NVCC.libraries() if kind.with_cuda and NVCC else []
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, target, extra_postargs=[*link_flags, *libraries], target_lang="c++")

    def compile_source(self, source: str, depends: Sequence[Path], folder: Path, flags: list[str]) -> str:
        """Object file of one source, compiled only when something it depends on is newer."""
        name = "nb_combined.cpp" if source.startswith(str(NANOBIND)) else source
        target = folder / (name + ".o")
        if is_newer(target, depends):
            return str(target)
        includes = [str(path) for path in (*INCLUDES, *NANOBIND_INCLUDES)]
        work = folder / (name.replace(os.sep, "_") + ".d")
        (made,) = self.compiler.compile(
            [source],
            output_dir=str(work),
            include_dirs=includes,
            macros=[("NDEBUG", None)],
            extra_preargs=["-x", "c++"],  # kernels that are emulated, too
            extra_postargs=flags,
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, target)  # an interrupted build leaves no half-written object behind
        return str(target)

    def compile_cuda(self, source: str, depends: Sequence[Path], folder: Path) -> str:
        """The same of a .cu file by nvcc; CalledProcessError tells what it says."""
        target = folder / "-".join(map(str, NVCC.architectures)) / (source + ".o")
        if is_newer(target, depends):
            return str(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        work = target.with_suffix(".part")
        includes = [f"-I{path}" for path in INCLUDES]
        command = [NVCC.path, *NVCC.flags(), *includes, "-c", "-o", str(work), source]
        print(" ".join(command))
        subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
        os.replace(work, target)
        return str(target)


def is_newer(target: Path, depends: Sequence[Path]) -> bool:
    """Is a file there and newer than all that it depends on?"""
    return target.exists() and all(target.stat().st_mtime > path.stat().st_mtime for path in depends)


NVCC = find_nvcc()

setup(
    packages=[*find_packages(include=["metric_slam", "metric_slam.*"]), *PACKAGES],
    package_dir={package: f"thirdparty/{package}/{package}" for package in PACKAGES},
    ext_modules=modules(NVCC),
    cmdclass={"build_ext": BuildNative},
)
