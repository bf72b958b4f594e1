"""The command line as a user meets it: options arrive, results appear, every mistake is one line and exit code 2."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import metric_slam
from metric_slam.cli.doctor import _cuda_kernels
from metric_slam.config.documentation import config_markdown
from metric_slam.config.resolve import resolve_config
from metric_slam.config.schema import Config
from metric_slam.datasets import ImageSequence, open_kitti
from metric_slam.trajectory import read_kitti
from tests.conftest import CliResult
from tests.fake_slam import CALIBRATION, HEIGHT, WIDTH, FakeSlam, install_fake_slam, write_kitti_sequence

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 6
Cli = Callable[..., CliResult]


@pytest.fixture
def slam(monkeypatch: pytest.MonkeyPatch) -> FakeSlam:
    """The core is replaced and the report, which takes seconds to draw, is empty."""
    monkeypatch.setattr(
        "metric_slam.report.page.write_report", lambda folder, *_: (folder / "report.html").write_text("")
    )
    return install_fake_slam(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_kitti_sequence(tmp_path / "kitti", FRAMES)


@pytest.fixture
def run(cli: Cli, slam: FakeSlam, root: Path, tmp_path: Path) -> Cli:
    """``metric-slam run ROOT --out OUT --no-fusion ...``."""
    return lambda *arguments: cli("run", root, "--out", tmp_path / "out", "--no-fusion", *arguments)


@pytest.fixture
def run_kitti(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """``python scripts/run_kitti.py ARGUMENTS``, inside this process."""

    def call(*arguments: object) -> CliResult:
        monkeypatch.setattr("sys.argv", ["run_kitti.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / "run_kitti.py"), run_name="__main__")
        streams = capsys.readouterr()
        return CliResult(int(end.value.code or 0), streams.out, streams.err)

    return call


def images_of(root: Path) -> Path:
    """Image folder of the test sequence."""
    return root / "sequences" / "07" / "image_2"


# what works


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out == f"metric-slam {metric_slam.__version__}\n"
    assert "doctor" in cli().out
    result = cli("run", "--help")
    assert result.code == 0
    for option in ("--out", "--prior", "--correspondence", "--preset", "--device", "--start", "--size", "--set"):
        assert option in result.out


def test_run_writes_results_and_says_what_came_out(run: Cli, tmp_path: Path) -> None:
    result = run()
    assert result.code == 0, result.err
    assert f"{FRAMES} frames, 3 keyframes" in result.out and "scale from ground_plane" in result.out
    assert "fitted scale 1.0000" in result.out
    assert str(tmp_path / "out") in result.out
    steps = [line.split("│")[1].strip() for line in result.out.splitlines() if line.startswith("│")]
    assert steps[-7:] == ["tracking", "global BA", "writing", "evaluation", "report", "other", "total"]
    assert "opening" in steps and "setup" in steps
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == FRAMES


def test_options_reach_the_configuration(run: Cli, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("fusion: {min_views: 3}\nseed: 5\n")
    result = run(
        *("--preset", "fast", "--prior", "none", "--correspondence", "dis", "--device", "cpu"),
        *("--start", 1, "--end", 5, "--stride", 2, "--size", "128x64"),
        *("--config", file, "--set", "fusion.voxel_m=0.5", "--set", "seed=6"),
    )
    assert result.code == 0, result.err
    config = resolve_config(tmp_path / "out" / "config.yaml")
    assert (config.preset_name, config.prior, config.correspondence, config.device) == ("fast", "none", "dis", "cpu")
    assert (config.input.start, config.input.end, config.input.stride, config.input.size) == (1, 5, 2, (128, 64))
    assert (config.fusion.min_views, config.fusion.voxel_m, config.seed) == (3, 0.5, 6)
    assert config.fusion.enabled is False
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == 2


def test_the_results_folder_has_the_name_of_the_data(
    cli: Cli, slam: FakeSlam, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("run", root, "--no-fusion").code == 0
    assert (tmp_path / "results" / "kitti" / "07" / "trajectory.tum").exists()


def test_options_of_the_data_reach_it(cli: Cli, slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    result = cli(
        *("run", images_of(root), "--out", tmp_path / "out", "--no-fusion", "--camera", "80,81,48,32", "--rate", 5),
        *("--camera-height", 1.2, "--precomputed-depth", tmp_path),
    )
    assert result.code == 0, result.err
    assert (slam.frames[0].camera.fx, slam.frames[0].camera.fy) == (80, 81)
    assert slam.frames[-1].time_s == pytest.approx((FRAMES - 1) / 5)
    config = resolve_config(tmp_path / "out" / "config.yaml")
    assert config.ground_plane.camera_height_m == 1.2
    assert config.precomputed.folder == str(tmp_path)


def test_evaluate(cli: Cli, root: Path, tmp_path: Path) -> None:
    truth = root / "poses" / "07.txt"
    short = tmp_path / "estimate.txt"
    np.savetxt(short, np.loadtxt(truth) * np.where(np.arange(12) % 4 == 3, 0.5, 1.0))
    result = cli("evaluate", short, truth)
    assert result.code == 0 and "fitted scale 2.0000" in result.out
    metrics = json.loads(cli("evaluate", short, truth, "--json").out)
    assert metrics["fitted_scale"]["value"] == pytest.approx(2.0)
    assert "nowhere.txt" in cli("evaluate", tmp_path / "nowhere.txt", truth).error_line


def test_config(cli: Cli, tmp_path: Path) -> None:
    result = cli("config", "--preset", "fast", "--set", "input.stride=3")
    (tmp_path / "printed.yaml").write_text(result.out)
    assert resolve_config(tmp_path / "printed.yaml") == resolve_config(settings=["preset=fast", "input.stride=3"])
    assert cli("config", "--markdown").out == config_markdown()


def test_doctor_passes_here_and_names_what_is_broken(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metric_slam.cli.doctor.IMPORT_TIMEOUT_S", 0.01)
    healthy = cli("doctor")
    assert healthy.code == 0, healthy.out
    assert "droid_backends" in healthy.out and "longer than" in healthy.out
    assert "cuda kernels" in healthy.out
    monkeypatch.setattr("metric_slam.cli.doctor.OPEN3D_SYSTEM_LIBRARIES", {"libnothing-here.so.1": "libnothing-here1"})
    assert "apt-get install libnothing-here1" in cli("doctor").out
    monkeypatch.setattr("metric_slam.cli.doctor.NATIVE_MODULES", ("no_such_native_module",))
    broken = cli("doctor")
    assert broken.code == 1 and "pip install -e ." in broken.out


@pytest.mark.parametrize(
    ("built", "usable", "status", "word"),
    [
        (False, False, "ok", "no nvcc"),
        (False, True, "warning", "METRIC_SLAM_CUDA=1 pip install -e ."),
        (True, True, "warning", "update the driver"),
        (True, False, "ok", "none is needed"),
    ],
)
def test_the_doctor_knows_our_kernels(
    built: bool, usable: bool, status: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = SimpleNamespace(device_count=lambda: 0, why_not=lambda device: "no kernel image is available")
    monkeypatch.setattr("droid_backends.cuda", kernels if built else None)
    monkeypatch.setattr("droid_backends.why_no_cuda", "the CUDA kernels were not built: no nvcc was found")
    monkeypatch.setattr("torch.cuda.is_available", lambda: usable)
    check = _cuda_kernels()
    assert check.status == status and word in check.detail


def test_run_kitti_takes_root_and_sequence(run_kitti: Cli, slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    result = run_kitti("--seq", "7", "--data", root, "--out", tmp_path / "a", "--no-fusion", "--preset", "fast")
    assert result.code == 0, result.err
    assert len(read_kitti(tmp_path / "a" / "trajectory_kitti.txt")) == FRAMES


def test_run_kitti_finds_the_data_in_the_environment(
    run_kitti: Cli, slam: FakeSlam, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITTI_ODOMETRY", str(root))
    assert run_kitti("--seq", "07", "--out", tmp_path / "a", "--no-fusion").code == 0
    monkeypatch.delenv("KITTI_ODOMETRY")
    monkeypatch.chdir(tmp_path)
    assert "data/kitti" in run_kitti("--seq", "07").error_line


def test_run_kitti_renders_the_demo(
    run_kitti: Cli, slam: FakeSlam, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_demo(progress: Callable[[int, int], None]) -> ImageSequence:
        progress(1, 2)
        return replace(open_kitti(root, "07"), name="synthetic/demo")

    monkeypatch.setattr("metric_slam.datasets.synthetic.open_demo", open_demo)
    monkeypatch.chdir(tmp_path)
    assert run_kitti("--seq", "demo", "--no-fusion").code == 0
    info = json.loads((tmp_path / "results" / "synthetic" / "demo" / "run.json").read_text())
    assert "rendering" in info["steps_s"]
    assert "camera" in run_kitti("--seq", "demo", "--camera", "1,1,1,1").error_line


# what a user can do wrong


def test_missing_sequence(run_kitti: Cli, root: Path) -> None:
    assert "leave it out" in run_kitti("--seq", "demo", "--data", root).error_line
    line = run_kitti("--seq", "11", "--data", root).error_line
    assert "11" in line and "07" in line, "the sequence and what there is instead"
    assert "--data" in run_kitti("--seq", "07", "--data", root / "nowhere").error_line


def test_missing_path_and_missing_arguments(cli: Cli, run_kitti: Cli, tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in cli("run", tmp_path / "nowhere").error_line
    assert "path" in cli("run").error_line.lower()
    assert "--seq" in run_kitti().error_line


def test_empty_folder(cli: Cli, run: Cli, root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in cli("run", tmp_path / "empty").error_line
    for image in images_of(root).iterdir():
        image.unlink()
    assert str(images_of(root)) in run().error_line


def test_missing_calibration(run: Cli, root: Path) -> None:
    calib = root / "sequences" / "07" / "calib.txt"
    calib.unlink()
    assert str(calib) in run().error_line


@pytest.mark.parametrize(
    "text", ["", "P2: 1 2 3\n", "P2: a b\n", "P2: " + "0 " * 12, CALIBRATION.replace("P2: 80", "P2: ")]
)
def test_bad_calibration(run: Cli, root: Path, text: str) -> None:
    calib = root / "sequences" / "07" / "calib.txt"
    calib.write_text(text)
    assert "calib.txt" in run().error_line


def test_undecodable_image_keeps_what_was_done(run: Cli, root: Path, tmp_path: Path) -> None:
    (images_of(root) / "000004.png").write_bytes(b"\x89PNG and nothing")
    assert "000004.png" in run().error_line
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == 4
    assert "000004.png" in json.loads((tmp_path / "out" / "run.json").read_text())["error"]


def test_image_of_another_size(run: Cli, root: Path, tmp_path: Path) -> None:
    assert cv2.imwrite(str(images_of(root) / "000003.png"), np.zeros((HEIGHT, WIDTH + 8, 3), np.uint8))
    line = run().error_line
    assert "000003.png" in line and f"{WIDTH + 8}x{HEIGHT}" in line
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == 3


def test_pose_file_shorter_than_the_images(run: Cli, root: Path) -> None:
    poses = root / "poses" / "07.txt"
    poses.write_text("".join(poses.read_text().splitlines(keepends=True)[:4]))
    line = run().error_line
    assert str(poses) in line and "4" in line and str(FRAMES) in line


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--nonsense",), "--nonsense"),
        (("--set", "fusion.voxl_m=1"), "did you mean 'fusion.voxel_m'"),
        (("--set", "nonsense"), "key=value"),
        (("--prior", "radar"), "ground_plane"),
        (("--correspondence", "sift"), "dis"),
        (("--preset", "slow"), "accurate"),
        (("--stride", "0"), "--stride"),
        (("--stride", "two"), "--stride"),
        (("--size", "640"), "640x192"),
        (("--start", "6"), "--start"),
        (("--start", "4", "--end", "2"), "greater than start"),
        (("--prior", "none", "--set", "prior=sensor"), "contradict"),
        (("--camera", "1,2,three,4"), "--camera"),
        (("--camera", "80,80,48,32"), "camera"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
        (("--seq", "08"), "08"),
        (("--camera-height", "0"), "--camera-height"),
    ],
)
def test_unknown_and_impossible_options(run: Cli, tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    assert word in run(*arguments).error_line
    assert not (tmp_path / "out").exists()


def test_unknown_command(cli: Cli) -> None:
    assert "fly" in cli("fly").error_line


def test_unwritable_output(cli: Cli, slam: FakeSlam, root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = cli("run", root, "--out", tmp_path / "file" / "below").error_line
    assert str(tmp_path / "file") in line and "--out" in line
    assert slam.frames == [], "found out before the work, not after it"


def test_existing_results_are_kept(run: Cli, slam: FakeSlam, tmp_path: Path) -> None:
    assert run().code == 0
    before = (tmp_path / "out" / "trajectory.tum").read_bytes()
    slam.frames.clear()
    assert "--overwrite" in run("--start", 2).error_line
    assert (tmp_path / "out" / "trajectory.tum").read_bytes() == before
    assert slam.frames == []
    assert run("--start", 2, "--overwrite").code == 0
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == FRAMES - 2


def test_ctrl_c(run: Cli, slam: FakeSlam, tmp_path: Path) -> None:
    process = slam.process_frame

    def interrupted(frame: object) -> None:
        process(frame)  # type: ignore[arg-type]
        if len(slam.frames) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    slam.process_frame = interrupted  # type: ignore[method-assign, assignment]
    result = run()
    assert result.code == 130 and "Traceback" not in result.err
    assert result.err.splitlines()[-1].startswith("error: interrupted")
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == 3
    assert json.loads((tmp_path / "out" / "run.json").read_text())["interrupted"] is True


def test_a_bug_shows_its_traceback_and_keeps_what_was_done(run: Cli, slam: FakeSlam, tmp_path: Path) -> None:
    process = slam.process_frame

    def with_bug(frame: object) -> None:
        process(frame)  # type: ignore[arg-type]
        if len(slam.frames) == 3:
            raise KeyError("cell")

    slam.process_frame = with_bug  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyError, match="cell"):
        run()
    assert len(read_kitti(tmp_path / "out" / "trajectory_kitti.txt")) == 3


def test_ctrl_c_before_the_first_frame(run: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("metric_slam.run.pipeline.seed_everything", interrupted)
    result = run()
    assert result.code == 130 and "Traceback" not in result.err
    assert result.err.splitlines()[-1].startswith("error: interrupted")
    assert not (tmp_path / "out").exists()


# as a program of its own


def test_installed_command_and_module(tmp_path: Path) -> None:
    script = shutil.which("metric-slam", path=str(Path(sys.executable).parent))
    assert script is not None, "the package is not installed: pip install -e ."
    for program in ([script], [sys.executable, "-m", "metric_slam"]):
        done = subprocess.run([*program, "run", "nowhere"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("error: nowhere") and done.stderr.count("\n") == 1


def test_heavy_libraries_load_only_when_needed() -> None:
    heavy = ("torch", "open3d", "cv2", "matplotlib", "numpy")
    code = f"import sys, metric_slam.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_front_door() -> None:
    assert set(metric_slam.__all__) >= {"Slam", "Config", "open_dataset", "__version__"}
    assert metric_slam.Config is Config
    with pytest.raises(AttributeError, match="nonsense"):
        _ = metric_slam.nonsense
