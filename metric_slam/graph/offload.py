"""Arrays and images on their way to the disk: each is written once, however often it is asked for."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import TypeVar

import numpy as np

from metric_slam.disk_store import DiskArray, DiskImage, DiskStore
from metric_slam.geometry.grid_array import Array, on_host

Stored = TypeVar("Stored", DiskArray, DiskImage)

_IMAGES_IN_MEMORY = 24
"""Decoded images that are kept: loop closure looks at a dozen neighbours, fusion at a window."""


class Offloader:
    """Writes frozen arrays to the disk store and remembers where each one lies, by its identity.

    Images are decoded once per use: the latest ones stay in memory.
    """

    def __init__(self, disk: DiskStore) -> None:
        self.disk = disk
        self._arrays: dict[int, tuple[weakref.ref[object], DiskArray]] = {}
        self._images: dict[int, tuple[weakref.ref[object], DiskImage]] = {}
        self._decoded: OrderedDict[int, np.ndarray] = OrderedDict()

    def put(self, array: Array | DiskArray) -> DiskArray:
        """Write an array unless it lies on the disk already."""
        if isinstance(array, DiskArray):
            return array
        known = _recall(self._arrays, array)
        return known or self.note(array, self.disk.put(on_host(array)))

    def put_image(self, image: np.ndarray | DiskImage) -> DiskImage:
        """Write an image, uint8 [H, W, 3] RGB, losslessly compressed."""
        if isinstance(image, DiskImage):
            return image
        known = _recall(self._images, image)
        return known or self.note_image(image, self.disk.put_image(image))

    def note(self, array: Array, where: DiskArray) -> DiskArray:
        """Remember that ``array`` was read from, or written to, ``where``."""
        _note(self._arrays, array, where)
        return where

    def note_image(self, image: np.ndarray, where: DiskImage) -> DiskImage:
        """Remember that ``image`` was read from, or written to, ``where``; it may be asked for soon."""
        _note(self._images, image, where)
        self._keep(stored_image(where).offset, image)
        return where

    def image(self, image: np.ndarray | DiskImage) -> np.ndarray:
        """Pixels uint8 [H, W, 3] RGB, read-only; decoded if they are not in memory."""
        if not isinstance(image, DiskImage):
            return image
        key = stored_image(image).offset
        if key not in self._decoded:
            pixels = image.load()
            pixels.setflags(write=False)
            self._keep(key, pixels)
        self._decoded.move_to_end(key)
        return self._decoded[key]

    def _keep(self, key: int, pixels: np.ndarray) -> None:
        self._decoded[key] = pixels
        while len(self._decoded) > _IMAGES_IN_MEMORY:
            self._decoded.popitem(last=False)


def stored_image(image: DiskImage) -> DiskArray:
    """Where the png of an image lies on the disk."""
    assert isinstance(image.encoded, DiskArray), "an image of a finished result"
    return image.encoded


def _recall(known: dict[int, tuple[weakref.ref[object], Stored]], array: object) -> Stored | None:
    found = known.get(id(array))
    return found[1] if found is not None and found[0]() is array else None


def _note(known: dict[int, tuple[weakref.ref[object], Stored]], array: object, where: Stored) -> None:
    key = id(array)
    known[key] = weakref.ref(array, lambda _: known.pop(key, None)), where
