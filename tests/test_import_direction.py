"""The order of imports, the files in which third-party libraries may be imported, and docstrings and annotations.

Everything is read from the source with ``ast``; nothing is imported. Limits on size and ownership: test_house.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "metric_slam"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "checkpointable"),
    ("geometry", "config", "frame", "disk_store", "weights"),
    ("correspondence", "depth", "datasets"),
    ("optimization",),
    ("result", "trajectory"),
    ("graph",),
    ("odometry",),
    ("loops",),
    ("reconstruction",),
    ("choices", "factory", "slam"),
    ("evaluation", "report", "training"),
    ("run",),
    ("single_image",),
    ("cli", "__main__"),
)
"""Folders and modules of the package from the lowest layer up; each imports from its own layer and those below.

A module that is listed itself has that layer instead of its folder's.
"""

INDEPENDENT = {"correspondence", "depth", "datasets"}
"""Folders of one layer that do not import each other: their implementations are interchangeable."""

DOORS = {
    "lietorch": {"geometry/lie.py"},
    "droid_backends": {
        "geometry/cuda_kernels.py",
        "optimization/cuda/dense_ba.py",
        "cli/doctor.py",
        "optimization/bundle_adjustment.py",
        "correspondence/droid/correlation.py",
        "optimization/frame_distance.py",
        "optimization/view_consistency.py",
    },
    "evo": {"evaluation/ate_rpe.py"},
    "open3d": {"reconstruction/tsdf.py", "reconstruction/preview.py", "cli/doctor.py", "datasets/synthetic/"},
    "typer": {"cli/"},
    "PIL": {"single_image/camera.py"},
    "pooch": {"weights/released.py"},
    "matplotlib": {"report/"},
    "transformers": {"depth/huggingface.py"},
    "onnx": {"depth/metric3d/onnx_network.py"},
    "onnxscript": {"depth/metric3d/onnx_network.py"},
    "onnxruntime": {"depth/metric3d/onnx_network.py"},
    "viser": set(),
    "rerun": set(),
    "ray": set(),
}
"""The files, or folders, in which a library may be imported."""

MAX_LINES = 400


def name_of(file: Path) -> str:
    """Path below the package, for messages and the tables above."""
    return file.relative_to(PACKAGE).as_posix()


def folder_of(module: str) -> str:
    """``metric_slam.geometry.camera`` -> ``geometry``; empty for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def module_of(file: Path) -> str:
    """Dotted module name of a file of the package."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imports_of(file: Path) -> list[str]:
    """Absolute names of everything that a file imports, inside functions too; ``from a import b`` counts as ``a.b``."""
    found: list[str] = []
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)}, line {node.lineno}: write imports absolutely"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def own_module(name: str) -> str | None:
    """The module of this package that an imported name belongs to; None for other packages."""
    if name.split(".")[0] != "metric_slam":
        return None
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


MODULES = {module_of(file) for file in FILES}
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
IMPORTS = {module_of(file): {m for n in imports_of(file) if (m := own_module(n)) is not None} for file in FILES}
FOLDER_IMPORTS: dict[str, set[str]] = {folder_of(module): set() for module in IMPORTS if folder_of(module)}
for _module, _others in IMPORTS.items():
    if folder_of(_module):
        FOLDER_IMPORTS[folder_of(_module)] |= {folder_of(other) for other in _others} - {folder_of(_module), ""}


def layer_of(module: str) -> int | None:
    """Layer of a module; None for the package itself, which names the public API of all layers."""
    name = module.removeprefix("metric_slam").lstrip(".")
    return LAYER.get(name, LAYER.get(name.split(".")[0])) if name else None


def test_every_folder_has_a_layer() -> None:
    missing = sorted(module for module in IMPORTS if folder_of(module) and layer_of(module) is None)
    assert not missing, f"add the folders of these to LAYERS: {missing}"
    unused = [name for name in LAYER if name not in FOLDER_IMPORTS and f"metric_slam.{name}" not in IMPORTS]
    assert not unused, f"LAYERS lists what does not exist: {unused}"


def test_imports_go_down() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if (lower := layer_of(module)) is not None and (layer_of(other) or 0) > lower
    ]
    assert not wrong, "\n".join(wrong)


def test_interchangeable_parts_do_not_import_each_other() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if {folder_of(module), folder_of(other)} <= INDEPENDENT and folder_of(module) != folder_of(other)
    ]
    assert not wrong, "\n".join(wrong)


def first_cycle(imports: Mapping[str, set[str]]) -> tuple[str, ...]:
    """The first circle of imports, as the names along it; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> tuple[str, ...]:
        if name in path:
            return (*path[path.index(name) :], name)
        if name in done:
            return ()
        for other in sorted(imports[name] - {name}):
            if found := visit(other, (*path, name)):
                return found
        done.add(name)
        return ()

    return next((found for name in sorted(imports) if (found := visit(name, ()))), ())


@pytest.mark.parametrize("imports", [IMPORTS, FOLDER_IMPORTS], ids=["modules", "folders"])
def test_no_cycles(imports: Mapping[str, set[str]]) -> None:
    assert not (cycle := first_cycle(imports)), " -> ".join(cycle)


def test_a_cycle_is_found() -> None:
    assert first_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ("b", "c", "b")
    assert first_cycle({"a": {"a", "b"}, "b": set()}) == ()


@pytest.mark.parametrize("library", DOORS)
def test_libraries_have_doors(library: str) -> None:
    users = {name_of(file) for file in FILES if any(n.split(".")[0] == library for n in imports_of(file))}
    wrong = [user for user in users if not any(user == door or user.startswith(door) for door in DOORS[library])]
    assert not wrong, f"{library} is imported in {wrong}"


def test_only_the_command_line_prints() -> None:
    wrong = [
        f"{name_of(file)}, line {node.lineno}"
        for file in FILES
        if not name_of(file).startswith("cli/")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong, wrong


def test_files_stay_short() -> None:
    native = [f for pattern in ("*.h", "*.cpp", "*.cu") for f in (ROOT / "thirdparty").rglob(pattern)]
    lengths = {f: len(f.read_text(encoding="utf-8").splitlines()) for f in [*FILES, *native]}
    wrong = [f"{file.relative_to(ROOT)}: {n} lines" for file, n in lengths.items() if n > MAX_LINES]
    assert not wrong, wrong


def test_scripts_stay_thin() -> None:
    lines = (ROOT / "scripts" / "run_kitti.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30


def public_definitions(file: Path) -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes of a module and public methods of its public classes, with their qualified names."""

    def within(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.AST]]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef):
                    yield from within(node.body, f"{prefix}{node.name}.")

    yield from within(parsed(file).body, "")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_public_names_are_documented_and_annotated(file: Path) -> None:
    if file.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(parsed(file)), "the module has no docstring"
    for name, node in public_definitions(file):
        assert ast.get_docstring(node), f"{name} has no docstring"
        if isinstance(node, ast.FunctionDef):
            args = node.args
            named = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            bare = [a.arg for a in named if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
            assert not bare, f"{name}: {bare} are not annotated"
            assert node.returns is not None, f"{name}: what it returns is not annotated"
