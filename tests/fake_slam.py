"""A stand-in for the SLAM core: drives straight on at one metre per frame. For tests of what surrounds the core."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from metric_slam.config.schema import Config
from metric_slam.datasets.base import Dataset
from metric_slam.disk_store import DiskStore
from metric_slam.frame import Frame
from metric_slam.result import KeyframeResult, SlamResult

WIDTH, HEIGHT = 96, 64
CALIBRATION = """P0: 80 0 48 0 0 80 32 0 0 0 1 0
P2: 80 0 48 40 0 80 32 0 0 0 1 0
"""


def straight_pose(index: int) -> np.ndarray:
    """``T_world_cam`` of frame ``index``: one metre forward per frame."""
    T_world_cam = np.eye(4)
    T_world_cam[2, 3] = float(index)
    return T_world_cam


@dataclass
class FakeSlam:
    """The interface of Slam that the pipeline uses."""

    choices: dict[str, str] = field(default_factory=lambda: {"prior": "ground_plane: made up"})
    frames: list[Frame] = field(default_factory=list)
    timings_s: dict[str, float] = field(default_factory=dict)

    def process_frame(self, frame: Frame) -> None:
        """Remember the frame."""
        self.frames.append(frame)
        self.timings_s["correspondence"] = 1e-6 * len(self.frames)

    def state(self) -> dict[str, np.ndarray]:
        """The frames so far."""
        return {"indices": np.array([frame.index for frame in self.frames], np.int64)}

    def restore(self, state: Mapping[str, np.ndarray], read_frame: Callable[[int], Frame]) -> None:
        """Take them over."""
        self.frames = [read_frame(int(index)) for index in state["indices"]]

    def finish(self) -> SlamResult:
        """The straight path; every second frame is a keyframe."""
        n = len(self.frames)
        first = self.frames[0].index
        return SlamResult(
            frame_indices=np.array([f.index for f in self.frames]),
            times_s=np.array([f.time_s for f in self.frames]),
            T_world_cam=np.stack([straight_pose(f.index - first) for f in self.frames]),
            is_keyframe=np.arange(n) % 2 == 0,
            tracked=np.ones(n, bool),
            keyframes=[self._keyframe(f) for f in self.frames[::2]],
            scale_source="ground_plane",
            solver_status_counts={"converged": n},
            timings_s=dict(self.timings_s),
        )

    def _keyframe(self, frame: Frame) -> KeyframeResult:
        shape = (frame.camera.height // 8, frame.camera.width // 8)
        return KeyframeResult(
            index=frame.index,
            time_s=frame.time_s,
            T_world_cam=straight_pose(frame.index),
            camera=frame.camera,
            image=frame.image,
            inv_depth=np.full(shape, 0.1, np.float32),
            confidence=np.ones(shape, np.float32),
            prior_depth_m=np.full(shape, 10.0, np.float32),
            prior_confidence=np.ones(shape, np.float32),
            prior_log_scale=0.01,
        )


def install_fake_slam(monkeypatch: pytest.MonkeyPatch) -> FakeSlam:
    """Make the pipeline build a FakeSlam instead of the core; returns it."""
    slam = FakeSlam()

    class Slam:
        """Stands in for metric_slam.slam.Slam."""

        @staticmethod
        def for_dataset(dataset: Dataset, config: Config, disk: DiskStore | None = None) -> FakeSlam:
            return slam

    module = ModuleType("metric_slam.slam")
    module.Slam = Slam  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "metric_slam.slam", module)
    return slam


def write_kitti_sequence(root: Path, frames: int, name: str = "07") -> Path:
    """A KITTI odometry root with one sequence of noise images and the true straight path of camera 0."""
    folder = root / "sequences" / name
    (folder / "image_2").mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(frames):
        image = random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / "image_2" / f"{index:06d}.png"), image)
    (folder / "calib.txt").write_text(CALIBRATION)
    (folder / "times.txt").write_text("".join(f"{0.1 * i:.3f}\n" for i in range(frames)))
    (root / "poses").mkdir(exist_ok=True)
    rows = np.stack([straight_pose(i)[:3].ravel() for i in range(frames)])
    np.savetxt(root / "poses" / f"{name}.txt", rows)
    return root
