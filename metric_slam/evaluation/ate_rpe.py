"""Absolute and relative trajectory error through evo (github.com/MichaelGrupp/evo), the tool that papers quote.

evo is GPL-3 software: only this module imports it, inside functions. Where it is missing, a run still reports drift.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from metric_slam.errors import EvaluationError, MissingDependencyError
from metric_slam.evaluation.gaps import Gaps, left_out_reason, no_gaps

if TYPE_CHECKING:
    from evo.core.metrics import PE, PoseRelation
    from evo.core.trajectory import PosePath3D

EvoAlignment = Literal["none", "origin", "scale", "se3", "sim3"]
DeltaUnit = Literal["frames", "metres"]

ALIGNMENTS: dict[EvoAlignment, str] = {
    "none": "poses compared as given",
    "origin": "no alignment, first poses made equal",
    "scale": "Umeyama's scale only",
    "se3": "SE(3) Umeyama alignment",
    "sim3": "Sim(3) Umeyama alignment",
}
"""Name of each alignment and its effect on the estimate in evo."""

MISSING_EVO = "evo is not installed: pip install evo"


class Statistics(TypedDict):
    """Statistics of one kind of error, in the unit of its name."""

    rmse: float
    mean: float
    median: float
    std: float
    min: float
    max: float
    sse: float


class EvoErrors(TypedDict):
    """Errors of translation and of rotation."""

    translation_m: Statistics
    rotation_deg: Statistics


class PairErrors(EvoErrors):
    """Errors of pairs of poses, and how many pairs there are."""

    n_pairs: int
    n_pairs_left_out: int
    """Pairs that span a gap."""


def require_evo() -> None:
    """Raise MissingDependencyError with the command that installs evo, unless it is there."""
    if importlib.util.find_spec("evo") is None:
        raise MissingDependencyError(MISSING_EVO)


def absolute_error(estimate: np.ndarray, truth: np.ndarray, alignment: EvoAlignment) -> EvoErrors:
    """Compute the APE (papers: ATE) of ``estimate`` against ``truth``, both [N, 4, 4].

    Raises MissingDependencyError without evo, EvaluationError where evo refuses (degenerate path).
    """
    require_evo()
    from evo.core.metrics import APE

    with _evo_refusals():
        paths = _aligned(estimate, truth, alignment)
        return _both_parts(lambda relation: _errors(APE(relation), *paths))


def relative_error(
    estimate: np.ndarray,
    truth: np.ndarray,
    alignment: EvoAlignment,
    *,
    delta: float,
    unit: DeltaUnit,
    all_pairs: bool = False,
    gaps: Gaps | None = None,
) -> PairErrors:
    """Compute the RPE over pairs ``delta`` frames or metres (along the estimate, evo's default) apart.

    Pairs follow one another unless ``all_pairs``. They are chosen within each stretch between ``gaps`` of the N poses
    (None: there are none); pairs that would span a gap, had the sequence none, are counted as left out.
    Arguments and errors else as in :func:`absolute_error`; EvaluationError also where no pair is left.
    """
    require_evo()
    from evo.core.metrics import RPE, Unit, id_pairs_from_delta

    delta_unit = Unit.frames if unit == "frames" else Unit.meters
    gaps = gaps if gaps is not None else no_gaps(len(truth))
    with _evo_refusals():
        paths = _aligned(estimate, truth, alignment)
        pairs = np.array(id_pairs_from_delta(paths[1].poses_se3, delta, delta_unit, all_pairs=all_pairs))
        left_out = int(gaps.spanned(pairs[:, 0], pairs[:, 1]).sum())
        stretches = [_part(paths, rows) for rows in gaps.stretches()]
        if gaps.count:
            stretches = [part for part in stretches if _has_pair(part[1], delta, delta_unit, all_pairs)]
        if not stretches:
            raise EvaluationError(f"no pair is left: {left_out_reason(left_out, 'pairs')}")

        def of_pairs(relation: PoseRelation) -> np.ndarray:
            metrics = [RPE(relation, delta, delta_unit, all_pairs=all_pairs) for _ in stretches]
            return np.concatenate([_errors(m, *part) for m, part in zip(metrics, stretches, strict=True)])

        counted = sum(
            len(id_pairs_from_delta(p.poses_se3, delta, delta_unit, all_pairs=all_pairs)) for _, p in stretches
        )
        return {**_both_parts(of_pairs), "n_pairs": counted, "n_pairs_left_out": left_out}


@contextmanager
def _evo_refusals() -> Iterator[None]:
    """Turn the exceptions of evo into EvaluationError."""
    from evo import EvoException

    try:
        yield
    except EvoException as error:
        raise EvaluationError(f"evo: {' '.join(str(error).split())}") from error


def _aligned(estimate: np.ndarray, truth: np.ndarray, alignment: EvoAlignment) -> tuple[PosePath3D, PosePath3D]:
    """True path and aligned estimate as evo's paths, on copies (evo aligns in place)."""
    from evo.core.trajectory import PosePath3D

    true_path, path = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(np.copy(estimate)))
    if alignment == "origin":
        path.align_origin(true_path)
    elif alignment != "none":
        path.align(true_path, correct_scale=alignment == "sim3", correct_only_scale=alignment == "scale")
    return true_path, path


def _part(paths: tuple[PosePath3D, PosePath3D], rows: slice) -> tuple[PosePath3D, PosePath3D]:
    """The same rows of both paths."""
    from evo.core.trajectory import PosePath3D

    return PosePath3D(poses_se3=paths[0].poses_se3[rows]), PosePath3D(poses_se3=paths[1].poses_se3[rows])


def _has_pair(path: PosePath3D, delta: float, delta_unit: object, all_pairs: bool) -> bool:
    """Whether a stretch is long enough to hold a pair."""
    from evo.core.filters import FilterException
    from evo.core.metrics import id_pairs_from_delta

    try:
        return len(id_pairs_from_delta(path.poses_se3, delta, delta_unit, all_pairs=all_pairs)) > 0
    except FilterException:
        return False


def _errors(metric: PE, true_path: PosePath3D, path: PosePath3D) -> np.ndarray:
    """Error of every pose or pair."""
    metric.process_data((true_path, path))
    return np.asarray(metric.error)


def _both_parts(errors: Callable[[PoseRelation], np.ndarray]) -> EvoErrors:
    """Statistics of the errors of translation and of rotation."""
    from evo.core.metrics import PoseRelation

    return {
        "translation_m": _statistics(errors(PoseRelation.translation_part)),
        "rotation_deg": _statistics(errors(PoseRelation.rotation_angle_deg)),
    }


def _statistics(errors: np.ndarray) -> Statistics:
    """Statistics of evo over some errors (``evo.core.metrics.PE.get_statistic``)."""
    square = np.square(errors)
    return {
        "rmse": float(np.sqrt(square.mean())),
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "std": float(errors.std()),
        "min": float(errors.min()),
        "max": float(errors.max()),
        "sse": float(square.sum()),
    }
