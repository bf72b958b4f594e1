"""Trajectories as files (TUM and KITTI) and as arrays: reading, writing, change of reference camera, association.

A TUM row is ``time tx ty tz qx qy qz qw``; a KITTI row holds the twelve numbers of the upper 3x4 of ``T_world_cam``,
row by row, and its line number is the frame number. In both, ``T_world_cam`` maps camera coordinates to the world.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from metric_slam.errors import EvaluationError, InputError, OutputError
from metric_slam.geometry import lie

TUM_COLUMNS = 8
KITTI_COLUMNS = 12
MAX_TIME_DIFFERENCE_S = 0.02
"""Largest difference of associated time stamps: two thirds of a frame at 30 Hz, as in the TUM tools."""

_TIME_ROUNDING_S = 1e-6
"""Rounding error of a difference of Unix times in float64; added so that a tolerance includes its own bound."""

_MAX_ROTATION_DEFECT = 1e-2
"""Largest entry of ``R^T R - I`` that rounding in a text file explains."""


@dataclass(frozen=True)
class Trajectory:
    """Poses in order of time."""

    times_s: np.ndarray | None
    """Time stamps in seconds, float64 [N], strictly increasing; None for a file without them (KITTI)."""

    T_world_cam: np.ndarray
    """Camera to world, float64 [N, 4, 4]."""

    def __post_init__(self) -> None:
        shape = np.shape(self.T_world_cam)
        if len(shape) != 3 or shape[1:] != (4, 4):
            raise InputError(f"T_world_cam has shape {shape}, expected (N, 4, 4): one matrix per pose")
        if self.times_s is not None and np.shape(self.times_s) != shape[:1]:
            raise InputError(f"times_s has shape {np.shape(self.times_s)}, expected ({shape[0]},) as T_world_cam")

    def __len__(self) -> int:
        return len(self.T_world_cam)


@dataclass(frozen=True)
class Association:
    """Corresponding rows of two trajectories."""

    estimate_rows: np.ndarray
    """int64 [M]."""

    truth_rows: np.ndarray
    """int64 [M], same order."""

    protocol: str
    """Description of the method, for the metrics file."""


def write_tum(path: Path | str, times_s: np.ndarray, T_world_cam: np.ndarray) -> None:
    """Write a TUM file: ``times_s`` [N] in seconds, ``T_world_cam`` [N, 4, 4]; w of each quaternion is not negative.

    Raises InputError for other shapes, OutputError if the file cannot be written.
    """
    trajectory = Trajectory(np.asarray(times_s, dtype=np.float64), np.asarray(T_world_cam, dtype=np.float64))
    times_s, T = np.asarray(trajectory.times_s), trajectory.T_world_cam
    quaternions_xyzw = Rotation.from_matrix(T[:, :3, :3]).as_quat(canonical=True)
    rows = np.concatenate([times_s[:, None], T[:, :3, 3], quaternions_xyzw], axis=1)
    _write_rows(Path(path), rows, "%.9f", header="# time_s tx ty tz qx qy qz qw (T_world_cam)")


def write_kitti(path: Path | str, T_world_cam: np.ndarray) -> None:
    """Write a KITTI file of ``T_world_cam`` [N, 4, 4], one row per frame.

    Raises InputError for another shape, OutputError if the file cannot be written.
    """
    T = Trajectory(None, np.asarray(T_world_cam, dtype=np.float64)).T_world_cam
    _write_rows(Path(path), T[:, :3].reshape(-1, KITTI_COLUMNS), "%.9e")


def read_tum(path: Path | str) -> Trajectory:
    """Read a TUM file (``#`` starts a comment). Raises EvaluationError naming file and line for anything unusable."""
    rows, line_numbers = _read_rows(Path(path), expected=(TUM_COLUMNS,))
    return _from_tum_rows(Path(path), rows, line_numbers)


def read_kitti(path: Path | str) -> Trajectory:
    """Read a KITTI file.

    The rotations stay as written (few digits, not exactly orthonormal), as benchmark programs use them; see
    :func:`normalise_rotations`. Raises EvaluationError naming file and line for anything unusable.
    """
    rows, line_numbers = _read_rows(Path(path), expected=(KITTI_COLUMNS,))
    return _from_kitti_rows(Path(path), rows, line_numbers)


def read_trajectory(path: Path | str) -> Trajectory:
    """Read a TUM (8 numbers a row) or KITTI (12 numbers a row) file, recognised by its first row.

    Raises EvaluationError naming file and line for anything unusable.
    """
    rows, line_numbers = _read_rows(Path(path), expected=(TUM_COLUMNS, KITTI_COLUMNS))
    build = _from_tum_rows if rows.shape[1] == TUM_COLUMNS else _from_kitti_rows
    return build(Path(path), rows, line_numbers)


def normalise_rotations(T: np.ndarray) -> np.ndarray:
    """Replace each rotation of ``T`` [..., 4, 4] by the nearest one in the Frobenius norm (polar factor, by SVD)."""
    T = np.array(T, dtype=np.float64)
    U, _, Vt = np.linalg.svd(T[..., :3, :3])
    U[..., :, 2] *= np.sign(np.linalg.det(U @ Vt))[..., None]
    T[..., :3, :3] = U @ Vt
    return T


def to_reference_camera(T_world_cam: np.ndarray, T_cam_ref: np.ndarray) -> np.ndarray:
    """Compute the path of another camera of the same rig, in the world of its own first pose.

    ``T_world_cam`` [N, 4, 4], ``T_cam_ref`` [4, 4] (maps the reference camera to this one; KITTI: camera 0 to 2).
    Returns ``T_world_ref`` [N, 4, 4], normalised, first row the identity.
    """
    T_start_ref = normalise_rotations(np.asarray(T_world_cam) @ np.asarray(T_cam_ref))
    T_world_ref = normalise_rotations(lie.inverse(T_start_ref[0]) @ T_start_ref)
    T_world_ref[0] = np.eye(4)
    return T_world_ref


def associate(estimate: Trajectory, truth: Trajectory, max_difference_s: float = MAX_TIME_DIFFERENCE_S) -> Association:
    """Associate the rows of two trajectories: by nearest time stamp if both have stamps, else by row number.

    Raises EvaluationError if there are fewer than two pairs, or if rows without stamps outnumber the truth.
    """
    if estimate.times_s is None or truth.times_s is None:
        return _associate_by_row(estimate, truth)
    rows, truth_rows = associate_times(estimate.times_s, truth.times_s, max_difference_s)
    if len(rows) < 2:
        raise EvaluationError(
            f"{len(rows)} of {len(estimate)} time stamps of the estimate lie within {max_difference_s} s of the "
            f"reference's; the estimate spans {_span(estimate.times_s)}, the reference {_span(truth.times_s)}: "
            "check that both are of the same recording"
        )
    protocol = f"nearest time stamp within {max_difference_s} s: {len(rows)} of {len(estimate)} estimated poses paired"
    return Association(rows, truth_rows, protocol)


def associate_times(a_s: np.ndarray, b_s: np.ndarray, max_difference_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of mutually nearest stamps of ``a_s`` [N] and ``b_s`` [M] (both increasing), within ``max_difference_s``."""
    if len(a_s) == 0 or len(b_s) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    nearest_b = _nearest(a_s, b_s)
    mutual = _nearest(b_s, a_s)[nearest_b] == np.arange(len(a_s))
    a_rows = np.flatnonzero(mutual & (np.abs(a_s - b_s[nearest_b]) <= max_difference_s + _TIME_ROUNDING_S))
    return a_rows, nearest_b[a_rows]


def _nearest(of_s: np.ndarray, among_s: np.ndarray) -> np.ndarray:
    """Index of the nearest stamp in ``among_s`` [M] for each of ``of_s`` [N]; of two equally near, the earlier one."""
    right = np.clip(np.searchsorted(among_s, of_s), 0, len(among_s) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(np.abs(of_s - among_s[left]) <= np.abs(among_s[right] - of_s), left, right)


def _associate_by_row(estimate: Trajectory, truth: Trajectory) -> Association:
    if len(estimate) > len(truth):
        raise EvaluationError(
            f"the estimate has {len(estimate)} poses, the reference {len(truth)}, and without time stamps in both "
            "row n is frame n: give the reference of the whole sequence, or TUM files with time stamps"
        )
    if len(estimate) < 2:
        raise EvaluationError("the estimate has one pose: at least two are needed")
    rows = np.arange(len(estimate))
    protocol = f"row by row from the first: {len(estimate)} estimated poses against {len(truth)} of the reference"
    return Association(rows, rows.copy(), protocol)


def _span(times_s: np.ndarray) -> str:
    return f"{times_s[0]:.3f}..{times_s[-1]:.3f} s"


def _write_rows(path: Path, rows: np.ndarray, number_format: str, header: str | None = None) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise InputError(f"pose {bad[0]} for {path} is not finite: leave out poses without a number")
    try:
        with path.open("w", encoding="utf-8") as file:
            if header is not None:
                file.write(header + "\n")
            np.savetxt(file, rows, fmt=number_format)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): choose another results folder") from error


def _data_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number from 1, fields) of every line that holds something besides a comment."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not a text file: give a TUM or KITTI trajectory") from error
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror}): give a TUM or KITTI trajectory") from error
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("#", 1)[0].replace(",", " ").split()
        if fields:
            yield number, fields


def _read_rows(path: Path, expected: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
    """All rows as float64 [N, columns], each finite and of the first row's length, and their line numbers."""
    counts = " or ".join(f"{n} ({'TUM' if n == TUM_COLUMNS else 'KITTI'})" for n in expected)
    rows: list[list[float]] = []
    line_numbers: list[int] = []
    for number, fields in _data_lines(path):
        if len(fields) not in expected or (rows and len(fields) != len(rows[0])):
            wanted = counts if not rows else f"{len(rows[0])} as in the lines before"
            raise EvaluationError(f"{path}, line {number}: {len(fields)} numbers, expected {wanted}")
        rows.append(_parse(path, number, fields))
        line_numbers.append(number)
    if not rows:
        raise EvaluationError(f"{path} holds no pose: expected rows of {counts} numbers")
    return np.array(rows), line_numbers


def _parse(path: Path, number: int, fields: list[str]) -> list[float]:
    try:
        values = [float(field) for field in fields]
    except ValueError as error:
        raise EvaluationError(f"{path}, line {number}: not a number ({error})") from error
    if not np.isfinite(values).all():
        raise EvaluationError(f"{path}, line {number}: a number is not finite; remove the pose or run again")
    return values


def _from_tum_rows(path: Path, rows: np.ndarray, line_numbers: list[int]) -> Trajectory:
    norms = np.linalg.norm(rows[:, 4:], axis=1)
    bad = np.flatnonzero(np.abs(norms - 1.0) > _MAX_ROTATION_DEFECT)
    if len(bad):
        raise EvaluationError(
            f"{path}, line {line_numbers[bad[0]]}: the quaternion (columns 5-8: x y z w) has norm {norms[bad[0]]:.4g}"
            ", expected 1"
        )
    bad = np.flatnonzero(np.diff(rows[:, 0]) <= 0)
    if len(bad):
        line = line_numbers[bad[0] + 1]
        raise EvaluationError(f"{path}, line {line}: the time stamp is not later than the one before")
    T = np.tile(np.eye(4), (len(rows), 1, 1))
    T[:, :3, :3] = Rotation.from_quat(rows[:, 4:]).as_matrix()
    T[:, :3, 3] = rows[:, 1:4]
    return Trajectory(rows[:, 0].copy(), T)


def _from_kitti_rows(path: Path, rows: np.ndarray, line_numbers: list[int]) -> Trajectory:
    T = np.tile(np.eye(4), (len(rows), 1, 1))
    T[:, :3] = rows.reshape(-1, 3, 4)
    R = T[:, :3, :3]
    defect = np.abs(np.swapaxes(R, 1, 2) @ R - np.eye(3)).max(axis=(1, 2))
    bad = np.flatnonzero((defect > _MAX_ROTATION_DEFECT) | (np.linalg.det(R) < 0))
    if len(bad):
        raise EvaluationError(
            f"{path}, line {line_numbers[bad[0]]}: the 3x3 part is no rotation "
            f"(R^T R differs from I by {defect[bad[0]]:.2g}, det {np.linalg.det(R[bad[0]]):.2g}); "
            "expected the 12 numbers of [R | t]"
        )
    return Trajectory(None, T)
