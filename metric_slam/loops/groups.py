"""The interface of lietorch's groups that pose graphs use: SE(3) for metric lengths, Sim(3) where the scale drifts."""

from __future__ import annotations

from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import torch

Index: TypeAlias = "int | slice | None | list[int] | np.ndarray | tuple[slice | None, ...]"

Self = TypeVar("Self", bound="LieGroup")


class LieGroup(Protocol):
    """Elements of ``lie.SE3`` or ``lie.Sim3`` of some batch shape, float64."""

    data: torch.Tensor
    """Embedding, [..., 7 or 8]."""

    @property
    def manifold_dim(self) -> int:
        """6 or 7."""
        ...

    @property
    def shape(self) -> torch.Size:
        """Batch shape."""
        ...

    def __getitem__(self: Self, index: Index, /) -> Self: ...

    def __mul__(self: Self, other: Self, /) -> Self: ...

    def inv(self: Self) -> Self:
        """Inverses."""
        ...

    def log(self) -> torch.Tensor:
        """Tangent vectors, translation first, [..., 6 or 7]."""
        ...

    def adj(self, tangent: torch.Tensor, /) -> torch.Tensor:
        """Adjoint applied to tangent vectors."""
        ...


def of_kind(kind: LieGroup, data: torch.Tensor) -> LieGroup:
    """Elements of the same group as ``kind`` with this embedding."""
    make: type[LieGroup] = type(kind)
    return make(data)  # type: ignore[call-arg]  # lietorch's groups are built from their embedding


def identity(kind: LieGroup) -> LieGroup:
    """The neutral element of the same group as ``kind``, batch shape []."""
    values = [0.0] * 6 + [1.0] * (kind.data.shape[-1] - 6)
    return of_kind(kind, torch.tensor(values, dtype=torch.float64))
