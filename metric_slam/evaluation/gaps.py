"""Gaps of a comparison: places where successive compared poses are not neighbours; no segment or pair spans one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metric_slam.errors import InputError

LOST_TIME_FACTOR = 1.5
"""A time step longer than this many median steps is a gap: between one frame interval and the two of a lost frame."""

PROTOCOL = (
    "a gap lies where frames between two compared poses have no ground truth, or where the time between two frames is "
    f"longer than {LOST_TIME_FACTOR:g} median frame intervals; segments and pairs that span a gap are left out"
)


@dataclass(frozen=True)
class Gaps:
    """The compared poses of a sequence, divided into stretches without a gap."""

    stretch: np.ndarray
    """Number of the stretch of each compared pose, int64 [M], from 0, ascending."""

    missing_truth: int = 0
    """Gaps made by frames without ground truth."""

    lost_time: int = 0
    """Gaps made by a jump of the time stamps."""

    frames_without_truth: int = 0
    """Frames without ground truth, those before the first and after the last compared pose included."""

    longest_s: float | None = None
    """Duration of the longest gap in seconds; None without time stamps or without a gap."""

    @property
    def count(self) -> int:
        """Number of gaps."""
        return self.missing_truth + self.lost_time

    def spanned(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return which pairs of compared poses ``first`` [P] and ``last`` [P] span a gap, bool [P]."""
        return self.stretch[first] != self.stretch[last]

    def stretches(self) -> list[slice]:
        """Return the rows of each stretch, in order."""
        starts = np.flatnonzero(np.diff(self.stretch, prepend=-1))
        return [slice(int(a), int(b)) for a, b in zip(starts, [*starts[1:], len(self.stretch)], strict=True)]


def no_gaps(count: int) -> Gaps:
    """Return ``count`` poses that all follow one another."""
    return Gaps(np.zeros(count, np.int64))


def find_gaps(known: np.ndarray, times_s: np.ndarray | None = None) -> Gaps:
    """Find the gaps between the frames with ground truth.

    ``known`` bool [N]: frames with ground truth, M of them; ``times_s`` [N]: time stamps of all frames, seconds.
    Raises InputError where the two do not fit.
    """
    known = np.asarray(known, dtype=bool)
    rows = np.flatnonzero(known)
    missing = np.diff(rows) > 1
    lost, longest_s = np.zeros(len(missing), bool), None
    if times_s is not None:
        times_s = np.asarray(times_s, dtype=np.float64)
        if times_s.shape != known.shape:
            raise InputError(f"times_s has shape {times_s.shape}, expected one time for each of {len(known)} poses")
        step_s = np.diff(times_s)
        if len(step_s):
            between_s = np.diff(times_s[rows])
            lost = ~missing & (between_s > LOST_TIME_FACTOR * np.median(step_s))
            longest_s = float(between_s[missing | lost].max()) if (missing | lost).any() else None
    stretch = np.concatenate([[0], np.cumsum(missing | lost)]) if len(rows) else np.zeros(0)
    return Gaps(stretch.astype(np.int64), int(missing.sum()), int(lost.sum()), int((~known).sum()), longest_s)


def left_out_reason(count: int, what: str) -> str | None:
    """Return why ``count`` segments or pairs (``what``) are not counted; None for none."""
    return None if count == 0 else f"{count} {what} span a gap in the ground truth or in time"
