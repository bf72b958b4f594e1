"""What the network says of the pixels between the cells: kept per keyframe, through stops, until the map takes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metric_slam.disk_store import DiskArray, DiskStore
from metric_slam.reconstruction.pair_flow import KeyframeView
from metric_slam.result import KeyframeResult, SlamResult
from tests.oracle import DROID, config, oracle_slam, run, sensor, winding
from tests.scene import CAMERA, Drive, Street, feed

DRIVE = Drive(Street(waves=10), winding(20, 0.25), with_depth=True)


@pytest.fixture(scope="module")
def result() -> SlamResult:
    return run(config(), sensor(), DRIVE)[0]


def relative_error(keyframe: KeyframeResult, inv_depth: np.ndarray) -> np.ndarray:
    """Of the pixels between supported cells, without those at the edge between road and walls."""
    depth_m = DRIVE.street.render(DRIVE.path[keyframe.index])[1]
    inside = (keyframe.confidence > 0.5).repeat(8, axis=0).repeat(8, axis=1) & (depth_m > 0) & (depth_m < 30)
    return np.abs(inv_depth * depth_m - 1.0)[inside]


def test_the_dense_depth_is_the_true_depth(result: SlamResult) -> None:
    assert all(isinstance(keyframe.dense_inv_depth, DiskArray) for keyframe in result.keyframes)
    for keyframe in result.keyframes[1:-1]:
        dense = np.asarray(keyframe.dense_inv_depth)
        assert dense.shape == (CAMERA.height, CAMERA.width) and dense.dtype == np.float32
        error = relative_error(keyframe, dense)
        assert len(error) > 5000
        assert np.median(error) < 0.01 and np.quantile(error, 0.9) < 0.05


def test_the_map_takes_it_where_cells_are_supported(result: SlamResult) -> None:
    keyframe = result.keyframes[3]
    twice = replace(keyframe, dense_inv_depth=2.0 * np.asarray(keyframe.dense_inv_depth))
    (usual, confidence), (taken, same) = (KeyframeView(k).coarse for k in (replace(twice, dense_inv_depth=None), twice))
    supported = (keyframe.confidence > 0.02).repeat(8, axis=0).repeat(8, axis=1)
    assert 0.2 < supported.mean() < 1.0
    np.testing.assert_allclose(taken[supported], 2.0 * np.asarray(keyframe.dense_inv_depth)[supported])
    np.testing.assert_array_equal(taken[~supported], usual[~supported])
    np.testing.assert_array_equal(confidence, same)


def test_weights_of_old_keyframes_leave_memory_and_survive_a_stop() -> None:
    cfg, disk = config(droid={**DROID, "window": 4, "warm_up": 4}), DiskStore()
    first, _ = oracle_slam(cfg, DRIVE, sensor(), disk)
    feed(first, DRIVE, range(17))
    kept = [keyframe.upsample_weights for keyframe in first._parts.slam_map]
    assert isinstance(kept[0], DiskArray) and isinstance(kept[-2], np.ndarray)
    assert kept[0].byte_count == 18 * CAMERA.width * CAMERA.height and kept[-2].dtype == np.float16
    state = first.state()
    second, _ = oracle_slam(cfg, DRIVE, sensor(), disk)
    second.restore(state, DRIVE.__getitem__)
    for before, after in zip(kept, second._parts.slam_map, strict=True):
        assert type(before) is type(after.upsample_weights)
        if before is not None:
            np.testing.assert_array_equal(np.asarray(before), np.asarray(after.upsample_weights))
    for slam in (first, second):
        feed(slam, DRIVE, range(17, len(DRIVE)))
    for one, other in zip(first.finish().keyframes, second.finish().keyframes, strict=True):
        np.testing.assert_array_equal(np.asarray(one.dense_inv_depth), np.asarray(other.dense_inv_depth))


def test_updates_over_the_whole_trajectory_write_the_weights_once() -> None:
    cfg = config(global_ba={"updates": [0, 3]}, droid={**DROID, "window": 4, "warm_up": 4})
    slam, _ = oracle_slam(cfg, DRIVE, sensor())
    feed(slam, DRIVE)
    put: list[str] = []
    disk = slam._parts.slam_map.disk
    original = disk.put
    disk.put = lambda array: (put.append(array.dtype.str), original(array))[1]  # type: ignore
    result = slam.finish()
    assert 0 < put.count("<f2") <= len(result.keyframes)


def test_a_full_disk_costs_the_dense_depths_alone(caplog: pytest.LogCaptureFixture) -> None:
    size = CAMERA.width * CAMERA.height
    slam, _ = oracle_slam(config(), DRIVE, sensor())
    feed(slam, DRIVE)
    disk = slam._parts.slam_map.disk
    disk._budget_gb = (disk.byte_count + 6 * size) / 1e9
    with caplog.at_level("WARNING"):
        result = slam.finish()
    there = [keyframe.dense_inv_depth is not None for keyframe in result.keyframes]
    assert there[0] and not there[-1] and "no dense depths" in caplog.text and result.tracked.all()


def test_it_can_be_switched_off() -> None:
    result, slam, _ = run(config(droid={**DROID, "dense_depth": False}), sensor(), DRIVE)
    assert all(keyframe.dense_inv_depth is None for keyframe in result.keyframes)
    assert all(keyframe.upsample_weights is None for keyframe in slam._parts.slam_map)
