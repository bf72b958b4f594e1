"""DINOv2 vision transformers with registers (Oquab et al., Darcet et al. 2023): the encoders of Metric3D version 2.

Names of attributes are those of the released weights. Position embeddings are stretched as in DINOv2: bicubic, with
0.1 patches added to both sides before the factor is formed, which the training saw and which therefore has to stay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metric_slam.depth.metric3d.specs import VitSpec

_EPS = 1e-6
_POSITION_OFFSET = 0.1
_LAYER_SCALE = 1e-5
_LEVELS = 4


class DinoV2(nn.Module):
    """Image [N, 3, H, W] -> four sets of tokens [N, 1 + registers + P, C]: class, registers, patches row by row."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.patch_px, self.intermediate = spec.patch_px, spec.intermediate
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, spec.trained_grid**2 + 1, spec.channels))
        self.register_tokens = nn.Parameter(torch.zeros(1, spec.registers, spec.channels))
        # only DINOv2's own training hides patches; the weights carry its token, or not
        self.mask_token = nn.Parameter(torch.zeros(1, spec.channels))
        self.patch_embed = PatchEmbedding(spec)
        # the released weights have all blocks in one chunk, hence the list in a list
        self.blocks = nn.ModuleList([nn.ModuleList(Block(spec) for _ in range(spec.blocks))])
        self.norm = nn.LayerNorm(spec.channels, eps=_EPS)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``images`` normalised float [N, 3, H, W]; H and W multiples of 14."""
        patches = self.patch_embed(images)
        positions = self._positions(images.shape[2] // self.patch_px, images.shape[3] // self.patch_px)
        n = len(images)
        first = (self.cls_token + positions[:, :1]).expand(n, -1, -1)
        x = torch.cat([first, self.register_tokens.expand(n, -1, -1), patches + positions[:, 1:]], dim=1)
        levels = []
        (blocks,) = self.blocks.children()
        assert isinstance(blocks, nn.ModuleList)
        for count, block in enumerate(blocks, start=1):
            x = block(x)
            if self.intermediate and count % (len(blocks) // _LEVELS) == 0:
                levels.append(x)
        return tuple(levels) if self.intermediate else (self.norm(x),) * _LEVELS

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Embeddings for a grid of patches, [1, 1 + rows * columns, C], the class token's first."""
        grid = round((self.pos_embed.shape[1] - 1) ** 0.5)
        if rows == columns == grid:
            return self.pos_embed
        learnt = self.pos_embed[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        factor = ((rows + _POSITION_OFFSET) / grid, (columns + _POSITION_OFFSET) / grid)
        stretched = F.interpolate(learnt, scale_factor=factor, mode="bicubic")
        assert stretched.shape[2:] == (rows, columns), (stretched.shape, rows, columns)
        return torch.cat([self.pos_embed[:, :1], stretched.flatten(2).transpose(1, 2)], dim=1)


class PatchEmbedding(nn.Module):
    """One token per patch of pixels."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, spec.channels, spec.patch_px, stride=spec.patch_px)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, P, C]."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Attention and a feed-forward layer, each on normalised tokens and scaled per channel."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        channels = spec.channels
        self.norm1 = nn.LayerNorm(channels, eps=_EPS)
        self.attn = Attention(channels, spec.heads)
        self.ls1 = LayerScale(channels)
        self.norm2 = nn.LayerNorm(channels, eps=_EPS)
        self.mlp = GatedFeedForward(channels) if spec.swiglu else FeedForward(channels)
        self.ls2 = LayerScale(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, T, C] -> the same shape."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Self-attention of all tokens with several heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, T, C] -> the same shape."""
        n, tokens, channels = x.shape
        heads = self.qkv(x).reshape(n, tokens, 3, self.heads, channels // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, channels))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), _LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> the same shape."""
        return x * self.gamma


class FeedForward(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class GatedFeedForward(nn.Module):
    """SwiGLU: one half of the first layer gates the other; two thirds of the width, rounded up to a multiple of 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = (int(4 * channels * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(channels, 2 * hidden)
        self.w3 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> the same shape."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)
