"""A tiny world and a network that looks its true matches up: all of it on a device, and nothing comes back to the host.

Frames are recognised by their first pixel. Every frame has depths of its own, so that only matches tie them together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from metric_slam.config.schema import Config
from metric_slam.correspondence.base import Correspondence, EdgeQuery, unpacked
from metric_slam.correspondence.droid.model import DroidCorrespondence
from metric_slam.correspondence.droid.update import UpdateResult
from metric_slam.depth.sensor import SensorDepth
from metric_slam.disk_store import DiskStore
from metric_slam.frame import Frame
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from metric_slam.geometry.cuda_kernels import CudaKernels
from metric_slam.geometry.grid_array import uploaded
from metric_slam.optimization.bundle_adjustment import reproject
from metric_slam.optimization.cuda.solver import CudaSolver
from metric_slam.optimization.solver import CpuSolver
from metric_slam.slam import Slam
from tests.ba_problems import moved_poses
from tests.scene import slam_of

CAMERA = PinholeCamera(fx=45.0, fy=40.0, cx=30.0, cy=32.0, width=64, height=64)
"""Its grid has 8 x 8 cells; smaller images would be enlarged."""

FRAMES = 11
_H, _W = CAMERA.height // FEATURE_STRIDE, CAMERA.width // FEATURE_STRIDE

CONFIG = {
    "loop": {"enabled": False},
    "global_ba": {"updates": [1, 0], "iterations": 2},
    "motion_filter": {"min_flow_px": 1.3},
    "droid": {
        "motion_threshold_cells": 0.15,
        "keyframe_threshold_cells": 0.05,
        "edge_threshold_cells": 1.0,
        "warm_up": 4,
        "warm_up_updates": 2,
        "warm_up_radius": 2,
        "window": 4,
        "source_window": 3,
        "max_edges": 12,
        "radius": 1,
        "updates": 2,
        "more_updates": 1,
        "frame_updates": 2,
        "iterations": 2,
    },
}
"""Few edges, and few updates."""


@dataclass(frozen=True)
class World:
    """Poses T_cam_world [N, 7], inverse depths [N, h, w], and matches of all pairs [N, N, h, w, 4] with confidences."""

    poses: np.ndarray
    inv_depth: np.ndarray
    matches: np.ndarray = field(repr=False)

    def frame(self, index: int) -> Frame:
        """Noise, with its number, and the depth of the cells."""
        image = np.random.default_rng(index).integers(0, 255, (CAMERA.height, CAMERA.width, 3), np.uint8)
        image[0, 0] = index
        depth_m = np.kron(1.0 / self.inv_depth[index], np.ones((FEATURE_STRIDE, FEATURE_STRIDE)))
        return Frame(index, 0.1 * index, image, CAMERA, depth_m=depth_m.astype(np.float32))


def make_world(frames: int = FRAMES) -> World:
    """A drive of 0.2 m steps that turns a little through depths of 4 to 9 m."""
    random = np.random.default_rng(5)
    steps = random.normal([0.02, 0, -0.2, 0, 0.01, 0], 0.005, (frames, 6))
    poses = moved_poses(np.tile([0.0, 0, 0, 0, 0, 0, 1], (frames, 1)), np.cumsum(steps, axis=0) - steps[0])
    inv_depth = 1.0 / random.uniform(4.0, 9.0, (frames, _H, _W))
    source, target = (ends.ravel() for ends in np.mgrid[:frames, :frames])
    coords, _, valid = reproject(poses, inv_depth, CAMERA.grid().vector(), source, target)
    assert valid.all()
    confidence = random.uniform(0.3, 1.0, coords.shape)
    matches = np.concatenate([coords, confidence], axis=-1).astype(np.float32)
    return World(poses, inv_depth, matches.reshape(frames, frames, _H, _W, 4))


class TableNetwork:
    """Follows :class:`metric_slam.correspondence.droid.model.Network`; its features are the numbers of frames."""

    precision = torch.float32

    def __init__(self, world: World, device: torch.device) -> None:
        self._table = torch.from_numpy(world.matches).to(device)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The first pixel everywhere, [N, 1, h, w]."""
        return images[:, :1, :1, :1].float().expand(-1, -1, _H, _W)

    def encode_context(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Nothing yet."""
        nothing = torch.zeros(len(images), 1, _H, _W, device=images.device)
        return nothing, nothing

    def context_gates(self, context: torch.Tensor) -> torch.Tensor:
        """As it is."""
        return context

    def refine(
        self,
        hidden: torch.Tensor,
        context: torch.Tensor | None,
        correlation: torch.Tensor,
        motion: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
        *,
        context_gates: torch.Tensor | None = None,
    ) -> UpdateResult:
        """Three quarters of the way to the true match at the first update, all of it later."""
        gain = (0.75 + 0.25 * hidden[:, :1]).clamp(max=1.0) if motion is not None else 1.0
        sources = 0 if source is None else len(source.unique())
        damping = torch.full((sources, _H, _W), 1e-4, device=hidden.device)
        upsampling = torch.zeros(sources, 576, _H, _W, device=hidden.device)
        delta, confidence = (part.permute(0, 2, 3, 1) for part in (gain * correlation[:, :2], correlation[:, 2:]))
        return UpdateResult(hidden + 1.0, delta, confidence, damping, upsampling)

    def correlate(self, features: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> _Matches:
        """For :class:`DroidCorrespondence`."""
        number = features[:, 0, 0, 0].long()
        ends = (number[uploaded(numbers, number.device)] for numbers in (source, target))  # they are on the host
        return _Matches(self._table[tuple(ends)])


class _Matches:
    def __init__(self, matches: torch.Tensor) -> None:
        self._matches = matches

    def lookup(self, coords: torch.Tensor) -> torch.Tensor:
        """The way to the true match, and its confidence, [E, 4, h, w]."""
        delta = self._matches[..., :2] - coords
        return torch.cat([delta, self._matches[..., 2:]], dim=-1).permute(0, 3, 1, 2)


class TableMatching:
    """The same matches from the CPU, as a model that is not recurrent; features are numbers of frames."""

    name, recurrent = "table", False

    def __init__(self, world: World) -> None:
        self._matches = world.matches

    def encode(self, image: np.ndarray, camera: PinholeCamera) -> int:
        """The first pixel."""
        return int(image[0, 0, 0])

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """True matches; it takes predictions on the host alone."""
        assert all(edge.predicted is None or isinstance(edge.predicted, np.ndarray) for edge in edges)
        found = [unpacked(self._matches[edge.source, edge.target]) for edge in edges]
        return [Correspondence(match.target, match.confidence[..., 0]) for match in found]


def table_slam(
    world: World, cuda: CudaKernels | None, disk: DiskStore | None = None, *, recurrent: bool = True
) -> Slam:
    """The whole system with a depth sensor; without a CUDA device all of it on the CPU."""
    config = Config.model_validate(CONFIG)
    settings = config.bundle_adjustment
    solver = CpuSolver(settings) if cuda is None else CudaSolver(settings, cuda)
    device = torch.device("cpu") if cuda is None else cuda.device
    network = TableNetwork(world, device)
    model = DroidCorrespondence(network, config.droid, str(device), network.correlate) if recurrent else None
    return slam_of(
        config, SensorDepth(config.sensor), model or TableMatching(world), disk, camera=CAMERA, solver=solver
    )
