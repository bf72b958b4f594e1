"""Decoder of Metric3D version 1: features to depth at a quarter of the size, then a learned correction at full size.

Order of operations and constants: mono/model/decode_heads/HourGlassDecoder.py of github.com/YvanYin/Metric3D. Names of
attributes are those of the released weights; nothing here is tied to a device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metric_slam.depth.metric3d.depth_bins import expected_depth
from metric_slam.depth.metric3d.specs import HourglassSpec

_CODE = 256
"""Channels between the hourglass and the layers that score depths."""

_UNET_CHANNELS = (128, 64, 32, 16)
_CORRECTION_CHANNELS = 16
_CORRECTION_SHARE = 0.1
_UPSAMPLING = 4


class HourglassDecoder(nn.Module):
    """Four feature maps of an encoder -> canonical depth and confidence at full size."""

    def __init__(self, spec: HourglassSpec) -> None:
        super().__init__()
        self.range_m = spec.nearest_m, spec.farthest_m
        self.decoder_mono = FeatureDecoder(spec)
        self.conv_out_2 = UNet(spec.channels[0], _CODE + 1)
        self.depth_regressor_2 = nn.Sequential(
            nn.Conv2d(_CODE, spec.bins, 3, padding=1),
            nn.BatchNorm2d(spec.bins),
            nn.ReLU(),
            nn.Conv2d(spec.bins, spec.bins, 1),
        )
        width = _CORRECTION_CHANNELS
        self.conv_up_2 = nn.Sequential(
            nn.Conv2d(1 + 2 + _CODE, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.Upsample(scale_factor=_UPSAMPLING, mode="nearest"),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """(depth, confidence), both [N, 1, H, W]; ``features`` [N, C, h, w] each, at 1/4, 1/8, 1/16, 1/32."""
        code, confidence = self.conv_out_2(self.decoder_mono(features)).split([_CODE, 1], dim=1)
        depth = expected_depth(self.depth_regressor_2(code), *self.range_m)
        correction = self.conv_up_2(torch.cat([depth, _pixels(depth), code], dim=1))
        return _enlarged(depth, _UPSAMPLING) + _CORRECTION_SHARE * correction, _enlarged(confidence, _UPSAMPLING)


class FeatureDecoder(nn.Module):
    """Joins the encoder's maps from coarse to fine."""

    def __init__(self, spec: HourglassSpec) -> None:
        super().__init__()
        f4, f8, f16, f32 = spec.features
        fine, middle, coarse = spec.channels
        self.upconv_3_0 = Elu(f32, coarse, 1)
        self.upconv_3_1 = DoubleElu(f16 + coarse, coarse, 1)
        self.upconv_2_0 = Elu(coarse, middle, 3)
        self.upconv_2_1 = DoubleElu(f8 + middle, middle, 3)
        self.upconv_1_0 = Elu(middle, fine, 3)
        self.upconv_1_1 = DoubleElu(f4 + fine, fine, 3)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Joint features at 1/4 [N, C, h, w]."""
        f4, f8, f16, x = features
        x = self.upconv_3_1(torch.cat([_enlarged(self.upconv_3_0(x), 2), f16], dim=1))
        x = self.upconv_2_1(torch.cat([_enlarged(self.upconv_2_0(x), 2), f8], dim=1))
        return self.upconv_1_1(torch.cat([_enlarged(self.upconv_1_0(x), 2), f4], dim=1))


class Elu(nn.Module):
    """Convolution over a mirrored border, then ELU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels_in, channels_out, kernel)
        self.conv: nn.Module = conv if kernel == 1 else nn.Sequential(nn.ReflectionPad2d(kernel // 2), conv)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D, H, W]."""
        return F.elu(self.conv(x))


class DoubleElu(Elu):
    """The same with a second layer per pixel."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__(channels_in, channels_out, kernel)
        self.conv_2 = nn.Conv2d(channels_out, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D, H, W]."""
        return F.elu(self.conv_2(super().forward(x)))


class UNet(nn.Module):
    """Three halvings and three doublings with sums across; sides must be multiples of 8."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        first = _UNET_CHANNELS[0]
        self.conv0 = ConvNormRelu(channels_in, first)
        pairs = list(zip((*_UNET_CHANNELS,), (*_UNET_CHANNELS[1:], _UNET_CHANNELS[-1]), strict=True))[:3]
        for level, (fine, coarse) in enumerate(pairs):
            down = nn.Sequential(ConvNormRelu(fine, coarse, stride=2), ConvNormRelu(coarse, coarse))
            up = nn.ConvTranspose2d(coarse, fine, 3, stride=2, padding=1, output_padding=1, bias=False)
            self.add_module(f"conv_{level}", down)
            self.add_module(f"deconv_{level}", nn.Sequential(up, nn.BatchNorm2d(fine), nn.ReLU()))
        self.levels = len(pairs)
        self.prob = nn.Conv2d(first, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D, H, W]."""
        maps = [self.conv0(x)]
        for level in range(self.levels):
            maps.append(self.get_submodule(f"conv_{level}")(maps[-1]))
        x = maps.pop()
        for level in reversed(range(self.levels)):
            x = maps[level] + self.get_submodule(f"deconv_{level}")(x)
        return self.prob(x)


class ConvNormRelu(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D, H/stride, W/stride]."""
        return F.relu(self.bn(self.conv(x)))


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="nearest")


def _pixels(like: Tensor) -> Tensor:
    """(column, row) of every pixel, counted from 0, [N, 2, H, W]."""
    n, _, height, width = like.shape
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y]).expand(n, -1, -1, -1)
