#!/usr/bin/env python
"""Odometry `droid` with true flow, against odometry by plain flow with true flow.

    python benchmarks/oracle.py [--frames 60] [--budget 61440]      both on the rendered drive, with its depth
    python benchmarks/oracle.py --network [--budget 276480]         seconds of the real network, random weights

The oracle replaces the network of :class:`metric_slam.correspondence.droid.model.DroidCorrespondence`: each update
leads directly to the true match. The accuracy of the network is not measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import cv2
import numpy as np
import torch

from metric_slam.choices import InputFacts, working_camera
from metric_slam.config.resolve import resolve_config
from metric_slam.config.schema import Config
from metric_slam.correspondence.base import Correspondence, CorrespondenceModel, EdgeQuery
from metric_slam.correspondence.droid.model import DroidCorrespondence
from metric_slam.correspondence.droid.update import UpdateResult
from metric_slam.datasets.base import Dataset
from metric_slam.datasets.synthetic import open_demo
from metric_slam.factory import build_parts
from metric_slam.geometry import lie
from metric_slam.geometry.alignment import umeyama
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.slam import Slam

DAMPING = 1e-4
PLAIN = ["bundle_adjustment.solver=gauss_newton", "bundle_adjustment.flow_sigma_px=252.98",
         "bundle_adjustment.flow_loss=none", "bundle_adjustment.prior_mode=droid"]  # fmt: skip


class Truth:
    """Depth and pose of every frame on the grid; frames are identified by their image."""

    def __init__(self, dataset: Dataset, camera: PinholeCamera, frames: int) -> None:
        self.grid = camera.grid()
        self.depth_m, self.pose = [], dataset.T_world_cam_true[:frames]
        self._frame: dict[bytes, int] = {}
        for i in range(frames):
            frame = dataset[i]
            self._frame[cv2.resize(frame.image, camera.size, interpolation=cv2.INTER_AREA).tobytes()] = i
            self.depth_m.append(at_centres(frame.depth_m, self.grid))

    def frame(self, image: np.ndarray) -> int:
        """Return its number."""
        return self._frame[np.ascontiguousarray(image).tobytes()]

    def matches(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where the cells of frame i lie in j [h, w, 2], and which are visible there [h, w]."""
        grid, depth_m = self.grid, self.depth_m[i].astype(np.float64)
        T = lie.inverse(self.pose[j]) @ self.pose[i]
        X = (grid.rays() * depth_m[..., None]) @ T[:3, :3].T + T[:3, 3]
        front = (depth_m > 0) & (X[..., 2] > 0.2)
        y, x = np.mgrid[0 : grid.height, 0 : grid.width].astype(np.float64)
        projected = grid.project(np.where(front[..., None], X, 1.0))
        target = np.where(front[..., None], projected, np.stack([x, y], axis=-1))
        u, v = np.rint(target[..., 0]).astype(int), np.rint(target[..., 1]).astype(int)
        seen = front & (u >= 0) & (v >= 0) & (u < grid.width) & (v < grid.height)
        there_m = self.depth_m[j][np.where(seen, v, 0), np.where(seen, u, 0)]
        return target, seen & (np.abs(there_m - X[..., 2]) < 0.05 * X[..., 2] + 0.1)


def at_centres(image: np.ndarray, grid: PinholeCamera) -> np.ndarray:
    """Return the pixels at the centres of the grid's cells; OpenCV's nearest takes those at their corners."""
    row, column = (
        np.floor((np.arange(count) + 0.5) * size / count).astype(int)
        for count, size in zip((grid.height, grid.width), image.shape[:2], strict=True)
    )
    return image[np.ix_(row, column)]


class TrueFlow:
    """True matches at once, as plain optical flow."""

    name, recurrent = "true flow", False

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def encode(self, image: np.ndarray, camera: PinholeCamera) -> int:
        """Return the frame's number."""
        return self._truth.frame(image)

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """Return the true matches."""
        found = [self._truth.matches(*edge.ends(int)) for edge in edges]
        return [Correspondence(target, seen.astype(np.float64)) for target, seen in found]


