"""Print the requirements of pyproject.toml, one a line: those of the package, or with an argument those of an extra.

    python scripts/requirements.py [EXTRA]

pip can install them from this list before the package itself is built.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType


def toml_reader() -> ModuleType:
    """tomllib of Python 3.11, else the copy that every pip for Python 3.10 has."""
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    from pip._vendor import tomli

    return tomli


def requirements(extra: str | None = None) -> list[str]:
    """Requirements of the package or of an extra; extras that it names are expanded."""
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    project = toml_reader().loads(text)["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    found = []
    for line in lines:
        nested = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", line)
        found += [r for name in nested.group(1).split(",") for r in requirements(name)] if nested else [line]
    return found


if __name__ == "__main__":
    print(*requirements(*sys.argv[1:2]), sep="\n")
