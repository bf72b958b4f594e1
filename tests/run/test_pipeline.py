"""What surrounds the SLAM core: the results folder is complete, and whatever ends a run loses nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from metric_slam.choices import resolve_device
from metric_slam.config.resolve import resolve_config
from metric_slam.config.schema import Config, InputConfig
from metric_slam.datasets import open_kitti
from metric_slam.errors import ConfigError, ImageError, MissingDependencyError, OutputError
from metric_slam.frame import Frame
from metric_slam.result import SlamResult
from metric_slam.run import pipeline
from metric_slam.trajectory import read_kitti, read_tum
from tests.fake_slam import FakeSlam, install_fake_slam, write_kitti_sequence

FRAMES = 12
WITHOUT_MAP = resolve_config(settings=["fusion.enabled=false"])


@pytest.fixture
def slam(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeSlam:
    """The core is replaced; so is the report, which takes seconds to draw, unless a test asks for it."""
    if request.node.get_closest_marker("real_report") is None:
        module = ModuleType("metric_slam.report.page")
        module.write_report = lambda folder, *_: (folder / "report.html").write_text("")  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "metric_slam.report.page", module)
    return install_fake_slam(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_kitti_sequence(tmp_path / "kitti", FRAMES)


def spoil(root: Path, index: int) -> None:
    """Make one image undecodable."""
    (root / "sequences" / "07" / "image_2" / f"{index:06d}.png").write_bytes(b"not a png")


def at_frame(slam: FakeSlam, index: int, act: Callable[[], None]) -> None:
    """Do something while frame ``index`` is being processed."""
    process = slam.process_frame

    def wrapped(frame: Frame) -> None:
        process(frame)
        if frame.index == index:
            act()

    slam.process_frame = wrapped  # type: ignore[method-assign]


@pytest.mark.real_report
def test_a_run_writes_everything(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), out, command=["metric-slam", "run", "a b"])

    tum, kitti = read_tum(out / "trajectory.tum"), read_kitti(out / "trajectory_kitti.txt")
    assert len(tum) == len(kitti) == FRAMES
    np.testing.assert_allclose(tum.times_s, 0.1 * np.arange(FRAMES), atol=1e-9)
    np.testing.assert_array_equal(kitti.T_world_cam[0], np.eye(4))
    np.testing.assert_allclose(kitti.T_world_cam[:, 2, 3], np.arange(FRAMES), atol=1e-9)

    assert resolve_config(out / "config.yaml") == WITHOUT_MAP
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(summary.metrics))
    assert metrics["fitted_scale"]["value"] == pytest.approx(1.0)
    assert (out / "report.html").exists() and list((out / "plots").glob("*.png"))

    info = json.loads((out / "run.json").read_text())
    assert info["sequence"] == "kitti/07" and info["command"] == "metric-slam run 'a b'"
    assert (info["frames"], info["keyframes"], info["frames_not_tracked"]) == (FRAMES, FRAMES // 2, 0)
    assert info["interrupted"] is False and info["error"] is None and info["warnings"] == []
    assert info["frames_per_s"] > 0 and info["peak_rss_mb"] > 10
    assert info["scale_source"] == "ground_plane" and info["choices"] == {"prior": "ground_plane: made up"}
    assert info["solver_status_counts"] == {"converged": FRAMES}
    assert {"read", "correspondence", "finish", "evaluation", "report", "total"} <= info["timings_s"].keys()
    assert set(info["process_latency"]) == {"p50_ms", "p99_ms", "max_ms"}
    assert info["versions"]["torch"] and info["seed"] == 0
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")], "temporary files are left"


def test_every_step_has_its_seconds_and_they_add_up(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    at_frame(slam, 3, lambda: time.sleep(0.25))
    finish = slam.finish

    def slow_finish() -> SlamResult:
        time.sleep(0.2)
        return finish()

    slam.finish = slow_finish  # type: ignore[method-assign]
    dataset = open_kitti(root, "07")
    summary = pipeline.run(WITHOUT_MAP, dataset, tmp_path / "out", steps_before_s={"rendering": 5.0})
    steps = summary.info["steps_s"]
    assert list(steps)[:4] == ["rendering", "setup", "tracking", "global BA"]
    assert list(steps)[-2:] == ["other", "total"] and {"writing", "evaluation", "report"} <= steps.keys()
    assert steps["rendering"] == 5.0 and steps["tracking"] >= 0.25 and 0.2 <= steps["global BA"] < steps["total"]
    assert sum(steps.values()) - steps["total"] == pytest.approx(steps["total"], abs=0.01)
    latency = summary.info["process_latency"]
    assert latency["p50_ms"] < 100 < 250 <= latency["max_ms"] and latency["p50_ms"] <= latency["p99_ms"]
    assert latency["p99_ms"] <= latency["max_ms"]


def test_the_results_folder_is_a_saved_result(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    summary = pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), tmp_path / "out")
    loaded = SlamResult.load(tmp_path / "out")
    np.testing.assert_array_equal(loaded.T_world_cam, summary.result.T_world_cam)
    assert loaded.timings_s == summary.result.timings_s and loaded.scale_source == "ground_plane"
    assert [k.index for k in loaded.keyframes] == [k.index for k in summary.result.keyframes]
    np.testing.assert_array_equal(loaded.keyframes[1].inv_depth, summary.result.keyframes[1].inv_depth)
    assert loaded.keyframes[0].image is None, "images stay in the data set"


def test_keyframes_are_written(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), tmp_path / "out")
    files = sorted((tmp_path / "out" / "keyframes").iterdir())
    assert [f.name for f in files] == [f"{i:06d}.npz" for i in range(0, FRAMES, 2)]
    with np.load(files[2]) as arrays:
        assert int(arrays["index"]) == 4
        assert arrays["inv_depth"].shape == arrays["confidence"].shape == (8, 12)
        np.testing.assert_allclose(arrays["T_world_cam"][2, 3], 4.0)
        np.testing.assert_allclose(arrays["grid_camera"][0], 10.0)
        assert float(arrays["prior_log_scale"]) == 0.01


def test_the_trajectory_is_that_of_camera_0(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    dataset = open_kitti(root, "07")
    quarter_turn = np.array([[0.0, 0, 1, 0.5], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    pipeline.run(WITHOUT_MAP, replace(dataset, T_cam_ref=quarter_turn), tmp_path / "out")
    rows = read_kitti(tmp_path / "out" / "trajectory_kitti.txt").T_world_cam
    np.testing.assert_array_equal(rows[0], np.eye(4))
    # forward of the camera used is -x of a reference camera that is turned by 90 degrees
    np.testing.assert_allclose(rows[5, :3, 3], quarter_turn[:3, :3].T @ [0, 0, 5.0], atol=1e-9)


def test_selected_frames_only(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    config = resolve_config(settings=["fusion.enabled=false", "input.start=2", "input.end=11", "input.stride=3"])
    summary = pipeline.run(config, open_kitti(root, "07"), tmp_path / "out")
    assert [f.index for f in slam.frames] == [2, 5, 8]
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == 3
    assert summary.metrics is not None and summary.metrics["fitted_scale"]["value"] == pytest.approx(1.0)


def test_without_truth_the_metrics_say_so(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    dataset = replace(open_kitti(root, "07"), T_world_cam_true=None)
    assert pipeline.run(WITHOUT_MAP, dataset, tmp_path / "out").metrics is None
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["headline"] is None and "no ground truth" in metrics["reason"]


def test_a_bad_image_ends_the_tracking_and_keeps_the_rest(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    spoil(root, 7)
    summary = pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), tmp_path / "out")
    assert isinstance(summary.failure, ImageError) and "000007.png" in str(summary.failure)
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == 7
    assert "000007.png" in summary.info["error"] and summary.info["interrupted"] is False
    assert any("7 of 12 frames" in warning for warning in summary.info["warnings"])


def test_a_bug_ends_the_tracking_and_is_raised_when_the_rest_is_written(
    slam: FakeSlam, root: Path, tmp_path: Path
) -> None:
    def bug() -> None:
        raise KeyError("cell")

    at_frame(slam, 7, bug)
    with pytest.raises(KeyError, match="cell") as caught:
        pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), tmp_path / "out")
    assert "bug" in [entry.name for entry in caught.traceback], "the traceback leads to where it happened"
    out = tmp_path / "out"
    assert len(read_kitti(out / "trajectory_kitti.txt")) == 8
    assert json.loads((out / "metrics.json").read_text())["n_poses"] == 8
    info = json.loads((out / "run.json").read_text())
    assert info["error"] == "KeyError: 'cell'" and info["interrupted"] is False
    assert (out / "report.html").exists() and (out / "keyframes").is_dir()


def test_a_bug_after_a_bug_hides_neither(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    def bug(*_: object) -> None:
        raise KeyError("cell")

    def consequence() -> SlamResult:
        raise ValueError("half a frame")

    at_frame(slam, 7, bug)
    slam.finish = consequence  # type: ignore[method-assign]
    with pytest.raises(KeyError, match="cell") as caught:
        pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), tmp_path / "out")
    assert isinstance(caught.value.__context__, ValueError)


def test_a_bug_at_the_first_frame_leaves_nothing_behind(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    def bug() -> None:
        raise KeyError("cell")

    at_frame(slam, 0, bug)
    with pytest.raises(KeyError, match="cell"):
        pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bad_first_image_leaves_nothing_behind(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    dataset = open_kitti(root, "07")
    spoil(root, 0)
    with pytest.raises(ImageError, match="000000.png"):
        pipeline.run(WITHOUT_MAP, dataset, tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_done(slam: FakeSlam, root: Path, tmp_path: Path, number: signal.Signals) -> None:
    handlers = signal.getsignal(number)
    at_frame(slam, 4, lambda: os.kill(os.getpid(), number))
    summary = pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), tmp_path / "out")
    assert summary.info["interrupted"] is True and summary.info["frames_selected"] == FRAMES
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == 5
    assert summary.metrics is not None and summary.metrics["n_poses"] == 5
    assert json.loads((tmp_path / "out" / "run.json").read_text())["interrupted"] is True
    assert signal.getsignal(number) == handlers


def test_a_second_ctrl_c_gives_up(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_frame(slam, 4, twice)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_finishing_lets_it_finish(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    finish = slam.finish

    def interrupted() -> SlamResult:
        os.kill(os.getpid(), signal.SIGINT)
        return finish()

    slam.finish = interrupted  # type: ignore[method-assign]
    summary = pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), tmp_path / "out")
    assert summary.info["interrupted"] is True
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == FRAMES


def test_ctrl_c_in_the_tracking_and_again_in_the_fusion_gives_up(
    slam: FakeSlam, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_frame(slam, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    replace_fusion(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(Config(), open_kitti(root, "07"), tmp_path / "out")
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == 5
    assert json.loads((tmp_path / "out" / "run.json").read_text())["interrupted"] is True
    assert not (tmp_path / "out" / "report.html").exists()


def replace_fusion(monkeypatch: pytest.MonkeyPatch, mishap: BaseException) -> None:
    """A fusion that ends with ``mishap``."""

    def fuse(*_: object) -> None:
        raise mishap

    module = ModuleType("metric_slam.reconstruction.fusion")
    module.fuse = fuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "metric_slam.reconstruction.fusion", module)


@pytest.mark.parametrize("mishap", [MissingDependencyError("no Open3D"), RuntimeError("Open3D"), KeyboardInterrupt()])
def test_a_failing_fusion_is_told_and_costs_nothing_else(
    slam: FakeSlam, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mishap: BaseException
) -> None:
    replace_fusion(monkeypatch, mishap)
    summary = pipeline.run(Config(), open_kitti(root, "07"), tmp_path / "out")
    assert any(w.startswith("fusion skipped: ") for w in summary.info["warnings"])
    assert summary.info["interrupted"] == isinstance(mishap, KeyboardInterrupt)
    assert summary.failure is None
    assert (tmp_path / "out" / "report.html").exists() and not (tmp_path / "out" / "map.ply").exists()


def test_a_full_disk_is_named(slam: FakeSlam, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    replace_fusion(monkeypatch, full)
    summary = pipeline.run(Config(), open_kitti(root, "07"), tmp_path / "late")
    assert isinstance(summary.failure, OutputError) and str(summary.failure) == summary.info["error"]
    assert "late" in str(summary.failure) and "No space left" in str(summary.failure)
    assert (tmp_path / "late" / "trajectory.tum").exists() and (tmp_path / "late" / "report.html").exists()

    def write(*_: object, **__: object) -> None:
        raise full

    monkeypatch.setattr("metric_slam.result.write_tum", write)
    with pytest.raises(OutputError, match="trajectory.tum: No space left.*--out"):
        pipeline.run(Config(), open_kitti(root, "07"), tmp_path / "early")
    assert [p.name for p in (tmp_path / "early").iterdir()] == ["state"], "nothing but what --resume needs"


def test_results_are_replaced_only_when_asked_and_only_by_new_ones(slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), out)
    with pytest.raises(OutputError, match="--overwrite"):
        pipeline.run(WITHOUT_MAP, open_kitti(root, "07"), out)

    before = (out / "trajectory.tum").read_bytes()
    dataset = open_kitti(root, "07")
    spoil(root, 0)
    slam.frames.clear()
    with pytest.raises(ImageError):
        pipeline.run(WITHOUT_MAP, dataset, out, overwrite=True)
    assert (out / "trajectory.tum").read_bytes() == before and (out / "report.html").exists()

    config = resolve_config(settings=["fusion.enabled=false", "input.start=6"])
    pipeline.run(config, dataset, out, overwrite=True)
    assert len(read_tum(out / "trajectory.tum")) == FRAMES - 6
    assert sorted(p.stem for p in (out / "keyframes").iterdir()) == ["000006", "000008", "000010"]


def test_selection_of_frames(caplog: pytest.LogCaptureFixture) -> None:
    assert pipeline.select_frames(5, InputConfig()) == range(0, 5)
    assert pipeline.select_frames(5, InputConfig(start=1, end=4, stride=2)) == range(1, 4, 2)
    assert pipeline.select_frames(5, InputConfig(end=9)) == range(0, 5)
    assert "--end 9 is beyond" in caplog.text
    with pytest.raises(ConfigError, match="--start 5 leaves no frame of the 5"):
        pipeline.select_frames(5, InputConfig(start=5))


def test_devices() -> None:
    import torch

    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="unknown torch device 'abacus'"):
        resolve_device("abacus")
    with pytest.raises(ConfigError, match=f"{torch.cuda.device_count()} CUDA devices"):
        resolve_device("cuda:99")


def test_the_same_seed_gives_the_same_numbers() -> None:
    import torch

    def draw() -> tuple[float, float, float]:
        noise = np.zeros((1, 1))
        cv2.randn(noise, 0.0, 1.0)
        return float(np.random.rand()), float(torch.rand(1)), float(noise[0, 0])

    pipeline.seed_everything(3)
    first = draw()
    pipeline.seed_everything(3)
    assert draw() == first
    pipeline.seed_everything(4)
    assert draw() != first
