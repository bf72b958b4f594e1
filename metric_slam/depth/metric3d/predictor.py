"""From an image with its camera to metric depth: the canonical camera before and after a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from metric_slam.depth.metric3d.canonical import CanonicalView, canonical_view
from metric_slam.depth.metric3d.model import Prediction
from metric_slam.geometry.camera import PinholeCamera

Network = Callable[[Tensor], Prediction]
"""A :class:`metric_slam.depth.metric3d.model.Metric3D`, or what answers like one."""

SKY_M = 150.0
"""Depth beyond which the answer is the sky, or as good as."""

_SKY_SHARE = 0.75
"""The same as a share of the network's range: version 2 learnt to put the sky at its end, 200 canonical metres, which
a wide-angle camera would turn into a wall sixty metres away."""

view_of = lru_cache(maxsize=8)(canonical_view)
"""All images of a video share one view."""


@dataclass(frozen=True)
class ImageDepth:
    """What the network says of one image, in the image's own size."""

    depth_m: np.ndarray
    """Along z in metres, float32 [H, W], 0..150; 0 in the sky."""

    confidence: np.ndarray
    """0..1, float32 [H, W]: the network was trained to say 1 - |relative error|, and is cut off at both ends."""

    normals: np.ndarray | None = None
    """Unit vectors in camera axes, float32 [H, W, 3]; None: the network has none."""


class DepthPredictor:
    """A network at one input size (width, height) on one device; ``farthest`` is the end of its range, canonical."""

    def __init__(self, network: Network, input_size: tuple[int, int], farthest: float, device: str = "cpu") -> None:
        self.input_size, self._sky = input_size, _SKY_SHARE * farthest
        self._network, self._device = network, device

    def __call__(self, image: np.ndarray, camera: PinholeCamera) -> ImageDepth:
        """Depth of an RGB image uint8 [H, W, 3] of ``camera``. CalibrationError where the two do not fit."""
        view = view_of(camera, self.input_size)
        with torch.inference_mode():
            found = self._network(torch.from_numpy(view.network_image(image))[None].to(self._device))
        canonical = _array(found.depth)
        depth_m = view.depth_m(canonical)
        sky = (view.image_map(canonical) > self._sky) | (depth_m > SKY_M)
        return ImageDepth(
            depth_m=np.where(sky, np.float32(0.0), depth_m),
            confidence=np.nan_to_num(np.clip(view.image_map(_array(found.confidence)), 0.0, 1.0)),
            normals=None if found.normals is None else _normals(view, _array(found.normals)),
        )


def _array(tensor: Tensor) -> np.ndarray:
    """The only element of a batch, on the CPU."""
    return tensor[0].float().cpu().numpy()


def _normals(view: CanonicalView, normals: np.ndarray) -> np.ndarray:
    mixed = np.stack([view.image_map(component) for component in normals], axis=-1)
    return mixed / np.maximum(np.linalg.norm(mixed, axis=-1, keepdims=True), 1e-6)
