"""Correlation lookup in plain torch: the slow, obvious reference implementation of the compiled kernels.

The correlation of a source cell p with a target cell q is the scalar product of their features, each divided by 4. It
is averaged over the target into levels of half the size, 2 x 2 at a time; a row or column left over is dropped. A
lookup reads, on every level, the square window around the predicted position, bilinearly and zero outside:

    out[level, dx, dy](p) = sum over the four cells q around x of weight(x, q) <f(p)/4, g_level(q)/4>
    x = coords(p) / 2^level + (dx, dy),    |dx|, |dy| <= radius

with dx the slow index, as in DROID-SLAM (droid_slam/modules/corr.py). Since averaging is linear, correlating with the
averaged features gives the same numbers: :class:`CorrelationVolume` keeps all of them (memory E (h w)^2),
:class:`CorrelationOnTheFly` recomputes them at every lookup. Both run on any device and are differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

FEATURE_DIVISOR = 4.0
"""Divisor of both sides; the released weights expect it whatever the number of channels."""

EDGES_AT_ONCE = 8
VALUES_AT_ONCE = 2**24
"""Bounds of the slice of the volume that is in memory at a time without a stored volume: 64 MB in float32."""

Reader = Callable[[int, torch.Tensor], torch.Tensor]
"""(level, positions in the target map of that level [E, P, K]) -> correlations [E, P, K]."""


class _Window(NamedTuple):
    """The (2 radius + 2)^2 cells around each position; all window entries share one fraction, hence one more a side."""

    cell: torch.Tensor  # [E, P, K], into a map of h * w cells
    outside: torch.Tensor  # [E, P, K]
    fraction: torch.Tensor  # [E, P, 2], x and y


def halved(maps: torch.Tensor) -> torch.Tensor:
    """Average 2 x 2 cells, [M, C, h, w] -> [M, C, h // 2, w // 2]; possibly no cell is left."""
    if min(maps.shape[-2:]) < 2:
        return maps.new_zeros(*maps.shape[:-2], maps.shape[-2] // 2, maps.shape[-1] // 2)
    return F.avg_pool2d(maps, 2)


class CorrelationVolume:
    """All correlations of E edges, computed once and read many times."""

    def __init__(
        self,
        features_source: torch.Tensor,  # [E, C, h, w]
        features_target: torch.Tensor,  # [E, C, h, w]
        levels: int = 4,
        radius: int = 3,
    ) -> None:
        assert features_source.shape == features_target.shape, (features_source.shape, features_target.shape)
        E, _, h, w = features_source.shape
        source, target = (f.flatten(2) / FEATURE_DIVISOR for f in (features_source, features_target))
        volume = (source.transpose(1, 2) @ target).reshape(E * h * w, 1, h, w)
        self.radius = radius
        self.shape = (E, h, w)
        pyramid = [volume]
        for _ in range(levels - 1):
            pyramid.append(halved(pyramid[-1]))
        self.volumes = [v.reshape(E, h * w, *v.shape[-2:]) for v in pyramid]  # [E, h w, h_level, w_level]

    def lookup(self, coords: torch.Tensor) -> torch.Tensor:
        """Read windows around positions [E, h, w, 2] (x, y, grid cells of the target) -> [E, levels (2r+1)^2, h, w]."""
        assert coords.shape == (*self.shape, 2), (coords.shape, self.shape)
        E, h, w = self.shape

        def read(level: int, index: torch.Tensor) -> torch.Tensor:
            return self.volumes[level].flatten(2).gather(2, index)

        sizes = [tuple(volume.shape[-2:]) for volume in self.volumes]
        values = _looked_up(coords.reshape(E, h * w, 2), sizes, self.radius, read, like=self.volumes[0])
        return values.unflatten(2, (h, w))


class CorrelationOnTheFly:
    """The same numbers from a slice of the volume at a time: little memory, but recomputed at every lookup."""

    def __init__(
        self,
        features_source: torch.Tensor,  # [E, C, h, w]
        features_target: torch.Tensor,  # [E, C, h, w]
        levels: int = 4,
        radius: int = 3,
    ) -> None:
        assert features_source.shape == features_target.shape, (features_source.shape, features_target.shape)
        E, _, h, w = features_source.shape
        self.radius = radius
        self.shape = (E, h, w)
        self.source = (features_source / FEATURE_DIVISOR).flatten(2).transpose(1, 2)  # [E, h w, C]
        targets = [features_target / FEATURE_DIVISOR]
        for _ in range(levels - 1):
            targets.append(halved(targets[-1]))
        self.targets = targets  # [E, C, h_level, w_level]

    def lookup(self, coords: torch.Tensor) -> torch.Tensor:
        """Read windows around positions [E, h, w, 2] (x, y, grid cells of the target) -> [E, levels (2r+1)^2, h, w]."""
        assert coords.shape == (*self.shape, 2), (coords.shape, self.shape)
        E, h, w = self.shape
        positions = coords.reshape(E, h * w, 2)
        cells_at_once = max(1, VALUES_AT_ONCE // (EDGES_AT_ONCE * h * w))
        edges = [
            torch.cat([self._slice(positions, e, p) for p in _slices(h * w, cells_at_once)], dim=2)
            for e in _slices(E, EDGES_AT_ONCE)
        ]
        return torch.cat(edges).unflatten(2, (h, w))

    def _slice(self, positions: torch.Tensor, edges: slice, cells: slice) -> torch.Tensor:
        source = self.source[edges, cells]

        def read(level: int, index: torch.Tensor) -> torch.Tensor:
            return (source @ self.targets[level][edges].flatten(2)).gather(2, index)

        sizes = [tuple(target.shape[-2:]) for target in self.targets]
        return _looked_up(positions[edges, cells], sizes, self.radius, read, like=source)


def _slices(count: int, at_once: int) -> list[slice]:
    """Slices of 0 .. count; one empty slice for none."""
    return [slice(begin, min(begin + at_once, count)) for begin in range(0, max(count, 1), at_once)]


def _looked_up(
    positions: torch.Tensor, sizes: list[tuple[int, ...]], radius: int, read: Reader, like: torch.Tensor
) -> torch.Tensor:
    """Windows of all levels around positions [E, P, 2], of the type of ``like``: [E, channels, P]."""
    E, P, _ = positions.shape
    levels = []
    for level, (height, width) in enumerate(sizes):
        if height == 0 or width == 0:
            levels.append(like.new_zeros(E, (2 * radius + 1) ** 2, P))
            continue
        window = _window(positions / 2**level, height, width, radius)
        cells = read(level, window.cell).masked_fill(window.outside, 0.0)
        values = _interpolated(cells, window.fraction.to(cells.dtype), 2 * radius + 2)
        levels.append(values.transpose(1, 2))
    return torch.cat(levels, dim=1)


def _window(positions: torch.Tensor, height: int, width: int, radius: int) -> _Window:
    """Cells needed around positions [E, P, 2]; y is the slow index among the K."""
    # from radius + 1 cells outside on, a window is empty: clamping there changes nothing and keeps integers small
    reach = torch.tensor([width, height], device=positions.device, dtype=positions.dtype) + (radius + 1)
    positions = torch.nan_to_num(positions, nan=-1e9).clamp(min=-(radius + 2.0)).minimum(reach)
    corner = positions.detach().floor()
    steps = torch.arange(-radius, radius + 2, device=positions.device)
    x, y = (corner[..., axis, None].long() + steps for axis in (0, 1))  # [E, P, side]
    x_outside, y_outside = (x < 0) | (x >= width), (y < 0) | (y >= height)
    index = y.clamp(0, height - 1)[..., :, None] * width + x.clamp(0, width - 1)[..., None, :]
    outside = y_outside[..., :, None] | x_outside[..., None, :]
    return _Window(index.flatten(2), outside.flatten(2), positions - corner)


def _interpolated(cells: torch.Tensor, fraction: torch.Tensor, side: int) -> torch.Tensor:
    """Bilinear values [E, P, (side-1)^2] from cells [E, P, side^2]; x becomes the slow index."""
    cells = cells.unflatten(2, (side, side))  # y, x
    fx, fy = fraction[..., 0, None, None], fraction[..., 1, None, None]
    in_x = cells[..., :-1] * (1 - fx) + cells[..., 1:] * fx
    in_y = in_x[..., :-1, :] * (1 - fy) + in_x[..., 1:, :] * fy
    return in_y.transpose(2, 3).flatten(2)
