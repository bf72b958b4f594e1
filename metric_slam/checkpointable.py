"""State of long-running parts as trees of plain arrays, so that a killed run can continue where it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

StateTree = Mapping[str, "np.ndarray | StateTree"]
"""Arrays by name; a part that owns other parts nests their trees."""


class Checkpointable(Protocol):
    """A part whose state can be saved and restored."""

    def state(self) -> StateTree:
        """Everything that the next frame needs; large arrays go to the disk store first."""
        ...

    def restore(self, state: StateTree) -> None:
        """Replace the state of a freshly built part by what :meth:`state` returned."""
        ...


def array_in(state: StateTree, name: str) -> np.ndarray:
    """The array called ``name``. Raises KeyError if it is missing or a subtree."""
    value = state[name]
    if isinstance(value, Mapping):
        raise KeyError(f"{name} holds a tree, not an array")
    return value


def tree_in(state: StateTree, name: str) -> StateTree:
    """The subtree called ``name``; empty if a part had nothing to save. Raises KeyError if it is an array."""
    value = state.get(name, {})
    if not isinstance(value, Mapping):
        raise KeyError(f"{name} holds an array, not a tree")
    return value


def flattened(state: StateTree, prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays by path, for example ``map/keyframes/pose``."""
    flat: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def nested(flat: Mapping[str, np.ndarray]) -> StateTree:
    """The inverse of :func:`flattened`."""
    tree: dict[str, np.ndarray | StateTree] = {}
    branches: dict[str, dict[str, np.ndarray]] = {}
    for path, array in flat.items():
        name, _, rest = path.partition("/")
        if rest:
            branches.setdefault(name, {})[rest] = array
        else:
            tree[name] = array
    return tree | {name: nested(branch) for name, branch in branches.items()}
