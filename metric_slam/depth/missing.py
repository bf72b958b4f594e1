"""Bookkeeping of keyframes without a depth image: a warning, a summary, and an error if no keyframe has one."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from metric_slam.errors import DatasetError

logger = logging.getLogger(__name__)

MAX_WITHOUT_ANY = 30
"""Keyframes after which a source that never had depth is an error: a sensor that starts late or drops images has
delivered one by then."""


class MissingDepth:
    """Counts the keyframes with and without a depth image; ``kind`` names it in messages, e.g. "depth image"."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.keyframes = 0
        self.missing = 0

    def found(self) -> None:
        """Count a keyframe with depth."""
        self.keyframes += 1

    def lacks(self, problem: str) -> None:
        """Count a keyframe without depth; ``problem`` names the file and what is missing.

        Logs the first one as a warning. Raises DatasetError once ``MAX_WITHOUT_ANY`` keyframes all lack depth.
        """
        self.keyframes += 1
        self.missing += 1
        if self.missing == self.keyframes == MAX_WITHOUT_ANY:
            raise DatasetError(
                f"{problem}, nor have the {MAX_WITHOUT_ANY - 1} keyframes before; choose another --prior"
            )
        if self.missing == 1:
            logger.warning("%s: this keyframe gets no depth prior; others alike are only counted", problem)

    def summary(self) -> str | None:
        """One line with both counts; None if every keyframe had depth."""
        return f"{self.missing} of {self.keyframes} keyframes had no {self._kind}" if self.missing else None

    def state(self) -> dict[str, np.ndarray]:
        """Both counts, for a checkpoint."""
        return {"keyframes": np.array(self.keyframes), "missing_depth": np.array(self.missing)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a :meth:`state`."""
        self.keyframes, self.missing = int(state["keyframes"]), int(state["missing_depth"])
