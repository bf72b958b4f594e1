"""The arrays of one bundle adjustment problem."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from metric_slam.errors import InputError

Grid = np.ndarray | Tensor
"""Large arrays: numpy, or tensors on the device that solves."""

_ROW = 7  # of a pose: t xyz, q xyzw


@dataclass(frozen=True)
class Baselines:
    """Measured metric distances between keyframe centres, F of them."""

    pair: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """Keyframe positions in the window, int64 [F, 2]."""

    length_m: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float64 [F]."""

    sigma: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Standard deviation of log(length), float64 [F]."""


@dataclass(frozen=True)
class BaWindow:
    """One problem: N keyframes, E directed edges, on a grid of h x w cells."""

    intrinsics: np.ndarray
    """fx, fy, cx, cy of the grid camera, float64 [4]."""

    poses: np.ndarray
    """T_cam_world: t xyz, q xyzw, float64 [N, 7]."""

    inv_depth: Grid
    """1/m, float64 [N, h, w]."""

    source: np.ndarray
    """int64 [E]."""

    target: np.ndarray
    """int64 [E]."""

    flow_target: Grid
    """Grid cells (x, y), float64 [E, h, w, 2]; tensors may be float32."""

    confidence: Grid
    """0..1, of the type of ``flow_target``, [E, h, w, 2]."""

    pose_free: np.ndarray
    """bool [N]: which poses may move."""

    depth_free: np.ndarray
    """bool [N]: which keyframes' inverse depths (and prior scales) may move."""

    prior_depth_m: Grid | None = None
    """float64 [N, h, w], 0 where the prior has no depth."""

    prior_weight: Grid | None = None
    """Confidence over variance of the prior's log depth, float64 [N, h, w]."""

    prior_log_scale: np.ndarray | None = None
    """s_k, float64 [N]; zeros when None."""

    scale_anchor: np.ndarray | None = None
    """Where s_k is pulled to, float64 [N]; zeros when None."""

    scale_previous: np.ndarray | None = None
    """Position of the keyframe whose s_k is coupled with this one's, int64 [N]; -1: none; None: the one before."""

    scale_sigma: float = 0.0
    """Standard deviation of s_k around its anchor; 0 holds the scales."""

    depth_damping: Grid | None = None
    """eta, float64 [N, h, w]."""

    baselines: Baselines = field(default_factory=Baselines)

    cell_step: int = 1
    """Grid subsampling factor: each cell of this problem stands for this many squared of the 1/8 grid."""


def check_window(window: BaWindow) -> None:
    """Raise InputError, with the name of the array, where shapes, types or keyframe numbers do not fit together."""
    N, E, F = len(window.poses), len(window.source), len(window.baselines.pair)
    grid = tuple(window.inv_depth.shape[1:])
    maps, flow = (N, *grid), (E, *grid, 2)
    expected: dict[str, tuple[object, tuple[int, ...], str]] = {
        "intrinsics": (window.intrinsics, (4,), "float64"),
        "poses": (window.poses, (N, _ROW), "float64"),
        "inv_depth": (window.inv_depth, maps, "float64"),
        "source": (window.source, (E,), "int64"),
        "target": (window.target, (E,), "int64"),
        "flow_target": (window.flow_target, flow, "float"),
        "confidence": (window.confidence, flow, "float"),
        "pose_free": (window.pose_free, (N,), "bool"),
        "depth_free": (window.depth_free, (N,), "bool"),
        "prior_depth_m": (window.prior_depth_m, maps, "float64"),
        "prior_weight": (window.prior_weight, maps, "float64"),
        "depth_damping": (window.depth_damping, maps, "float64"),
        "prior_log_scale": (window.prior_log_scale, (N,), "float64"),
        "scale_anchor": (window.scale_anchor, (N,), "float64"),
        "scale_previous": (window.scale_previous, (N,), "int64"),
        "baselines.pair": (window.baselines.pair, (F, 2), "int"),
        "baselines.length_m": (window.baselines.length_m, (F,), "float64"),
        "baselines.sigma": (window.baselines.sigma, (F,), "float64"),
    }
    for name, (array, shape, kind) in expected.items():
        if array is not None:
            _check_array(name, array, shape, kind)
    if (window.prior_depth_m is None) != (window.prior_weight is None):
        raise InputError("prior_depth_m and prior_weight must be given together")
    for name, numbers in (("source", window.source), ("target", window.target), ("baselines", window.baselines.pair)):
        if numbers.size and not (0 <= numbers.min() and numbers.max() < N):
            raise InputError(f"{name} names a keyframe outside 0..{N - 1}")
    previous = window.scale_previous
    if previous is not None and ((previous < -1) | (previous >= N) | (previous == np.arange(N))).any():
        raise InputError(f"scale_previous names a keyframe outside -1..{N - 1}, or the keyframe itself")


def _check_array(name: str, array: object, shape: tuple[int, ...], kind: str) -> None:
    if not isinstance(array, np.ndarray | Tensor):
        raise InputError(f"{name} must be an array, not {type(array).__name__}")
    if tuple(array.shape) != shape:
        raise InputError(f"{name} must have shape {list(shape)}, not {list(array.shape)}")
    found = str(array.dtype).removeprefix("torch.")
    allowed = {"float": ("float64", "float32"), "int": ("int64", "int32")}.get(kind, (kind,))
    if found not in allowed:
        raise InputError(f"{name} must be {' or '.join(allowed)}, not {found}")
