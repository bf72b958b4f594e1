"""Binary PLY files written part by part: only one part is in memory, and the file appears complete or not at all.

The header of a PLY file holds the counts of vertices and faces, so the parts collect in two temporary files beside the
target, and :meth:`PlyWriter.finish` joins them under a header and renames the result into place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

import numpy as np

from metric_slam.errors import InputError, OutputError

_PLACE, _COLOUR = ("x", "y", "z", "nx", "ny", "nz"), ("red", "green", "blue")
VERTEX = np.dtype([(name, "<f4") for name in _PLACE] + [(name, "u1") for name in _COLOUR])
FACE = np.dtype([("count", "u1"), ("indices", "<i4", 3)])


class PlyWriter:
    """Writes coloured points with normals, and triangles over them unless ``with_faces`` is False."""

    def __init__(self, path: Path, *, with_faces: bool) -> None:
        self.path = Path(path)
        self.with_faces = with_faces
        self.vertex_count = 0
        self.face_count = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._vertices = tempfile.TemporaryFile(dir=self.path.parent)
            self._faces = tempfile.TemporaryFile(dir=self.path.parent)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); choose another folder") from error

    def append(
        self, points: np.ndarray, normals: np.ndarray, colours: np.ndarray, triangles: np.ndarray | None = None
    ) -> None:
        """Add ``points`` and ``normals`` [n, 3], ``colours`` uint8 [n, 3], ``triangles`` [m, 3] (indices into them).

        Raises InputError for arrays of another shape or type.
        """
        count = len(points)
        for name, array in (("points", points), ("normals", normals), ("colours", colours)):
            if array.shape != (count, 3):
                raise InputError(f"{name} has shape {array.shape}, expected {(count, 3)}")
        if colours.dtype != np.uint8:
            raise InputError(f"colours has type {colours.dtype}, expected uint8")
        if triangles is not None and (triangles.ndim != 2 or triangles.shape[1] != 3):
            raise InputError(f"triangles has shape {triangles.shape}, expected [m, 3]")
        record = np.empty(count, VERTEX)
        for axis, name in enumerate("xyz"):
            record[name], record["n" + name] = points[:, axis], normals[:, axis]
        for channel, name in enumerate(_COLOUR):
            record[name] = colours[:, channel]
        self._vertices.write(record.tobytes())
        if self.with_faces and triangles is not None:
            faces = np.empty(len(triangles), FACE)
            faces["count"] = 3
            faces["indices"] = triangles + self.vertex_count
            self._faces.write(faces.tobytes())
            self.face_count += len(triangles)
        self.vertex_count += count

    def finish(self, comment: str) -> None:
        """Join the parts and rename the file into place; ``comment`` (one line) goes into the header."""
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name + ".")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(self._header(comment).encode("ascii"))
                for part in (self._vertices, self._faces):
                    part.seek(0)
                    shutil.copyfileobj(part, out, 1 << 20)
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path)
        except OSError as error:
            Path(temporary).unlink(missing_ok=True)
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); is the disk full?") from error
        finally:
            self.close()

    def close(self) -> None:
        """Drop the temporary parts; called by :meth:`finish`, or alone to abort."""
        for part in (self._vertices, self._faces):
            _close(part)

    def _header(self, comment: str) -> str:
        lines = ["ply", "format binary_little_endian 1.0", f"comment {comment}", f"element vertex {self.vertex_count}"]
        lines += [f"property float {name}" for name in _PLACE]
        lines += [f"property uchar {name}" for name in _COLOUR]
        if self.with_faces:
            lines += [f"element face {self.face_count}", "property list uchar int vertex_indices"]
        return "\n".join([*lines, "end_header", ""])


def _close(file: IO[bytes]) -> None:
    if not file.closed:
        file.close()
