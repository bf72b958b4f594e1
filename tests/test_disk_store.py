"""What leaves memory comes back as it was, damage is noticed, and limits are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metric_slam.disk_store import DiskStore
from metric_slam.errors import OutputError, ResumeError


@pytest.mark.parametrize("folder", [True, False])
def test_arrays_come_back_as_they_were(tmp_path: Path, folder: bool) -> None:
    store = DiskStore(tmp_path if folder else None)
    arrays = [np.arange(12.0).reshape(3, 4), np.zeros((0, 2), np.int64), np.array([[True, False]]), np.float32([1.5])]
    stored = [store.put(array) for array in arrays]
    stored.append(store.put(arrays[0].T))
    for array, where in zip([*arrays, arrays[0].T], stored, strict=True):
        found = where.load()
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype and found.flags.writeable
        np.testing.assert_array_equal(np.asarray(where), array)


def test_images_are_kept_without_loss() -> None:
    image = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(DiskStore().put_image(image).load(), image)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    where = store.put(np.arange(100.0))
    content = bytearray((tmp_path / "arrays.bin").read_bytes())
    content[400] ^= 1
    (tmp_path / "arrays.bin").write_bytes(content)
    with pytest.raises(ResumeError, match="arrays.bin is damaged"):
        where.load()


def test_what_was_appended_after_a_checkpoint_is_forgotten(tmp_path: Path) -> None:
    first = DiskStore(tmp_path)
    kept = first.put(np.arange(10.0))
    size = first.byte_count
    first.put(np.ones(1000))
    first.close()
    again = DiskStore(tmp_path, keep_bytes=size)
    assert (tmp_path / "arrays.bin").stat().st_size == size == again.byte_count
    later = again.put(np.full(3, 7.0))
    assert later.offset == size
    np.testing.assert_array_equal(again.read(kept), np.arange(10.0))
    with pytest.raises(ResumeError, match="shorter than its checkpoint"):
        DiskStore(tmp_path, keep_bytes=10_000_000)


def test_the_budget_is_kept_and_named() -> None:
    store = DiskStore(budget_gb=1e-6)
    store.put(np.zeros(100))
    with pytest.raises(OutputError, match="disk budget of 1e-06 GB.*state.disk_budget_gb"):
        store.put(np.zeros(100))
    assert store.byte_count == 800


def test_a_full_disk_is_named() -> None:
    store = DiskStore()
    store._file = Path("/dev/full").open("r+b", buffering=0)  # every write there fails as on a full disk
    with pytest.raises(OutputError, match="No space left.*make room"):
        store.put(np.zeros(10))
