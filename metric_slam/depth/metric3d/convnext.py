"""ConvNeXt ("A ConvNet for the 2020s", Liu et al., CVPR 2022) as the encoder of Metric3D version 1.

Names of attributes are those of the released weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metric_slam.depth.metric3d.specs import ConvNextSpec

_EPS = 1e-6


class ConvNext(nn.Module):
    """Image [N, 3, H, W] -> features of the four stages at 1/4, 1/8, 1/16 and 1/32, finest first."""

    def __init__(self, spec: ConvNextSpec) -> None:
        super().__init__()
        first = spec.channels[0]
        self.downsample_layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, first, 4, stride=4), ChannelNorm(first))])
        for coarse, fine in zip(spec.channels[1:], spec.channels[:-1], strict=True):
            self.downsample_layers.append(nn.Sequential(ChannelNorm(fine), nn.Conv2d(fine, coarse, 2, stride=2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNextBlock(channels) for _ in range(blocks)))
            for channels, blocks in zip(spec.channels, spec.blocks, strict=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``images`` normalised float [N, 3, H, W]; H and W multiples of 32."""
        features, x = [], images
        for shrink, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(shrink(x))
            features.append(x)
        return tuple(features)


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, norm, and two layers per pixel, added to the input with a learned scale per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=_EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel of [N, C, H, W]."""

    def __init__(self, channels: int, eps: float = _EPS) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