class OracleNetwork:
    """A :class:`metric_slam.correspondence.droid.model.Network` whose features are the numbers of frames."""

    precision = torch.float32

    def __init__(self, truth: Truth) -> None:
        self._truth, self._shape = truth, (truth.grid.height, truth.grid.width)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return one channel with the number."""
        numbers = [self._truth.frame(image.permute(1, 2, 0).numpy()) for image in images]
        return torch.tensor(numbers).view(-1, 1, 1, 1).expand(-1, 1, *self._shape)

    def encode_context(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return zeros."""
        nothing = torch.zeros(len(images), 1, *self._shape)
        return nothing, nothing

    def context_gates(self, context: torch.Tensor) -> torch.Tensor:
        """Return the context unchanged."""
        return context

    def correlate(self, features: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> OracleNetwork._Found:
        """Return the true matches in place of a correlation."""
        frames = features[:, 0, 0, 0].long().tolist()
        return self._Found(self._truth, [(frames[i], frames[j]) for i, j in zip(source, target, strict=True)])

    class _Found:
        def __init__(self, truth: Truth, pairs: list[tuple[int, int]]) -> None:
            self._truth, self._pairs = truth, pairs

        def lookup(self, coords: torch.Tensor) -> torch.Tensor:
            """Return the offset to the match and its visibility, [E, 3, h, w]."""
            found = [self._truth.matches(i, j) for i, j in self._pairs]
            delta = torch.from_numpy(np.stack([target for target, _ in found])) - coords
            seen = torch.from_numpy(np.stack([seen for _, seen in found])).double()
            return torch.cat([delta.permute(0, 3, 1, 2), seen[:, None]], dim=1)

    def refine(
        self,
        hidden: torch.Tensor,
        context: object,
        correlation: torch.Tensor,
        motion: object = None,
        source: torch.Tensor | None = None,
        *,
        context_gates: object = None,
    ) -> UpdateResult:
        """Move every cell to its true match."""
        delta = correlation[:, :2].permute(0, 2, 3, 1)
        confidence = correlation[:, 2:].expand(-1, 2, -1, -1).permute(0, 2, 3, 1)
        count = 0 if source is None else len(source.unique())
        return UpdateResult(hidden, delta, confidence, torch.full((count, *self._shape), DAMPING), None)


def drive(name: str, config: Config, dataset: Dataset, model: CorrespondenceModel, frames: int) -> str:
    """Run one configuration and return its row of the table."""
    parts = build_parts(config, dataset.camera, InputFacts.of(dataset), model=model)
    slam = Slam.from_parts(dataset.camera, parts)
    start_s = time.perf_counter()
    for i in range(frames):
        slam.process_frame(dataset[i])
    result = slam.finish()
    took_s = time.perf_counter() - start_s
    found, true = result.T_world_cam[:, :3, 3], dataset.T_world_cam_true[:frames, :3, 3]
    rigid, similar = (umeyama(found, true, with_scale=s) for s in (False, True))
    errors = [np.sqrt(((fit.apply(found) - true) ** 2).sum(axis=1).mean()) for fit in (rigid, similar)]
    return (
        f"| {name} | {config.prior} | {int(result.is_keyframe.sum())} | {errors[0]:.3f} | {errors[1]:.3f} "
        f"| {100 * (1 / similar.scale - 1):+.2f} | {1e3 * took_s / frames:.0f} |"
    )


def compare(frames: int, budget_px: int) -> None:
    """Compare both with a depth sensor and without any prior."""
    dataset = open_demo()
    frames = min(frames, len(dataset))
    common = [f"input.pixel_budget_px={budget_px}", "loop.enabled=false"]
    camera = working_camera(resolve_config(settings=common).input, dataset.camera)
    truth = Truth(dataset, camera, frames)
    print(f"rendered drive, {frames} frames, {camera.width}x{camera.height}\n")
    print("| odometry | prior | keyframes | ATE SE(3) m | ATE Sim(3) m | scale % | ms a frame |")
    print("|---|---|---|---|---|---|---|")
    for prior in ("sensor", "none"):
        given = [*common, f"prior={prior}"]
        print(drive("dis with true flow", resolve_config(settings=given), dataset, TrueFlow(truth), frames))
        for name, more in (
            ("oracle", []),
            ("oracle, bundle adjustment of DROID-SLAM", PLAIN),
            ("the same, with global updates", [*PLAIN, "global_ba.updates=[3,3]"]),
        ):
            config = resolve_config(settings=[*given, *more])
            network = OracleNetwork(truth)
            model = DroidCorrespondence(network, config.droid, correlate=network.correlate)
            print(drive(name, config, dataset, model, frames), flush=True)


def time_network(budget_px: int, device: str, precision: str) -> None:
    """Time the real network; its weights do not matter for that."""
    from metric_slam.correspondence.droid.network import DroidNetwork

    torch.manual_seed(0)
    config = resolve_config(settings=[f"input.pixel_budget_px={budget_px}", f"droid.precision={precision}"])
    camera = working_camera(config.input, PinholeCamera(718.9, 718.9, 607.2, 185.2, 1241, 376))
    model = DroidCorrespondence(DroidNetwork().to(device).eval().requires_grad_(False), config.droid, device)
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8) for _ in range(4)]
    print(f"{camera.width}x{camera.height} on {device}, {precision}, {torch.get_num_threads()} threads\n")
    print("| what | ms |")
    print("|---|---|")
    features = [timed("features of an image", lambda image=image: model.encode(image, camera)) for image in images]
    timed("motion filter, first time (with context)", lambda: model.motion_px(features[0], features[1]))
    timed("motion filter", lambda: model.motion_px(features[0], features[1]))
    grid = camera.grid()
    y, x = np.mgrid[0 : grid.height, 0 : grid.width].astype(np.float64)
    for count in (2, 12):
        edges = [
            EdgeQuery(features[e % 4], features[(e + 1 + e // 4) % 4], np.stack([x + 0.4, y], axis=-1))
            for e in range(count)
        ]
        memories = [model.begin(edge) for edge in edges]
        timed(f"update of {count} edges", lambda edges=edges, memories=memories: model.update(edges, memories))


_Result = TypeVar("_Result")


def timed(what: str, call: Callable[[], _Result]) -> _Result:
    """Print how long a call takes and return its result."""
    start_s = time.perf_counter()
    result = call()
    print(f"| {what} | {1e3 * (time.perf_counter() - start_s):.0f} |", flush=True)
    return result


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=60, help="of the rendered drive")
    parser.add_argument("--budget", type=int, help="pixel budget of the working size")
    parser.add_argument("--network", action="store_true", help="time the network instead")
    parser.add_argument("--device", default="cpu", help="of the network")
    parser.add_argument("--precision", default="auto", help="of the network: droid.precision")
    arguments = parser.parse_args()
    if arguments.network:
        time_network(arguments.budget or 960 * 288, arguments.device, arguments.precision)
    else:
        compare(arguments.frames, arguments.budget or 320 * 192)


if __name__ == "__main__":
    main()
