from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from metric_slam.datasets import Dataset, open_dataset
from metric_slam.datasets.synthetic import DriveSpec, cache_folder, drive, open_demo, render_drive
from metric_slam.datasets.synthetic.route import drive_poses
from metric_slam.errors import MissingDependencyError, OutputError
from metric_slam.frame import Frame

SPEC = DriveSpec(route="street", frames=12, width=320, height=96, noise_sigma=0.0)


def test_layout_is_that_of_kitti(drive_root: Path) -> None:
    data = open_dataset(drive_root)
    assert isinstance(data, Dataset)
    assert (len(data), data.camera.size) == (12, (320, 96))
    assert data.camera.fx == pytest.approx(0.58 * 320)
    np.testing.assert_allclose(data.times_s, np.arange(12) / 10)
    np.testing.assert_allclose(data.T_world_cam_true[0], np.eye(4), atol=1e-9)
    absolute = drive_poses(SPEC)
    np.testing.assert_allclose(data.T_world_cam_true, np.linalg.inv(absolute[0]) @ absolute, atol=1e-9)
    assert not list(drive_root.parent.glob(".rendering_*"))


def test_cache_is_used(drive_root: Path) -> None:
    calls: list[tuple[int, int]] = []
    demo = open_demo(SPEC, cache=drive_root.parent, progress=lambda *done: calls.append(done))
    assert demo.name == "synthetic/demo" and demo.mount.height_m == 1.65
    assert not calls


def test_same_spec_gives_same_pixels(drive_root: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    root = render_drive(replace(SPEC, frames=2), cache=tmp_path, progress=lambda *done: calls.append(done))
    assert calls == [(1, 2), (2, 2)]
    for name in ("image_2", "depth_2"):
        for k in range(2):
            file = Path("sequences") / "demo" / name / f"{k:06d}.png"
            assert (root / file).read_bytes() == (drive_root / file).read_bytes()


@pytest.mark.parametrize("workers", [1, 5])
def test_the_number_of_threads_does_not_change_a_byte(
    drive_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(drive, "worker_count", lambda: workers)
    root = render_drive(replace(SPEC, frames=6), cache=tmp_path)
    files = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    assert len(files) == 12
    assert all((root / file).read_bytes() == (drive_root / file).read_bytes() for file in files)


def test_all_usable_cores_render(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(os, "sched_getaffinity"):
        assert drive.worker_count() == min(len(os.sched_getaffinity(0)), drive.MAX_WORKERS)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert drive.worker_count() == 6
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(200)), raising=False)
    assert drive.worker_count() == drive.MAX_WORKERS


def test_the_remaining_time_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now_s = [100.0]
    monkeypatch.setattr(drive.time, "monotonic", lambda: now_s[0])
    report = drive._log_remaining()
    with caplog.at_level("INFO"):
        for done in range(1, 41):
            now_s[0] += 2.0
            report(done, 40)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "rendered 8 of 40 frames, 64 s left" and len(lines) == 4


def test_road_lies_one_camera_height_below(drive_root: Path) -> None:
    data, absolute = open_dataset(drive_root), drive_poses(SPEC)
    for index in (0, 7):
        frame = data[index]
        points_world = _points(frame) @ absolute[index][:3, :3].T + absolute[index][:3, 3]
        road = points_world[80:, 130:190]  # straight ahead, near
        np.testing.assert_allclose(road[..., 2], 0, atol=0.004)
        assert (frame.depth_m[:5, 160] == 0).any() or frame.depth_m[:5].max() < 200


def test_pictures_have_texture_and_sky(drive_root: Path) -> None:
    frame = open_dataset(drive_root)[3]
    grey = frame.image.astype(float).mean(axis=2)
    assert 60 < grey.mean() < 190 and grey.std() > 25
    assert grey[80:, 130:190].std() > 2  # grain of the asphalt
    sky = frame.depth_m == 0
    assert 0.02 < sky.mean() < 0.6
    assert frame.image[sky].mean(axis=0)[2] > frame.image[sky].mean(axis=0)[0]


def _points(frame: Frame) -> np.ndarray:
    return frame.camera.rays() * frame.depth_m[..., None]


def _photometric_error(a: Frame, b: Frame, shift_px: tuple[float, float]) -> float:
    """Median grey difference of ``a`` and ``b`` seen through the exact depth and poses, moved by ``shift_px``."""
    T = np.linalg.inv(b.T_world_cam_true) @ a.T_world_cam_true
    moved = _points(a) @ T[:3, :3].T + T[:3, 3]
    ahead = (a.depth_m > 0) & (moved[..., 2] > 1)
    uv = b.camera.project(np.where(ahead[..., None], moved, 1.0)).astype(np.float32)
    seen = cv2.remap(b.depth_m, uv[..., 0], uv[..., 1], cv2.INTER_NEAREST, borderValue=-1)
    valid = ahead & (np.abs(seen - moved[..., 2]) < 0.02 * moved[..., 2])
    assert valid.mean() > 0.3
    colours = cv2.remap(b.image, uv[..., 0] + shift_px[0], uv[..., 1] + shift_px[1], cv2.INTER_CUBIC)
    return float(np.abs(colours.astype(float) - a.image).mean(axis=2)[valid].mean())


def test_frames_agree_through_depth_and_pose_to_a_fraction_of_a_pixel(drive_root: Path) -> None:
    data = open_dataset(drive_root)
    for index in (0, 5, 10):
        exact = _photometric_error(data[index], data[index + 1], (0, 0))
        assert exact < 6
        for shift in ((0.35, 0), (-0.35, 0), (0, 0.35), (0, -0.35)):
            assert _photometric_error(data[index], data[index + 1], shift) > exact


def test_nothing_is_left_of_a_broken_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    class BrokenRenderer:
        def __init__(self, kit: object) -> None:
            self.rendered = 0

        def render(self, *args: object) -> tuple[np.ndarray, np.ndarray]:
            self.rendered += 1
            if self.rendered > 3:
                raise Stop
            return np.zeros((96, 320, 3), np.uint8), np.ones((96, 320), np.float32)

    pytest.importorskip("open3d", exc_type=ImportError)
    monkeypatch.setattr(drive, "Renderer", BrokenRenderer)
    monkeypatch.setattr(drive, "build_world", lambda spec: None)
    with pytest.raises(Stop):
        render_drive(SPEC, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cache_that_is_no_folder(tmp_path: Path) -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="METRIC_SLAM_CACHE"):
        render_drive(SPEC, cache=tmp_path / "file")


def test_cache_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METRIC_SLAM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("METRIC_SLAM_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "metric_slam"


def test_missing_open3d_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependencyError, match="libusb-1.0-0") as caught:
        render_drive(SPEC, cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
