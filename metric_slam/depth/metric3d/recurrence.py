"""The recurrent part of Metric3D version 2: hidden states at three sizes that refine depth, confidence and normals.

Order of operations and constants: mono/model/decode_heads/RAFTDepthNormalDPTDecoder5.py of github.com/YvanYin/Metric3D;
the scheme is that of RAFT-Stereo (Lipson et al., 3DV 2021). Names of attributes are those of the released weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metric_slam.depth.metric3d.convnext import ChannelNorm
from metric_slam.depth.metric3d.specs import RaftSpec

STATE = 6
"""Channels that are refined: depth, confidence, normal (3), concentration of the normal."""

UPSAMPLING = 4
_NORM_EPS = 1e-5
_MASK_SCALE = 0.25

Gates = tuple[Tensor, Tensor, Tensor]
"""What the image adds to the update gate, reset gate and candidate of a recurrent unit, [N, C, h, w] each."""


class ContextEncoder(nn.Module):
    """Feature maps at 1/4, 1/7 and 1/14 -> first hidden state and context of each size."""

    def __init__(self, spec: RaftSpec) -> None:
        super().__init__()
        for name, channels in zip(("outputs04", "outputs08", "outputs16"), spec.features, strict=False):
            heads = (
                nn.Sequential(ContextBlock(channels, spec.hidden), nn.Conv2d(spec.hidden, spec.hidden, 3, padding=1))
                for _ in range(2)
            )
            self.add_module(name, nn.ModuleList(heads))

    def forward(self, maps: tuple[Tensor, Tensor, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """(hidden, context), three [N, C, h, w] each, finest first."""
        heads = [tuple(self.get_submodule(name).children()) for name in ("outputs04", "outputs08", "outputs16")]
        hidden = [torch.tanh(first(x)) for (first, _), x in zip(heads, maps, strict=True)]
        context = [torch.relu(second(x)) for (_, second), x in zip(heads, maps, strict=True)]
        return hidden, context


class ContextBlock(nn.Module):
    """Two normalised convolutions beside a normalised change of channels."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = ChannelNorm(channels, _NORM_EPS)
        self.norm2 = ChannelNorm(channels, _NORM_EPS)
        self.downsample: nn.Sequential | None = None
        if channels_in != channels:
            # the files name this norm twice: here and as the second part of the sequence
            self.norm3 = ChannelNorm(channels, _NORM_EPS)
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels, 1), self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, D, h, w]."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class UpdateBlock(nn.Module):
    """One round over the three sizes: coarse ones more often than fine ones, then a correction of the state."""

    def __init__(self, spec: RaftSpec) -> None:
        super().__init__()
        hidden = spec.hidden
        self.gru08 = ConvGru(hidden, STATE + hidden)
        self.gru16 = ConvGru(hidden, 2 * hidden)
        self.gru32 = ConvGru(hidden, hidden)
        self.flow_head = CorrectionHead(hidden)
        self.mask = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 9 * UPSAMPLING**2, 1)
        )

    def forward(self, hidden: list[Tensor], gates: list[Gates], state: Tensor) -> tuple[list[Tensor], Tensor]:
        """(hidden, corrected state); ``hidden`` and ``gates`` finest first, ``state`` [N, 6, h, w] at 1/4."""
        fine, middle, coarse = hidden
        coarse = self.gru32(coarse, gates[2], _pooled(middle))
        for _ in range(2):
            coarse = self.gru32(coarse, gates[2], _pooled(middle))
            middle = self.gru16(middle, gates[1], _fitted(_pooled(fine), middle), _fitted(coarse, middle))
        fine = self.gru08(fine, gates[0], state, _fitted(middle, fine))
        return [fine, middle, coarse], state + self.flow_head(fine)

    def upsampling_weights(self, hidden: list[Tensor]) -> Tensor:
        """Scores of the nine neighbours for every fine pixel, [N, 9 * 16, h, w]."""
        return _MASK_SCALE * self.mask(hidden[0])


class ConvGru(nn.Module):
    """A gated recurrent unit whose products are 3x3 convolutions."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        self.convz = nn.Conv2d(hidden + inputs, hidden, 3, padding=1)
        self.convr = nn.Conv2d(hidden + inputs, hidden, 3, padding=1)
        self.convq = nn.Conv2d(hidden + inputs, hidden, 3, padding=1)

    def forward(self, hidden: Tensor, gates: Gates, *inputs: Tensor) -> Tensor:
        """The next hidden state, [N, C, h, w] like the present one."""
        both = torch.cat([hidden, *inputs], dim=1)
        update = torch.sigmoid(self.convz(both) + gates[0])
        reset = torch.sigmoid(self.convr(both) + gates[1])
        candidate = torch.tanh(self.convq(torch.cat([reset * hidden, *inputs], dim=1)) + gates[2])
        return (1 - update) * hidden + update * candidate


class CorrectionHead(nn.Module):
    """Hidden state -> correction of depth and confidence, and of the normal with its concentration."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.conv1d = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv2d = nn.Conv2d(hidden, 2, 3, padding=1)
        self.conv1n = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv2n = nn.Conv2d(hidden, 4, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, 6, h, w]."""
        depth, normal = self.conv2d(F.relu(self.conv1d(hidden))), self.conv2n(F.relu(self.conv1n(hidden)))
        return torch.cat([depth, normal], dim=1)


def upsampled(state: Tensor, weights: Tensor) -> Tensor:
    """Convex combination of the 3x3 neighbours, at four times the size.

    ``state`` [N, C, h, w], ``weights`` scores [N, 9 * 16, h, w] with the neighbour as the slowest index and zeros
    beyond the border; the result is [N, C, 4h, 4w].
    """
    n, channels, h, w = state.shape
    shares = weights.view(n, 1, 9, UPSAMPLING, UPSAMPLING, h, w).softmax(dim=2)
    neighbours = F.unfold(state, 3, padding=1).view(n, channels, 9, 1, 1, h, w)
    fine = (shares * neighbours).sum(dim=2)  # [N, C, row in cell, column in cell, h, w]
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(n, channels, UPSAMPLING * h, UPSAMPLING * w)


def _pooled(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=2, padding=1)


def _fitted(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)
