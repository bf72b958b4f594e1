"""The depth prior ``metric3d``: depth and confidence of every keyframe from a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.depth.base import DepthPrediction, ImageDepthPrior, depth_to_grid
from metric_slam.depth.metric3d.cache import DepthCache
from metric_slam.depth.metric3d.locate import Metric3DFile, input_size, located
from metric_slam.depth.metric3d.onnx_network import SUFFIX, OnnxNetwork
from metric_slam.depth.metric3d.predictor import DepthPredictor, ImageDepth, Network
from metric_slam.depth.metric3d.specs import Metric3DSpec
from metric_slam.depth.metric3d.weights import load_metric3d
from metric_slam.errors import ConfigError, WeightsError
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera


class Metric3DPrior(ImageDepthPrior):
    """Depth of the data set's own image with its own intrinsics, brought to the grid of the working camera."""

    name = "metric3d"

    def __init__(
        self,
        config: Metric3DConfig,
        predict: Callable[[np.ndarray, PinholeCamera], ImageDepth],
        cache: DepthCache | None = None,
    ) -> None:
        self._predict, self._cache = predict, cache
        self._farthest_m = config.max_depth_m
        self.relative_sigma = config.sigma
        self.scale_sigma = config.scale_sigma

    def prepare(self, frame: Frame, camera: PinholeCamera) -> DepthPrediction:
        """The network's depth on the grid; unknown (0) beyond the far limit and in the sky.

        The confidence of a cell is that of its depth edges times the mean confidence of the network over its pixels,
        which counts as 0 where depth is unknown.
        """
        found = self._image_depth(frame)
        known = (found.depth_m > 0) & (found.depth_m <= self._farthest_m)
        cells = depth_to_grid(np.where(known, found.depth_m, 0.0), camera)
        h, w = cells.depth_m.shape
        own = cv2.resize(np.where(known, found.confidence, 0.0), (w, h), interpolation=cv2.INTER_AREA)
        return DepthPrediction(cells.depth_m, cells.confidence * own)

    def _image_depth(self, frame: Frame) -> ImageDepth:
        found = None if self._cache is None else self._cache.load(frame)
        if found is None:
            found = self._predict(frame.image, frame.camera)
            if self._cache is not None:
                self._cache.save(frame, found)
        return found


def make_metric3d_prior(config: Metric3DConfig, device: str) -> tuple[Metric3DPrior, str]:
    """Build the prior as configured on a torch device; returns it and the name of its network, for the log.

    Raises:
        WeightsError: weights are missing, damaged or another network's.
        ConfigError: the network cannot take the configured input size.
        MissingDependencyError: the weights are a file .onnx, and onnxruntime is not installed.
    """
    predictor, file = make_predictor(config, device)
    size = "{}x{}".format(*predictor.input_size)
    cache = None
    if config.cache is not None:
        cache = DepthCache(Path(config.cache), f"{file.spec.name} {size}, weights {_identity(file.path)}")
    return Metric3DPrior(config, predictor, cache), f"{file.spec.name} at {size} with {file.path}, on {device}"


def make_predictor(config: Metric3DConfig, device: str) -> tuple[DepthPredictor, Metric3DFile]:
    """Build the network alone, for single images; returns it and its file. Raises as :func:`make_metric3d_prior`."""
    file = located(config)
    size = input_size(config, file.spec)
    network = load_network(file.spec, file.path, size, device)
    return DepthPredictor(network, size, file.spec.decoder.farthest_m, device, precision_of(config)), file


def precision_of(config: Metric3DConfig) -> torch.dtype | None:
    """Numeric type as configured, None for ``auto``."""
    return None if config.precision == "auto" else getattr(torch, config.precision)


def load_network(spec: Metric3DSpec, path: Path, size: tuple[int, int], device: str) -> Network:
    """Load the network of a weights file, or of a file .onnx, for inputs of ``size`` (width, height) on a torch device.

    Raises:
        WeightsError: the file is missing, damaged or another network's.
        ConfigError: a file .onnx takes inputs of another size only.
        MissingDependencyError: a file .onnx, and onnxruntime is not installed.
    """
    if path.suffix.lower() != SUFFIX:
        return load_metric3d(spec, path, device)
    network = OnnxNetwork(path, device)
    if network.network_name not in (None, spec.name):
        raise WeightsError(f"{path} holds {network.network_name}, not {spec.name}: set metric3d.model accordingly")
    if network.input_size not in (None, size):
        own = "{}x{}".format(*network.input_size)
        raise ConfigError(
            f"{path} takes inputs of {own} only, not {size[0]}x{size[1]}: set metric3d.input_size={own} (--size {own})"
        )
    return network


def _identity(path: Path) -> str:
    """Name and size of a weights file: distinguishes released files without reading them again."""
    return f"{path.name} of {path.stat().st_size} bytes"
