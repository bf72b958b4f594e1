"""The type stubs of the native modules describe the modules that are built (`make stubs` writes them)."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

stubgen = pytest.importorskip("nanobind.stubgen", reason="nanobind is not installed (pip install -e '.[dev]')")


def interface(stub: str) -> dict[str, list[str]]:
    """Name of every function, class and member -> its parameters, once per overload; annotations are left out."""

    def described(body: list[ast.stmt], prefix: str) -> list[tuple[str, str]]:
        found = []
        for node in body:
            if isinstance(node, ast.FunctionDef):
                for argument in ast.walk(node.args):
                    if isinstance(argument, ast.arg):
                        argument.annotation = None
                found.append((prefix + node.name, ast.unparse(node.args)))
            elif isinstance(node, ast.ClassDef):
                found += [(prefix + node.name, "class"), *described(node.body, f"{prefix}{node.name}.")]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                found.append((prefix + ast.unparse(target), "value"))
        return found

    result: dict[str, list[str]] = {}
    for name, arguments in described(ast.parse(stub).body, ""):
        result.setdefault(name, []).append(arguments)
    return result


@pytest.mark.parametrize("package", ["lietorch", "droid_backends"])
def test_the_stub_describes_the_module(package: str) -> None:
    module = importlib.import_module(f"{package}._{package}")
    generator = stubgen.StubGen(module)
    generator.put(module)
    written = ROOT / "thirdparty" / package / package / f"_{package}.pyi"
    assert interface(written.read_text(encoding="utf-8")) == interface(generator.get()), "run `make stubs`"


def test_a_difference_is_found() -> None:
    a = interface("def f(x: int, *, y: float = 1) -> None: ...\nclass C(enum.Enum):\n    A = 0\n")
    assert a == {"f": ["x, *, y=1"], "C": ["class"], "C.A": ["value"]}
    assert a != interface("def f(x: int, *, z: float = 1) -> None: ...\nclass C(enum.Enum):\n    A = 0\n")
