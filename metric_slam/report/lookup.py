"""Typed access to the nested figures of metrics.json and run.json, whose missing entries are None."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log10

Tree = Mapping[str, object]
"""A tree of figures as JSON has it."""


def lookup(tree: Tree | None, *path: str) -> object:
    """Return the entry at ``path``, None where any part of it is missing."""
    node: object = tree
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def branch(tree: Tree | None, *path: str) -> Tree:
    """Return the mapping at ``path``, empty where there is none."""
    node = lookup(tree, *path)
    return node if isinstance(node, Mapping) else {}


def number(tree: Tree | None, *path: str) -> float | None:
    """Return the number at ``path``, None where there is none."""
    node = lookup(tree, *path)
    return float(node) if isinstance(node, (int, float)) and not isinstance(node, bool) else None


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits and no exponent, a dash for None: 0.0093, 1.70, 293."""
    if value is None:
        return "–"
    magnitude = floor(log10(abs(value))) if value else 0
    return f"{value:.{max(0, digits - 1 - magnitude)}f}"
