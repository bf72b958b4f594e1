"""The depth prior ``huggingface``: metric depth of every keyframe from a model of the library transformers.

Only models whose output is in metres are accepted. Models trained on one camera (Depth Anything's metric models,
ZoeDepth, GLPN) are right for cameras of about that focal length and off by the ratio elsewhere. Depth Pro scales by a
field of view that it estimates (Bochkovskii et al., *Depth Pro*, ICLR 2025, section 3.1), which is replaced by the
calibrated one here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from metric_slam.config.huggingface import HuggingFaceConfig
from metric_slam.depth.base import DepthPrediction, ImageDepthPrior, depth_to_grid
from metric_slam.errors import ConfigError, MissingDependencyError, WeightsError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera

if TYPE_CHECKING:
    from transformers.feature_extraction_utils import BatchFeature

METRIC_TYPES = frozenset({"zoedepth", "depth_pro", "glpn"})
"""Kinds of model that are metric by construction; others may state it in ``depth_estimation_type``."""


class ModelConfig(Protocol):
    """What every model configuration of transformers has."""

    model_type: str


class DepthModel(Protocol):
    """What is used of a depth model of transformers."""

    @property
    def config(self) -> ModelConfig:
        """Its configuration."""

    def to(self, device: str) -> DepthModel:
        """Move the weights to a torch device."""

    def __call__(self, **inputs: torch.Tensor) -> object:
        """Run the model; the output is for the processor of the same model."""


class DepthProcessor(Protocol):
    """What is used of an image processor of transformers."""

    def __call__(self, *, images: np.ndarray, return_tensors: str) -> BatchFeature:
        """Convert an image to the inputs of the model."""

    def post_process_depth_estimation(
        self, outputs: object, *, target_sizes: Sequence[tuple[int, int]], source_sizes: Sequence[tuple[int, int]] = ()
    ) -> Sequence[Mapping[str, torch.Tensor]]:
        """Depth at the size of the images, under "predicted_depth"."""


class HuggingFacePrior(ImageDepthPrior):
    """Depth of the data set's own image, brought to the grid of the working camera."""

    name = "huggingface"

    def __init__(self, config: HuggingFaceConfig, predict: Callable[[np.ndarray, PinholeCamera], np.ndarray]) -> None:
        self._predict, self._farthest_m = predict, config.max_depth_m
        self.relative_sigma = config.sigma
        self.scale_sigma = config.scale_sigma

    def prepare(self, frame: Frame, camera: PinholeCamera) -> DepthPrediction:
        """The model's depth on the grid; unknown (0) beyond the far limit."""
        depth_m = self._predict(frame.image, frame.camera)
        return depth_to_grid(np.where(depth_m <= self._farthest_m, depth_m, 0.0), camera)


