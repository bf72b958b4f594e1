"""A network that knows the world of tests/scene.py: its corrections lead to the true match, a little more each time.

It stands in for the DROID network under :class:`metric_slam.correspondence.droid.model.DroidCorrespondence`, so that
everything around the weights is the real thing. Images are recognised by their bytes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from metric_slam.config.schema import Config
from metric_slam.correspondence.base import Correspondence, EdgeQuery
from metric_slam.correspondence.droid.model import DroidCorrespondence
from metric_slam.correspondence.droid.update import UpdateResult
from metric_slam.depth.base import DepthPrior
from metric_slam.depth.sensor import SensorDepth
from metric_slam.disk_store import DiskStore
from metric_slam.geometry.alignment import umeyama
from metric_slam.result import SlamResult
from metric_slam.slam import Slam
from tests.scene import CAMERA, Drive, ExactMatching, Street, exact_matches, feed, pose, rotation, slam_of

_GRID = CAMERA.grid()
DAMPING = 1e-4
"""Depth damping of every cell."""


def bilinear_logits(h: int, w: int) -> torch.Tensor:
    """Upsampling weights of one source, [576, h, w], that are bilinear between centres of cells."""
    offset = (torch.arange(8.0) - 3.5) / 8.0
    line = torch.stack([(-offset).clamp(min=0.0), 1.0 - offset.abs(), offset.clamp(min=0.0)])  # [neighbour, pixel]
    share = torch.einsum("ay,bx->abyx", line, line).reshape(576, 1, 1)
    return share.clamp(min=1e-12).log().expand(-1, h, w)


@lru_cache(maxsize=4000)
def matches(street: Street, source: bytes, target: bytes) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`tests.scene.exact_matches`, remembered; what is not in front of the camera stays where it is."""
    found, seen = exact_matches(street, *(np.frombuffer(T).reshape(4, 4) for T in (source, target)))
    y, x = np.mgrid[0 : _GRID.height, 0 : _GRID.width]
    return np.where((found > -999.0), found, np.stack([x, y], axis=-1)), seen


class _Truth:
    """What takes the place of a correlation: the way to the true match, and whether it is seen."""

    def __init__(self, street: Street, source: torch.Tensor, target: torch.Tensor) -> None:
        self._street, self._source, self._target = street, source, target

    def lookup(self, coords: torch.Tensor) -> torch.Tensor:
        """[E, 3, h, w] for positions [E, h, w, 2]."""
        found = []
        for e in range(len(coords)):
            ends = [features[e, :, 0, 0].numpy().tobytes() for features in (self._source, self._target)]
            target, seen = matches(self._street, *ends)
            delta = torch.from_numpy(target) - coords[e]
            found.append(torch.cat([delta.permute(2, 0, 1), torch.from_numpy(seen)[None].double()]))
        return torch.stack(found)


class OracleNetwork:
    """Follows :class:`metric_slam.correspondence.droid.model.Network`; its hidden state counts the updates."""

    precision = torch.float32

    def __init__(self, drive: Drive) -> None:
        self.street = drive.street
        self._poses = {drive[i].image.tobytes(): np.asarray(T, np.float64) for i, T in enumerate(drive.path)}
        self.encoded = self.updated = 0

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The pose of the image in 16 channels."""
        self.encoded += len(images)
        poses = [self._poses[image.permute(1, 2, 0).contiguous().numpy().tobytes()] for image in images]
        features = torch.from_numpy(np.stack(poses)).reshape(-1, 16, 1, 1)
        return features.expand(-1, -1, _GRID.height, _GRID.width)

    def encode_context(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Nothing to remember yet."""
        nothing = torch.zeros(len(images), 1, _GRID.height, _GRID.width)
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
        """Three quarters of the way at the first update, all of it from the second on."""
        assert context is None and context_gates is not None and len(context_gates) == len(hidden)
        assert motion is None or motion.shape == (len(hidden), 4, _GRID.height, _GRID.width)
        self.updated += len(hidden)
        gain = (0.75 + 0.25 * hidden[:, 0, 0, 0]).clamp(max=1.0)[:, None, None, None]
        delta = (gain if motion is not None else 1.0) * correlation[:, :2].permute(0, 2, 3, 1)
        confidence = correlation[:, 2:].expand(-1, 2, -1, -1).permute(0, 2, 3, 1)
        sources = 0 if source is None else len(source.unique())
        damping = torch.full((sources, _GRID.height, _GRID.width), DAMPING)
        upsampling = bilinear_logits(_GRID.height, _GRID.width).expand(sources, -1, -1, -1)
        return UpdateResult(hidden + 1.0, delta, confidence, damping, upsampling)

    def correlate(self, features: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> _Truth:
        """For :class:`DroidCorrespondence`."""
        return _Truth(self.street, features[source], features[target])


class ExactDrive(ExactMatching):
    """True matches at once, from images: what the oracle is compared with."""

    def __init__(self, drive: Drive) -> None:
        super().__init__(drive.street)
        self._poses = {drive[i].image.tobytes(): np.asarray(T, np.float64) for i, T in enumerate(drive.path)}

    def encode(self, image: np.ndarray, camera: object) -> np.ndarray:
        """The pose of the image."""
        return self._poses[image.tobytes()]

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """True matches."""
        return [
            Correspondence(target, seen.astype(np.float64))
            for target, seen in (matches(self._street, e.source.tobytes(), e.target.tobytes()) for e in edges)
        ]


def oracle_slam(
    config: Config, drive: Drive, prior: DepthPrior, disk: DiskStore | None = None
) -> tuple[Slam, OracleNetwork]:
    """The whole system around an oracle."""
    network = OracleNetwork(drive)
    model = DroidCorrespondence(network, config.droid, correlate=network.correlate)
    return slam_of(config, prior, model, disk), network


DROID = {
    "motion_threshold_cells": 0.35,
    "keyframe_threshold_cells": 0.4,
    "edge_threshold_cells": 6.0,
    "warm_up": 5,
    "window": 8,
}
"""For the small images of these tests."""

REMOVING = {**DROID, "keyframe_threshold_cells": 1.0}
"""So that every second keyframe is superfluous."""


def config(**settings: object) -> Config:
    """Without loops."""
    return Config.model_validate({"droid": DROID, "loop": {"enabled": False}, **settings})


def sensor() -> SensorDepth:
    """The depth of the drive."""
    return SensorDepth(Config().sensor)


def run(cfg: Config, prior: DepthPrior, drive: Drive) -> tuple[SlamResult, Slam, OracleNetwork]:
    """The whole drive."""
    slam, network = oracle_slam(cfg, drive, prior)
    feed(slam, drive)
    return slam.finish(), slam, network


def rmse_m(T_world_cam: np.ndarray, drive: Drive, *, scale: bool = False) -> float:
    """Absolute trajectory error of all frames [N, 4, 4] after rigid alignment, with scale if asked."""
    found, true = T_world_cam[:, :3, 3], drive.T_world_cam_true[:, :3, 3]
    aligned = umeyama(found, true, with_scale=scale).apply(found)
    return float(np.sqrt(((aligned - true) ** 2).sum(axis=1).mean()))


def winding(frames: int, step_m: float) -> list[np.ndarray]:
    """A path that bends a little to and fro; no two of its images are the same."""
    path, T = [], np.eye(4)
    for i in range(frames):
        path.append(T)
        T = T @ pose(z_m=step_m, y_m=0.01 * np.sin(i / 3.0), R=rotation(yaw_rad=0.012 * np.sin(i / 5.0)))
    return path
