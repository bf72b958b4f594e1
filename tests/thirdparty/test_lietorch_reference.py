"""The compiled kernels against their twin in plain torch, forward and backward, float32 and float64."""

import lietorch._torch_reference as reference
import pytest
import torch
from lietorch import SE3, SO3, RxSO3, Sim3
from lietorch._autograd import run

ELEMENT, TANGENT, POINT, HOMOGENEOUS = "element", "tangent", "point", "homogeneous"
OPERATIONS = {
    "exp": (TANGENT,),
    "log": (ELEMENT,),
    "inv": (ELEMENT,),
    "mul": (ELEMENT, ELEMENT),
    "adj": (ELEMENT, TANGENT),
    "adjT": (ELEMENT, TANGENT),
    "act": (ELEMENT, POINT),
    "act4": (ELEMENT, HOMOGENEOUS),
    "act_grad_element": (POINT, POINT),
    "act4_grad_element": (HOMOGENEOUS, HOMOGENEOUS),
    "act_grad_point": (ELEMENT, POINT),
    "act4_grad_point": (ELEMENT, HOMOGENEOUS),
    "small_adjT": (TANGENT, TANGENT),
    "jacobianT": (TANGENT, TANGENT),
    "jacobian_inverseT": (TANGENT, TANGENT),
    "jacobian_inverse": (TANGENT, TANGENT),
    "project": (ELEMENT, "embedding"),
    "lift": (ELEMENT, TANGENT),
}
# how far rotations turn and scales grow: the branches of the closed forms, their borders, and beyond one turn
SIZES = torch.tensor([0, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.28, 0.5, 1, 2, 3.1, 9], dtype=torch.float64)


def inputs(group, kind, generator):
    """float64 [n, width] whose tangent vectors run through SIZES, in rotation and log-scale independently."""
    n = len(SIZES) ** 2
    width = {ELEMENT: 7, TANGENT: 7, POINT: 3, HOMOGENEOUS: 4, "embedding": group.embedded_dim}[kind]
    values = torch.randn(n, width, generator=generator, dtype=torch.float64)
    if kind not in (ELEMENT, TANGENT):
        return values
    angle, growth = (g.reshape(-1) for g in torch.meshgrid(SIZES, SIZES, indexing="ij"))
    values[:, 3:6] *= (angle / values[:, 3:6].norm(dim=1))[:, None]
    values[:, 6] = 0.5 * growth * values[:, 6].sign()
    values = values[:, slice(*group.spec.tangent)].contiguous()
    return reference.exp(group.spec, values) if kind == ELEMENT else values


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("group", [SO3, RxSO3, SE3, Sim3])
def test_kernel_equals_twin(group, op, dtype, tolerance):
    generator = torch.Generator().manual_seed(3)
    arguments = [inputs(group, kind, generator).to(dtype) for kind in OPERATIONS[op]]
    expected = getattr(reference, op)(group.spec, *(a.double() for a in arguments))
    actual = run(op, group.spec, *arguments)
    assert actual.dtype == dtype and actual.shape == expected.shape
    scale = 1 + expected.abs().amax(1, keepdim=True)
    assert ((actual.double() - expected).abs() / scale).max() < tolerance


def test_large_batches_take_several_threads_and_agree():
    generator = torch.Generator().manual_seed(4)
    xi = torch.randn(20_000, 6, generator=generator, dtype=torch.float64)
    whole = SE3.exp(xi).log()
    rows = torch.cat([SE3.exp(part).log() for part in xi.split(1000)])
    assert torch.equal(whole, rows)


def test_other_devices_take_the_twin():
    data = SE3.Identity(3, device="meta").data
    assert run("inv", SE3.spec, data).device.type == "meta"
