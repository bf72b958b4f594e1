"""Checkpoints of a run: a small state file that names what lies in the append-only array file beside it.

The state file appears whole or not at all, and what it names is on the disk before it does, so that a run which is
killed at any moment goes on from its latest checkpoint. Only plain arrays are read back, nothing is executed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metric_slam import __version__
from metric_slam.checkpointable import flattened, nested
from metric_slam.config.schema import Config
from metric_slam.datasets.base import Dataset
from metric_slam.disk_store import DiskStore
from metric_slam.errors import OutputError, ResumeError

if TYPE_CHECKING:
    from metric_slam.slam import Slam

log = logging.getLogger(__name__)

FOLDER = "state"
_FILE = "state.npz"
_FORMAT = 4
_FREE_TO_CHANGE = ("state", "fusion")  # sections of the configuration that the trajectory does not depend on
_ANEW = "start anew with --overwrite"


class Checkpoints:
    """The checkpoints of one run below its results folder."""

    def __init__(self, results: Path, config: Config, dataset: Dataset, *, resume: bool) -> None:
        """With ``resume`` the run there is continued: raises ResumeError where it is not the same run or damaged."""
        self._folder, self._config, self._dataset = results / FOLDER, config, dataset
        self._identity = _identity(config, dataset)
        self._state: dict[str, np.ndarray] = {}
        self.done = 0
        """Frames that were processed before."""

        keep_bytes = None
        if resume:
            self._state, meta = _read(self._folder / _FILE)
            _check_same(self._folder / _FILE, meta["identity"], self._identity)
            self.done, keep_bytes = int(meta["done"]), int(meta["disk_bytes"])
        else:
            (self._folder / _FILE).unlink(missing_ok=True)
        self.disk = DiskStore(self._folder, budget_gb=config.state.disk_budget_gb, keep_bytes=keep_bytes)
        self._saved_s = time.monotonic()

    def restore(self, slam: Slam) -> None:
        """Brings a new system to where the run was."""
        if self.done:
            slam.restore(nested(self._state), self._dataset.__getitem__)
            self._state = {}
            log.info("the run goes on after %d frames", self.done)

    def after_frame(self, slam: Slam, done: int) -> None:
        """Save if it is time to."""
        interval_s = self._config.state.checkpoint_s
        if interval_s > 0 and time.monotonic() - self._saved_s >= interval_s:
            self.save(slam, done)

    def save(self, slam: Slam, done: int) -> None:
        """Write a checkpoint after ``done`` frames. Raises OutputError where the disk does not take it."""
        state = flattened(slam.state())
        self.disk.sync()
        meta = {"identity": self._identity, "done": done, "disk_bytes": self.disk.byte_count}
        path, partial = self._folder / _FILE, self._folder / f".{_FILE}.partial"
        try:
            with partial.open("wb") as file:
                arrays = {"meta": np.array(json.dumps(meta)), **state}
                np.savez(file, **arrays)  # type: ignore[arg-type]  # stubs: allow_pickle, new in numpy 2.2
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            reason = error.strerror or str(error)
            raise OutputError(f"cannot write {path}: {reason}; make room there or choose another --out") from error
        self._saved_s = time.monotonic()

    def save_last(self, slam: Slam, done: int) -> OutputError | None:
        """So that a run which ends early, or is killed while it finishes, can go on; returns what prevented it."""
        try:
            self.save(slam, done)
        except OutputError as error:
            log.warning("no checkpoint: %s", error)
            return error
        return None

    def remove(self) -> None:
        """The run is done: nothing is left to continue. What is still open can be read until it is let go."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def remove_unless_saved(self) -> None:
        """Leaves nothing behind where no checkpoint was written."""
        if not (self._folder / _FILE).is_file():
            self.remove()


def has_checkpoint(results: Path) -> bool:
    """True if the results folder holds an unfinished run."""
    return (results / FOLDER / _FILE).is_file()


def _identity(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What must be equal for a run to go on."""
    settings = config.model_dump(mode="json", exclude=set(_FREE_TO_CHANGE))
    first = hashlib.sha256(np.ascontiguousarray(dataset[config.input.start].image).tobytes()).hexdigest()
    sequence = {
        "name": dataset.name,
        "frames": len(dataset),
        "camera": dataset.camera.vector().tolist(),
        "times": hashlib.sha256(np.ascontiguousarray(dataset.times_s).tobytes()).hexdigest(),
        "first image": first,
    }
    return {"format": _FORMAT, "version": __version__, "sequence": sequence, "config": settings}


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not path.is_file():
        raise ResumeError(f"{path} does not exist: there is no unfinished run to continue; leave out --resume")
    try:
        with np.load(path, allow_pickle=False) as file:
            state = {name: file[name] for name in file.files}
        meta = json.loads(str(state.pop("meta")))
        return state, {"identity": meta["identity"], "done": meta["done"], "disk_bytes": meta["disk_bytes"]}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ResumeError(f"{path} is damaged ({type(error).__name__}): {_ANEW}") from error


def _check_same(path: Path, was: dict[str, Any], now: dict[str, Any]) -> None:
    for key, what in (("format", "another version of metric_slam"), ("version", "another version of metric_slam")):
        if was.get(key) != now[key]:
            raise ResumeError(f"{path} is of {what} ({was.get('version')}, this is {now['version']}): {_ANEW}")
    for key, value in now["sequence"].items():
        if was["sequence"].get(key) != value:
            name = was["sequence"].get("name")
            raise ResumeError(f"{path} is of another sequence ({name}, its {key} differs): give that one or {_ANEW}")
    for key in sorted(_flat(now["config"]).keys() | _flat(was["config"]).keys()):
        before, after = _flat(was["config"]).get(key), _flat(now["config"]).get(key)
        if before != after:
            raise ResumeError(f"{path} was made with {key}={before}, not {after}: give the same options or {_ANEW}")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
