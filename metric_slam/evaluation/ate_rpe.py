"""Absolute and relative trajectory error through evo (github.com/MichaelGrupp/evo), the tool that papers quote.

evo is GPL-3 software: only this module imports it, inside functions. Where it is missing, a run still reports drift.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from metric_slam.errors import EvaluationError, MissingDependencyError

EvoAlignment = Literal["none", "origin", "scale", "se3", "sim3"]
DeltaUnit = Literal["frames", "metres"]

ALIGNMENTS: dict[EvoAlignment, str] = {
    "none": "poses compared as given",
    "origin": "no alignment, first poses made equal",
    "scale": "Umeyama's scale only",
    "se3": "SE(3) Umeyama alignment",
    "sim3": "Sim(3) Umeyama alignment",
}
"""Name of each alignment and what evo does to the estimate."""

MISSING_EVO = "evo is not installed: pip install evo"

_OPTIONS: dict[str, dict[str, bool]] = {
    "none": {},
    "origin": {"align_origin": True},
    "scale": {"correct_scale": True},
    "se3": {"align": True},
    "sim3": {"align": True, "correct_scale": True},
}


def require_evo() -> None:
    """Raise MissingDependencyError with the command that installs evo, unless it is there."""
    if importlib.util.find_spec("evo") is None:
        raise MissingDependencyError(MISSING_EVO)


def absolute_error(estimate: np.ndarray, truth: np.ndarray, alignment: EvoAlignment) -> dict[str, Any]:
    """APE (papers: ATE) of ``estimate`` against ``truth``, both [N, 4, 4]: evo's statistics.

    Returns ``translation_m`` and ``rotation_deg``, each with rmse, mean, median, std, min, max, sse.
    Raises MissingDependencyError without evo, EvaluationError where evo refuses (degenerate path).
    """
    require_evo()
    from evo import main_ape

    return _both_parts(main_ape.ape, estimate, truth, alignment)


def relative_error(
    estimate: np.ndarray,
    truth: np.ndarray,
    alignment: EvoAlignment,
    *,
    delta: float,
    unit: DeltaUnit,
    all_pairs: bool = False,
) -> dict[str, Any]:
    """RPE over pairs ``delta`` frames or metres (along the estimate, evo's default) apart.

    Arguments, result and errors else as in :func:`absolute_error`. Pairs follow one another unless ``all_pairs``.
    """
    require_evo()
    from evo import main_rpe
    from evo.core.metrics import Unit

    delta_unit = Unit.frames if unit == "frames" else Unit.meters
    options = {"delta": delta, "delta_unit": delta_unit, "all_pairs": all_pairs}
    return _both_parts(main_rpe.rpe, estimate, truth, alignment, **options)


def _both_parts(
    metric: Callable[..., Any], estimate: np.ndarray, truth: np.ndarray, alignment: EvoAlignment, **options: Any
) -> dict[str, Any]:
    """Run one of evo's two metrics for translation and for rotation, on fresh copies (evo aligns in place)."""
    from evo import EvoException
    from evo.core.metrics import PoseRelation
    from evo.core.trajectory import PosePath3D

    parts = {"translation_m": PoseRelation.translation_part, "rotation_deg": PoseRelation.rotation_angle_deg}
    result: dict[str, Any] = {}
    for name, relation in parts.items():
        path_truth, path_estimate = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(np.copy(estimate)))
        try:
            outcome = metric(path_truth, path_estimate, relation, **_OPTIONS[alignment], **options)
        except EvoException as error:
            raise EvaluationError(f"evo: {' '.join(str(error).split())}") from error
        result[name] = {key: float(value) for key, value in outcome.stats.items()}
    return result
