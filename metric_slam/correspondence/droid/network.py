"""The DROID-SLAM network: encode an image once, then refine edges as often as needed.

    network = load_droid_network(path)                                    # weights.py
    features = network.encode(images)                                     # [N, 128, h, w]
    hidden, context = network.encode_context(images)                      # [N, 128, h, w] each
    correlation = CorrelationVolume(features[source], features[target]).lookup(coords)
    motion = motion_features(coords, pixel_grid(h, w), flow_target)
    result = network.refine(hidden[source], context[source], correlation, motion, source)

Weights have the names and shapes of the released file (``module.`` stripped, two outputs a head).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from metric_slam.correspondence.droid.encoder import FeatureEncoder
from metric_slam.correspondence.droid.update import UpdateOperator, UpdateResult
from metric_slam.correspondence.droid.widths import DroidWidths
from metric_slam.geometry.camera import FEATURE_STRIDE

RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet, for values 0..1, with which the encoders were trained."""

MOTION_LIMIT = 64.0
"""Bound on flow and residual at the input of the update operator, grid cells."""


class DroidNetwork(nn.Module):
    """Encoders for features and context, and the update operator.

    ``precision`` is the type in which convolutions compute: float32, or bfloat16 or float16, through torch's autocast,
    on the device of the inputs. Weights and all results stay float32 in any case (a hidden state has the type it came
    with); without half precision here, an autocast of the caller's counts.
    Images and maps keep torch's ordinary memory layout: with channels last, one CPU thread needed 10 % less time for
    context, but 25 % more for features (instance norm) and the same for updates.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, widths: DroidWidths = DroidWidths(), precision: torch.dtype = torch.float32) -> None:  # noqa: B008
        super().__init__()
        self.widths = widths
        self.precision = precision
        self.fnet = FeatureEncoder(widths.features, "instance", widths.stages)
        self.cnet = FeatureEncoder(widths.hidden + widths.context, "none", widths.stages)
        self.update = UpdateOperator(widths)
        for name, values in (("mean", RGB_MEAN), ("std", RGB_STD)):  # not in the state: no weights of the network
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features [N, 128, h, w] of RGB images [N, 3, H, W], uint8 or float 0..255; sizes are multiples of 8.

        DROID-SLAM takes BGR and reverses it; here the images are RGB already.
        """
        with self._autocast(images.device):
            features = self.fnet(self._normalised(images))
        return features.to(self.mean.dtype)

    def encode_context(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute initial hidden state and context of RGB images as for ``encode``, [N, 128, h, w] each."""
        with self._autocast(images.device):
            maps = self.cnet(self._normalised(images)).to(self.mean.dtype)
        hidden, context = maps.split([self.widths.hidden, self.widths.context], dim=1)
        return torch.tanh(hidden), torch.relu(context)

    def refine(
        self,
        hidden: torch.Tensor,  # [E, 128, h, w]
        context: torch.Tensor | None,  # [E, 128, h, w]
        correlation: torch.Tensor,  # [E, 196, h, w]
        motion: torch.Tensor | None = None,  # [E, 4, h, w]
        source: torch.Tensor | None = None,  # int64 [E]
        *,
        context_gates: torch.Tensor | None = None,  # [E, 384, h, w]
    ) -> UpdateResult:
        """Update E edges once in the chosen precision; arguments as in :class:`UpdateOperator`."""
        with self._autocast(hidden.device):
            return self.update.forward(hidden, context, correlation, motion, source, context_gates=context_gates)

    def context_gates(self, context: torch.Tensor) -> torch.Tensor:
        """Compute the share of the context [N, 128, h, w] in the gates, [N, 384, h, w], which ``refine`` takes instead.

        Computed once, it saves a fifth of every update, for three times the memory.
        """
        with self._autocast(context.device):
            return self.update.context_gates(context)

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        assert images.ndim == 4 and images.shape[1] == 3, images.shape
        assert all(size % FEATURE_STRIDE == 0 for size in images.shape[2:]), images.shape
        return (images.to(self.mean.dtype) / 255.0 - self.mean) / self.std

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.precision in (torch.float16, torch.bfloat16):
            return torch.autocast(device.type, dtype=self.precision)
        return nullcontext()  # some devices have no autocast, not even one that is off


def default_precision(device: torch.device) -> torch.dtype:
    """Return half precision for a GPU, as in DROID-SLAM, and float32 for a CPU."""
    return torch.float32 if device.type == "cpu" else torch.float16


def pixel_grid(
    height: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return the positions (x, y) of the cells themselves, [h, w, 2]."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype), torch.arange(width, device=device, dtype=dtype), indexing="ij"
    )
    return torch.stack([x, y], dim=-1)


def motion_features(
    coords: torch.Tensor,  # [E, h, w, 2]
    grid: torch.Tensor,  # [h, w, 2]
    target: torch.Tensor,  # [E, h, w, 2]
) -> torch.Tensor:
    """Compute the motion input of an update, [E, 4, h, w] in grid cells, limited to +-64.

    Flow from each cell to its present reprojection ``coords``, and the residual of the bundle adjustment: from there to
    the ``target`` of the last update.
    """
    motion = torch.cat([coords - grid, target - coords], dim=-1)
    return motion.clamp(-MOTION_LIMIT, MOTION_LIMIT).permute(0, 3, 1, 2).contiguous()
