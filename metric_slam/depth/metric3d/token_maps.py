"""From the tokens of a vision transformer to feature maps, and their fusion, in the manner of DPT (Ranftl et al. 2021).

Order of operations and constants: mono/model/decode_heads/RAFTDepthNormalDPTDecoder5.py of github.com/YvanYin/Metric3D.
Names of attributes are those of the released weights.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from metric_slam.depth.metric3d.specs import RaftSpec

_TO_QUARTER = 7 / 2
"""From 1/14 of the image to 1/4."""

_SEVENTH_TO_QUARTER = 7 / 4


class TokenMaps(nn.Module):
    """Four sets of tokens -> maps at 1/4, 1/7, 1/14 and 1/14 of the image."""

    def __init__(self, spec: RaftSpec) -> None:
        super().__init__()
        quarter, seventh = spec.features[:2]
        self.read_3 = TokenMap(spec)
        self.read_2 = TokenMap(spec)
        self.read_1 = TokenMap(spec, nn.ConvTranspose2d(spec.tokens, seventh, 2, stride=2))
        self.read_0 = TokenMap(spec, nn.Sequential(nn.Conv2d(spec.tokens, quarter, 1)))

    def forward(self, tokens: tuple[Tensor, ...], grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``tokens`` [N, 1 + registers + P, C] each, of a ``grid`` (rows, columns) of patches; maps [N, D, h, w]."""
        quarter, seventh, middle, last = (
            read(t, grid) for read, t in zip((self.read_0, self.read_1, self.read_2, self.read_3), tokens, strict=True)
        )
        # a layer per pixel and nearest-neighbour enlargement commute, and this order is twelve times cheaper
        return F.interpolate(quarter, scale_factor=_TO_QUARTER, mode="nearest"), seventh, middle, last


class TokenMap(nn.Module):
    """One set of tokens as a map, with its class and register tokens added to every patch."""

    def __init__(self, spec: RaftSpec, sample: nn.Module | None = None) -> None:
        super().__init__()
        self.readoper = Readout(spec.tokens, 1 + spec.registers)
        self.sample = nn.Identity() if sample is None else sample

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens [N, T, C] -> map [N, D, h, w]."""
        return self.sample(self.readoper(tokens).transpose(1, 2).unflatten(2, grid))


class Readout(nn.Module):
    """Patch tokens with the projected global tokens added."""

    def __init__(self, channels: int, global_tokens: int) -> None:
        super().__init__()
        self.global_tokens = global_tokens
        self.project_patch = nn.Linear(channels, channels)
        self.project_learn = nn.Linear(global_tokens * channels, channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [N, G + P, C] -> [N, P, C]."""
        whole, patches = tokens[:, : self.global_tokens], tokens[:, self.global_tokens :]
        return F.gelu(self.project_patch(patches) + self.project_learn(whole.flatten(1)).unsqueeze(1))


class MapFusion(nn.Module):
    """Joins the maps from coarse to fine; two channels more than the specification says hold both confidences."""

    def __init__(self, spec: RaftSpec) -> None:
        super().__init__()
        quarter, seventh, middle, last = spec.channels
        self.upconv_3 = FuseBlock(last, middle, fuse=False)
        self.upconv_2 = FuseBlock(middle, seventh)
        self.upconv_1 = FuseBlock(seventh, quarter + 2)

    def forward(self, seventh: Tensor, middle: Tensor, last: Tensor) -> Tensor:
        """Maps [N, C, h, w] at 1/7, 1/14 and 1/14 -> [N, D, h, w] at 1/4."""
        x = self.upconv_3(last)
        x = _stretched(self.upconv_2(x, middle), 2)
        return _stretched(self.upconv_1(x, seventh), _SEVENTH_TO_QUARTER)


class FuseBlock(nn.Module):
    """Adds a finer map, if there is one, refines the sum and changes its channels."""

    def __init__(self, channels_in: int, channels_out: int, *, fuse: bool = True) -> None:
        super().__init__()
        self.way_trunk = Residual(channels_in)
        if fuse:
            self.way_branch = Residual(channels_in)
        self.out_conv = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        """[N, C, h, w] -> [N, D, h, w]; enlarging after the last layer is cheaper and gives the same."""
        if finer is not None:
            x = x + self.way_branch(finer)
        return self.out_conv(self.way_trunk(x))


class Residual(nn.Module):
    """Two convolutions beside the positive part of the input.

    The reference's ReLU works in place, so that the sum takes the positive part, not the input itself; the released
    weights were trained that way.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> the same shape."""
        x = F.relu(x)
        return x + self.conv2(F.relu(self.conv1(x)))


def _stretched(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)
