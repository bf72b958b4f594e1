"""A result outlives its run: by pickle, in memory, and as a folder that is read back to an equal one."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from metric_slam.disk_store import DiskArray, DiskImage, DiskStore
from metric_slam.errors import InputError, OutputError
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.result import KeyframeResult, LoopResult, ScaleObservation, SlamResult
from metric_slam.trajectory import read_tum

CAMERA = PinholeCamera(80.1, 80.2, 48.3, 32.4, 96, 64)
FRAMES = 5


def pose(x_m: float) -> np.ndarray:
    """A pose whose numbers no text file with few digits keeps."""
    T_world_cam = np.eye(4)
    T_world_cam[0, 3] = x_m / 3
    return T_world_cam


def keyframe(index: int, store: DiskStore) -> KeyframeResult:
    random = np.random.default_rng(index)
    grid = (CAMERA.height // 8, CAMERA.width // 8)
    has_prior = index > 0
    return KeyframeResult(
        index=index,
        time_s=0.1 * index + 1 / 3,
        T_world_cam=pose(index),
        camera=CAMERA,
        image=store.put_image(random.integers(0, 255, (64, 96, 3), dtype=np.uint8)),
        inv_depth=random.random(grid, np.float32),
        confidence=random.random(grid, np.float32),
        prior_depth_m=random.random(grid, np.float32) if has_prior else None,
        prior_confidence=random.random(grid, np.float32) if has_prior else None,
        prior_log_scale=1 / 3,
        dense_inv_depth=store.put(random.random((64, 96), np.float32)) if has_prior else None,
        consistent_views=random.integers(0, 4, grid, dtype=np.uint8),
        ignore_cells=random.random(grid) < 0.2 if has_prior else None,
    )


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path / "state")


@pytest.fixture
def result(store: DiskStore) -> SlamResult:
    return SlamResult(
        frame_indices=np.arange(FRAMES),
        times_s=np.arange(FRAMES) / 7,
        T_world_cam=np.stack([pose(i) for i in range(FRAMES)]),
        is_keyframe=np.arange(FRAMES) % 2 == 0,
        tracked=np.arange(FRAMES) != 3,
        keyframes=[keyframe(i, store) for i in range(0, FRAMES, 2)],
        scale_source="ground_plane",
        scale_observations=[ScaleObservation(2, 1 / 3, 0.1, True)],
        solver_status_counts={"converged": 3},
        inlier_ratio=np.linspace(0.3, 1.0, FRAMES),
        submap=np.zeros(FRAMES, np.int64),
        loops=[LoopResult(4, 0, 1 / 3, 0.2, 0.9)],
        timings_s={"track": 1 / 3},
    )


def assert_equal(one: SlamResult, other: SlamResult, *, images: bool = True) -> None:
    """Every field is the same to the last bit; images as their pixels."""
    for entry in fields(SlamResult):
        if entry.name == "keyframes":
            continue
        a, b = getattr(one, entry.name), getattr(other, entry.name)
        np.testing.assert_array_equal(a, b, err_msg=entry.name)
        assert not isinstance(a, np.ndarray) or a.dtype == b.dtype, entry.name
    assert len(one.keyframes) == len(other.keyframes)
    for first, second in zip(one.keyframes, other.keyframes, strict=True):
        for entry in fields(KeyframeResult):
            if entry.name == "image" or (entry.name == "dense_inv_depth" and not images):
                continue
            a, b = getattr(first, entry.name), getattr(second, entry.name)
            assert (a is None) == (b is None), entry.name
            np.testing.assert_array_equal(a, b, err_msg=entry.name)
        if images:
            np.testing.assert_array_equal(first.pixels, second.pixels)


def test_a_pickle_outlives_the_file_of_the_run(result: SlamResult, store: DiskStore, tmp_path: Path) -> None:
    expected = result.materialised()
    content = pickle.dumps(result)
    store.close()
    (tmp_path / "state" / "arrays.bin").unlink()
    assert_equal(pickle.loads(content), expected)


def test_a_pickle_is_read_in_another_process(result: SlamResult, store: DiskStore, tmp_path: Path) -> None:
    (tmp_path / "result.pickle").write_bytes(pickle.dumps(result))
    image_sum = sum(int(keyframe.pixels.sum()) for keyframe in result.keyframes)
    store.close()
    code = (
        "import pickle, sys; result = pickle.load(open(sys.argv[1], 'rb'));"
        "print(sum(int(k.pixels.sum()) for k in result.keyframes), result.keyframes[1].dense_inv_depth.shape)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "result.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{image_sum} (64, 96)"


def test_a_result_in_memory_needs_no_file(result: SlamResult, store: DiskStore) -> None:
    kept = result.materialised()
    assert isinstance(result.keyframes[1].dense_inv_depth, DiskArray)
    assert isinstance(kept.keyframes[1].dense_inv_depth, np.ndarray)
    assert_equal(kept, result)
    store.close()
    assert kept.keyframes[0].pixels.shape == (64, 96, 3)
    with pytest.raises(OutputError, match="is closed: take materialised"):
        _ = result.keyframes[0].pixels


def test_what_is_saved_is_loaded(result: SlamResult, store: DiskStore, tmp_path: Path) -> None:
    expected = result.materialised()
    assert result.save(tmp_path / "deep" / "out") == tmp_path / "deep" / "out"
    store.close()
    loaded = SlamResult.load(tmp_path / "deep" / "out")
    assert_equal(loaded, expected)
    assert isinstance(loaded.keyframes[0].image, DiskImage)
    assert_equal(pickle.loads(pickle.dumps(loaded)), expected)
    tum = read_tum(tmp_path / "deep" / "out" / "trajectory.tum")
    np.testing.assert_allclose(tum.T_world_cam, expected.T_world_cam, atol=1e-8)
    header = (tmp_path / "deep" / "out" / "frames.csv").read_text().splitlines()[0]
    assert header == "index,time_s,tracked,keyframe,inlier_ratio,submap"
    assert not [p for p in (tmp_path / "deep" / "out").rglob(".*")], "temporary files are left"


def test_an_image_in_memory_is_saved_too(result: SlamResult, tmp_path: Path) -> None:
    plain = [replace(k, image=k.pixels) for k in result.keyframes]
    replace(result, keyframes=plain).save(tmp_path / "out")
    assert_equal(SlamResult.load(tmp_path / "out"), result)


def test_without_images_the_rest_is_there(result: SlamResult, tmp_path: Path) -> None:
    result.save(tmp_path / "small", images=False)
    result.save(tmp_path / "large")
    size = {name: sum(p.stat().st_size for p in (tmp_path / name).rglob("*.npz")) for name in ("small", "large")}
    assert size["small"] < size["large"] / 2
    loaded = SlamResult.load(tmp_path / "small")
    assert_equal(loaded, result, images=False)
    with pytest.raises(InputError, match="keyframe 0 was saved without its image"):
        _ = loaded.keyframes[0].pixels


def test_a_saved_result_is_replaced_only_when_asked(result: SlamResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    with pytest.raises(OutputError, match="already holds a result.*overwrite=True"):
        result.save(tmp_path)
    fewer = replace(result, keyframes=result.keyframes[:1])
    fewer.save(tmp_path, overwrite=True)
    assert_equal(SlamResult.load(tmp_path), fewer)
    assert len(list((tmp_path / "keyframes").iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_named(result: SlamResult, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write .*file"):
        result.save(tmp_path / "file" / "below")


def test_what_cannot_be_loaded_is_named(result: SlamResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no result: there is no result\.npz"):
        SlamResult.load(tmp_path)
    result.save(tmp_path)
    (tmp_path / "keyframes" / "000002.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"000002\.npz is missing or damaged"):
        SlamResult.load(tmp_path)
    (tmp_path / "result.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"result\.npz is missing or damaged"):
        SlamResult.load(tmp_path)


def test_lengths_that_differ_are_refused(result: SlamResult) -> None:
    with pytest.raises(InputError, match=r"times_s has shape \(4,\), expected \(5,\)"):
        replace(result, times_s=result.times_s[:4])
    with pytest.raises(InputError, match=r"T_world_cam has shape .*expected \(5, 4, 4\)"):
        replace(result, T_world_cam=result.T_world_cam[:, :3])


def test_the_share_of_consistent_cells(result: SlamResult) -> None:
    counts = np.concatenate([k.consistent_views[k.confidence > 0] for k in result.keyframes])
    assert result.consistent_share == pytest.approx(np.mean(counts > 0))
