"""From an image with its camera to metric depth: the canonical camera before and after a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from metric_slam.depth.metric3d.canonical import CanonicalView, canonical_view
from metric_slam.depth.metric3d.model import Prediction
from metric_slam.geometry.camera import PinholeCamera

Network = Callable[[Tensor], Prediction]
"""A :class:`metric_slam.depth.metric3d.model.Metric3D`, or a function with the same signature."""

SKY_M = 150.0
"""Depth from which on a pixel counts as sky."""

_SKY_SHARE = 0.75
"""The same as a share of the network's range: version 2 was trained to put the sky at its end, 200 canonical metres,
which a wide-angle camera would turn into a wall sixty metres away."""

view_of = lru_cache(maxsize=8)(canonical_view)
"""All images of a video share one view."""


@dataclass(frozen=True)
class ImageDepth:
    """Output of the network for one image, in the image's own size."""

    depth_m: np.ndarray
    """Along z in metres, float32 [H, W], 0..150; 0 in the sky."""

    confidence: np.ndarray
    """0..1, float32 [H, W]: trained towards 1 - |relative error|, clipped to this range."""

    normals: np.ndarray | None = None
    """Unit vectors in camera axes, float32 [H, W, 3]; None: the network has none."""


class DepthPredictor:
    """A network at one input size (width, height) on one device; ``farthest`` is the end of its range, canonical.

    ``precision`` is the type in which the network computes: float32, or bfloat16 or float16 through torch's autocast;
    None: float32 on a CPU, else float16. What comes out is float32 in any case.
    """

    def __init__(
        self,
        network: Network,
        input_size: tuple[int, int],
        farthest: float,
        device: str = "cpu",
        precision: torch.dtype | None = None,
    ) -> None:
        self.input_size, self._sky = input_size, _SKY_SHARE * farthest
        self._network, self._device = network, torch.device(device)
        on_cpu = self._device.type == "cpu"
        self._precision = (torch.float32 if on_cpu else torch.float16) if precision is None else precision

    def __call__(self, image: np.ndarray, camera: PinholeCamera) -> ImageDepth:
        """Depth of an RGB image uint8 [H, W, 3] of ``camera``. CalibrationError where the two do not fit."""
        return self.batch([image], camera)[0]

    def batch(self, images: Sequence[np.ndarray], camera: PinholeCamera) -> list[ImageDepth]:
        """Depths of images of one camera in one pass of the network, which on a GPU is faster than one by one."""
        view = view_of(camera, self.input_size)
        stacked = np.stack([view.network_image(image) for image in images])
        with torch.inference_mode(), self._computing():
            found = self._network(torch.from_numpy(stacked).to(self._device))
        normals = [None] * len(images) if found.normals is None else _arrays(found.normals)
        maps = zip(_arrays(found.depth), _arrays(found.confidence), normals, strict=True)
        return [self._image_depth(view, *of_image) for of_image in maps]

    def _computing(self) -> AbstractContextManager[object]:
        if self._precision == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._precision)

    def _image_depth(
        self, view: CanonicalView, canonical: np.ndarray, confidence: np.ndarray, normals: np.ndarray | None
    ) -> ImageDepth:
        depth_m = view.depth_m(canonical)
        sky = (view.image_map(canonical) > self._sky) | (depth_m > SKY_M)
        return ImageDepth(
            depth_m=np.where(sky, np.float32(0.0), depth_m),
            confidence=np.nan_to_num(np.clip(view.image_map(confidence), 0.0, 1.0)),
            normals=None if normals is None else _normals(view, normals),
        )


def _arrays(batch: Tensor) -> list[np.ndarray]:
    """The elements of a batch, on the CPU."""
    return list(batch.float().cpu().numpy())


def _normals(view: CanonicalView, normals: np.ndarray) -> np.ndarray:
    mixed = np.stack([view.image_map(component) for component in normals], axis=-1)
    return mixed / np.maximum(np.linalg.norm(mixed, axis=-1, keepdims=True), 1e-6)
