"""What ``auto`` takes, and why a wish cannot be granted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from metric_slam.choices import (
    InputFacts,
    camera_mount,
    choose_correspondence,
    choose_prior,
    choose_solver,
    working_camera,
)
from metric_slam.config.schema import BundleAdjustmentConfig, Config, InputConfig
from metric_slam.depth.no_prior import NoPrior
from metric_slam.errors import ConfigError, DatasetError, WeightsError
from metric_slam.factory import build_parts
from metric_slam.frame import CameraMount
from metric_slam.geometry import cuda_kernels
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.odometry.flow_odometry import FlowOdometry
from metric_slam.optimization.cuda.solver import CudaSolver
from metric_slam.optimization.solver import CpuSolver
from tests.scene import Drive, Street, straight
from tests.table_network import CAMERA as TABLE_CAMERA
from tests.table_network import TableMatching, make_world

KITTI = PinholeCamera(fx=718.9, fy=718.9, cx=607.2, cy=185.2, width=1241, height=376)
CAR = Drive(Street(), straight(2, 0.5))
HANDHELD = replace(CAR, mount=None)
RGBD = replace(HANDHELD, with_depth=True)
CAR_WITH_DEPTH = replace(CAR, with_depth=True)


def config(**settings: object) -> Config:
    return Config.model_validate(settings)


@pytest.mark.parametrize(
    ("drive", "name", "word"),
    [
        (CAR, "ground_plane", "1.65 m"),
        (CAR_WITH_DEPTH, "ground_plane", "--prior sensor"),
        (RGBD, "sensor", "depth images"),
        (HANDHELD, "none", "unknown"),
    ],
    ids=["car", "car with depth", "rgbd", "handheld"],
)
@pytest.mark.usefixtures("no_weights")
def test_auto_takes_the_best_and_says_why(drive: Drive, name: str, word: str) -> None:
    prior, reason = choose_prior(config(), InputFacts.of(drive))
    assert prior.name == name and word in reason


def test_a_folder_of_maps_comes_first(tmp_path: Path) -> None:
    prior, reason = choose_prior(config(precomputed={"folder": str(tmp_path)}), InputFacts.of(CAR_WITH_DEPTH))
    assert prior.name == "precomputed" and str(tmp_path) in reason


@pytest.mark.usefixtures("no_weights")
def test_a_configured_height_makes_a_vehicle_of_any_camera() -> None:
    wanted = config(ground_plane={"camera_height_m": 1.2})
    assert camera_mount(wanted, HANDHELD.mount) == CameraMount(1.2)
    assert choose_prior(wanted, InputFacts.of(RGBD)).prior.name == "ground_plane"
    assert choose_prior(wanted, InputFacts.of(CAR)).prior.height_m == 1.2
    assert camera_mount(config(), HANDHELD.mount) is None


@pytest.mark.parametrize("name", ["ground_plane", "sensor", "none"])
def test_a_wish_is_granted(name: str) -> None:
    prior, reason = choose_prior(config(prior=name), InputFacts.of(CAR_WITH_DEPTH))
    assert prior.name == name and reason == "as asked for"


def test_a_wish_that_cannot_be_granted_is_explained() -> None:
    with pytest.raises(ConfigError, match="--camera-height"):
        choose_prior(config(prior="ground_plane"), InputFacts.of(HANDHELD))
    with pytest.raises(ConfigError, match="precomputed.folder"):
        choose_prior(config(prior="precomputed"), InputFacts.of(CAR))
    with pytest.raises(DatasetError, match="no such folder"):
        choose_prior(config(prior="precomputed", precomputed={"folder": "/nowhere/at/all"}), InputFacts.of(CAR))


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without downloaded weights; the file that would hold them."""
    monkeypatch.setenv("METRIC_SLAM_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "droid.pth"


def test_missing_weights_are_said_in_one_line(no_weights: Path) -> None:
    with pytest.raises(WeightsError, match="metric-slam weights download droid.*choose dis") as caught:
        choose_correspondence(config(correspondence="droid"))
    assert str(no_weights) in str(caught.value) and "\n" not in str(caught.value)
    for name in ("droid", "auto"):
        with pytest.raises(WeightsError, match="nowhere.pth.*droid.weights"):
            choose_correspondence(config(correspondence=name, droid={"weights": "/nowhere.pth"}))


def test_weights_without_a_gpu_are_left_alone_unless_asked_for(no_weights: Path) -> None:
    no_weights.write_bytes(b"nonsense")
    model, reason = choose_correspondence(config(device="cpu"))
    assert model.name == "dis" and "--correspondence droid" in reason and str(no_weights) in reason
    with pytest.raises(WeightsError, match="droid.pth"):
        choose_correspondence(config(correspondence="droid", device="cpu"))


def test_learned_depth_is_taken_with_weights_and_a_gpu(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metric_slam.depth.metric3d.prior.load_metric3d", lambda *_: None)
    weights = no_weights.with_name("metric_depth_vit_small_800k.pth")
    assert "metric3d has no weights here" in choose_prior(config(), InputFacts.of(HANDHELD)).reason
    weights.write_bytes(b"nonsense")
    for drive, otherwise in ((CAR, "ground_plane"), (HANDHELD, "none"), (RGBD, "sensor")):
        prior, reason = choose_prior(config(device="cpu"), InputFacts.of(drive))
        assert prior.name == otherwise
        told = "without a GPU" in reason and str(weights) in reason and "--prior metric3d" in reason
        assert told == (drive is HANDHELD)
    monkeypatch.setattr("metric_slam.choices.resolve_device", lambda _: "cuda")
    road = "ground_plane"  # measured on real drives, which the network is not yet
    for drive, name in ((CAR, road), (HANDHELD, "metric3d"), (RGBD, "sensor"), (CAR_WITH_DEPTH, road)):
        prior, reason = choose_prior(config(), InputFacts.of(drive))
        assert prior.name == name
        assert ("weights and a GPU" in reason and "vit_small at 1064x616" in reason) == (drive is HANDHELD)


def test_configured_weights_that_are_gone_are_told(no_weights: Path) -> None:
    for name in ("metric3d", "auto"):
        with pytest.raises(WeightsError, match="nowhere.pth.*metric3d.weights"):
            choose_prior(config(prior=name, metric3d={"weights": "/nowhere.pth"}), InputFacts.of(HANDHELD))


def test_weights_make_the_network(tmp_path: Path) -> None:
    import torch

    from metric_slam.correspondence.droid.network import DroidNetwork

    path = tmp_path / "my.pth"
    torch.save(DroidNetwork().state_dict(), path)
    wanted = config(correspondence="droid", device="cpu", droid={"weights": str(path)})
    model, reason = choose_correspondence(wanted)
    assert model.name == "droid" and model.recurrent and "as asked for" in reason and "on cpu" in reason


def test_bundle_adjustment_runs_where_the_networks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    solver, reason = choose_solver(config(device="cpu"))
    assert isinstance(solver, CpuSolver) and reason == solver.name == "C++ on the CPU"
    asked: list[str] = []

    def find(device: str) -> tuple[object, str]:
        asked.append(device)
        return SimpleNamespace(device=torch.device(device)), "CUDA on a GPU"

    monkeypatch.setattr("metric_slam.geometry.cuda_kernels.find_cuda_kernels", find)
    monkeypatch.setattr("metric_slam.choices.resolve_device", lambda name: {"auto": "cuda"}.get(name, name))
    solver, reason = choose_solver(config())
    assert isinstance(solver, CudaSolver) and reason == solver.name == "CUDA on a GPU"
    choose_solver(config(device="cuda:1"))
    assert asked == ["cuda", "cuda:1"]


def test_without_our_kernels_the_cpu_solves_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metric_slam.choices.resolve_device", lambda _: "cuda")
    monkeypatch.setattr("droid_backends.cuda", None)
    monkeypatch.setattr("droid_backends.why_no_cuda", "the CUDA kernels were not built: no nvcc was found")
    solver, reason = choose_solver(config())
    assert isinstance(solver, CpuSolver)
    assert "on the CPU" in reason and "nvcc" in reason and "pip install" in reason


@pytest.mark.parametrize("why_not, uses_them", [("", True), ("no kernel image is available", False)])
def test_kernels_that_cannot_run_on_the_gpu_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, why_not: str, uses_them: bool
) -> None:
    """Built for other GPUs, or for a newer driver: an answer in words instead of an error in the first solve."""
    kernels = SimpleNamespace(why_not=lambda index: why_not)
    monkeypatch.setattr("metric_slam.choices.resolve_device", lambda _: "cuda:3")
    monkeypatch.setattr("droid_backends.cuda", kernels)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"GPU {index}")
    cuda_kernels._why_not.cache_clear()
    solver, reason = choose_solver(config())
    cuda_kernels._why_not.cache_clear()
    assert isinstance(solver, CudaSolver if uses_them else CpuSolver) and "GPU 3" in reason and why_not in reason
    if isinstance(solver, CudaSolver):
        assert solver._kernels.module is kernels and solver._kernels.device == torch.device("cuda", 3)


