"""Arrays evicted from memory to one append-only file, so that memory stays bounded on long drives.

Nothing in the file is ever overwritten: a run that is killed finds everything its last checkpoint names, whatever was
appended afterwards. Every array carries a checksum, which is verified on every read.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from metric_slam.errors import InputError, OutputError, ResumeError

FILE = "arrays.bin"
_GB = 1e9
_PNG_COMPRESSION = 1  # 0..9; higher levels take several times as long for a few per cent


@dataclass(frozen=True)
class DiskArray:
    """An array in the file of a store; ``np.asarray`` reads it, and pickling stores its content."""

    store: DiskStore
    offset: int
    dtype: str
    shape: tuple[int, ...]
    checksum: int

    def load(self) -> np.ndarray:
        """Read the array. Raises ResumeError if its content has changed, OutputError if the store is closed."""
        return self.store.read(self)

    def __reduce__(self) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[np.ndarray]]:
        """Pickle (and copy) as the array itself, which outlives the file."""
        return np.asarray, (self.load(),)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        array = self.load()
        return array if dtype is None else array.astype(dtype)

    @property
    def byte_count(self) -> int:
        """Length in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class DiskImage:
    """A colour image as png, on the disk or in memory: lossless, and half the size."""

    encoded: DiskArray | np.ndarray
    """Content of the png file, uint8 [n]."""

    @classmethod
    def of(cls, image: np.ndarray) -> DiskImage:
        """Encode ``image``, uint8 [H, W, 3] RGB; the result is in memory."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"image is {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3] in RGB order")
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION])
        return cls(encoded.reshape(-1))

    def load(self) -> np.ndarray:
        """Decode the image, uint8 [H, W, 3] RGB."""
        bgr = cv2.imdecode(np.asarray(self.encoded), cv2.IMREAD_COLOR)
        if bgr is None:
            raise ResumeError("the png of a keyframe's image is damaged: run again, or save the result again")
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    def in_memory(self) -> DiskImage:
        """The same image without a reference to the store."""
        return DiskImage(np.asarray(self.encoded))


class DiskStore:
    """Appends arrays to ``folder/arrays.bin``, or to a nameless temporary file without a folder, and reads them back.

    ``budget_gb`` bounds the file: an array that would exceed it raises OutputError, as does a full disk. With
    ``keep_bytes`` an existing file is continued after that length, otherwise a new one begins.
    """

    def __init__(
        self, folder: Path | None = None, *, budget_gb: float | None = None, keep_bytes: int | None = None
    ) -> None:
        if budget_gb is not None and not budget_gb > 0:
            raise InputError(f"budget_gb is {budget_gb}, expected a number of gigabytes greater than 0")
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
        data = content.data.cast("B") if content.size else memoryview(b"")
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
        return DiskImage(self.put(np.asarray(DiskImage.of(image).encoded)))

    def read(self, where: DiskArray) -> np.ndarray:
        """Read an array of this store. Raises ResumeError if its content has changed, OutputError if it is closed."""
        if self._file.closed:
            raise OutputError(
                f"{self._name} is closed: take materialised() of a result, or save() it, before the run's files go"
            )
        try:
            data = os.pread(self._file.fileno(), where.byte_count, where.offset)
        except OSError as error:
            raise OutputError(f"cannot read {self._name}: {error.strerror}; run again") from error
        if len(data) != where.byte_count or zlib.crc32(data) != where.checksum:
            raise ResumeError(f"{self._name} is damaged at byte {where.offset}: start anew with --overwrite")
        return np.frombuffer(bytearray(data), where.dtype).reshape(where.shape)

    def sync(self) -> None:
        """Flush everything to the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self._name}: {error.strerror}; make room there") from error

    def close(self) -> None:
        """Close the file; its arrays can no longer be read."""
        self._file.close()

    @property
    def _name(self) -> str:
        return "the temporary file of the run" if self._path is None else str(self._path)
