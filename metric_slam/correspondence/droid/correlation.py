"""Correlation lookup of the DROID network: feature maps in, windows of correlations around predicted positions out.

Two classes give the same numbers, [E, levels (2r+1)^2, h, w], in the layout that the released weights expect (see
:mod:`metric_slam.correspondence.droid.correlation_reference`, which writes the formula down):

- :class:`CorrelationVolume` stores every correlation, E (h w)^2 and a third: for few edges that are read often;
- :class:`CorrelationOnTheFly` stores the features alone and computes what is read: for many edges.

Compiled kernels compute it (``correlation.h`` of ``thirdparty/droid_backends``), on the CPU in float32 and float64, on
a GPU also in float16 and bfloat16, summed in float32. Where there is none for the device or the type, the torch
formulas of the reference implementation serve. Both are differentiable in features and positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import droid_backends as native
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from metric_slam.correspondence.droid import correlation_reference as reference
from metric_slam.geometry.cuda_kernels import kernel_for

KERNEL_TYPES = (torch.float32, torch.float64)
"""Types that all kernels read."""

HALF_TYPES = (torch.float16, torch.bfloat16)
"""Types that kernels for GPUs read, too; positions and accumulated gradients are float32 then."""


class _Context(Protocol):
    """The context of an autograd function, with the fields that the functions below use."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    radius: int

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors for the backward pass."""
        ...


def has_kernel(features: Tensor) -> bool:
    """Return whether compiled kernels serve these features; otherwise the torch formulas do."""
    kernel = kernel_for(features, "lookup_features")
    types = KERNEL_TYPES if kernel is native.lookup_features else KERNEL_TYPES + HALF_TYPES
    return kernel is not None and features.dtype in types


class CorrelationVolume:
    """All correlations of E edges, computed once."""

    def __init__(
        self,
        features_source: Tensor,  # [E, C, h, w]
        features_target: Tensor,  # [E, C, h, w]
        levels: int = 4,
        radius: int = 3,
    ) -> None:
        assert features_source.shape == features_target.shape, (features_source.shape, features_target.shape)
        self.levels, self.radius = levels, radius
        self._reference: reference.CorrelationVolume | None = None
        self.volumes: list[Tensor] = []
        """One per level, [E, h, w, h_level, w_level]; the reference implementation keeps them in its own shape."""
        if has_kernel(features_source):
            self.volumes = _level_volumes(features_source, features_target, levels)
        else:
            self._reference = reference.CorrelationVolume(features_source, features_target, levels, radius)
            self.volumes = self._reference.volumes

    @property
    def stored_bytes(self) -> int:
        """Memory of the stored correlations."""
        return sum(volume.nbytes for volume in self.volumes)

    def lookup(self, coords: Tensor) -> Tensor:
        """Read windows around positions.

        Args:
            coords: x, y in grid cells of the target, [E, h, w, 2]; far outside, or NaN, reads zeros.

        Returns:
            [E, levels (2r+1)^2, h, w]; channel = level (2r+1)^2 + (dx+r) (2r+1) + (dy+r).
        """
        if self._reference is not None:
            return self._reference.lookup(coords)
        assert coords.shape == (*self.volumes[0].shape[:3], 2), (coords.shape, self.volumes[0].shape)
        return _VolumeLookup.apply(coords.to(_computed(self.volumes[0].dtype)), self.radius, *self.volumes)


class CorrelationOnTheFly:
    """The correlations of E edges between N keyframes, computed as they are read."""

    def __init__(
        self,
        features: Tensor,  # [N, C, h, w]
        source: Tensor,  # int64 [E], on the host
        target: Tensor,  # int64 [E], on the host
        levels: int = 4,
        radius: int = 3,
    ) -> None:
        """Raises ValueError if an edge names features that do not exist: kernels on a GPU do not check the numbers."""
        assert source.shape == target.shape and source.ndim == 1, (source.shape, target.shape)
        self.levels, self.radius = levels, radius
        self.source, self.target = source, target
        self._reference: reference.CorrelationOnTheFly | None = None
        self.pyramid: list[Tensor] = []
        """Features of each level over 4, [N, h, w, C]: channels last, so that a kernel reads them contiguously. The
        reference implementation keeps those of every edge, in its own shape."""
        if has_kernel(features):
            self.source, self.target = (_indices(ends, features) for ends in (source, target))
            self.pyramid = [maps.permute(0, 2, 3, 1).contiguous() for maps in _pyramid(features, levels)]
        else:
            self._reference = reference.CorrelationOnTheFly(features[source], features[target], levels, radius)
            self.pyramid = [self._reference.source, *self._reference.targets]

    @property
    def stored_bytes(self) -> int:
        """Memory of the stored features."""
        return sum(maps.nbytes for maps in self.pyramid)

    def lookup(self, coords: Tensor) -> Tensor:
        """Read windows around positions [E, h, w, 2], as :meth:`CorrelationVolume.lookup`."""
        if self._reference is not None:
            return self._reference.lookup(coords)
        shape = (len(self.source), *self.pyramid[0].shape[1:3], 2)
        assert coords.shape == shape, (coords.shape, shape)
        coords = coords.to(_computed(self.pyramid[0].dtype))
        return _FeatureLookup.apply(coords, self.source, self.target, self.radius, *self.pyramid)


def _indices(ends: Tensor, features: Tensor) -> Tensor:
    """Keyframe numbers as the kernels take them: checked, and on the device of the features."""
    numbers = ends.to(device="cpu", dtype=torch.int64).contiguous()
    if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(features):
        raise ValueError(f"an edge names features outside 0..{len(features) - 1}")
    return numbers.to(features.device, non_blocking=True)


def _computed(stored: torch.dtype) -> torch.dtype:
    """Type in which kernels compute with numbers of a stored type."""
    return torch.float32 if stored in HALF_TYPES else stored


def _kernel(coords: Tensor, name: str) -> Callable[..., object]:
    """Kernel for the device of the positions, which is that of the features."""
    kernel = kernel_for(coords, name)
    assert kernel is not None, (name, coords.device)
    return kernel


def _pyramid(features: Tensor, levels: int) -> list[Tensor]:
    """Features over 4 and their averages, [N, C, h_level, w_level]."""
    maps = [features / reference.FEATURE_DIVISOR]
    while len(maps) < levels:
        maps.append(reference.halved(maps[-1]))
    return maps


def _level_volumes(features_source: Tensor, features_target: Tensor, levels: int) -> list[Tensor]:
    """Correlations with the features of each level, equal to averages of the correlations."""
    E, _, h, w = features_source.shape
    source = (features_source / reference.FEATURE_DIVISOR).flatten(2).transpose(1, 2)  # [E, h w, C]
    return [
        (source @ target.flatten(2)).view(E, h, w, *target.shape[2:]) for target in _pyramid(features_target, levels)
    ]


def _output(coords: Tensor, like: Tensor, levels: int, radius: int) -> Tensor:
    """Empty output for all levels of a lookup, of the type of the features or volumes."""
    E, h, w, _ = coords.shape
    return like.new_empty(E, levels * (2 * radius + 1) ** 2, h, w)


def _zeros_where(needed: bool, like: Tensor) -> Tensor | None:
    """Gradient to accumulate into, where one is needed."""
    return torch.zeros_like(like) if needed else None


def _as_computed(saved: list[Tensor]) -> list[Tensor]:
    """Saved tensors in the type in which the backward pass accumulates."""
    return [tensor.detach().to(_computed(tensor.dtype)) for tensor in saved]


class _VolumeLookup(Function):
    """coords [E, h, w, 2] and the volume of each level -> [E, levels (2r+1)^2, h, w]."""

    @staticmethod
    def forward(ctx: _Context, coords: Tensor, radius: int, *volumes: Tensor) -> Tensor:
        coords = coords.detach().contiguous()
        out = _output(coords, volumes[0], len(volumes), radius)
        lookup = _kernel(coords, "lookup_volume")
        for level, volume in enumerate(volumes):
            lookup(volume.detach(), coords, out, level=level, radius=radius)
        ctx.radius = radius
        ctx.save_for_backward(coords, *volumes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        coords, *stored = ctx.saved_tensors
        volumes = _as_computed(stored)
        grad_out = grad_out.to(coords.dtype).contiguous()
        grad_coords = _zeros_where(ctx.needs_input_grad[0], coords)
        grads = [_zeros_where(n, v) for n, v in zip(ctx.needs_input_grad[2:], volumes, strict=True)]
        backward = _kernel(coords, "lookup_volume_backward")
        for level, (volume, grad) in enumerate(zip(volumes, grads, strict=True)):
            backward(volume, coords, grad_out, grad, grad_coords, level=level, radius=ctx.radius)
        return grad_coords, None, *_as_stored(grads, stored)


class _FeatureLookup(Function):
    """coords [E, h, w, 2] and the features of each level [N, h, w, C] -> [E, levels (2r+1)^2, h, w]."""

    @staticmethod
    def forward(ctx: _Context, coords: Tensor, source: Tensor, target: Tensor, radius: int, *pyramid: Tensor) -> Tensor:
        coords = coords.detach().contiguous()
        out = _output(coords, pyramid[0], len(pyramid), radius)
        features = pyramid[0].detach()
        lookup = _kernel(coords, "lookup_features")
        for level, maps in enumerate(pyramid):
            lookup(features, maps.detach(), source, target, coords, out, level=level, radius=radius)
        ctx.radius = radius
        ctx.save_for_backward(coords, source, target, *pyramid)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        coords, source, target, *stored = ctx.saved_tensors
        pyramid = _as_computed(stored)
        grad_out = grad_out.to(coords.dtype).contiguous()
        grad_coords = _zeros_where(ctx.needs_input_grad[0], coords)
        grads = [_zeros_where(n, maps) for n, maps in zip(ctx.needs_input_grad[4:], pyramid, strict=True)]
        backward = _kernel(coords, "lookup_features_backward")
        for level, (maps, grad) in enumerate(zip(pyramid, grads, strict=True)):
            backward(
                pyramid[0],
                maps,
                source,
                target,
                coords,
                grad_out,
                grads[0],  # the source is read at every level
                grad,
                grad_coords,
                level=level,
                radius=ctx.radius,
            )
        return grad_coords, None, None, None, *_as_stored(grads, stored)


def _as_stored(grads: list[Tensor | None], stored: list[Tensor]) -> list[Tensor | None]:
    """Gradients in the types of their tensors."""
    return [None if g is None else g.to(s.dtype) for g, s in zip(grads, stored, strict=True)]
