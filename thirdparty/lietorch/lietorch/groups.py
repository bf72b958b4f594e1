"""The group classes: a tensor [..., N] with the operations of its group, broadcasting over the leading dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from . import _autograd as ops
from ._spec import RXSO3_SPEC, SE3_SPEC, SIM3_SPEC, SO3_SPEC, GroupSpec

Self = TypeVar("Self", bound="LieGroup")


class LieGroup:
    """Common part of SO3, RxSO3, SE3 and Sim3; ``shape`` is the batch shape, ``data`` the stored numbers [..., N]."""

    spec: ClassVar[GroupSpec]
    group_name: ClassVar[str]
    group_id: ClassVar[int]
    manifold_dim: ClassVar[int]
    embedded_dim: ClassVar[int]
    id_elem: ClassVar[Tensor]

    def __init_subclass__(cls) -> None:
        cls.group_name, cls.group_id = cls.spec.name, cls.spec.number
        cls.manifold_dim, cls.embedded_dim = cls.spec.K, cls.spec.N
        cls.id_elem = torch.tensor(cls.spec.identity)

    def __init__(self, data: Tensor | LieGroup) -> None:
        if isinstance(data, LieGroup):
            data = _converted(data, type(self))
        if data.ndim == 0 or data.shape[-1] != self.embedded_dim:
            raise ValueError(f"{self.group_name} stores {self.embedded_dim} numbers, got a tensor {list(data.shape)}")
        self.data = data

    # -- making elements

    @classmethod
    def Identity(cls: type[Self], *batch_shape: Any, **kwargs: Any) -> Self:
        """Neutral elements of the given batch shape (numbers or one tuple); ``kwargs`` go to torch (dtype, device)"""
        identity = torch.tensor(cls.spec.identity, **{"dtype": torch.get_default_dtype(), **kwargs})
        return cls(identity.repeat(*_shape(batch_shape), 1))

    @classmethod
    def IdentityLike(cls: type[Self], other: LieGroup) -> Self:
        """Neutral elements with the batch shape, type and device of another batch."""
        return cls.Identity(*other.shape, dtype=other.dtype, device=other.device)

    @classmethod
    def Random(cls: type[Self], *batch_shape: Any, sigma: float = 1.0, **kwargs: Any) -> Self:
        """exp of normally distributed tangent vectors with the standard deviation ``sigma``."""
        return cls.exp(sigma * torch.randn(*_shape(batch_shape), cls.manifold_dim, **kwargs))

    @classmethod
    def InitFromVec(cls: type[Self], data: Tensor) -> Self:
        """Elements from ordinary numbers [..., N]; the gradient goes back to the numbers."""
        return cls(_unary(ops.FromVec.apply, cls.spec, cls(data).data))

    @classmethod
    def exp(cls: type[Self], xi: Tensor) -> Self:
        """Exponential of tangent vectors [..., K]."""
        _check_tangent(cls, xi)
        return cls(_unary(ops.Exp.apply, cls.spec, xi))

    # -- the group

    def log(self) -> Tensor:
        """Tangent vectors [..., K] whose exponential this is; rotations by at most pi."""
        return _unary(ops.Log.apply, self.spec, self.data)

    def inv(self: Self) -> Self:
        """The inverse elements."""
        return type(self)(_unary(ops.Inv.apply, self.spec, self.data))

    def mul(self: Self, other: Self) -> Self:
        """The products self * other."""
        if type(other) is not type(self):
            raise TypeError(f"cannot multiply {type(self).__name__} by {type(other).__name__}: convert one of them")
        return type(self)(_binary(ops.Mul.apply, self.spec, self.data, other.data))

    def retr(self: Self, a: Tensor) -> Self:
        """The retraction exp(a) * self for tangent vectors [..., K]."""
        return self.exp(a).mul(self)

    def adj(self, a: Tensor) -> Tensor:
        """Ad(self) a for tangent vectors [..., K]: self * exp(a) = exp(adj(a)) * self."""
        _check_tangent(type(self), a)
        return _binary(ops.Adj.apply, self.spec, self.data, a)

    def adjT(self, a: Tensor) -> Tensor:
        """Ad(self)^T a for vectors [..., K]."""
        _check_tangent(type(self), a)
        return _binary(ops.AdjT.apply, self.spec, self.data, a)

    def Jinv(self, a: Tensor) -> Tensor:
        """Inverse left Jacobian at log(self) times vectors [..., K]; without a gradient."""
        _check_tangent(type(self), a)
        return _binary(ops.Jinv.apply, self.spec, self.data, a)

    def act(self, p: Tensor) -> Tensor:
        """Images of points [..., 3] or homogeneous points [..., 4]."""
        if p.ndim == 0 or p.shape[-1] not in (3, 4):
            raise ValueError(f"points have 3 or 4 coordinates, got a tensor {list(p.shape)}")
        return _binary(ops.Act.apply, self.spec, self.data, p)

    def matrix(self) -> Tensor:
        """[..., 4, 4] = [s R, t; 0, 1]."""
        columns = torch.eye(4, dtype=self.dtype, device=self.device)
        return type(self)(self.data[..., None, :]).act(columns).transpose(-1, -2)

    def vec(self) -> Tensor:
        """The stored numbers [..., N] as an ordinary tensor, gradients included."""
        return _unary(ops.ToVec.apply, self.spec, self.data)

    def translation(self) -> Tensor:
        """t [..., 3]; zeros for the groups without one."""
        return self.act(torch.zeros(3, dtype=self.dtype, device=self.device))

    def quaternion(self) -> Tensor:
        """Unit quaternions x y z w [..., 4]."""
        start = 3 - self.spec.stored[0]
        return self.vec()[..., start : start + 4]

    def __mul__(self, other: Any) -> Any:
        return self.mul(other) if isinstance(other, LieGroup) else self.act(other)

    # -- the tensor

    @property
    def shape(self) -> torch.Size:
        """Batch shape."""
        return self.data.shape[:-1]

    @property
    def tangent_shape(self) -> torch.Size:
        """Shape of log()."""
        return self.shape + (self.manifold_dim,)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.data.device

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are recorded."""
        return self.data.requires_grad

    def __getitem__(self: Self, index: Any) -> Self:
        return type(self)(self.data[index])

    def __setitem__(self: Self, index: Any, item: Self) -> None:
        self.data[index] = item.data

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"a single {self.group_name} has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{self.group_name}: size={list(self.shape)}, device={self.device}, dtype={self.dtype}"

    def view(self: Self, *dims: Any) -> Self:
        """Another batch shape on the same numbers."""
        return type(self)(self.data.view(*_shape(dims), self.embedded_dim))

    def reshape(self: Self, *dims: Any) -> Self:
        """Another batch shape."""
        return type(self)(self.data.reshape(*_shape(dims), self.embedded_dim))

    def unbind(self: Self, dim: int = 0) -> list[Self]:
        """The elements along one batch dimension."""
        return [type(self)(part) for part in self.data.unbind(dim)]

    def detach(self: Self) -> Self:
        """The same numbers without gradients."""
        return type(self)(self.data.detach())

    def clone(self: Self) -> Self:
        """A copy."""
        return type(self)(self.data.clone())

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Another type or device, as Tensor.to."""
        return type(self)(self.data.to(*args, **kwargs))

    def cpu(self: Self) -> Self:
        """On the CPU."""
        return type(self)(self.data.cpu())

    def cuda(self: Self) -> Self:
        """On the current CUDA device."""
        return type(self)(self.data.cuda())

    def float(self: Self) -> Self:
        """In float32."""
        return type(self)(self.data.float())

    def double(self: Self) -> Self:
        """In float64."""
        return type(self)(self.data.double())


class SO3(LieGroup):
    """Rotations. Stored: unit quaternion x y z w. Tangent: rotation vector phi [rad]."""

    spec = SO3_SPEC


class RxSO3(LieGroup):
    """Rotations with a scale, x -> s R x. Stored: q_xyzw, s. Tangent: (phi, sigma), s = exp(sigma)."""

    spec = RXSO3_SPEC


class _Moving(LieGroup):
    """What the two groups with a translation share."""

    spec = SE3_SPEC

    def scale(self: Self, s: Tensor | float) -> Self:
        """The element after the unit of length was changed: translations (and the scale of Sim3) times s [...]."""
        s = torch.as_tensor(s, dtype=self.dtype, device=self.device)[..., None]
        t, q, rest = self.vec().tensor_split((3, 7), dim=-1)
        shape = torch.broadcast_shapes(t.shape[:-1], s.shape[:-1])
        parts = [(t * s), q.expand(*shape, 4), (rest * s)]
        return self.InitFromVec(torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], dim=-1))


class SE3(_Moving):
    """Rigid motions x -> R x + t. Stored: t, q_xyzw. Tangent: (tau, phi), translation first."""

    spec = SE3_SPEC


class Sim3(_Moving):
    """Similarities x -> s R x + t. Stored: t, q_xyzw, s. Tangent: (tau, phi, sigma), s = exp(sigma)."""

    spec = SIM3_SPEC


def cat(groups: Sequence[Self], dim: int) -> Self:
    """Concatenates batches of one group along a batch dimension."""
    return type(groups[0])(torch.cat([g.data for g in _same_group(groups)], dim=dim))


def stack(groups: Sequence[Self], dim: int) -> Self:
    """Stacks batches of one group along a new batch dimension."""
    return type(groups[0])(torch.stack([g.data for g in _same_group(groups)], dim=dim))


def _same_group(groups: Sequence[Self]) -> Sequence[Self]:
    names = sorted({type(g).__name__ for g in groups})
    if len(names) > 1:
        raise TypeError(f"cannot join different groups: {names}")
    return groups


def _shape(dims: tuple[Any, ...]) -> tuple[int, ...]:
    """Batch shape given as numbers or as one tuple or list."""
    return tuple(dims[0]) if len(dims) == 1 and not isinstance(dims[0], int) else dims


def _check_tangent(group: type[LieGroup], xi: Tensor) -> None:
    if xi.ndim == 0 or xi.shape[-1] != group.manifold_dim:
        raise ValueError(
            f"tangent vectors of {group.group_name} have {group.manifold_dim} numbers, got a tensor {list(xi.shape)}"
        )


def _converted(element: LieGroup, target: type[LieGroup]) -> Tensor:
    """Numbers of an element in a group that contains its own, gradients included."""
    (start, stop), (low, high) = element.spec.stored, target.spec.stored
    if start < low or stop > high:
        raise TypeError(f"a {element.group_name} is not a {target.group_name} in general")
    if element.spec == target.spec:
        return element.data
    identity = element.data.new_tensor(target.spec.identity).expand(*element.shape, -1)
    vec = torch.cat([identity[..., : start - low], element.vec(), identity[..., stop - low :]], dim=-1)
    return _unary(ops.FromVec.apply, target.spec, vec)


def _unary(function: Callable[..., Tensor], spec: GroupSpec, a: Tensor) -> Tensor:
    out = function(spec, a.reshape(-1, a.shape[-1]))
    return out.reshape(*a.shape[:-1], out.shape[-1])


def _binary(function: Callable[..., Tensor], spec: GroupSpec, a: Tensor, b: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    flat = (x.expand(*shape, x.shape[-1]).reshape(-1, x.shape[-1]) for x in (a, b))
    out = function(spec, *flat)
    return out.reshape(*shape, out.shape[-1])
