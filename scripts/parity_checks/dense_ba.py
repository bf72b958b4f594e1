"""Steps of the dense bundle adjustment: the compiled kernel and ours in torch against DROID-SLAM's.

A kind is one way of the reference to place the damping: ``ba`` and ``prior`` on H before the Schur complement, ``moba``
on every block, ``*_cudadamp`` on the diagonal of S. ``it2`` is the step applied twice, with the reference's own limits
on the inverse depths after each. The flow weight 0.001, ridge 0.1 and damping 1e-4 are the reference's constants.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from metric_slam.errors import MissingDependencyError
from parity_checks import Fixture, FixtureError, Row, compare

TOLERANCE = 1e-9
FLOW_WEIGHT, RIDGE, DAMPING, DEPTH_FLOOR = 0.001, 0.1, 1e-4, 1e-7
OUTPUT = re.compile(r"fix(\d+)_(ba|prior|moba)(_cudadamp)?_it(\d+)_(poses|disps)")

Stepper = Callable[[Any, Any], tuple[np.ndarray, np.ndarray]]


def check(data: Fixture) -> list[Row]:
    """One row for each output and implementation."""
    try:
        import droid_backends

        from metric_slam.optimization.bundle_adjustment import native_problem
        from metric_slam.optimization.reference import dense_ba as dense_ba_reference
    except (ImportError, MissingDependencyError) as error:
        raise FixtureError(f"the compiled extensions cannot be imported ({error}): install the project") from error

    def kernel(window: Any, options: Any) -> tuple[np.ndarray, np.ndarray]:
        poses, inv_depth = window.poses.copy(), window.inv_depth.copy()
        problem = native_problem(replace(window, poses=poses, inv_depth=inv_depth))
        droid_backends.dense_ba_step(problem, options, ridge=RIDGE, damping=DAMPING)
        return poses, inv_depth

    def reference(window: Any, options: Any) -> tuple[np.ndarray, np.ndarray]:
        state = dense_ba_reference.step(window, options, ridge=RIDGE, damping=DAMPING)
        if state is None:
            return window.poses, window.inv_depth
        return state.poses.numpy(), state.inv_depth.numpy()

    outputs = [match for match in map(OUTPUT.fullmatch, data) if match]
    if not outputs:
        raise FixtureError("no output of the form fixN_KIND_itN_poses in it")
    steppers: dict[str, Stepper] = {"kernel": kernel, "reference": reference}
    return [_row(data, match, name, step) for name, step in steppers.items() for match in outputs]


def _row(data: Fixture, match: re.Match[str], implementation: str, step: Stepper) -> Row:
    fixed, kind, cuda_damping, iterations, output = match.groups()
    window, options = _window(data, int(fixed), kind), _options(kind, bool(cuda_damping))
    for _ in range(int(iterations)):
        poses, inv_depth = step(window, options)
        if kind != "moba":
            inv_depth = np.maximum(np.where(inv_depth > 10.0, 0.0, inv_depth), 0.0)
        window = replace(window, poses=poses, inv_depth=inv_depth)
    ours = window.poses if output == "poses" else window.inv_depth
    return compare(f"{implementation} {match[0]}", ours, data[match[0]], TOLERANCE)


def _options(kind: str, cuda_damping: bool) -> Any:
    import droid_backends

    options = droid_backends.DenseBaOptions()
    options.flow_weight = FLOW_WEIGHT
    if kind == "prior":
        options.prior_mode = droid_backends.PriorMode.DROID
    placement = "AFTER_SCHUR" if cuda_damping else "EVERY_BLOCK" if kind == "moba" else "BEFORE_SCHUR"
    options.damping = getattr(droid_backends.Damping, placement)
    return options


def _window(data: Fixture, fixed: int, kind: str) -> Any:
    from metric_slam.optimization.bundle_adjustment import BaWindow

    def array(name: str, dtype: type = np.float64) -> np.ndarray:
        return np.ascontiguousarray(data[name], dtype=dtype)

    poses = array(f"fix{fixed}_poses")
    n = len(poses)
    sensed = array("disps_sens")
    prior_depth_m = np.divide(1.0, sensed, out=np.zeros_like(sensed), where=sensed > 0)
    return BaWindow(
        intrinsics=array("intrinsics"),
        poses=poses,
        inv_depth=array("disps_gt" if kind == "moba" else "disps"),
        source=array("ii", np.int64),
        target=array("jj", np.int64),
        flow_target=array("target"),
        confidence=array("weight"),
        pose_free=np.arange(n) >= fixed,
        depth_free=np.full(n, kind != "moba"),
        prior_depth_m=prior_depth_m if kind == "prior" else None,
        prior_log_scale=np.zeros(n),
        depth_damping=array("eta") + (0.0 if kind == "prior" else DEPTH_FLOOR),
    )
