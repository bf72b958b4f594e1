"""Autograd against central differences in float64: the gradient of X is that of delta in exp(delta) X."""

import pytest
import torch
from lietorch import SE3, SO3, RxSO3, Sim3

every_group = pytest.mark.parametrize("group", [SO3, RxSO3, SE3, Sim3])
STEP = 1e-6


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weighted(output):
    """A scalar that depends on every number of the output in another way."""
    numbers = output.vec() if hasattr(output, "vec") else output
    return (numbers * torch.linspace(0.5, 2.0, numbers.numel(), dtype=torch.float64).reshape(numbers.shape)).sum()


def numeric(f, x):
    """Central differences of the scalar f at the tensor x."""
    grad = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x).view(-1)
        step[i] = STEP
        step = step.view_as(x)
        grad.view(-1)[i] = (f(x + step) - f(x - step)) / (2 * STEP)
    return grad


def check_element(f, X):
    """d f / d X by autograd and by perturbing X on the left."""
    leaf = type(X)(X.data.clone().requires_grad_())
    weighted(f(leaf)).backward()
    expected = numeric(lambda delta: weighted(f(X.retr(delta))), torch.zeros(X.tangent_shape, dtype=torch.float64))
    assert torch.allclose(leaf.data.grad[..., : X.manifold_dim], expected, rtol=1e-6, atol=1e-7)
    assert (leaf.data.grad[..., X.manifold_dim :] == 0).all()


def check_tensor(f, x):
    """d f / d x of an ordinary tensor."""
    leaf = x.clone().requires_grad_()
    weighted(f(leaf)).backward()
    assert torch.allclose(leaf.grad, numeric(lambda y: weighted(f(y)), x), rtol=1e-6, atol=1e-7)


@every_group
@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-3, 0.4, 1.0, 2.5, 9.0])
def test_exp(group, size):
    """Up to angles beyond one turn."""
    xi = random(group.manifold_dim)
    check_tensor(group.exp, size * xi / xi.norm())


@every_group
@pytest.mark.parametrize("size", [1e-8, 1e-3, 0.4, 1.0, 2.5])
def test_log(group, size):
    xi = random(group.manifold_dim)
    check_element(lambda X: X.log(), group.exp(size * xi / xi.norm()))


ELEMENT_OPERATIONS = {
    "inv": lambda X, Y, a: X.inv(),
    "vec": lambda X, Y, a: X.vec(),
    "mul left": lambda X, Y, a: X * Y,
    "mul right": lambda X, Y, a: Y * X,
    "mul both": lambda X, Y, a: X * X,
    "retr": lambda X, Y, a: X.retr(a),
    "adj": lambda X, Y, a: X.adj(a),
    "adjT": lambda X, Y, a: X.adjT(a),
    "act": lambda X, Y, a: X * random(3, seed=5),
    "act4": lambda X, Y, a: X * random(4, seed=6),
    "matrix": lambda X, Y, a: X.matrix(),
    "translation": lambda X, Y, a: X.translation(),
    "quaternion": lambda X, Y, a: X.quaternion(),
    "chain": lambda X, Y, a: ((X * Y).inv() * X).log(),
    "vec and back": lambda X, Y, a: type(X).InitFromVec(X.vec()).log(),
}


@every_group
@pytest.mark.parametrize("name", ELEMENT_OPERATIONS)
def test_gradient_of_elements(group, name):
    X, Y = (group.exp(0.7 * random(2, group.manifold_dim, seed=seed)) for seed in (1, 2))
    a = random(2, group.manifold_dim, seed=3)
    check_element(lambda Z: ELEMENT_OPERATIONS[name](Z, Y, a), X)


@every_group
@pytest.mark.parametrize("name, width", [("retr", 0), ("adj", 0), ("adjT", 0), ("act", 3), ("act", 4)])
def test_gradient_of_vectors(group, name, width):
    X = group.exp(0.7 * random(2, group.manifold_dim, seed=1))
    check_tensor(getattr(X, name), random(2, width or group.manifold_dim, seed=4))


@every_group
def test_gradient_of_stored_numbers(group):
    """Along directions that keep the quaternion at unit length; the rest has no meaning for the group."""
    X, Y = group.exp(random(group.manifold_dim, seed=1)), group.exp(random(group.manifold_dim, seed=2))
    vec = X.data.clone().requires_grad_()
    weighted((group.InitFromVec(vec) * Y).log()).backward()
    for k in range(group.manifold_dim):
        delta = torch.zeros(group.manifold_dim, dtype=torch.float64)
        delta[k] = STEP
        ahead, behind = X.retr(delta).data, X.retr(-delta).data
        slope = (weighted((group(ahead) * Y).log()) - weighted((group(behind) * Y).log())) / (2 * STEP)
        assert torch.isclose(vec.grad @ (ahead - behind) / (2 * STEP), slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("group", [SE3, Sim3])
def test_gradient_of_scaling_the_unit_of_length(group):
    X, s = group.exp(random(2, group.manifold_dim, seed=1)), torch.tensor([0.5, 3.0], dtype=torch.float64)
    check_element(lambda Z: Z.scale(s), X)
    check_tensor(X.scale, s)


@pytest.mark.parametrize("target, source", [(RxSO3, SO3), (SE3, SO3), (Sim3, SO3), (Sim3, SE3), (Sim3, RxSO3)])
def test_gradient_of_lifting_into_a_larger_group(target, source):
    check_element(lambda X: target(X).log(), source.exp(random(2, source.manifold_dim, seed=1)))


def test_gradient_sums_over_broadcast_dimensions():
    X = SE3.exp(0.5 * random(2, 1, 6, seed=1))
    points = random(5, 3, seed=2)
    check_element(lambda Z: Z * points, X)
    check_tensor(lambda p: X * p, points)


def test_optimisation_reaches_a_pose():
    """Gradient steps through retr align two point sets: what the tangent convention is for."""
    target, points = SE3.exp(torch.tensor([0.3, -0.2, 0.5, 0.4, -0.3, 0.2], dtype=torch.float64)), random(20, 3)
    X = SE3.Identity(dtype=torch.float64)
    for _ in range(200):
        leaf = SE3(X.data.clone().requires_grad_())
        ((leaf * points - target * points) ** 2).mean().backward()
        X = X.retr(-0.5 * leaf.data.grad[..., :6])
    assert (X.inv() * target).log().abs().max() < 1e-6


def test_no_second_derivatives_in_silence():
    xi = random(6).requires_grad_()
    (grad,) = torch.autograd.grad(SE3.exp(xi).log().sum() + (SE3.exp(xi) * random(3)).sum(), xi, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


def test_jinv_has_no_gradient():
    a = random(6).requires_grad_()
    with pytest.raises(NotImplementedError, match="Jinv"):
        SE3.Identity(dtype=torch.float64).Jinv(a).sum().backward()
