"""Evaluation of depth predictions of annotated images: from a folder of maps, or from a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metric_slam.datasets.annotations import AnnotatedImage, by_path_tail
from metric_slam.depth.metric3d.predictor import ImageDepth
from metric_slam.depth.precomputed import SUFFIXES, find_depth_map, read_depth
from metric_slam.errors import EvaluationError
from metric_slam.evaluation.depth import DepthMetrics, DepthProtocol, depth_metrics
from metric_slam.geometry.camera import PinholeCamera

Predict = Callable[[AnnotatedImage], np.ndarray]
"""Depth in metres [H, W] of an annotated image; 0 where unknown."""


class ImageMetrics(NamedTuple):
    """Figures of one image."""

    name: str
    metrics: DepthMetrics


class FolderOfDepth:
    """Depth maps named like their images, in the formats of prior ``precomputed``; for one evaluation.

    The folder may repeat the folder structure of the images. The map with the longest common path is taken, so that
    images with the same name in different folders have different maps.
    """

    def __init__(self, folder: Path, png_scale: float) -> None:
        """``png_scale``: values per metre in 16-bit png. EvaluationError where there is no such folder."""
        if not folder.is_dir():
            raise EvaluationError(f"{folder}: no such folder of depth maps; check --predictions")
        self._folder, self._png_scale = folder, png_scale
        self._taken: dict[Path, str] = {}

    def __call__(self, image: AnnotatedImage) -> np.ndarray:
        """Read the map of an image. Raises EvaluationError if there is none or another image has it; DatasetError."""
        places = by_path_tail(self._folder, str(Path(image.name).with_suffix("")))
        path = next((found for place in places if (found := find_depth_map(place)) is not None), None)
        if path is None:
            suffixes = ", ".join(SUFFIXES)
            raise EvaluationError(f"{self._folder}: no depth map named {places[-1].name} with one of {suffixes}")
        other = self._taken.setdefault(path, image.name)
        if other != image.name:
            raise EvaluationError(
                f"{path} would be the prediction of {other} and of {image.name}: keep their "
                f"folders below {self._folder}"
            )
        return read_depth(path, self._png_scale)


def from_network(network: Callable[[np.ndarray, PinholeCamera], ImageDepth]) -> Predict:
    """Return predictions by a :class:`metric_slam.depth.metric3d.predictor.DepthPredictor` or a similar callable."""

    def predict(image: AnnotatedImage) -> np.ndarray:
        rgb = image.image()
        return network(rgb, image.camera(rgb)).depth_m

    return predict


def evaluate_images(images: Sequence[AnnotatedImage], predict: Predict, protocol: DepthProtocol) -> list[ImageMetrics]:
    """Compute the figures of every image, in order.

    Raises EvaluationError that names the image if prediction and truth differ in size or share no pixel.
    """
    results = []
    for image in images:
        predicted_m = predict(image)
        try:
            results.append(ImageMetrics(image.name, depth_metrics(predicted_m, image.depth_m(), protocol)))
        except EvaluationError as error:
            raise EvaluationError(f"{image.name}: {error}") from error
    return results
