"""The differentiable operations on flat batches: forward and backward are one call of the kernels each.

``run`` chooses the compiled kernels for tensors on the CPU, those for GPUs where they are built, and else the torch
formulas.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import _torch_reference
from ._spec import GroupSpec

try:
    from . import _lietorch
except ImportError as error:
    raise ImportError(
        f"the compiled part of lietorch cannot be loaded ({error}): run `pip install --no-build-isolation -e .`"
    ) from error

_lietorch_cuda: ModuleType | None = None
try:
    _lietorch_cuda = import_module("._lietorch_cuda", __package__)
except ImportError:
    pass  # not built, or not for this machine: tensors on a GPU take the torch formulas

_TO_ELEMENT = {"exp", "inv", "mul", "lift"}  # results [n, N]
_TO_POINT = {"act", "act4", "act_grad_point", "act4_grad_point"}  # results shaped like the second input
# everything else gives a tangent vector [n, K]


def run(op: str, group: GroupSpec, a: Tensor, b: Tensor | None = None) -> Tensor:
    """One operation on flat batches a [n, A] and b [n, B] of the same device, float32 or float64. No gradient."""
    inputs = [x.detach().contiguous() for x in (a, b) if x is not None]
    dtypes, devices = {x.dtype for x in inputs}, {x.device for x in inputs}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        found = sorted(map(str, dtypes))
        raise TypeError(f"{group.name}.{op} needs tensors of one type, float32 or float64, got {found}")
    if len(devices) > 1:
        raise ValueError(f"{group.name}.{op} needs tensors on one device, got {sorted(map(str, devices))}")
    stream = ()
    if a.device.type == "cpu":
        kernels = _lietorch
    elif a.device.type == "cuda" and _has_kernels(a.device):
        kernels, stream = _lietorch_cuda, (torch.cuda.current_stream(a.device).cuda_stream,)
    else:
        return getattr(_torch_reference, op)(group, *inputs)
    width = group.N if op in _TO_ELEMENT else inputs[-1].shape[-1] if op in _TO_POINT else group.K
    out = inputs[0].new_empty(len(a), width)
    getattr(kernels, op)(group.number, *inputs, out, *stream)
    return out


@lru_cache
def _has_kernels(device: torch.device) -> bool:
    """Were kernels built, and for this GPU and its driver?"""
    return _lietorch_cuda is not None and not _lietorch_cuda.why_not(device.index or 0)


def _pad(group: GroupSpec, tangent: Tensor) -> Tensor:
    """Tangent gradient [n, K] in the shape of the element [n, N]."""
    return torch.nn.functional.pad(tangent, (0, group.N - group.K))


class Exp(Function):
    """xi [n, K] -> X [n, N]."""

    @staticmethod
    def forward(ctx: Any, group: GroupSpec, xi: Tensor) -> Tensor:
        ctx.group = group
        ctx.save_for_backward(xi)
        return run("exp", group, xi)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (xi,) = ctx.saved_tensors
        return None, run("jacobianT", ctx.group, xi, grad[:, : ctx.group.K])


class Log(Function):
    """X [n, N] -> xi [n, K]."""

    @staticmethod
    def forward(ctx: Any, group: GroupSpec, x: Tensor) -> Tensor:
        ctx.group = group
        xi = run("log", group, x)
        ctx.save_for_backward(xi)
        return xi

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (xi,) = ctx.saved_tensors
        return None, _pad(ctx.group, run("jacobian_inverseT", ctx.group, xi, grad))


class Inv(Function):
    """X -> X^-1; (exp(d) X)^-1 = exp(-Ad(X^-1) d) X^-1."""

    @staticmethod
    def forward(ctx: Any, group: GroupSpec, x: Tensor) -> Tensor:
        ctx.group = group
        y = run("inv", group, x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (y,) = ctx.saved_tensors
        return None, -_pad(ctx.group, run("adjT", ctx.group, y, grad[:, : ctx.group.K]))


class Mul(Function):
    """X, Y -> X Y; X exp(d) Y = exp(Ad(X) d) X Y."""

    @staticmethod
    def forward(ctx: Any, group: GroupSpec, x: Tensor, y: Tensor) -> Tensor:
        ctx.group = group
        ctx.save_for_backward(x)
        return run("mul", group, x, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor | None]:
        (x,) = ctx.saved_tensors
        tangent = grad[:, : ctx.group.K]
        dy = _pad(ctx.group, run("adjT", ctx.group, x, tangent)) if ctx.needs_input_grad[2] else None
        return None, _pad(ctx.group, tangent), dy


class Adj(Function):
    """X, a -> b = Ad(X) a; Ad(exp(d) X) a = b + ad(d) b = b - ad(b) d."""

    @staticmethod
    def forward(ctx: Any, group: GroupSpec, x: Tensor, a: Tensor) -> Tensor:
        ctx.group = group
        b = run("adj", group, x, a)
        ctx.save_for_backward(x, b)
        return b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        x, b = ctx.saved_tensors
        dx = -_pad(ctx.group, run("small_adjT", ctx.group, b, grad))
        return None, dx, run("adjT", ctx.group, x, grad)


class AdjT(Function):
    """X, a -> b = Ad(X)^T a; with v = Ad(X) g the change of g . b under exp(d) X is (ad(d) v) . a = -(ad(v) d) . a."""

    @staticmethod
    def forward(ctx: Any, group: GroupSpec, x: Tensor, a: Tensor) -> Tensor:
        ctx.group = group
        ctx.save_for_backward(x, a)
        return run("adjT", group, x, a)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        x, a = ctx.saved_tensors
        v = run("adj", ctx.group, x, grad)
        return None, -_pad(ctx.group, run("small_adjT", ctx.group, v, a)), v


class Act(Function):
    """X, p -> X p for points [n, 3] or homogeneous points [n, 4]."""

    @staticmethod
    def forward(ctx: Any, group: GroupSpec, x: Tensor, p: Tensor) -> Tensor:
        ctx.group = group
        ctx.op = "act" if p.shape[-1] == 3 else "act4"
        image = run(ctx.op, group, x, p)
        ctx.save_for_backward(x, image)
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        x, image = ctx.saved_tensors
        dx = dp = None
        if ctx.needs_input_grad[1]:
            dx = _pad(ctx.group, run(f"{ctx.op}_grad_element", ctx.group, image, grad))
        if ctx.needs_input_grad[2]:
            dp = run(f"{ctx.op}_grad_point", ctx.group, x, grad)
        return None, dx, dp


class ToVec(Function):
    """X -> its stored numbers as an ordinary tensor, so that gradients of numbers become tangent gradients."""

    @staticmethod
    def forward(ctx: Any, group: GroupSpec, x: Tensor) -> Tensor:
        ctx.group = group
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        return None, _pad(ctx.group, run("project", ctx.group, x, grad))


class FromVec(Function):
    """An ordinary tensor of stored numbers -> X: the converse of ToVec."""

    @staticmethod
    def forward(ctx: Any, group: GroupSpec, vec: Tensor) -> Tensor:
        ctx.group = group
        ctx.save_for_backward(vec)
        return vec.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (vec,) = ctx.saved_tensors
        return None, run("lift", ctx.group, vec, grad[:, : ctx.group.K])


class Jinv(Function):
    """X, a -> J(log X)^-1 a; has no backward pass."""

    @staticmethod
    def forward(ctx: Any, group: GroupSpec, x: Tensor, a: Tensor) -> Tensor:
        return run("jacobian_inverse", group, run("log", group, x), a)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        raise NotImplementedError("Jinv has no gradient: call it on detached tensors")
