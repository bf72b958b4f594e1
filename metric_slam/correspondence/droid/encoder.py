"""Residual encoder from an image to a map of 1/8 its size, used for features and for context.

Layout and names of the weights follow DROID-SLAM (droid_slam/modules/extractor.py, class BasicEncoder): a 7 x 7
convolution of stride 2, three stages of two residual blocks with strides 1, 2, 2, and a 1 x 1 convolution.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

Norm = Literal["instance", "none"]


def normalised(maps: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Normalise every channel of every image [N, C, h, w] to zero mean and unit variance, unless ``norm`` is "none"."""
    return F.instance_norm(maps, eps=1e-5) if norm == "instance" else maps


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; with a stride, a 1 x 1 convolution brings the shortcut to size."""

    def __init__(self, channels_in: int, channels_out: int, norm: Norm, stride: int) -> None:
        super().__init__()
        self.norm = norm
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, stride=stride)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        resize = stride > 1 or channels_in != channels_out
        self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride=stride)) if resize else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map [N, C_in, h, w] to [N, C_out, h / stride, w / stride]."""
        residual = F.relu(normalised(self.conv1(maps), self.norm), inplace=True)
        residual = F.relu(normalised(self.conv2(residual), self.norm), inplace=True)
        if self.downsample is not None:
            maps = normalised(self.downsample(maps), self.norm)
        return F.relu(maps + residual, inplace=True)


class FeatureEncoder(nn.Module):
    """Normalised RGB [N, 3, H, W] -> maps [N, C, H/8, W/8].

    Sizes that are no multiple of 8 are rounded up. With ``norm="instance"`` the maps of an image do not depend on its
    contrast; they never depend on the other images of the batch.
    """

    def __init__(self, channels_out: int, norm: Norm, stages: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        half, quarter, eighth = stages
        self.norm = norm
        self.conv1 = nn.Conv2d(3, half, 7, padding=3, stride=2)
        self.layer1 = self._stage(half, half, stride=1)
        self.layer2 = self._stage(half, quarter, stride=2)
        self.layer3 = self._stage(quarter, eighth, stride=2)
        self.conv2 = nn.Conv2d(eighth, channels_out, 1)

    def _stage(self, channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
        first = ResidualBlock(channels_in, channels_out, self.norm, stride)
        return nn.Sequential(first, ResidualBlock(channels_out, channels_out, self.norm, stride=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Encode normalised images [N, 3, H, W]."""
        maps = F.relu(normalised(self.conv1(images), self.norm), inplace=True)
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return F.conv2d(maps, self.conv2.weight, self.conv2.bias)
