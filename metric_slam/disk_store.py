"""Arrays that left memory: one append-only file. What a long drive no longer looks at daily lives here.

Nothing in the file is ever overwritten, so that a run which is killed finds everything that its last checkpoint names,
whatever was appended afterwards. Every array carries a checksum, which is verified whenever it is read.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from metric_slam.errors import OutputError, ResumeError

FILE = "arrays.bin"
_GB = 1e9


@dataclass(frozen=True)
class DiskArray:
    """Where an array lies; ``np.asarray`` reads it."""

    store: DiskStore
    offset: int
    dtype: str
    shape: tuple[int, ...]
    checksum: int

    def load(self) -> np.ndarray:
        """Read it. Raises ResumeError if it is not what was written."""
        return self.store.read(self)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        array = self.load()
        return array if dtype is None else array.astype(dtype)

    @property
    def byte_count(self) -> int:
        """Its length in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class DiskImage:
    """A colour image that lies there as png: lossless, and half the size."""

    encoded: DiskArray

    def load(self) -> np.ndarray:
        """uint8 [H, W, 3] RGB."""
        return cv2.cvtColor(cv2.imdecode(self.encoded.load(), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


class DiskStore:
    """Appends arrays to ``folder/arrays.bin`` and reads them back; without a folder to a nameless temporary file.

    ``budget_gb`` bounds the file: what would exceed it raises OutputError, as does a full disk. With ``keep_bytes`` an
    existing file is taken over and cut to that length, else it is begun anew.
    """

    def __init__(
        self, folder: Path | None = None, *, budget_gb: float | None = None, keep_bytes: int | None = None
    ) -> None:
        self._path = None if folder is None else folder / FILE
        self._budget_gb = budget_gb
        self._file = self._open(keep_bytes)
        self.byte_count = keep_bytes or 0
        """Length of the file."""

    def _open(self, keep_bytes: int | None) -> IO[bytes]:
        if self._path is None:
            assert keep_bytes is None
            return tempfile.TemporaryFile(buffering=0)
        try:
            if keep_bytes is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                return self._path.open("w+b", buffering=0)
            if not self._path.is_file() or self._path.stat().st_size < keep_bytes:
                raise ResumeError(
                    f"{self._path} is shorter than its checkpoint says: it is damaged; start anew with --overwrite"
                )
            file = self._path.open("r+b", buffering=0)
            file.truncate(keep_bytes)
            return file
        except OSError as error:
            reason = error.strerror
            raise OutputError(f"cannot open {self._path}: {reason}; choose another folder with --out") from error

    def put(self, array: np.ndarray) -> DiskArray:
        """Append an array."""
        content = np.ascontiguousarray(array)
        data = memoryview(content).cast("B") if content.size else memoryview(b"")
        if self._budget_gb is not None and self.byte_count + len(data) > self._budget_gb * _GB:
            raise OutputError(
                f"{self._name} would exceed the disk budget of {self._budget_gb:g} GB: allow more with "
                "state.disk_budget_gb, or use a smaller working size or --stride"
            )
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._file.fileno(), data[written:], self.byte_count + written)
        except OSError as error:
            raise OutputError(
                f"cannot write {self._name}: {error.strerror}; make room there or choose another folder with --out"
            ) from error
        where = DiskArray(self, self.byte_count, content.dtype.str, content.shape, zlib.crc32(data))
        self.byte_count += len(data)
        return where

    def put_image(self, image: np.ndarray) -> DiskImage:
        """Append a colour image, uint8 [H, W, 3] RGB."""
        _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        return DiskImage(self.put(encoded.reshape(-1)))

    def read(self, where: DiskArray) -> np.ndarray:
        """The array that lies there."""
        try:
            data = os.pread(self._file.fileno(), where.byte_count, where.offset)
        except OSError as error:
            raise OutputError(f"cannot read {self._name}: {error.strerror}; run again") from error
        if len(data) != where.byte_count or zlib.crc32(data) != where.checksum:
            raise ResumeError(f"{self._name} is damaged at byte {where.offset}: start anew with --overwrite")
        return np.frombuffer(bytearray(data), where.dtype).reshape(where.shape)

    def sync(self) -> None:
        """Return when everything is on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self._name}: {error.strerror}; make room there") from error

    def close(self) -> None:
        """Let go of the file; what lies there can no longer be read."""
        self._file.close()

    @property
    def _name(self) -> str:
        return "the temporary file of the run" if self._path is None else str(self._path)
