"""Upsampling of inverse depth from the grid to every pixel, as a learned convex combination of nine cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from metric_slam.correspondence.droid.widths import UPSAMPLE_NEIGHBOURS
from metric_slam.geometry.camera import FEATURE_STRIDE


def upsample_inv_depth(
    inv_depth: torch.Tensor,  # [N, h, w]
    upsample_weights: torch.Tensor,  # [N, 576, h, w]
    *,
    inside_only: bool = False,
) -> torch.Tensor:
    """Compute the inverse depth of every pixel, [N, H, W] with H = 8 h, W = 8 w.

    ``upsample_weights`` are logits; channel = neighbour * 64 + y * 8 + x for the pixel (x, y) of a cell, neighbours row
    by row (RAFT's convex upsampling; Teed and Deng, ECCV 2020). The released network was trained with zeros around the
    image, which lowers pixels of border cells where the weights point outside; ``inside_only`` leaves out neighbours
    outside the image, so that every pixel lies between its neighbours.
    """
    N, h, w = inv_depth.shape
    expected = (N, UPSAMPLE_NEIGHBOURS * FEATURE_STRIDE**2, h, w)
    assert upsample_weights.shape == expected, (upsample_weights.shape, expected)
    logits = upsample_weights.view(N, UPSAMPLE_NEIGHBOURS, FEATURE_STRIDE, FEATURE_STRIDE, h, w)
    if inside_only:
        logits = logits.masked_fill(_neighbours(torch.ones_like(inv_depth)) == 0, -torch.inf)
    pixels = (logits.softmax(dim=1) * _neighbours(inv_depth)).sum(dim=1)  # [N, y, x, h, w]
    return pixels.permute(0, 3, 1, 4, 2).reshape(N, FEATURE_STRIDE * h, FEATURE_STRIDE * w)


def _neighbours(cells: torch.Tensor) -> torch.Tensor:
    """The cells around each cell, zero outside: [N, h, w] -> [N, 9, 1, 1, h, w]."""
    N, h, w = cells.shape
    return F.unfold(cells[:, None], 3, padding=1).view(N, UPSAMPLE_NEIGHBOURS, 1, 1, h, w)