def test_parts_that_are_given_replace_those_of_the_configuration() -> None:
    prior, model, solver = NoPrior(), TableMatching(make_world()), CpuSolver(BundleAdjustmentConfig())
    wanted = config(prior="ground_plane", correspondence="droid", droid={"weights": "/nowhere.pth"})
    parts = build_parts(wanted, TABLE_CAMERA, InputFacts.of(HANDHELD), prior=prior, model=model, solver=solver)
    assert parts.model is model and parts.slam_map.solver is solver and isinstance(parts.odometry, FlowOdometry)
    assert parts.choices["prior"] == "none: as given" and parts.choices["correspondence"] == "table: as given"
    assert parts.choices["bundle_adjustment"] == "C++ on the CPU: as given"


def test_without_weights_nothing_of_torch_is_imported() -> None:
    code = (
        "import sys; from metric_slam.choices import choose_correspondence; "
        "from metric_slam.config.schema import Config; "
        "choose_correspondence(Config(correspondence='dis')); "
        "assert not [m for m in sys.modules if m.startswith('metric_slam.correspondence.droid')]; "
        "import metric_slam.depth.metric3d.locate; assert 'metric_slam.depth.metric3d.model' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_inverse_search_is_taken_when_asked_for(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reason = choose_correspondence(config(correspondence="inverse_search", device="cpu"))
    assert model.name == "inverse_search" and not model.recurrent and reason == "as asked for; on cpu"
    assert "inverse_search" not in choose_correspondence(config(device="cpu")).reason
    monkeypatch.setattr("metric_slam.choices.resolve_device", lambda _: "cuda")
    model, reason = choose_correspondence(config())
    assert model.name == "dis" and "no weights here" in reason
    assert "inverse_search" in reason and "not measured yet" in reason


def test_correspondence_is_dis(no_weights: Path) -> None:
    assert [choose_correspondence(config(correspondence=c)).model.name for c in ("auto", "dis")] == ["dis", "dis"]
    assert choose_correspondence(config()).reason != choose_correspondence(config(correspondence="dis")).reason


@pytest.mark.parametrize(
    ("width", "height"), [(1241, 376), (1226, 370), (640, 480), (320, 96), (1920, 1080), (4000, 3000), (100, 70)]
)
def test_the_working_camera_fits_the_budget_and_the_grid(width: int, height: int) -> None:
    budget = 960 * 288
    camera = working_camera(InputConfig(pixel_budget_px=budget), KITTI.resized(width, height))
    assert camera.width % 8 == 0 and camera.height % 8 == 0 and min(camera.size) >= 64
    assert camera.width * camera.height <= 1.03 * max(budget, 64 * 64), "rounding to whole cells may add a little"
    assert camera.width / camera.height == pytest.approx(width / height, rel=0.08)
    if width * height > 1.1 * budget:
        assert camera.width * camera.height > 0.9 * budget
    elif min(width, height) > 64:
        assert abs(camera.width - width) <= 4 and abs(camera.height - height) <= 4


def test_the_working_camera_sees_the_same() -> None:
    camera = working_camera(InputConfig(size=(644, 188)), KITTI)
    assert camera.size == (648, 192)
    assert camera.fx / camera.width == pytest.approx(KITTI.fx / KITTI.width)
    assert (camera.cy + 0.5) / camera.height == pytest.approx((KITTI.cy + 0.5) / KITTI.height)
