"""The house has one direction: who may import whom, where third-party doors are, and what every file owes its reader.

Everything is read from the source with ``ast``; nothing is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
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
    ("slam", "factory"),
    ("evaluation", "report", "training"),
    ("run",),
    ("single_image",),
    ("cli", "__main__"),
)
"""Rooms of the package from the ground up; a room imports from its own floor and from those below."""

APART = {"correspondence", "depth", "datasets"}
"""Rooms of one floor that do not know each other."""

DOORS = {
    "lietorch": {"geometry/lie.py"},
    "droid_backends": {
        "optimization/cuda/kernels.py",
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


def room_of(module: str) -> str:
    """``metric_slam.geometry.camera`` -> ``geometry``; the package itself has no room."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def module_of(file: Path) -> str:
    """Dotted module name of a file of the package."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[str]:
    """Absolute names of everything that a file imports, inside functions too; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)}, line {node.lineno}: write imports absolutely"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(name: str) -> str | None:
    """The module of this package that an imported name means; None for other packages."""
    if name.split(".")[0] != "metric_slam":
        return None
    modules = {module_of(file) for file in FILES}
    while name not in modules:
        name = name.rpartition(".")[0]
    return name


FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}
EDGES = {module_of(file): {m for n in imports_of(file) if (m := own_module(n)) is not None} for file in FILES}


def test_every_file_has_a_floor() -> None:
    homeless = sorted({room_of(module) for module in EDGES} - set(FLOOR) - {""})
    assert not homeless, f"give these a floor in LAYERS: {homeless}"


def test_imports_go_down() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in EDGES.items()
        for other in others
        if room_of(module) and room_of(other) and FLOOR[room_of(other)] > FLOOR[room_of(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_interchangeable_parts_do_not_know_each_other() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in EDGES.items()
        for other in others
        if {room_of(module), room_of(other)} <= APART and room_of(module) != room_of(other)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_cycles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module in done:
            return
        for other in EDGES[module] - {module}:
            visit(other, (*path, module))
        done.add(module)

    for module in EDGES:
        visit(module, ())


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
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
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

    yield from within(ast.parse(file.read_text(encoding="utf-8")).body, "")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_public_names_are_documented_and_annotated(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "the module has no docstring"
    for name, node in public_definitions(file):
        assert ast.get_docstring(node), f"{name} has no docstring"
        if isinstance(node, ast.FunctionDef):
            args = node.args
            named = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            bare = [a.arg for a in named if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
            assert not bare, f"{name}: {bare} are not annotated"
            assert node.returns is not None, f"{name}: what it returns is not annotated"
