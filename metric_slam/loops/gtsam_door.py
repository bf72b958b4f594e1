"""The only door to GTSAM, which has no type stubs: the classes that pose graphs use, and the error where it is absent.

Its tangent vectors are (rotation, translation[, log-scale]); those of ``lie`` begin with the translation.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Protocol

import numpy as np

from metric_slam.errors import MissingDependencyError


class Pose(Protocol):
    """``gtsam.Pose3``."""

    def matrix(self) -> np.ndarray:
        """[4, 4]."""
        ...


class Similarity(Protocol):
    """``gtsam.Similarity3``: x -> scale (R x + t)."""

    def rotation(self) -> Pose:
        """``gtsam.Rot3``, whose matrix is [3, 3]."""
        ...

    def translation(self) -> np.ndarray:
        """T [3]."""
        ...

    def scale(self) -> float:
        """Of lengths."""
        ...


class Values(Protocol):
    """``gtsam.Values``, keys 0..N-1."""

    def insert(self, key: int, value: object) -> None:
        """Adds a pose."""
        ...

    def atPose3(self, key: int) -> Pose:
        """A rigid pose."""
        ...

    def atSimilarity3(self, key: int) -> Similarity:
        """A similarity."""
        ...


class Factor(Protocol):
    """``gtsam.NonlinearFactor``."""

    def error(self, values: Values) -> float:
        """Half the squared residual."""
        ...


class Graph(Factor, Protocol):
    """``gtsam.NonlinearFactorGraph``."""

    def add(self, factor: Factor) -> None:
        """Adds a factor."""
        ...

    def size(self) -> int:
        """Number of factors."""
        ...


def load_gtsam() -> ModuleType:
    """The package.

    Raises:
        MissingDependencyError: GTSAM is not installed.
    """
    try:
        return importlib.import_module("gtsam")
    except ImportError as error:
        raise MissingDependencyError(f"loop closure needs GTSAM ({error}): `pip install gtsam`") from error
