"""How a solve ended: one report for the CPU solver, the CUDA solver and the reference implementation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class SolveStatus(str, Enum):
    """Why a solve ended; values as in results files."""

    CONVERGED = "converged"
    """The relative decrease of the cost fell below the limit."""

    MAX_ITERATIONS = "max_iterations"
    """The given number of linearisations was used up."""

    NOT_POSITIVE_DEFINITE = "not_positive_definite"
    """The reduced system could not be factorised, or an input is not finite."""

    NO_PROGRESS = "no_progress"
    """No damping gave a lower cost although the gradient is not small."""

    NOTHING_TO_DO = "nothing_to_do"
    """No edges, or no free variables."""

    def __str__(self) -> str:
        """The value, also in formatted strings and numpy arrays."""
        return str(self.value)


@dataclass(frozen=True)
class BaReport:
    """How one solve ended. Costs and trials are 0 for plain Gauss-Newton steps, which do not compute the cost."""

    status: SolveStatus
    iterations: int = 0
    """Linearisations."""

    trials: int = 0
    """Damped solves of the reduced system."""

    cost_initial: float = 0.0
    cost_final: float = 0.0
