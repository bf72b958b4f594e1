"""Batched, differentiable Lie groups for torch: SO3, RxSO3, SE3 and Sim3, with the interface known from lietorch.

A group object wraps a tensor [..., N]; every operation broadcasts over the leading dimensions. Gradients of group
elements live in the tangent space: the gradient of X is that of delta in exp(delta) * X, written into the first
numbers of a tensor shaped like X. Forward and backward passes, float32 and float64, run in C++ on the CPU (OpenMP over
large batches) and in CUDA on a GPU, on torch's current stream of its device, where those kernels are built; tensors on
other devices take the slower formulas of ``_torch_reference``.

Not to be confused with the package of the same name on PyPI, which is about something else.
"""

from .groups import SE3, SO3, LieGroup, RxSO3, Sim3, cat, stack

__all__ = ["SE3", "SO3", "LieGroup", "RxSO3", "Sim3", "cat", "stack"]
