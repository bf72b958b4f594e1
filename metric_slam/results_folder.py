"""The folder a run writes (DESIGN §9): checked before the work starts, never overwritten silently, every file whole.

A file appears under its name only when it is complete: it is written beside its place and renamed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metric_slam.checkpoint import has_checkpoint
from metric_slam.errors import OutputError

RESULT_FILES = (
    "trajectory.tum",
    "trajectory_kitti.txt",
    "frames.csv",
    "loops.csv",
    "metrics.json",
    "run.json",
    "config.yaml",
    "map.ply",
    "mesh.ply",
    "map.png",
    "report.html",
)
"""Files of a run; what else lies in the folder belongs to the user and is never touched."""

RESULT_FOLDERS = {"keyframes": "*.npz", "plots": "*.png"}
"""Folders of a run and the files in them that are ours."""


@dataclass(frozen=True)
class ResultsFolder:
    """A folder that exists, can be written and holds no results that the user did not agree to replace."""

    path: Path
    overwrite: bool
    created: tuple[Path, ...]
    """Folders that did not exist before, innermost first."""

    @classmethod
    def prepare(cls, path: Path, overwrite: bool = False, resume: bool = False) -> ResultsFolder:
        """Create and probe the folder. Raises OutputError when it cannot be written or already holds results.

        With ``resume`` an unfinished run there goes on and replaces what it wrote before.
        """
        with explain_write_errors(path):
            existing = _existing_results(path)
            overwrite = overwrite or resume
            if has_checkpoint(path) and not overwrite:
                raise OutputError(
                    f"{path} holds an unfinished run; continue it with --resume, replace it with --overwrite or choose "
                    "another folder with --out"
                )
            if existing and not overwrite:
                raise OutputError(
                    f"{path} already holds results ({existing[0].name}); choose another folder with --out or replace "
                    "them with --overwrite"
                )
            for leftover in path.glob(".partial-*"):  # of a run that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            created = tuple(p for p in (path, *path.parents) if not p.exists())
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        return cls(path=path, overwrite=overwrite, created=created)

    def discard_if_empty(self) -> None:
        """Remove the folders that :meth:`prepare` created, as far as nothing was written into them."""
        for folder in self.created:
            if any(folder.iterdir()):
                return
            folder.rmdir()

    def remove_old_results(self) -> None:
        """Delete the results of an earlier run (only called once there is something to put in their place)."""
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
        """Yield a temporary path with the same suffix; it takes the name ``name`` when the block ends without error."""
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
        """Write one text file whole."""
        with self.whole_file(name) as path:
            path.write_text(text, encoding="utf-8")

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file whole; what is not a finite number becomes null."""
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


def jsonable(value: Any) -> Any:
    """Plain JSON types of nested mappings, sequences, numpy values and paths; NaN and infinity become None."""
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


def _existing_results(path: Path) -> list[Path]:
    files = [path / name for name in RESULT_FILES]
    inside = [file for name, pattern in RESULT_FOLDERS.items() for file in sorted((path / name).glob(pattern))]
    return [file for file in files if file.exists()] + inside
