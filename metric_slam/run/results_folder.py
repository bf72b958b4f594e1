"""The folder a run writes: checked before the work starts, never overwritten silently, every file whole.

A file appears under its name only when it is complete: it is written beside its place and renamed. The folder is locked
during a run; the lock belongs to the operating system and to the folder itself, so it leaves no file and ends with the
process that holds it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metric_slam.errors import OutputError
from metric_slam.run.checkpoint import has_checkpoint

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]
"""Content of a JSON file: numbers, texts, lists and objects, nested as its writer documents."""

RESULT_FILES = (
    "trajectory.tum",
    "trajectory_kitti.txt",
    "frames.csv",
    "loops.csv",
    "result.npz",
    "metrics.json",
    "run.json",
    "config.yaml",
    "map.ply",
    "mesh.ply",
    "map.png",
    "report.html",
)
"""Files of a run; everything else in the folder belongs to the user and is never touched."""

RESULT_FOLDERS = {"keyframes": "*.npz", "plots": "*.png"}
"""Folders of a run and the files in them that are ours."""


class FolderLock:
    """Exclusive access to a folder, until :meth:`release` or the end of the process.

    Raises OutputError if another run, of this process or another one, holds it. Where the file system has no locks
    (some network drives) the run goes on without.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._close = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                self.release()
                raise OutputError(
                    f"{path} is being written by another run; wait until it is done or choose another folder with --out"
                ) from error
            log.info("%s cannot be locked (%s): no second run may write there", path, error.strerror)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        self._close()


@dataclass(frozen=True)
class ResultsFolder:
    """A results folder that exists, is writable and locked, and holds no results that the user wants to keep."""

    path: Path
    overwrite: bool
    created: tuple[Path, ...]
    """Folders that did not exist before, innermost first."""

    lock: FolderLock = field(repr=False, compare=False)

    @classmethod
    def prepare(cls, path: Path, overwrite: bool = False, resume: bool = False) -> ResultsFolder:
        """Create, lock and probe the folder.

        With ``resume`` an unfinished run there goes on and replaces what it wrote before. Raises OutputError when the
        folder cannot be written, is in use or already holds results.
        """
        overwrite = overwrite or resume
        with explain_write_errors(path):
            created = tuple(p for p in (path, *path.parents) if not p.exists())
            path.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(path)
            try:
                if not overwrite:
                    _refuse_existing(path)
                for leftover in path.glob(".partial-*"):  # of a run that was killed
                    shutil.rmtree(leftover, ignore_errors=True)
                with tempfile.TemporaryFile(dir=path):
                    pass
            except BaseException:
                lock.release()
                raise
        return cls(path=path, overwrite=overwrite, created=created, lock=lock)

    def release(self) -> None:
        """End of the run: remove folders that stayed empty, and release the lock."""
        try:
            self.discard_if_empty()
        finally:
            self.lock.release()

    def discard_if_empty(self) -> None:
        """Remove the folders that :meth:`prepare` created, up to the first that holds something."""
        for folder in self.created:
            if folder.is_dir():
                if any(folder.iterdir()):
                    return
                folder.rmdir()

    def remove_old_results(self) -> None:
        """Delete the results of an earlier run; to be called once there are new ones to put in their place."""
        assert self.overwrite or not _existing_results(self.path), self.path
        with explain_write_errors(self.path):
            for file in _existing_results(self.path):
                file.unlink()
            for name in RESULT_FOLDERS:
                folder = self.path / name
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    @contextmanager
    def whole_file(self, name: str) -> Iterator[Path]:
        """Yield a temporary path with the same suffix; it is renamed to ``name`` when the block ends without error."""
        final = self.path / name
        with explain_write_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary = final.with_name(f".{final.stem}.partial{final.suffix}")
            try:
                yield temporary
                os.replace(temporary, final)
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def whole_files(self) -> Iterator[Path]:
        """Yield a temporary folder; its files move into the results folder when the block ends without error."""
        with explain_write_errors(self.path):
            temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.path))
            try:
                yield temporary
                for file in sorted(file for file in temporary.rglob("*") if file.is_file()):
                    final = self.path / file.relative_to(temporary)
                    final.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def write_text(self, name: str, text: str) -> None:
        """Write one text file, which appears when it is complete."""
        with self.whole_file(name) as path:
            path.write_text(text, encoding="utf-8")

    def write_json(self, name: str, content: JsonObject) -> None:
        """Write one JSON file, which appears when it is complete; numbers that are not finite become null."""
        self.write_text(name, json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n")


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing below ``path`` into an OutputError with the remedy."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {place}: {reason}; choose another folder with --out") from error


def jsonable(value: object) -> object:
    """Convert nested mappings, sequences, numpy values and paths to JSON types; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _refuse_existing(path: Path) -> None:
    """Raise OutputError if the folder holds an unfinished run or results."""
    if has_checkpoint(path):
        raise OutputError(
            f"{path} holds an unfinished run; continue it with --resume, replace it with --overwrite or choose "
            "another folder with --out"
        )
    existing = _existing_results(path)
    if existing:
        raise OutputError(
            f"{path} already holds results ({existing[0].name}); choose another folder with --out or replace "
            "them with --overwrite"
        )


def _existing_results(path: Path) -> list[Path]:
    files = [path / name for name in RESULT_FILES]
    inside = [file for name, pattern in RESULT_FOLDERS.items() for file in sorted((path / name).glob(pattern))]
    return [file for file in files if file.exists()] + inside
