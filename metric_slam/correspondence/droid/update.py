"""The recurrent update: from correlations at the present flow to a correction of it, with a confidence.

Every edge has a hidden state. One update reads the correlation around the present reprojections and
the motion, changes the hidden state, and derives from it a correction of the flow, its confidence, and, for every
source keyframe from all of its edges, a damping of the inverse depths and weights for upsampling them. Bundle
adjustment comes next, then the following update.

Names of the weights follow DROID-SLAM (droid_slam/droid_net.py and droid_slam/modules/gru.py; Teed and Deng, NeurIPS
2021, section 3.1). Symbols there: corr_encoder, flow_encoder, gru, agg, eta, upmask.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from metric_slam.correspondence.droid.widths import UPSAMPLE_NEIGHBOURS, DroidWidths
from metric_slam.geometry.camera import FEATURE_STRIDE
from metric_slam.geometry.grid_array import uploaded

MOTION_CHANNELS = 4
"""Flow and residual, x and y each."""

DAMPING_SCALE = 0.01
"""Unit of the predicted damping of inverse depths."""


class UpdateResult(NamedTuple):
    """Result of one update of E edges; U is the number of different sources."""

    hidden: torch.Tensor
    """New state, [E, hidden, h, w]."""

    delta: torch.Tensor
    """Correction of the target positions, grid cells (x, y), [E, h, w, 2]."""

    confidence: torch.Tensor
    """Confidence of the corrected positions in x and in y, 0..1, [E, h, w, 2]."""

    depth_damping: torch.Tensor | None
    """One map for every source in ascending order, > 0, [U, h, w]; None without ``source``."""

    upsample_weights: torch.Tensor | None
    """Logits for :func:`upsample_inv_depth` of the same sources, [U, 576, h, w]; None without ``source``."""


class ConvGRU(nn.Module):
    """Convolutional gated recurrent unit whose gates also take a summary of the whole image.

        g = mean over cells of sigmoid(w * h) h
        z = sigmoid(convz * [h, x] + convz_glo * g),  r = sigmoid(convr * [h, x] + convr_glo * g)
        q = tanh(convq * [r h, x] + convq_glo * g),   h <- (1 - z) h + z q

    The inputs x are the context, then everything else. A convolution of stacked channels is the sum of the convolutions
    of the parts, so that the context's part is computed once for all updates (:meth:`context_gates`), and the parts of
    the inputs together for all three gates.
    """

    def __init__(self, hidden: int, context: int, inputs: int) -> None:
        super().__init__()
        self.channels = (hidden, context, inputs)
        stacked = hidden + context + inputs
        self.convz = nn.Conv2d(stacked, hidden, 3, padding=1)
        self.convr = nn.Conv2d(stacked, hidden, 3, padding=1)
        self.convq = nn.Conv2d(stacked, hidden, 3, padding=1)
        self.w = nn.Conv2d(hidden, hidden, 1)
        self.convz_glo = nn.Conv2d(hidden, hidden, 1)
        self.convr_glo = nn.Conv2d(hidden, hidden, 1)
        self.convq_glo = nn.Conv2d(hidden, hidden, 1)

    def context_gates(self, context: torch.Tensor) -> torch.Tensor:
        """Compute what the context [N, context, h, w] and the biases add to the gates z, r, q: [N, 3 hidden, h, w]."""
        gates = (self.convz, self.convr, self.convq)
        weight = torch.cat([self._split(gate)[1] for gate in gates])
        biases = [gate.bias for gate in gates if gate.bias is not None]
        return F.conv2d(context, weight, torch.cat(biases), padding=1)

    def forward(
        self,
        hidden: torch.Tensor,  # [E, hidden, h, w]
        context_gates: torch.Tensor,  # [E, 3 hidden, h, w]
        inputs: torch.Tensor,  # [E, inputs, h, w]
    ) -> torch.Tensor:
        """Compute the next hidden state, [E, hidden, h, w]."""
        z_parts, r_parts, q_parts = (self._split(gate) for gate in (self.convz, self.convr, self.convq))
        fixed = F.conv2d(inputs, torch.cat([z_parts[2], r_parts[2], q_parts[2]]), padding=1) + context_gates
        fixed_z, fixed_r, fixed_q = fixed.chunk(3, dim=1)
        summary = (torch.sigmoid(self.w(hidden)) * hidden).mean(dim=(2, 3), keepdim=True)

        z, r = F.conv2d(hidden, torch.cat([z_parts[0], r_parts[0]]), padding=1).chunk(2, dim=1)
        z = torch.sigmoid(z + fixed_z + self.convz_glo(summary))
        r = torch.sigmoid(r + fixed_r + self.convr_glo(summary))
        q = F.conv2d(r * hidden, q_parts[0], padding=1)
        q = torch.tanh(q + fixed_q + self.convq_glo(summary))
        return torch.lerp(hidden, q.to(hidden.dtype), z.to(hidden.dtype))

    def _split(self, gate: nn.Conv2d) -> tuple[torch.Tensor, ...]:
        """Weights of a gate for hidden state, context and inputs."""
        return gate.weight.split(self.channels, dim=1)


class GraphAggregation(nn.Module):
    """Depth damping and upsampling weights of a keyframe, from the mean over all edges with it as source."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.eta = nn.Sequential(nn.Conv2d(hidden, 1, 3, padding=1))
        self.upmask = nn.Sequential(nn.Conv2d(hidden, UPSAMPLE_NEIGHBOURS * FEATURE_STRIDE**2, 1))

    def forward(
        self,
        hidden: torch.Tensor,  # [E, hidden, h, w]
        source: torch.Tensor,  # int64 [E]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute depth damping [U, h, w] and upsampling weights [U, 576, h, w], sources in ascending order."""
        maps = mean_by_source(F.relu(self.conv1(hidden)), source)
        maps = F.relu(self.conv2(maps))
        return DAMPING_SCALE * F.softplus(_widened(self.eta(maps))).squeeze(1), _widened(self.upmask(maps))


class UpdateOperator(nn.Module):
    """One step of refinement for a batch of edges; see the module."""

    def __init__(self, widths: DroidWidths = DroidWidths()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        hidden, correlation, motion = widths.hidden, widths.correlation_code, widths.motion_code
        # layers without weights count: the names in the released file hold the positions of the others
        self.corr_encoder = nn.Sequential(
            nn.Conv2d(widths.correlation_channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, correlation, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.flow_encoder = nn.Sequential(
            nn.Conv2d(MOTION_CHANNELS, hidden, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, motion, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.weight = _head(hidden)
        self.delta = _head(hidden)
        self.gru = ConvGRU(hidden, widths.context, correlation + motion)
        self.agg = GraphAggregation(hidden)

    def context_gates(self, context: torch.Tensor) -> torch.Tensor:
        """Compute the share of context maps [N, context, h, w] in the gates, [N, 3 hidden, h, w], once per keyframe."""
        return self.gru.context_gates(context)

    def forward(
        self,
        hidden: torch.Tensor,  # [E, hidden, h, w]
        context: torch.Tensor | None,  # [E, context, h, w]
        correlation: torch.Tensor,  # [E, levels (2 radius + 1)^2, h, w]
        motion: torch.Tensor | None = None,  # [E, 4, h, w]
        source: torch.Tensor | None = None,  # int64 [E]
        *,
        context_gates: torch.Tensor | None = None,  # [E, 3 hidden, h, w]
    ) -> UpdateResult:
        """Refine E edges. ``motion`` None: zero; ``source`` None: no damping and no upsampling weights.

        ``context_gates``, from the method of that name, replaces ``context``.
        """
        E, _, h, w = hidden.shape
        assert E > 0, hidden.shape
        if context_gates is None:
            assert context is not None, "either context or context_gates"
            context_gates = self.context_gates(context)
        if motion is None:
            motion = hidden.new_zeros(E, MOTION_CHANNELS, h, w)
        inputs = torch.cat([self.corr_encoder(correlation), self.flow_encoder(motion)], dim=1)
        hidden = self.gru(hidden, context_gates, inputs)
        delta = _widened(self.delta(hidden)).permute(0, 2, 3, 1).contiguous()
        confidence = torch.sigmoid(_widened(self.weight(hidden))).permute(0, 2, 3, 1).contiguous()
        damping, upsample_weights = (None, None) if source is None else self.agg(hidden, source)
        return UpdateResult(hidden, delta, confidence, damping, upsample_weights)


def mean_by_source(
    maps: torch.Tensor,  # [E, C, h, w]
    source: torch.Tensor,  # int64 [E]
) -> torch.Tensor:
    """Average over the edges with the same source, [U, C, h, w], sources in ascending order; summed in full precision.

    ``source`` may lie on the host while the maps are on a GPU: counting the sources there would wait for it.
    """
    assert source.shape == maps.shape[:1], (source.shape, maps.shape)
    _, position, count = source.unique(return_inverse=True, return_counts=True)
    if maps.device.type != "cpu":
        return _means_by_matrix(maps, position, count)
    sums = _widened(maps).new_zeros(len(count), *maps.shape[1:]).index_add_(0, position, _widened(maps))
    return (sums / count.view(-1, 1, 1, 1)).to(maps.dtype)


def _means_by_matrix(maps: torch.Tensor, position: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The same as one matrix product: sums by index have no fixed order on a GPU."""
    share = torch.zeros(len(count), len(maps), dtype=_widened(maps).dtype, device=position.device)
    share[position, torch.arange(len(maps), device=position.device)] = 1.0 / count[position].to(share.dtype)
    with torch.autocast(maps.device.type, enabled=False):
        means = uploaded(share, maps.device) @ _widened(maps).flatten(1)
    return means.view(len(count), *maps.shape[1:]).to(maps.dtype)


def _head(hidden: int) -> nn.Sequential:
    """Layers that predict two numbers for every cell."""
    return nn.Sequential(
        nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 2, 3, padding=1)
    )


def _widened(maps: torch.Tensor) -> torch.Tensor:
    """Convert half precision to float32, in which results leave the network; float64 stays."""
    return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
