"""Group axioms and bijectivity on arbitrary elements, rotations near 0 and near pi included."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lietorch import SE3, SO3, RxSO3, Sim3

GROUPS = [SO3, RxSO3, SE3, Sim3]
every_group = pytest.mark.parametrize("group", GROUPS)
quick = settings(max_examples=60, deadline=None)

coordinate = st.floats(-10.0, 10.0)
angle = st.one_of(st.floats(0.0, math.pi - 1e-3), st.sampled_from([0.0, 1e-12, 1e-7, 1e-4, 3e-3, 0.5, math.pi - 1e-6]))
log_scale = st.one_of(st.floats(-1.5, 1.5), st.sampled_from([0.0, 1e-12, 1e-7, -1e-4]))


@st.composite
def tangents(draw):
    """A tangent vector of Sim3 [7] with a rotation by less than pi; subgroups take their part of it."""
    axis = torch.tensor([draw(coordinate) for _ in range(3)], dtype=torch.float64)
    axis = axis / axis.norm() if axis.norm() > 1e-3 else torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    tau = torch.tensor([draw(coordinate) for _ in range(3)], dtype=torch.float64)
    return torch.cat([tau, draw(angle) * axis, torch.tensor([draw(log_scale)], dtype=torch.float64)])


def part(group, xi):
    return xi[slice(*group.spec.tangent)]


def same(a, b, atol=1e-11):
    return torch.allclose(a.matrix(), b.matrix(), rtol=1e-11, atol=atol)


@every_group
@quick
@given(x=tangents(), y=tangents(), z=tangents())
def test_axioms(group, x, y, z):
    X, Y, Z = (group.exp(part(group, v)) for v in (x, y, z))
    identity = group.Identity(dtype=torch.float64)
    assert same((X * Y) * Z, X * (Y * Z), atol=1e-9)
    assert same(X * identity, X) and same(identity * X, X)
    assert same(X * X.inv(), identity, atol=1e-10) and same(X.inv() * X, identity, atol=1e-10)


@every_group
@quick
@given(x=tangents())
def test_log_inverts_exp(group, x):
    xi = part(group, x)
    X = group.exp(xi)
    assert torch.allclose(X.log(), xi, rtol=1e-9, atol=1e-8)
    assert same(group.exp(X.log()), X, atol=1e-9)
    start = 3 - group.spec.stored[0]
    other_sign = X.data.clone()
    other_sign[start : start + 4] *= -1  # q and -q are one rotation
    assert same(group(other_sign), X) and torch.allclose(group(other_sign).log(), X.log(), rtol=1e-9, atol=1e-8)


@every_group
@quick
@given(x=tangents(), y=tangents())
def test_matrix_is_a_homomorphism_and_acts_like_the_group(group, x, y):
    X, Y = group.exp(part(group, x)), group.exp(part(group, y))
    assert torch.allclose((X * Y).matrix(), X.matrix() @ Y.matrix(), rtol=1e-10, atol=1e-10)
    p = torch.tensor([1.0, -2.0, 3.0, 0.7], dtype=torch.float64)
    assert torch.allclose(X * p, X.matrix() @ p, rtol=1e-10, atol=1e-10)
    assert torch.allclose(X * p[:3], (X.matrix() @ torch.cat([p[:3], p.new_ones(1)]))[:3], rtol=1e-10, atol=1e-10)


@every_group
@quick
@given(x=tangents(), y=tangents())
def test_adjoint_moves_a_perturbation_to_the_left(group, x, y):
    X, a = group.exp(part(group, x)), 1e-3 * part(group, y)
    assert same(X * group.exp(a), group.exp(X.adj(a)) * X, atol=1e-9)
    b = part(group, torch.linspace(-1, 1, 7, dtype=torch.float64))
    assert torch.allclose(X.adj(a) @ b, a @ X.adjT(b), rtol=1e-9, atol=1e-12)


@every_group
def test_exponential_of_whole_turns(group):
    turn = part(group, torch.tensor([1, 2, 3, 0, 0, 2 * math.pi, 0.0], dtype=torch.float64))
    expected = torch.eye(4, dtype=torch.float64)
    if group in (SE3, Sim3):
        expected[2, 3] = 3.0  # only the part along the axis survives
    assert torch.allclose(group.exp(turn).matrix(), expected, atol=1e-12)