class HuggingFacePredictor:
    """A model with its image processor on one device."""

    def __init__(self, model: DepthModel, processor: DepthProcessor, device: str) -> None:
        self._model, self._processor, self._device = model.to(device), processor, device
        parameters = inspect.signature(processor.post_process_depth_estimation).parameters
        self._needs_source = "source_sizes" in parameters  # ZoeDepth needs the size to undo its padding

    def __call__(self, image: np.ndarray, camera: PinholeCamera) -> np.ndarray:
        """Depth along z in metres, float32 [H, W], 0 where unknown, of an RGB image uint8 [H, W, 3] of ``camera``."""
        size = image.shape[0], image.shape[1]
        inputs = self._processor(images=image, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            outputs = self._model(**inputs)
            estimated = getattr(outputs, "field_of_view", None)
            if estimated is not None:
                degrees = 2.0 * float(np.rad2deg(np.arctan(0.5 * image.shape[1] / camera.fx)))
                setattr(outputs, "field_of_view", torch.full_like(estimated, degrees))  # noqa: B010  (type unknown)
            process = self._processor.post_process_depth_estimation
            if self._needs_source:
                found = process(outputs, target_sizes=[size], source_sizes=[size])
            else:
                found = process(outputs, target_sizes=[size])
        depth_m = found[0]["predicted_depth"].float().cpu().numpy()
        assert depth_m.shape == size, (depth_m.shape, size)
        # smooth interpolation overshoots below zero at the edges of things
        return np.maximum(np.nan_to_num(depth_m, nan=0.0, posinf=0.0, neginf=0.0), np.float32(0.0))


def make_huggingface_prior(config: HuggingFaceConfig, device: str) -> tuple[HuggingFacePrior, str]:
    """The prior as configured on a torch device, and which model it is, for the log.

    Nothing is downloaded unless ``allow_download`` is set, and code that comes with a model is never run.

    Raises:
        MissingDependencyError: transformers, or something that the model needs beside it, is not installed.
        ConfigError: no model is named, or its depth is not metric.
        WeightsError: the model is not here or damaged.
    """
    if config.model is None:
        raise ConfigError("prior 'huggingface' needs a model: give --set huggingface.model=FOLDER")
    model, processor = _load(config, str(Path(config.model).expanduser()))
    what = f"{model.config.model_type} in {config.model}, on {device}"
    return HuggingFacePrior(config, HuggingFacePredictor(model, processor, device)), what


def check_metric(model: str, found: ModelConfig, *, assume_metric: bool) -> None:
    """Raise ConfigError unless ``model`` is metric by its configuration ``found`` or by ``assume_metric``."""
    kind, stated = found.model_type, getattr(found, "depth_estimation_type", None)
    if kind == "prompt_depth_anything":
        raise ConfigError(f"{model}: a {kind} model needs measured depth as its prompt; take one of depth_anything")
    if stated == "relative":
        raise ConfigError(
            f"{model}: its depth is relative according to its configuration; take one trained for metric depth"
        )
    if kind == "depth_pro" and not getattr(found, "use_fov_model", False):
        raise ConfigError(f"{model}: this depth_pro has no field of view, without which its depth is not metric")
    if stated != "metric" and kind not in METRIC_TYPES and not assume_metric:
        raise ConfigError(
            f"{model}: the configuration of a {kind} model does not state whether its depth is metric; if it is, set "
            "huggingface.assume_metric=true"
        )


def _load(config: HuggingFaceConfig, model: str) -> tuple[DepthModel, DepthProcessor]:
    """Load the model in evaluation mode and its image processor. Raises as :func:`make_huggingface_prior`."""
    try:
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as error:
        raise MissingDependencyError(
            f"prior 'huggingface' needs transformers ({_line(error)}): pip install 'metric-slam[huggingface]'"
        ) from error
    options = {"local_files_only": not config.allow_download, "trust_remote_code": False}
    try:
        with _quiet():
            check_metric(model, AutoConfig.from_pretrained(model, **options), assume_metric=config.assume_metric)
            processor = AutoImageProcessor.from_pretrained(model, **options)
            network, report = AutoModelForDepthEstimation.from_pretrained(model, output_loading_info=True, **options)
    except ImportError as error:
        raise MissingDependencyError(f"{model} needs another package ({_line(error)}): install it") from error
    except (OSError, ValueError, RuntimeError, LookupError, SafetensorError) as error:
        raise WeightsError(_why_not(model, config.allow_download, error)) from error
    lacking = sorted(report["missing_keys"])
    if lacking:  # the library fills them with random numbers and goes on
        raise WeightsError(f"{model}: {len(lacking)} weights are missing, {lacking[0]} among them; fetch it again")
    if not hasattr(processor, "post_process_depth_estimation"):
        raise ConfigError(
            f"{model}: its image processor has no depth output; take another model or a newer transformers"
        )
    return network.eval().requires_grad_(False), processor


def _why_not(model: str, allow_download: bool, error: Exception) -> str:
    if isinstance(error, OSError) and not Path(model).is_dir() and not allow_download:
        return (
            f"no model '{model}': it is neither a folder nor in the local cache; name its folder, or fetch it with "
            "--set huggingface.allow_download=true"
        )
    return f"{model}: cannot be read as a depth model of transformers ({_line(error)})"


def _line(error: Exception) -> str:
    """The first line of a message that may have many."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no warnings while a model loads: the library would write them across our own."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
