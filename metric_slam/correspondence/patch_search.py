"""One pyramid level of dense inverse search, for many pairs of images and all their patches at once.

Kroeger et al., *Fast Optical Flow using Dense Inverse Search*, ECCV 2016, sections 2.1 and 2.2, without the variational
refinement of 2.3. In the inverse compositional form gradients and Hessian are those of the source patch and constant,
so a step is one sampling of the target and one small product. A patch also tries the start of its neighbours, as in
OpenCV; here all patches at once instead of one after the other, which suits a GPU.

P patches of 64 pixels a level, B pairs; lengths are pixels of the level, and everything is float32 on one device. Its
products must not be rounded to TF32 (off by default in torch): grey levels cancel in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

PATCH_PX = 8
ROUNDS = 2
STEPS_PER_ROUND = 6

_PIXELS = PATCH_PX * PATCH_PX
_DAMPING = _PIXELS * 0.1**2
"""Added to the Hessian's diagonal, which it equals at a root mean square gradient of 0.1 grey levels a pixel: noise."""

_NEIGHBOURS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))  # the patch itself first


@dataclass(frozen=True)
class PatchGrid:
    """Patches of a level; the last row and column may reach beyond the image, which is continued there."""

    height: int
    width: int
    stride: int
    rows: int
    columns: int

    centres: Tensor
    """Pixels (x, y), [P, 2]."""

    pixels: Tensor
    """Pixels of every patch, in the coordinates of ``grid_sample``, [P, 64, 2]."""

    per_px: Tensor
    """Steps of those coordinates in a pixel, [2]."""

    neighbours: Tensor
    """Numbers of a patch and the four around it, int64 [5 * P]."""

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width that the patches cover, pixels."""
        return self.stride * (self.rows - 1) + PATCH_PX, self.stride * (self.columns - 1) + PATCH_PX


def make_grid(height: int, width: int, stride: int, device: torch.device) -> PatchGrid:
    """Place patches every ``stride`` pixels so that every pixel lies in one."""
    rows, columns = (max(0, -(-(side - PATCH_PX) // stride)) + 1 for side in (height, width))
    y, x = (torch.arange(count) for count in (rows, columns))
    first = torch.stack(torch.meshgrid(x * stride, y * stride, indexing="xy"), dim=-1).reshape(-1, 1, 2)
    within = torch.arange(PATCH_PX)
    offsets = torch.stack(torch.meshgrid(within, within, indexing="xy"), dim=-1).reshape(1, -1, 2)
    around = [(y + dy).clamp(0, rows - 1)[:, None] * columns + (x + dx).clamp(0, columns - 1) for dy, dx in _NEIGHBOURS]
    per_px = per_pixel(height, width, torch.device("cpu"))
    return PatchGrid(
        height,
        width,
        stride,
        rows,
        columns,
        (first[:, 0] + (PATCH_PX - 1) / 2).float().to(device),
        ((first + offsets) * per_px - 1.0).to(device),
        per_pixel(height, width, device),
        torch.stack(around).flatten().to(device),
    )


@lru_cache(maxsize=100)  # an upload makes the host wait for the device
def per_pixel(height: int, width: int, device: torch.device) -> Tensor:
    """Return the coordinates of ``grid_sample`` (corners are pixels) per pixel, (x, y), [2]."""
    return torch.tensor([2.0 / max(1, width - 1), 2.0 / max(1, height - 1)]).to(device)


@dataclass(frozen=True)
class Templates:
    """Patches of the sources without their means, and the matrices that turn a difference into a step."""

    grey: Tensor
    """[B, P, 64]."""

    solver: Tensor
    """Inverse Hessian times gradients, in the coordinates of ``grid_sample``, [B * P, 2, 64]."""

    offset: Tensor
    """``solver`` applied to the templates themselves, [B * P, 2, 1]."""


def make_templates(source: Tensor, grid: PatchGrid) -> Templates:
    """Cut templates from images [B, 1, H, W] of a level; mean-normalised, so that brightness may change."""
    batch = len(source)
    height, width = grid.padded
    image = F.pad(source, (1, 1 + width - grid.width, 1, 1 + height - grid.height), mode="replicate")
    across = (image[:, :, :-2] + 2.0 * image[:, :, 1:-1] + image[:, :, 2:]) / 8.0
    down = (image[..., :-2] + 2.0 * image[..., 1:-1] + image[..., 2:]) / 8.0
    gx, gy = across[..., 2:] - across[..., :-2], down[:, :, 2:] - down[:, :, :-2]  # Sobel
    patches = F.unfold(torch.cat([image[:, :, 1:-1, 1:-1], gx, gy], dim=1), PATCH_PX, stride=grid.stride)
    patches = patches.view(batch, 3, _PIXELS, -1).permute(0, 3, 1, 2)
    patches = patches - patches.mean(dim=-1, keepdim=True)  # [B, P, 3, 64]
    grey, gradient = patches[:, :, 0].contiguous(), patches[:, :, 1:].reshape(-1, 2, _PIXELS)
    hessian = gradient @ gradient.mT
    a, b, c = hessian[:, 0, 0] + _DAMPING, hessian[:, 0, 1], hessian[:, 1, 1] + _DAMPING
    adjugate = torch.stack([c, -b, -b, a], dim=-1) / (a * c - b * b)[:, None]
    solver = (adjugate.view(-1, 2, 2) * grid.per_px[:, None]) @ gradient
    return Templates(grey, solver, solver @ grey.view(-1, _PIXELS, 1))


class LevelSearch:
    """Search of the patches of B sources in their targets, both [B, 1, H, W].

    Inside, flows are steps in the coordinates of ``grid_sample``.
    """

    def __init__(self, source: Tensor, target: Tensor, grid: PatchGrid) -> None:
        self._target, self._grid = target, grid
        self._templates = make_templates(source, grid)

    def flow(self, start: Tensor, others: list[Tensor]) -> Tensor:
        """Compute the dense flow [B, 2, H, W].

        Patches start at the best of ``start`` and ``others``, each [B, P, 2], and of the starts of their neighbours.
        """
        candidates = [flow * self._grid.per_px for flow in (start, *others)]
        for _ in range(ROUNDS):
            found = self._searched(*self._best(*candidates))
            candidates = [found[0]]
        return self._dense(*found)

    def _sampled(self, flow: Tensor) -> Tensor:
        """Pixels of the target, [B, Q, 64], for P patches at flows [B, Q, 2], where Q is a multiple of P."""
        batch, count = flow.shape[:2]
        pixels = torch.view_as_complex(self._grid.pixels)
        flow = torch.view_as_complex(flow).view(
            batch, -1, len(pixels), 1
        )  # adding pairs as one complex number is faster
        where = torch.view_as_real(pixels + flow).view(batch, count, _PIXELS, 2)
        return F.grid_sample(self._target, where, padding_mode="border", align_corners=True)[:, 0]

    def _cost(self, sampled: Tensor) -> Tensor:
        """Squared differences without their mean, summed over the patch, [B, C, P]; sampled [B, C * P, 64]."""
        grey = self._templates.grey[:, None]
        difference = sampled.view(len(grey), -1, *grey.shape[2:]) - grey
        total = difference.sum(dim=-1)
        square = torch.linalg.vector_norm(difference, dim=-1).square()  # torch.var takes ten times as long on a CPU
        return torch.addcmul(square, total, total, value=-1.0 / _PIXELS)

    def _best(self, start: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Best flows [B, P, 2], the target's pixels there [B, P, 64], and their cost [B, P]."""
        batch, count = start.shape[:2]
        candidates = torch.cat([start.index_select(1, self._grid.neighbours), *others], dim=1)  # [B, C * P, 2]
        sampled = self._sampled(candidates)
        cost, best = self._cost(sampled).min(dim=1)
        flow, pixels = (
            a.view(batch, -1, count, a.shape[-1]).gather(1, best[:, None, :, None].expand(-1, -1, -1, a.shape[-1]))
            for a in (candidates, sampled)
        )
        return flow[:, 0], pixels[:, 0], cost

    def _searched(self, start: Tensor, at_start: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        """Flows [B, P, 2] after some steps, and the target's pixels there; a patch that drifts off keeps its start."""
        solver, offset = self._templates.solver, self._templates.offset
        flow, sampled = start, at_start
        for _ in range(STEPS_PER_ROUND):
            here = flow.reshape(-1, 2, 1) + offset
            flow = torch.baddbmm(here, solver, sampled.reshape(-1, _PIXELS, 1), alpha=-1.0).view_as(start)
            sampled = self._sampled(flow)
        moved_px = torch.linalg.vector_norm((flow - start) / self._grid.per_px, dim=-1)
        kept = ((moved_px <= PATCH_PX) & (self._cost(sampled)[:, 0] <= cost))[..., None]
        return torch.where(kept, flow, start), torch.where(kept, sampled, at_start)

    def _dense(self, flow: Tensor, sampled: Tensor) -> Tensor:
        """Mean of the flows of the patches that cover a pixel, weighted by the match of each there (equation 3)."""
        difference = sampled - self._templates.grey
        difference = difference - difference.mean(dim=-1, keepdim=True)
        weight = difference.abs().clamp(min=1.0).reciprocal()[:, :, None]  # [B, P, 1, 64]
        spread = torch.cat([weight * (flow / self._grid.per_px)[..., None], weight], dim=2)
        columns = spread.permute(0, 2, 3, 1).reshape(len(flow), 3 * _PIXELS, -1)
        total = F.fold(columns, self._grid.padded, PATCH_PX, stride=self._grid.stride)
        total = total[:, :, : self._grid.height, : self._grid.width]
        return total[:, :2] / total[:, 2:]
