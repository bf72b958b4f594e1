"""What the reference implementation reads of a problem and of the options of droid_backends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from metric_slam.geometry.grid_array import Array


class BaselinesLike(Protocol):
    """The attributes of :class:`metric_slam.optimization.window.Baselines`."""

    @property
    def pair(self) -> np.ndarray:
        """Pairs of keyframes, int64 [F, 2]."""
        ...

    @property
    def length_m(self) -> Iterable[float]:
        """Measured distances, metres [F]."""
        ...

    @property
    def sigma(self) -> Iterable[float]:
        """Standard deviations of their logarithms [F]."""
        ...


class WindowLike(Protocol):
    """The attributes of :class:`metric_slam.optimization.window.BaWindow`, described there."""

    @property
    def intrinsics(self) -> Array:
        """As in ``BaWindow``."""
        ...

    @property
    def poses(self) -> Array:
        """As in ``BaWindow``."""
        ...

    @property
    def inv_depth(self) -> Array:
        """As in ``BaWindow``."""
        ...

    @property
    def source(self) -> np.ndarray:
        """As in ``BaWindow``."""
        ...

    @property
    def target(self) -> np.ndarray:
        """As in ``BaWindow``."""
        ...

    @property
    def flow_target(self) -> Array:
        """As in ``BaWindow``."""
        ...

    @property
    def confidence(self) -> Array:
        """As in ``BaWindow``."""
        ...

    @property
    def pose_free(self) -> np.ndarray:
        """As in ``BaWindow``."""
        ...

    @property
    def depth_free(self) -> np.ndarray:
        """As in ``BaWindow``."""
        ...

    @property
    def prior_depth_m(self) -> Array | None:
        """As in ``BaWindow``."""
        ...

    @property
    def prior_weight(self) -> Array | None:
        """As in ``BaWindow``."""
        ...

    @property
    def prior_log_scale(self) -> Array | None:
        """As in ``BaWindow``."""
        ...

    @property
    def scale_anchor(self) -> Array | None:
        """As in ``BaWindow``."""
        ...

    @property
    def scale_previous(self) -> np.ndarray | None:
        """As in ``BaWindow``."""
        ...

    @property
    def depth_damping(self) -> Array | None:
        """As in ``BaWindow``."""
        ...

    @property
    def baselines(self) -> BaselinesLike:
        """As in ``BaWindow``."""
        ...


class Named(Protocol):
    """A value of an enumeration of the compiled module."""

    @property
    def name(self) -> str:
        """Name of the value, in capitals."""
        ...


class LossLike(Protocol):
    """``RobustLoss`` of droid_backends."""

    @property
    def kind(self) -> Named:
        """Which loss."""
        ...

    @property
    def width(self) -> float:
        """Residual length at which it bends."""
        ...


class OptionsLike(Protocol):
    """``DenseBaOptions`` of droid_backends (dense_ba.h)."""

    @property
    def iterations(self) -> int:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def prior_mode(self) -> Named:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def flow_loss(self) -> LossLike:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def prior_loss(self) -> LossLike:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def baseline_loss(self) -> LossLike:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def flow_weight(self) -> float:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def droid_alpha(self) -> float:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def scale_sigma(self) -> float:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def scale_step_sigma(self) -> float:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def min_inv_depth(self) -> float:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def max_inv_depth(self) -> float:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def initial_damping(self) -> float:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def ridge(self) -> float:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def min_relative_decrease(self) -> float:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def invalid_residual(self) -> float:
        """As in ``DenseBaOptions``."""
        ...

    @property
    def damping(self) -> Named:
        """As in ``DenseBaOptions``."""
        ...
