"""The kernels for GPUs against those for the CPU: emulated on the CPU everywhere, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from unittest import mock

import pytest
import torch
from lietorch import SE3, SO3, RxSO3, Sim3, _autograd, _lietorch
from torch import Tensor

from tests.thirdparty.test_lietorch_reference import OPERATIONS, inputs

GROUPS = [SO3, RxSO3, SE3, Sim3]
ROWS = (0, 1, 31, 257)  # nothing, a lane, a warp that is not full, blocks of which the last is not full
TYPES = {torch.float64: 1e-12, torch.float32: 2e-6}
"""Tolerances relative to 1 + the largest number of a row; a GPU contracts products and sums."""

every_group = pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.__name__)
every_operation = pytest.mark.parametrize("op", OPERATIONS)
every_type = pytest.mark.parametrize("dtype", TYPES, ids=("float64", "float32"))


@pytest.fixture(scope="module")
def emulated() -> ModuleType:
    """The kernels for GPUs, run on the CPU."""
    try:
        return import_module("lietorch._lietorch_emulated")
    except ImportError:
        pytest.skip("the GPU kernels were not built for the CPU: METRIC_SLAM_EMULATION=1, as `make dev` sets")


@pytest.fixture
def gpu() -> torch.device:
    """A GPU with kernels for it."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device that torch can use")
    if _autograd._lietorch_cuda is None:
        pytest.skip("the CUDA kernels of lietorch were not built")
    return torch.device("cuda")


def arguments(group: type, op: str, dtype: torch.dtype) -> list[Tensor]:
    """As many rows as the largest of ROWS; rotations and scales of all sizes."""
    generator = torch.Generator().manual_seed(5)
    given = [inputs(group, kind, generator).to(dtype) for kind in OPERATIONS[op]]
    return [a.repeat(2, 1)[: max(ROWS)].contiguous() for a in given]


@contextmanager
def on_kernels(module: ModuleType) -> Iterator[None]:
    """While it lasts, ``run`` calls these kernels for tensors of the CPU."""

    def call(op: str) -> object:
        return lambda *given: getattr(module, op)(*given, 0)

    operations = mock.Mock(**{op: call(op) for op in OPERATIONS})
    with mock.patch.object(_autograd, "_lietorch", operations):
        yield


def assert_agrees(found: Tensor, expected: Tensor) -> None:
    scale = 1 + expected.abs().amax(1, keepdim=True)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert not len(found) or ((found - expected).abs() / scale).max() < TYPES[expected.dtype]


@every_type
@every_operation
@every_group
def test_emulated_kernel_agrees_with_that_for_the_cpu(
    emulated: ModuleType, monkeypatch: pytest.MonkeyPatch, group: type, op: str, dtype: torch.dtype
) -> None:
    given = arguments(group, op, dtype)
    expected = _autograd.run(op, group.spec, *given)
    for rows in ROWS:
        some, found = [a[:rows] for a in given], []
        for order in "017":
            monkeypatch.setenv("METRIC_SLAM_EMULATION_ORDER", order)
            around = torch.full((rows + 2, expected.shape[1]), 7.0, dtype=dtype)
            getattr(emulated, op)(group.spec.number, *some, around[1:-1], 0)
            assert (around[[0, -1]] == 7.0).all(), "writes beside its rows"
            found.append(around[1:-1])
        assert_agrees(found[0], expected[:rows])
        assert all(torch.equal(other, found[0]) for other in found), "depends on the order of blocks and threads"


@every_group
def test_gradients_by_emulated_kernels(emulated: ModuleType, group: type) -> None:
    """Every backward pass through the public interface."""
    expected = gradients(group, torch.device("cpu"), torch.float64)
    with on_kernels(emulated):
        found = gradients(group, torch.device("cpu"), torch.float64)
    for ours, theirs in zip(found, expected, strict=True):
        assert_agrees(ours, theirs)


def gradients(group: type, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Those of a number that goes through all operations, for two elements, tangent vectors and points."""
    generator = torch.Generator().manual_seed(6)
    widths = (group.manifold_dim, group.manifold_dim, group.manifold_dim, 3, 4)
    leaves = [(0.5 * torch.randn(40, w, generator=generator)).to(device, dtype).requires_grad_() for w in widths]
    a, b, tangent, point, homogeneous = leaves
    X, Y = group.exp(a), group.exp(b)
    vectors = ((X * Y).inv().log(), X.adj(tangent), Y.adjT(tangent), X * point, Y * homogeneous, X.vec())
    back = group.InitFromVec((X * Y).vec()).log()
    sum((v * torch.linspace(0.5, 2.0, v.shape[1]).to(v)).sum() for v in (*vectors, back)).backward()
    return [leaf.grad.cpu() for leaf in leaves]


def test_what_does_not_fit_is_refused(emulated: ModuleType) -> None:
    good = SE3.exp(torch.zeros(4, 6, dtype=torch.float64)).data
    xi, out = torch.zeros(4, 6, dtype=torch.float64), torch.empty(4, 7, dtype=torch.float64)
    number = SE3.spec.number
    emulated.exp(number, xi, out, stream=0)
    assert torch.equal(out, good)
    for wrong in (xi.float(), xi[:, 0], xi.T.contiguous().T, torch.zeros(4, 12, dtype=torch.float64)[:, ::2]):
        with pytest.raises(TypeError):
            emulated.exp(number, wrong, out, 0)
    with pytest.raises(TypeError):
        emulated.exp(number, xi, out.float(), 0)
    with pytest.raises(ValueError, match=r"a must be \[4, 6\], got \[4, 7\]"):
        emulated.exp(number, good, out, 0)
    with pytest.raises(ValueError, match=r"b must be \[4, 7\], got \[3, 7\]"):
        emulated.mul(number, good, good[:3], out, 0)
    with pytest.raises(ValueError, match=r"out must be \[4, 7\], got \[4, 6\]"):
        emulated.mul(number, good, good, xi, 0)
    with pytest.raises(ValueError, match="group must be 1"):
        emulated.exp(5, xi, out, 0)


def test_modules_have_the_same_functions(emulated: ModuleType) -> None:
    names = {name for name in dir(_lietorch) if not name.startswith("_")}
    assert names == set(OPERATIONS)
    assert {name for name in dir(emulated) if not name.startswith("_")} == names | {"why_not"}


@every_type
@every_operation
@every_group
def test_cuda_kernel_agrees_with_that_for_the_cpu(gpu: torch.device, group: type, op: str, dtype: torch.dtype) -> None:
    given = arguments(group, op, dtype)
    expected = _autograd.run(op, group.spec, *given)
    for rows in ROWS:
        found = _autograd.run(op, group.spec, *(a[:rows].to(gpu) for a in given))
        assert found.device.type == "cuda"
        assert_agrees(found.cpu(), expected[:rows])


@every_type
@every_group
def test_gradients_by_cuda_kernels(gpu: torch.device, group: type, dtype: torch.dtype) -> None:
    found, expected = (gradients(group, device, dtype) for device in (gpu, torch.device("cpu")))
    for ours, theirs in zip(found, expected, strict=True):
        assert_agrees(ours, theirs)


def test_cuda_kernels_run_on_the_current_stream(gpu: torch.device) -> None:
    """A kernel behind a long piece of work on the same stream sees its result."""
    xi = torch.full((1000, 6), 0.1, dtype=torch.float64)
    expected = SE3.exp(xi).data
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        found = SE3.exp(torch.full((1000, 6), 0.1, dtype=torch.float64, device=gpu)).data
        assert_agrees(found.cpu(), expected)
