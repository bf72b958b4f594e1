"""Images of keyframes are decoded once, and only so many stay in memory."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from metric_slam.config.schema import FusionConfig
from metric_slam.disk_store import DiskImage, DiskStore
from metric_slam.errors import InputError
from metric_slam.reconstruction.fusion import fuse
from metric_slam.reconstruction.images import KeyframeImages
from metric_slam.result import SlamResult
from tests.corridor import corridor_result

IMAGE_BYTES = 320 * 192 * 3


@pytest.fixture(scope="module")
def on_disk() -> SlamResult:
    """Eight keyframes of the corridor whose images lie on the disk."""
    result, disk = corridor_result(8), DiskStore()
    keyframes = [dataclasses.replace(k, image=disk.put_image(k.pixels)) for k in result.keyframes]
    return dataclasses.replace(result, keyframes=keyframes)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each image was decoded, by its place in the file."""
    count: Counter[int] = Counter()
    original = DiskImage.load

    def load(image: DiskImage) -> np.ndarray:
        count[image.encoded.offset] += 1
        return original(image)

    monkeypatch.setattr(DiskImage, "load", load)
    return count


def test_the_map_decodes_every_image_once(on_disk: SlamResult, decodes: Counter[int], tmp_path: Path) -> None:
    pytest.importorskip("open3d")
    summary = fuse(on_disk, FusionConfig(voxel_m=0.1), tmp_path)
    assert summary.fused_keyframe_count == 8 and summary.point_count > 1000
    assert len(decodes) == 8 and max(decodes.values()) == 1


def test_the_cache_returns_the_pixels_and_keeps_to_its_bound(on_disk: SlamResult, decodes: Counter[int]) -> None:
    images = KeyframeImages(on_disk.keyframes, 3 * IMAGE_BYTES)
    assert len(images) == 8
    for position in (0, 1, 2, 0, 3, 0, 2):
        np.testing.assert_array_equal(images[position], corridor_result(4).keyframes[position].image)
    assert sorted(decodes.values()) == [1, 1, 1, 1]
    images[1]  # was the least recently used one when 3 came
    assert sorted(decodes.values()) == [1, 1, 1, 2]


def test_without_memory_every_use_decodes(on_disk: SlamResult, decodes: Counter[int]) -> None:
    images = KeyframeImages(on_disk.keyframes, 0)
    assert images[5].shape == images[5].shape == (192, 320, 3)
    assert list(decodes.values()) == [2]
    with pytest.raises(InputError, match="max_bytes"):
        KeyframeImages(on_disk.keyframes, -1)
