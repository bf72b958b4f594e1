"""Convex upsampling: which neighbour and which pixel a weight belongs to, and that nothing is invented."""

from __future__ import annotations

import pytest
import torch

from metric_slam.correspondence.droid.upsample import upsample_inv_depth


def test_a_constant_stays_that_constant(random: torch.Generator) -> None:
    weights = torch.randn(2, 576, 4, 5, generator=random)
    pixels = upsample_inv_depth(torch.full((2, 4, 5), 0.3), weights)
    assert pixels.shape == (2, 32, 40)
    torch.testing.assert_close(pixels[:, 8:-8, 8:-8], torch.full((2, 16, 24), 0.3))
    assert (pixels[:, 0] < 0.3).all(), "zeros around the image belong to the released network"
    inside = upsample_inv_depth(torch.full((2, 4, 5), 0.3), weights, inside_only=True)
    torch.testing.assert_close(inside, torch.full((2, 32, 40), 0.3))


@pytest.mark.parametrize("inside_only", [False, True])
def test_each_pixel_is_the_weighted_mean_of_nine_cells(inside_only: bool, random: torch.Generator) -> None:
    h, w = 3, 4
    inv_depth = torch.rand(1, h, w, generator=random, dtype=torch.float64)
    logits = torch.randn(1, 576, h, w, generator=random, dtype=torch.float64)
    ours = upsample_inv_depth(inv_depth, logits, inside_only=inside_only)
    for v in range(8 * h):
        for u in range(8 * w):
            y, x = v // 8, u // 8
            total = value = 0.0
            for n in range(9):
                ny, nx = y + n // 3 - 1, x + n % 3 - 1
                inside = 0 <= ny < h and 0 <= nx < w
                weight = float(logits[0, n * 64 + v % 8 * 8 + u % 8, y, x].exp())
                total += weight if inside or not inside_only else 0.0
                value += weight * float(inv_depth[0, ny, nx]) if inside else 0.0
            assert float(ours[0, v, u]) == pytest.approx(value / total, rel=1e-12)


def test_weights_can_pick_one_neighbour_for_one_pixel() -> None:
    inv_depth = torch.arange(12.0).view(1, 3, 4)
    logits = torch.zeros(1, 576, 3, 4)
    logits[0, 5 * 64 + 2 * 8 + 7, 1, 1] = 1000.0  # the cell to the right, for the pixel in row 2, column 7
    assert upsample_inv_depth(inv_depth, logits)[0, 8 + 2, 8 + 7] == inv_depth[0, 1, 2]


def test_weights_of_another_size_are_refused() -> None:
    with pytest.raises(AssertionError):
        upsample_inv_depth(torch.ones(1, 3, 4), torch.zeros(1, 576, 4, 3))
