"""Chooses prior, matcher and solver from a configuration and the input, and says why."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metric_slam.config.schema import Config, InputConfig
from metric_slam.correspondence.base import CorrespondenceModel
from metric_slam.correspondence.dis import DisCorrespondence
from metric_slam.datasets.base import Dataset, has_depth
from metric_slam.depth.base import DepthPrior
from metric_slam.depth.ground_plane.prior import GroundPlane
from metric_slam.depth.metric3d.locate import locate
from metric_slam.depth.no_prior import NoPrior
from metric_slam.depth.precomputed import PrecomputedDepth
from metric_slam.depth.prefetch import PrefetchedPrior
from metric_slam.depth.sensor import SensorDepth
from metric_slam.errors import ConfigError, WeightsError
from metric_slam.frame import CameraMount
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from metric_slam.optimization.solver import CpuSolver, Solver
from metric_slam.weights.released import find, released, weights_folder

log = logging.getLogger(__name__)

_MIN_SIDE_PX = 8 * FEATURE_STRIDE


class PriorChoice(NamedTuple):
    """A depth prior and why it was taken."""

    prior: DepthPrior
    reason: str


class CorrespondenceChoice(NamedTuple):
    """A matching model and why it was taken."""

    model: CorrespondenceModel
    reason: str


class SolverChoice(NamedTuple):
    """What runs bundle adjustment, and why."""

    solver: Solver
    reason: str


@dataclass(frozen=True)
class InputFacts:
    """What the choice of a prior depends on."""

    mount: CameraMount | None
    has_depth: Callable[[], bool]
    """Looks at the data only when asked."""

    @classmethod
    def of(cls, dataset: Dataset) -> InputFacts:
        """The facts of a data set."""
        return cls(dataset.mount, lambda: has_depth(dataset))


def working_camera(config: InputConfig, camera: PinholeCamera) -> PinholeCamera:
    """The camera all frames are resized to: ``size``, or the largest within the pixel budget; sides multiples of 8."""
    if config.size is not None:
        width, height = config.size
    else:
        shrink = min(1.0, float(np.sqrt(config.pixel_budget_px / (camera.width * camera.height))))
        width, height = round(camera.width * shrink), round(camera.height * shrink)
    width, height = (max(side // FEATURE_STRIDE * FEATURE_STRIDE, _MIN_SIDE_PX) for side in (width + 4, height + 4))
    return camera.resized(width, height)


def choose_prior(config: Config, facts: InputFacts) -> PriorChoice:
    """The depth prior that was asked for, or the best one available.

    Raises ConfigError or WeightsError where the one asked for cannot work on this input.
    """
    mount = camera_mount(config, facts.mount)
    if config.prior == "metric3d":
        return _make_metric3d(config, "as asked for")
    if config.prior == "huggingface":
        return _make_huggingface(config)
    if config.prior != "auto":
        return PriorChoice(_make_prior(config, config.prior, mount), "as asked for")
    if config.precomputed.folder is not None:
        return PriorChoice(_make_prior(config, "precomputed", mount), f"depth maps in {config.precomputed.folder}")
    if mount is not None:  # within one per cent on real drives; what the network reaches there is not measured yet
        reason = f"the camera rides {mount.height_m:.2f} m above the road"
        if facts.has_depth():
            reason += "; the data set's depth images are left alone (--prior sensor uses them)"
        return PriorChoice(_make_prior(config, "ground_plane", mount), reason)
    if facts.has_depth():
        return PriorChoice(_make_prior(config, "sensor", mount), "the data set has depth images")
    no_network = _why_no_metric3d(config)
    if no_network is None:
        return _make_metric3d(config, "no depth images and no known camera height, but weights and a GPU")
    return PriorChoice(
        NoPrior(),
        f"no depth images, no depth maps and no known camera height; {no_network}: the scale stays unknown",
    )


def _why_no_metric3d(config: Config) -> str | None:
    """Why ``auto`` leaves the network alone; None where it takes it. WeightsError where configured weights are gone."""
    found = locate(config.metric3d)
    if found is None:
        return "metric3d has no weights here (metric-slam weights)"
    if resolve_device(config.device) == "cpu":
        return f"without a GPU the weights in {found.path} are left alone (--prior metric3d uses them)"
    return None


def _make_metric3d(config: Config, reason: str) -> PriorChoice:
    """The learned prior and what it runs on; torch networks are imported here and not before."""
    from metric_slam.depth.metric3d.prior import make_metric3d_prior

    prior, what = make_metric3d_prior(config.metric3d, resolve_device(config.device))
    return PriorChoice(PrefetchedPrior(prior), f"{reason}; {what}")


def _make_huggingface(config: Config) -> PriorChoice:
    """A model of the library transformers, and what it runs on; never taken by ``auto``, which knows nothing of it."""
    from metric_slam.depth.huggingface import make_huggingface_prior

    prior, what = make_huggingface_prior(config.huggingface, resolve_device(config.device))
    return PriorChoice(PrefetchedPrior(prior), f"as asked for; {what}")


def camera_mount(config: Config, mount: CameraMount | None) -> CameraMount | None:
    """Mounting of the camera: as configured, else ``mount`` of the data set."""
    if config.ground_plane.camera_height_m is not None:
        return CameraMount(config.ground_plane.camera_height_m)
    return mount


def _make_prior(config: Config, name: str, mount: CameraMount | None) -> DepthPrior:
    if name == "sensor":
        return SensorDepth(config.sensor)
    if name == "precomputed":
        return PrecomputedDepth(config.precomputed)
    if name == "none":
        return NoPrior()
    if name == "ground_plane":
        if mount is None:
            raise ConfigError(
                "prior 'ground_plane' needs the camera's height above the road: give --camera-height METRES"
            )
        return GroundPlane(config.ground_plane, mount)
    raise AssertionError(name)


def choose_correspondence(config: Config) -> CorrespondenceChoice:
    """The matching model that was asked for, or the best one available.

    Raises WeightsError where the network was asked for and its weights are missing or damaged.
    """
    if config.correspondence == "droid":
        return CorrespondenceChoice(*_make_droid(config, _droid_weights(config)))
    if config.correspondence == "inverse_search":
        return CorrespondenceChoice(*_make_inverse_search(config))
    reason = "as asked for"
    if config.correspondence == "auto":
        weights = None if config.droid.weights is None and find("droid") is None else _droid_weights(config)
        if weights is None:
            reason = "needs neither weights nor a GPU; droid has no weights here (metric-slam weights)"
            if resolve_device(config.device) != "cpu":
                reason += "; inverse_search runs on the GPU, but its speed there is not measured yet"
        elif resolve_device(config.device) == "cpu":
            reason = f"without a GPU; the weights in {weights} are left alone (--correspondence droid uses them)"
        else:
            return CorrespondenceChoice(*_make_droid(config, weights))
    return CorrespondenceChoice(DisCorrespondence(config.dis, threads=min(4, os.cpu_count() or 1)), reason)


def _make_inverse_search(config: Config) -> tuple[CorrespondenceModel, str]:
    """The search of DIS in torch, and what it runs on; never taken by ``auto`` as long as no GPU has timed it."""
    from metric_slam.correspondence.inverse_search import InverseSearch

    device = resolve_device(config.device)
    return InverseSearch(config.dis, device), f"as asked for; on {device}"


def _droid_weights(config: Config) -> Path:
    """The file as configured, else where downloads go. Raises WeightsError where there is none."""
    if config.droid.weights is not None:
        path = Path(config.droid.weights).expanduser()
        if not path.is_file():
            raise WeightsError(f"no weights at {path} (droid.weights): give another path, or see metric-slam weights")
        return path
    found = find("droid")
    if found is None:
        place = weights_folder() / released("droid").file_name
        raise WeightsError(
            f"correspondence 'droid' needs its weights: put droid.pth at {place} (metric-slam weights download droid), "
            "or set droid.weights; or choose dis"
        )
    return found


def _make_droid(config: Config, weights: Path) -> tuple[CorrespondenceModel, str]:
    """The recurrent network and what it runs on; torch networks are imported here and not before."""
    from metric_slam.correspondence.droid.model import DroidCorrespondence
    from metric_slam.correspondence.droid.weights import load_droid_network

    device = resolve_device(config.device)
    model = DroidCorrespondence(load_droid_network(weights, device), config.droid, device)
    reason = "as asked for" if config.correspondence == "droid" else "there are weights and a GPU"
    return model, f"{reason}; weights {weights}, on {device}"


def choose_solver(config: Config) -> SolverChoice:
    """Where bundle adjustment and the geometry around it run: on the device of the networks, or else on the CPU.

    Raises ConfigError where that device is asked for and cannot be used.
    """
    from metric_slam.geometry.cuda_kernels import find_cuda_kernels
    from metric_slam.optimization.cuda.solver import CudaSolver

    kernels, reason = find_cuda_kernels(resolve_device(config.device))
    if kernels is None:
        return SolverChoice(CpuSolver(config.bundle_adjustment), reason)
    return SolverChoice(CudaSolver(config.bundle_adjustment, kernels, reason), reason)


def resolve_device(name: str) -> str:
    """The torch device that ``name`` means; "auto": cuda where there is one. ConfigError for what is not here."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown torch device '{name}': give auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"--device {name}: {count} CUDA devices are usable here; give auto or cpu")
    return name
