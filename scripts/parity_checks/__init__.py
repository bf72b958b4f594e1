"""Parity fixtures: how they are recognised and which module checks each kind.

A checker is a module of this package named after its kind, e.g. ``parity_checks/dense_ba.py``, with one function
``check(data: Fixture) -> list[Row]``. ``data["name"]`` is an array (npz) or an entry (json); ``compare`` makes a row.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class FixtureError(Exception):
    """A fixture that cannot be checked; the message is one line."""


@dataclass(frozen=True)
class Fixture(Mapping[str, Any]):
    """One file of reference numbers."""

    path: Path
    kind: str
    content: Mapping[str, Any]
    """Arrays of an npz, or the object of a json."""

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)


@dataclass(frozen=True)
class Row:
    """The comparison of one output."""

    output: str
    difference: float
    """Largest difference; NaN counts as above any tolerance."""

    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the difference is within tolerance."""
        return self.difference <= self.tolerance


KINDS: dict[str, frozenset[str]] = {
    "kitti_odometry_errors": frozenset({"ground_truth", "estimate", "kitti_odom_eval", "evo"}),
    "lietorch": frozenset({"SE3_xi", "SE3_X", "SE3_log_X", "SO3_X", "Sim3_X"}),
    "projective": frozenset({"poses", "disps", "coords", "Ji", "Jj", "Jz"}),
    "dense_ba": frozenset({"disps", "disps_gt", "poses_gt", "target", "weight", "eta"}),
    "droid_network": frozenset({"images_bgr_u8", "fmaps", "net_out", "delta"}),
    "droid_network_keys": frozenset({"state_dict", "released_checkpoint"}),
    "metric3d": frozenset({"input", "depth", "confidence", "gain"}),
    "metric3d_keys": frozenset({"models", "checkpoint"}),
}
"""Kind and the names by which it is recognised: all of them must be there."""


def load(path: Path) -> Fixture:
    """Read a fixture and recognise its kind. Raises FixtureError for an unreadable or unknown one."""
    content = _read_json(path) if path.suffix == ".json" else _read_npz(path)
    kinds = [kind for kind, names in KINDS.items() if names <= set(content)]
    if len(kinds) != 1:
        raise FixtureError(f"not a known fixture (it holds {', '.join(sorted(content)[:6])} ...)")
    return Fixture(path, kinds[0], content)


def check(fixture: Fixture) -> list[Row]:
    """Run the checker of the fixture's kind. Raises FixtureError where there is none or the fixture is incomplete."""
    name = f"{__name__}.{fixture.kind}"
    if importlib.util.find_spec(name) is None:
        raise FixtureError(f"no implementation of this fixture yet (kind {fixture.kind})")
    try:
        return importlib.import_module(name).check(fixture)
    except KeyError as error:
        raise FixtureError(f"the {fixture.kind} fixture lacks {error}") from error


def compare(output: str, ours: Any, reference: Any, tolerance: float, note: str = "") -> Row:
    """A row with the largest absolute difference of two arrays; another shape or a value that is not finite fails."""
    ours, reference = np.asarray(ours, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if ours.shape != reference.shape:
        return Row(output, float("nan"), tolerance, f"shape {ours.shape}, reference {reference.shape}")
    return Row(output, float(np.max(np.abs(ours - reference), initial=0.0)), tolerance, note)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise FixtureError(f"cannot be read as npz ({' '.join(str(error).split())})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FixtureError(f"cannot be read as json ({error})") from error
    if not isinstance(content, dict):
        raise FixtureError("cannot be read as a fixture: the json is no object")
    return content
