"""Depth as the mean over bins: a network weighs depths that are spread evenly in the logarithm."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def expected_depth(scores: Tensor, nearest_m: float, farthest_m: float) -> Tensor:
    """Mean depth [N, 1, H, W] under the softmax of ``scores`` [N, bins, H, W]; canonical metres.

    Bin k lies at exp of the k-th of evenly spaced logarithms from ``nearest_m`` to ``farthest_m``, both included.
    """
    edges = (math.log(nearest_m), math.log(farthest_m))
    bins_m = torch.linspace(*edges, scores.shape[1], device=scores.device, dtype=scores.dtype).exp()
    return torch.einsum("nbhw,b->nhw", scores.softmax(dim=1), bins_m).unsqueeze(1)
