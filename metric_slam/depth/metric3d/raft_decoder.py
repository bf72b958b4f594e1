"""The decoder of Metric3D version 2: a first guess of depth and normals from the tokens, refined a few times.

Order of operations and constants: mono/model/decode_heads/RAFTDepthNormalDPTDecoder5.py of github.com/YvanYin/Metric3D.
The reference wraps its layers for low-rank adaptation; the released weights do not use it and have plain names.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metric_slam.depth.metric3d.depth_bins import expected_depth
from metric_slam.depth.metric3d.recurrence import ContextEncoder, Gates, UpdateBlock, upsampled
from metric_slam.depth.metric3d.specs import RaftSpec
from metric_slam.depth.metric3d.token_maps import MapFusion, TokenMaps

_DEPTH_UNIT_M = 100.0
"""The state holds (depth - farthest) in this unit."""

_NORMAL_CHANNELS = 128
_MIN_KAPPA = 0.01
_LEVELS = 3


class RaftDecoder(nn.Module):
    """Four sets of tokens -> canonical depth, confidence and normals at full size."""

    def __init__(self, spec: RaftSpec) -> None:
        super().__init__()
        self.range_m, self.iterations = (spec.nearest_m, spec.farthest_m), spec.iterations
        fused = spec.channels[0]
        self.token2feature = TokenMaps(spec)
        self.decoder_mono = MapFusion(spec)
        self.depth_regressor = nn.Sequential(
            nn.Conv2d(fused, spec.bins, 3, padding=1), nn.ReLU(), nn.Conv2d(spec.bins, spec.bins, 1)
        )
        wide = _NORMAL_CHANNELS
        self.normal_predictor = nn.Sequential(
            nn.Conv2d(fused, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, wide, 1), nn.ReLU(),
            nn.Conv2d(wide, wide, 1), nn.ReLU(), nn.Conv2d(wide, 3, 1),
        )  # fmt: skip
        self.context_feature_encoder = ContextEncoder(spec)
        self.context_zqr_convs = nn.ModuleList(
            nn.Conv2d(spec.hidden, 3 * spec.hidden, 3, padding=1) for _ in range(_LEVELS)
        )
        self.update_block = UpdateBlock(spec)

    def forward(self, tokens: tuple[Tensor, ...], grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(depth, confidence, normal, kappa) [N, 1 or 3, H, W] after the last round; arguments as for the rounds."""
        *_, last = self.rounds(tokens, grid)
        return self.at_full_size(*last)

    def rounds(self, tokens: tuple[Tensor, ...], grid: tuple[int, int]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """State [N, 6, h, w] at 1/4 and hidden states after every round.

        ``tokens`` [N, 1 + registers + rows * columns, C] each; ``grid`` (rows, columns), both even.
        """
        quarter, seventh, middle, last = self.token2feature(tokens, grid)
        state = self._first_state(self.decoder_mono(seventh, middle, last))
        # the reference's ReLU in the fusion works in place, so that the context sees these maps without negative parts
        hidden, context = self.context_feature_encoder((quarter, F.relu(seventh), F.relu(middle)))
        gates: list[Gates] = [
            tuple(conv(x).chunk(3, dim=1)) for conv, x in zip(self.context_zqr_convs, context, strict=True)
        ]
        for _ in range(self.iterations):
            hidden, state = self.update_block(hidden, gates, state)
            yield state, hidden

    def at_full_size(self, state: Tensor, hidden: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(depth, confidence, normal, kappa) [N, 1 or 3, H, W] of what a round left."""
        fine = upsampled(state, self.update_block.upsampling_weights(hidden))
        depth = (fine[:, :1] * _DEPTH_UNIT_M + self.range_m[1]).clamp(*self.range_m)
        normal = _unit_normal(fine[:, 2:])
        return depth, fine[:, 1:2], normal[:, :3], normal[:, 3:]

    def _first_state(self, fused: Tensor) -> Tensor:
        features, confidence, concentration = fused.split([fused.shape[1] - 2, 1, 1], dim=1)
        depth = expected_depth(self.depth_regressor(features), *self.range_m).clamp(*self.range_m)
        normal = _unit_normal(torch.cat([self.normal_predictor(features), concentration], dim=1))
        return torch.cat([(depth - self.range_m[1]) / _DEPTH_UNIT_M, confidence, normal], dim=1)


def _unit_normal(raw: Tensor) -> Tensor:
    """[N, 4, H, W]: three components made a unit vector; the fourth, a concentration, made positive."""
    normal, kappa = raw.split([3, 1], dim=1)
    length = normal.norm(dim=1, keepdim=True) + 1e-10
    return torch.cat([normal / length, F.elu(kappa) + 1.0 + _MIN_KAPPA], dim=1)
