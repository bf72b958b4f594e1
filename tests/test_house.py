"""Limits on size, shape and ownership in the source: what keeps the package readable as it grows.

Everything is read with ``ast``; nothing is imported. The order of imports is checked in test_import_direction.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "metric_slam"
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({file.parent for file in FILES} - {PACKAGE})
SPINE = PACKAGE / "slam.py"

MAX_TOP_LEVEL_FILES = 12
MAX_SPINE_LINES = 200
MAX_SPINE_FUNCTION_LINES = 30
MAX_CLASS_LINES = 200
MAX_POSITIONAL_PARAMETERS = 6
MAX_LINES_WITH_ANY = 40

KEYFRAME_FIELDS = {
    "pose",
    "inv_depth",
    "prior_depth_m",
    "prior_confidence",
    "prior_weight",
    "prior_log_scale",
    "moving",
    "depth_damping",
    "upsample_weights",
    "image",
    "features",
    "prior_state",
    "submap",
}
"""Fields of a keyframe, which only the map (graph/) writes."""

SOLVER_COPIES = ("optimization/", "window.")
"""Folder and variable that are exempt from it: a solver updates a window, whose arrays are its own copies, in place."""

ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|et al|cf|Fig|Eq|vs|approx)\.")


def name_of(file: Path) -> str:
    """Path below the package, for messages."""
    return file.relative_to(PACKAGE).as_posix()


@cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(file.read_text(encoding="utf-8"))


def lines_of(node: ast.FunctionDef | ast.ClassDef) -> int:
    """Lines from the first decorator to the last statement of a definition."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return (node.end_lineno or node.lineno) - first + 1


def classes_of(file: Path) -> Iterator[ast.ClassDef]:
    """All classes of a file, nested ones included."""
    return (node for node in ast.walk(parsed(file)) if isinstance(node, ast.ClassDef))


def positional_parameters(function: ast.FunctionDef) -> list[str]:
    """Names of the parameters that can be passed by position, without self."""
    return [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)][1:]


def names_any(file: Path) -> Iterator[str]:
    """Lines of code that name ``typing.Any``, its import included; comments and docstrings do not count."""
    numbers = {
        node.lineno
        for node in ast.walk(parsed(file))
        if (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Attribute) and node.attr == "Any")
        or (isinstance(node, ast.alias) and node.name == "Any")
    }
    lines = file.read_text(encoding="utf-8").splitlines()
    return (f"{name_of(file)}:{number}: {lines[number - 1].strip()}" for number in sorted(numbers))


def written_attributes(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Attributes that are assigned to, whole or by element, of objects other than self."""
    targets: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.AnnAssign) and node.value is not None):
            targets.append(node.target)
        elif isinstance(node, ast.Delete):
            targets += node.targets
    while targets:
        target = targets.pop()
        if isinstance(target, ast.Tuple | ast.List):
            targets += target.elts
        elif isinstance(target, ast.Starred | ast.Subscript):
            targets.append(target.value)
        elif isinstance(target, ast.Attribute) and not (
            isinstance(target.value, ast.Name) and target.value.id in ("self", "cls")
        ):
            yield target


def sentences_of(text: str) -> int:
    """Number of sentences in a docstring."""
    return len(re.findall(r"[.!?](?=\s|$)", ABBREVIATION.sub("", text)))


def test_the_top_level_is_small() -> None:
    names = sorted(path.name for path in PACKAGE.iterdir() if path.is_file())
    assert len(names) <= MAX_TOP_LEVEL_FILES, names


def test_the_spine_is_short() -> None:
    assert len(SPINE.read_text(encoding="utf-8").splitlines()) <= MAX_SPINE_LINES


@pytest.mark.parametrize("name", ["process", "finish"])
def test_the_steps_of_the_spine_fit_a_screen(name: str) -> None:
    found = [node for node in ast.walk(parsed(SPINE)) if isinstance(node, ast.FunctionDef) and node.name == name]
    assert found, f"slam.py defines no {name}()"
    too_long = [f"line {node.lineno}: {lines_of(node)} lines" for node in found]
    assert max(lines_of(node) for node in found) <= MAX_SPINE_FUNCTION_LINES, too_long


def test_the_spine_has_one_way_through() -> None:
    """No cast from one odometry to the other, and no branch on which of them is in use."""
    text = SPINE.read_text(encoding="utf-8")
    found = re.findall(r"\bcast\(|\bif recurrent|\.recurrent\b|\bisinstance\([^)]*Odometry", text)
    assert not found, found


def test_classes_stay_small() -> None:
    wrong = [
        f"{name_of(file)}: {node.name} has {lines_of(node)} lines"
        for file in FILES
        for node in classes_of(file)
        if lines_of(node) > MAX_CLASS_LINES
    ]
    assert not wrong, "\n".join(wrong)


def test_constructors_take_few_positional_parameters() -> None:
    """A constructor with more needs an object that bundles some of them. Dataclasses, whose fields do, are exempt."""
    wrong = [
        f"{name_of(file)}: {node.name} has {len(parameters)}: {', '.join(parameters)}"
        for file in FILES
        for node in classes_of(file)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        if len(parameters := positional_parameters(method)) > MAX_POSITIONAL_PARAMETERS
    ]
    assert not wrong, "\n".join(wrong)


def test_any_is_rare() -> None:
    lines = [line for file in FILES for line in names_any(file)]
    assert len(lines) <= MAX_LINES_WITH_ANY, "\n".join([f"{len(lines)} lines name Any:", *lines])


def test_only_the_map_writes_keyframe_fields() -> None:
    wrong = [
        f"{name_of(file)}:{node.lineno}: {ast.unparse(node)}"
        for file in FILES
        if not name_of(file).startswith("graph/")
        for node in written_attributes(parsed(file))
        if node.attr in KEYFRAME_FIELDS
        if not (name_of(file).startswith(SOLVER_COPIES[0]) and ast.unparse(node).startswith(SOLVER_COPIES[1]))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_each_folder_introduces_itself(folder: Path) -> None:
    file = folder / "__init__.py"
    assert file.is_file(), f"{name_of(folder)}/ has no __init__.py"
    text = ast.get_docstring(parsed(file))
    assert text, f"{name_of(file)} has no docstring"
    assert 1 <= sentences_of(text) <= 2, f"{name_of(file)}: one or two sentences, not {sentences_of(text)}: {text}"


# ---- the measures above, on code whose answer is known


def test_the_measures_find_what_they_look_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    file = tmp_path / "sample.py"
    file.write_text(
        '"""Any."""\nfrom typing import Any\nimport typing\n\n\n'
        "def f(keyframe: Any, self: Any) -> typing.Any:\n"
        "    keyframe.pose, x = 1, 2\n    keyframe.inv_depth[0] *= 2\n    self.pose = 1\n    x.y.moving: int = 3\n"
        "    del keyframe.image\n    print(keyframe.features)\n    keyframe.other = Any\n"
    )
    assert [line.split(":")[1] for line in names_any(file)] == ["2", "6", "13"]
    written = {ast.unparse(node) for node in written_attributes(parsed(file))}
    assert written == {"keyframe.pose", "keyframe.inv_depth", "x.y.moving", "keyframe.image", "keyframe.other"}
    assert sentences_of("Data sets, e.g. KITTI. Called by run.") == 2 and sentences_of("Version 0.2 of it.") == 1
    (init,) = ast.parse("def __init__(self, a, /, b, *, c): pass").body
    assert isinstance(init, ast.FunctionDef) and positional_parameters(init) == ["a", "b"]
