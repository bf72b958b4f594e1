"""Builds the native modules with plain setuptools; all metadata is in pyproject.toml.

lietorch and droid_backends each get a module of CPU kernels and, on a machine with an NVIDIA GPU and nvcc, a second one
of CUDA kernels, so that a CUDA module that fails to load leaves the CPU module usable.

METRIC_SLAM_CUDA=auto|0|1         build the CUDA kernels: where a GPU and nvcc are present (default), never, or always
                                  (an error without nvcc)
METRIC_SLAM_CUDA_ARCHITECTURES    targets, as in "86;90", or "all" (ARCHITECTURES below); default: those of the GPUs
                                  that are present, else all
METRIC_SLAM_EMULATION=1           also compile the CUDA kernels for the CPU, slow and strict, for the tests
                                  (`make test` does); sanitize: with g++'s sanitizers (scripts/sanitize_kernels.sh)
METRIC_SLAM_NATIVE=1              -march=native (faster on this machine, not portable)
METRIC_SLAM_JOBS                  number of files compiled in parallel; default: the number of cores

`python setup.py build_ext --inplace` compiles what has changed; `--only cuda` builds the CUDA modules alone.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

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
"""A100, RTX 30, RTX 40, H100, B100, RTX 50. Older GPUs lack tensor-core operations that the kernels use. The newest is
also embedded as PTX, which the driver of a later GPU compiles."""

NVIDIA_DEVICE_FILES = "/dev/nvidia[0-9]*"
"""Device files that the NVIDIA driver creates, one per GPU, also in containers without nvidia-smi."""

EMULATION_REQUEST = os.environ.get("METRIC_SLAM_EMULATION", "0")
JOBS = int(os.environ.get("METRIC_SLAM_JOBS") or os.cpu_count() or 1)
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-omit-frame-pointer"]


@dataclass(frozen=True)
class Kind:
    """Kind of native module that a package has."""

    name: str
    suffix: str
    with_cuda: bool = False
    emulated: bool = False


CPU = Kind("cpu", "")
GPU = Kind("cuda", "_cuda", with_cuda=True)
EMULATED = Kind("emulated", "_emulated", emulated=True)


def native_extension(package: str, kind: Kind) -> Extension:
    """Declare a nanobind module of a package, from the sources below src or, for the CUDA kernels, below src/cuda."""
    folder = THIRDPARTY / package / "src"
    cuda = folder / "cuda"
    if kind is CPU:
        sources = [path for path in sorted(folder.rglob("*.cpp")) if cuda not in path.parents]
    else:
        sources = sorted({*cuda.glob("*.cu"), *cuda.glob("*.cpp"), DEVICE} - {EMULATION})
        sources += [EMULATION] if kind.emulated else []
    if not sources:
        raise SystemExit(f"{folder} has no sources: the checkout is incomplete, clone it again")
    extension = Extension(
        f"{package}._{package}{kind.suffix}",
        [str(path.relative_to(ROOT)) for path in sources],
        language="c++",
        optional=kind is GPU and os.environ.get("METRIC_SLAM_CUDA") != "1",
    )
    extension.kind = kind
    return extension


def compile_flags() -> tuple[list[str], list[str]]:
    """Compiler and linker flags for this platform."""
    openmp = ["-fopenmp"] if sys.platform.startswith("linux") else []  # single-threaded on other systems
    native = ["-march=native"] if os.environ.get("METRIC_SLAM_NATIVE") == "1" else []
    warnings = ["-Wall", "-Wextra", "-Wno-psabi"]
    math = ["-fno-math-errno", "-fno-trapping-math"]  # let square roots and selections be vectorised
    return ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", *math, *openmp, *native, *warnings], openmp


def gpu_architectures() -> list[int]:
    """Compute capabilities of the NVIDIA GPUs that nvidia-smi lists, as in [86, 90]; empty without one."""
    smi = shutil.which("nvidia-smi")
    if not smi:
        return []
    query = [smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
    listed = subprocess.run(query, check=False, capture_output=True, text=True).stdout
    return sorted({int(major) * 10 + int(minor) for major, minor in re.findall(r"^(\d+)\.(\d)$", listed, re.M)})


def gpu_is_present() -> bool:
    """True if this machine has an NVIDIA GPU. Does not import torch, which is not needed to build."""
    return bool(gpu_architectures() or glob.glob(NVIDIA_DEVICE_FILES))


def requested_architectures() -> list[int]:
    """Compute capabilities to compile for (see METRIC_SLAM_CUDA_ARCHITECTURES)."""
    chosen = os.environ.get("METRIC_SLAM_CUDA_ARCHITECTURES", "")
    if chosen == "all":
        return list(ARCHITECTURES)
    numbers = sorted({int(number) for number in re.findall(r"\d+", chosen)})
    if chosen and not numbers:
        raise SystemExit(f'METRIC_SLAM_CUDA_ARCHITECTURES={chosen} names no architecture; write it as "86;90" or all')
    return numbers or gpu_architectures() or list(ARCHITECTURES)


class Nvcc:
    """The CUDA compiler, the architectures it compiles for and its flags."""

    def __init__(self, path: str) -> None:
        self.path = path
        release = re.search(r"release ([\d.]+)", self._output_of("--version"))
        if release is None:
            raise OSError(f"{path} --version prints no release number")
        self.version = release.group(1)
        supported = {int(name.removeprefix("compute_")) for name in self._output_of("--list-gpu-arch").split()}
        requested = requested_architectures()
        self.architectures = [a for a in requested if a in supported and a >= ARCHITECTURES[0]]
        if not self.architectures:
            raise OSError(
                f"CUDA {self.version} and these sources support none of sm_{', sm_'.join(map(str, requested))}; "
                f"the oldest supported architecture is sm_{ARCHITECTURES[0]}"
            )

    def _output_of(self, *arguments: str) -> str:
        return subprocess.run([self.path, *arguments], check=True, capture_output=True, text=True).stdout

    def flags(self) -> list[str]:
        """Flags for every .cu file."""
        targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.architectures]
        newest = self.architectures[-1]
        targets.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
        host = "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wno-psabi,-Wno-unknown-pragmas"
        return ["-std=c++17", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "-diag-suppress=20012", host, *targets]

    def libraries(self) -> list[str]:
        """Linker flags for a static CUDA runtime, so that a machine that runs the kernels needs only the driver."""
        planned = subprocess.run([self.path, "--dryrun", "x.cu"], check=False, capture_output=True, text=True).stderr
        folders = re.findall(r'"-L([^"]+)"', planned)
        return [*(f"-L{folder}" for folder in folders), "-lcudart_static", "-lrt", "-ldl", "-lpthread"]


def find_nvcc() -> Nvcc | None:
    """Find the CUDA compiler if METRIC_SLAM_CUDA asks for it; prints the decision and its reason in one line."""
    request = os.environ.get("METRIC_SLAM_CUDA", "auto")
    if request not in ("auto", "0", "1"):
        raise SystemExit(f"METRIC_SLAM_CUDA={request}: must be auto, 0 or 1")
    if request == "0":
        print("CUDA kernels: not built (METRIC_SLAM_CUDA=0)")
        return None
    if request == "auto" and not gpu_is_present():
        print("CUDA kernels: not built (no NVIDIA GPU on this machine; METRIC_SLAM_CUDA=1 builds them all the same)")
        return None
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    candidates = [str(Path(home) / "bin" / "nvcc") for home in homes if home] + [shutil.which("nvcc")]
    path = next((c for c in candidates if c and os.access(c, os.X_OK)), None)
    try:
        if path is None:
            raise FileNotFoundError("no nvcc in CUDA_HOME, PATH or /usr/local/cuda: install the CUDA toolkit")
        nvcc = Nvcc(path)
    except (OSError, subprocess.SubprocessError) as error:
        if request == "1":
            raise SystemExit(f"METRIC_SLAM_CUDA=1, but the CUDA kernels cannot be built: {error}") from error
        print(f"CUDA kernels: not built ({error})")
        return None
    print(f"CUDA kernels: built with CUDA {nvcc.version} for sm_{', sm_'.join(map(str, nvcc.architectures))}")
    return nvcc


def modules(nvcc: Nvcc | None) -> list[Extension]:
    """Declare every module that is built on this machine."""
    kinds = [CPU] + ([GPU] if nvcc else []) + ([EMULATED] if EMULATION_REQUEST in ("1", "sanitize") else [])
    return [native_extension(package, kind) for kind in kinds for package in PACKAGES]


class BuildNative(build_ext):
    """Compile the files of a module in parallel, except those whose object is newer than the source and all headers."""

    user_options: ClassVar = [*build_ext.user_options, ("only=", None, "build one kind of module: cpu, cuda, emulated")]

    def initialize_options(self) -> None:
        """Build all kinds by default."""
        super().initialize_options()
        self.only: str | None = None

    def finalize_options(self) -> None:
        """Select the modules of ``--only``."""
        super().finalize_options()
        if self.only is not None:
            self.extensions = [ext for ext in self.extensions if ext.kind.name == self.only]
            if not self.extensions:
                raise SystemExit(f"build_ext --only {self.only}: no such modules are built on this machine")

    def build_extension(self, ext: Extension) -> None:
        """Build one module; a CUDA module that fails to build is skipped unless METRIC_SLAM_CUDA=1."""
        try:
            self._build(ext)
        except (CompileError, LinkError, subprocess.CalledProcessError) as error:
            what = f"{ext.name} cannot be built: {getattr(error, 'stderr', None) or error}"
            if not ext.optional:
                raise SystemExit(what) from error
            print(f"CUDA kernels: not built ({what})")
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # never keep an outdated module

    def _build(self, ext: Extension) -> None:
        kind: Kind = ext.kind
        flags, link_flags = compile_flags()
        if kind is not CPU:
            flags = [*flags, f"-DGPU_MODULE={ext.name.split('.')[-1]}"]
        if kind.emulated:
            flags = [*flags, "-O1", "-DMETRIC_SLAM_EMULATED", "-Wno-unknown-pragmas"]
        sanitizers = SANITIZERS if kind.emulated and EMULATION_REQUEST == "sanitize" else []
        flags, link_flags = [*flags, *sanitizers], [*link_flags, *sanitizers]
        headers = [path for package in PACKAGES for path in (THIRDPARTY / package).rglob("*.h")]
        # one object folder per interpreter, binding library and set of flags: objects of another set are never reused
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
        with ThreadPoolExecutor(JOBS) as pool:
            plain = [*compile_flags()[0], "-fno-strict-aliasing", "-w"]
            first = pool.submit(self.compile_source, *library, shared, plain)
            objects = [*pool.map(compile_one, own), first.result()]
        libraries = NVCC.libraries() if kind.with_cuda and NVCC else []
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, target, extra_postargs=[*link_flags, *libraries], target_lang="c++")

    def compile_source(self, source: str, depends: Sequence[Path], folder: Path, flags: list[str]) -> str:
        """Compile one source unless its object is newer than all its dependencies; returns the object's path."""
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
            extra_preargs=["-x", "c++"],  # also for the .cu files of the emulation
            extra_postargs=flags,
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, target)  # an interrupted build leaves no half-written object behind
        return str(target)

    def compile_cuda(self, source: str, depends: Sequence[Path], folder: Path) -> str:
        """Compile one .cu file with nvcc like compile_source; the CalledProcessError carries nvcc's messages."""
        target = folder / "-".join(map(str, NVCC.architectures)) / (source + ".o")
        if is_newer(target, depends):
            return str(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        work = target.with_suffix(".part")
        includes = [f"-I{path}" for path in INCLUDES]
        command = [NVCC.path, *NVCC.flags(), *includes, "-c", "-o", str(work), source]
        print(" ".join(command))
        done = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
        print(done.stderr, end="")
        os.replace(work, target)
        return str(target)


def is_newer(target: Path, depends: Sequence[Path]) -> bool:
    """True if the file exists and is newer than all its dependencies."""
    return target.exists() and all(target.stat().st_mtime > path.stat().st_mtime for path in depends)


NVCC = find_nvcc()

setup(
    packages=[*find_packages(include=["metric_slam", "metric_slam.*"]), *PACKAGES],
    package_dir={package: f"thirdparty/{package}/{package}" for package in PACKAGES},
    ext_modules=modules(NVCC),
    cmdclass={"build_ext": BuildNative},
)
