"""Builds the two native modules with plain setuptools; all metadata is in pyproject.toml.

METRIC_SLAM_NATIVE=1 adds -march=native (faster here, not portable); METRIC_SLAM_JOBS sets how many files compile at
once. After a change of native code `python setup.py build_ext --inplace` compiles what has changed.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nanobind
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
THIRDPARTY = ROOT / "thirdparty"
INCLUDES = [THIRDPARTY / "lietorch" / "include", THIRDPARTY / "droid_backends" / "include"]
NANOBIND = Path(nanobind.source_dir())
NANOBIND_INCLUDES = [NANOBIND.parent / "include", NANOBIND.parent / "ext" / "robin_map" / "include"]


def native_extension(module: str, package_dir: Path) -> Extension:
    """The nanobind module made of every .cpp file below ``package_dir``/src."""
    sources = sorted((package_dir / "src").rglob("*.cpp"))
    if not sources:
        raise SystemExit(f"{package_dir / 'src'} holds no .cpp file: the checkout is incomplete, fetch it again")
    return Extension(module, [str(path.relative_to(ROOT)) for path in sources], language="c++")


def compile_flags() -> tuple[list[str], list[str]]:
    """(compiler flags, linker flags) for this platform."""
    openmp = ["-fopenmp"] if sys.platform.startswith("linux") else []  # elsewhere the loops run on one thread
    native = ["-march=native"] if os.environ.get("METRIC_SLAM_NATIVE") == "1" else []
    warnings = ["-Wall", "-Wextra", "-Wno-psabi"]
    math = ["-fno-math-errno", "-fno-trapping-math"]  # square roots and selections in vector registers
    return ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", *math, *openmp, *native, *warnings], openmp


class BuildNative(build_ext):
    """Compiles all files of a module in parallel, skipping those whose object is newer than every header."""

    def build_extension(self, ext: Extension) -> None:
        flags, link_flags = compile_flags()
        headers = [path for folder in INCLUDES for path in folder.rglob("*.h")]
        headers += [
            path
            for folder in (THIRDPARTY / "lietorch", THIRDPARTY / "droid_backends")
            for path in (folder / "src").rglob("*.h")
        ]
        # one object folder per interpreter, binding library and set of flags, so that none is reused for another
        tag = f"{sys.implementation.cache_tag}-nanobind{nanobind.__version__}"
        folder = ROOT / "build" / (f"native-{tag}" + ("-march" if "-march=native" in flags else ""))
        folder.mkdir(parents=True, exist_ok=True)

        own_objects = [(str(Path(src)), [ROOT / src, ROOT / "setup.py", *headers]) for src in ext.sources]
        library = (str(NANOBIND / "nb_combined.cpp"), [ROOT / "setup.py"])

        def compile_one(job: tuple[str, Sequence[Path]], extra: Sequence[str] = ()) -> str:
            source, depends = job
            return self.compile_source(source, depends, folder, [*flags, *extra])

        with ThreadPoolExecutor(int(os.environ.get("METRIC_SLAM_JOBS", "2"))) as pool:
            first = pool.submit(compile_one, library, ["-fno-strict-aliasing", "-w"])
            objects = [*pool.map(compile_one, own_objects), first.result()]
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), extra_postargs=link_flags, target_lang="c++"
        )

    def compile_source(self, source: str, depends: Sequence[Path], folder: Path, flags: list[str]) -> str:
        """Object file of one source, compiled only when something it depends on is newer."""
        name = "nb_combined.cpp" if source.startswith(str(NANOBIND)) else source
        target = folder / Path(name).with_suffix(".o")
        if target.exists() and all(target.stat().st_mtime > path.stat().st_mtime for path in depends):
            return str(target)
        includes = [str(path) for path in (*INCLUDES, *NANOBIND_INCLUDES)]
        work = folder / (name.replace(os.sep, "_") + ".d")
        (made,) = self.compiler.compile(
            [source], output_dir=str(work), include_dirs=includes, macros=[("NDEBUG", None)], extra_postargs=flags
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, target)  # an interrupted build leaves no half-written object behind
        return str(target)


setup(
    packages=[*find_packages(include=["metric_slam", "metric_slam.*"]), "lietorch", "droid_backends"],
    package_dir={
        "lietorch": "thirdparty/lietorch/lietorch",
        "droid_backends": "thirdparty/droid_backends/droid_backends",
    },
    ext_modules=[
        native_extension("lietorch._lietorch", THIRDPARTY / "lietorch"),
        native_extension("droid_backends._droid_backends", THIRDPARTY / "droid_backends"),
    ],
    cmdclass={"build_ext": BuildNative},
)
