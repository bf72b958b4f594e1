"""Dense matching by inverse search in torch, on any device: the method of :mod:`metric_slam.correspondence.dis`.

All edges of a call, and their reverses, go through the pyramid together; one level of it is computed by
:mod:`metric_slam.correspondence.patch_search`. Only the forward flow of the cells and the backward flow from where they
land come back to the host, where the confidence follows from the same check as that of ``dis``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metric_slam.config.schema import DisConfig
from metric_slam.correspondence.base import Correspondence, EdgeQuery
from metric_slam.correspondence.forward_backward import (
    cell_flow,
    checked_by_return,
    grey_and_texture,
    image_size,
    key_of,
    key_of_reverse,
    with_reverses,
)
from metric_slam.correspondence.patch_search import PATCH_PX, LevelSearch, PatchGrid, make_grid, per_pixel
from metric_slam.geometry.camera import FEATURE_STRIDE, GRID_OFFSET_PX, PinholeCamera
from metric_slam.geometry.grid_array import on_host

_STRIDE_PX = 4
_PIXELS_AT_ONCE = 1_000_000
"""Pixels of the finest level that are searched together: about 500 bytes each are held at most."""


@dataclass(frozen=True, eq=False)
class InverseSearchFeatures:
    """Features of an image for the search."""

    grey: Tensor
    """uint8 [H, W], on the device."""

    texture: np.ndarray
    """Root mean square gradient per cell, grey levels per pixel, float32 [h, w]."""


class InverseSearch:
    """Flow on whole images, sampled at the centres of the grid cells.

    Does not use ``config.preset``, which is OpenCV's; ``patch_stride`` is 4 unless given.
    """

    name = "inverse_search"
    recurrent = False

    def __init__(self, config: DisConfig, device: str | torch.device) -> None:
        self._config = config
        self._device = torch.device(device)
        self._grids: dict[tuple[int, int], PatchGrid] = {}

    def encode(self, image: np.ndarray, camera: PinholeCamera) -> InverseSearchFeatures:
        """Compute the grey image, on the device, and its texture per cell."""
        grey, texture = grey_and_texture(image, camera)
        return InverseSearchFeatures(torch.from_numpy(grey).to(self._device), texture)

    @torch.inference_mode()
    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """Match edges by their flow and that of their reverses; an edge and its reverse in one call share both."""
        if not edges:
            return []
        wanted = with_reverses(edges)
        # the pairs that go on to finer levels stand first
        order = sorted(wanted, key=lambda key: self._finest_scale(wanted[key]))
        place = {key: number for number, key in enumerate(order)}
        # uploaded before the search, because an upload makes the host wait for the device
        ends = torch.tensor([(place[key_of(edge)], place[key_of_reverse(edge)]) for edge in edges]).to(self._device)
        flows, scale = self._flows([wanted[key] for key in order])
        textures = [_source(edge).texture for edge in edges]
        h, w = textures[0].shape
        found = self._forward_and_backward(flows, scale, (h, w), ends).cpu().numpy()
        shape = image_size(_source(edges[0]).grey)
        return [
            checked_by_return(self._config, flow, back, texture, shape)
            for texture, flow, back in zip(textures, *found, strict=True)
        ]

    def _finest_scale(self, edge: EdgeQuery) -> int:
        asked = self._config.finest_scale if edge.neighbours else self._config.wide_finest_scale
        return min(asked, coarsest_scale(*image_size(_source(edge).grey)))

    def _flows(self, pairs: list[EdgeQuery]) -> tuple[Tensor, int]:
        """Flow of all pairs at the finest scale of any, [B, 2, H', W'] in its pixels, and that scale."""
        scales = [self._finest_scale(pair) for pair in pairs]
        H, W = image_size(_source(pairs[0]).grey)
        at_once = max(1, _PIXELS_AT_ONCE // ((H >> scales[0]) * (W >> scales[0])))
        found: list[Tensor] = []
        for begin in range(0, len(pairs), at_once):
            part = slice(begin, begin + at_once)
            for flow, scale in self._searched(pairs[part], scales[part]):
                found.append(_finer(flow, scale - scales[0], (H >> scales[0], W >> scales[0])))
        return torch.cat(found), scales[0]

    def _searched(self, pairs: list[EdgeQuery], scales: list[int]) -> list[tuple[Tensor, int]]:
        """Flows of pairs whose scales ascend, in groups of one scale each: [b, 2, H', W'] and the scale."""
        images = {id(f): f.grey for pair in pairs for f in pair.ends(InverseSearchFeatures)}
        place = {identity: number for number, identity in enumerate(images)}
        ends = [[place[id(pair.source)], place[id(pair.target)]] for pair in pairs]
        source, target = torch.tensor(ends).to(self._device).unbind(dim=1)
        coarsest = coarsest_scale(*image_size(_source(pairs[0]).grey))
        levels = pyramid(torch.stack(list(images.values())), coarsest)
        prediction = self._predictions(pairs)
        found, flow = [], None
        for scale in range(coarsest, scales[0] - 1, -1):
            count = sum(s <= scale for s in scales)
            image, grid = levels[scale], self._grid(*levels[scale].shape[-2:])
            start, others = _starts(grid, scale, None if flow is None else flow[:count], prediction, count)
            flow = LevelSearch(image[source[:count]], image[target[:count]], grid).flow(start, others)
            done = scales.count(scale)
            if done:
                found.append((flow[count - done :], scale))
        return found[::-1]

    def _predictions(self, pairs: list[EdgeQuery]) -> tuple[Tensor, Tensor] | None:
        """Predicted flow of the cells, pixels [B, 2, h, w], and which pairs have one, bool [B, 1, 1]; None: none."""
        predicted = [pair.predicted if self._config.warm_start else None for pair in pairs]
        known = [grid is not None for grid in predicted]
        if not any(known):
            return None
        first = _source(pairs[0])
        nothing = np.zeros((*first.texture.shape, 2), np.float32)
        shape = image_size(first.grey)
        flows = [nothing if grid is None else cell_flow(on_host(grid), shape) for grid in predicted]
        cells = torch.from_numpy(np.stack(flows)).to(self._device).permute(0, 3, 1, 2).contiguous()
        return cells, torch.tensor(known).to(self._device)[:, None, None]

    def _grid(self, height: int, width: int) -> PatchGrid:
        if (height, width) not in self._grids:
            stride = self._config.patch_stride or _STRIDE_PX
            self._grids[height, width] = make_grid(height, width, stride, self._device)
        return self._grids[height, width]

    def _forward_and_backward(self, flows: Tensor, scale: int, cells: tuple[int, int], ends: Tensor) -> Tensor:
        """Flow of the cells of E edges, and flow back from where they land, pixels of the image [2, E, h, w, 2].

        ``flows`` [B, 2, H', W'] of a scale; ``ends`` [E, 2]: for every edge its number there and that of its reverse.
        """
        there, back = ends.unbind(dim=1)
        h, w = cells
        y, x = (FEATURE_STRIDE * torch.arange(count, device=self._device) + GRID_OFFSET_PX for count in cells)
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(1, h * w, 2)
        size = 2.0**scale
        flow = size * sampled_at(flows[there], _of_scale(centres.expand(len(ends), -1, -1), scale))
        returned = size * sampled_at(flows[back], _of_scale(centres + flow, scale))
        return torch.stack([flow, returned]).view(2, len(ends), h, w, 2)


def _source(edge: EdgeQuery) -> InverseSearchFeatures:
    """Features of the source image of an edge."""
    return edge.ends(InverseSearchFeatures)[0]


def coarsest_scale(height: int, width: int) -> int:
    """Return the coarsest scale: about four patches along the longer side, at least one along the shorter."""
    longer, shorter = math.log2(max(height, width) / (4 * PATCH_PX)), math.log2(min(height, width) / PATCH_PX)
    return max(0, min(int(longer + 0.5), int(shorter)))


def pyramid(grey: Tensor, coarsest: int) -> list[Tensor]:
    """Halve images uint8 [N, H, W] again and again: float32 [N, 1, H >> scale, W >> scale], by scale."""
    levels = [grey[:, None].float()]
    for _ in range(coarsest):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def sampled_at(field: Tensor, points: Tensor) -> Tensor:
    """Interpolate a field [B, C, H, W] at pixels (x, y) [B, Q, 2], continued beyond its edges; [B, Q, C]."""
    where = (points * per_pixel(*field.shape[-2:], field.device) - 1.0)[:, None]
    return F.grid_sample(field, where, padding_mode="border", align_corners=True)[:, :, 0].mT


def _of_scale(points: Tensor, scale: float) -> Tensor:
    """Pixel centres are integers on every level: the outer edge, half a pixel outside, is what stays in place."""
    return (points + 0.5) / 2.0**scale - 0.5


def _starts(
    grid: PatchGrid, scale: int, coarser: Tensor | None, prediction: tuple[Tensor, Tensor] | None, count: int
) -> tuple[Tensor, list[Tensor]]:
    """Flows [B, P, 2] at which the patches of a level may start: that of the coarser level, and the prediction."""
    centres = grid.centres.expand(count, -1, -1)
    if coarser is None:
        start = torch.zeros_like(centres, memory_format=torch.contiguous_format)
    else:
        start = 2.0 * sampled_at(coarser, _of_scale(centres, 1))
    if prediction is None:
        return start, []
    cells, known = (part[:count] for part in prediction)
    at_cells = _of_scale(_of_scale(centres, -scale), math.log2(FEATURE_STRIDE))
    predicted = torch.where(known, sampled_at(cells, at_cells) / 2.0**scale, start)
    return (predicted, []) if coarser is None else (start, [predicted])


def _finer(flow: Tensor, by: int, size: tuple[int, int]) -> Tensor:
    """Flow [B, 2, H, W] in pixels of a level that is ``by`` scales finer and has ``size``."""
    if by == 0:
        return flow
    flow = 2.0**by * F.interpolate(flow, scale_factor=2.0**by, mode="bilinear", align_corners=False)
    return F.pad(flow, (0, size[1] - flow.shape[3], 0, size[0] - flow.shape[2]), mode="replicate")
