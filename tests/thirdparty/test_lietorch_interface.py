"""The tensor side of the groups: construction, shapes, broadcasting, and refusals that say why."""

import copy

import lietorch
import numpy as np
import pytest
import torch
from lietorch import SE3, SO3, RxSO3, Sim3, _lietorch
from scipy.spatial.transform import Rotation

every_group = pytest.mark.parametrize("group", [SO3, RxSO3, SE3, Sim3])


@every_group
def test_identity_and_random(group):
    assert group.Identity(2, 3).shape == group.Identity((2, 3)).shape == torch.Size([2, 3])
    assert group.Identity().shape == torch.Size([])
    identity = group.Identity(4, dtype=torch.float64)
    assert identity.dtype == torch.float64 and (identity.log() == 0).all()
    assert (group.IdentityLike(identity).data == identity.data).all()
    torch.manual_seed(0)
    X = group.Random(5, sigma=0.1)
    assert X.shape == (5,) and X.tangent_shape == (5, group.manifold_dim) and 0 < X.log().abs().max() < 0.6


def test_layouts():
    """Translation first, quaternion x y z w, scale last; scipy builds the same rotation."""
    phi = np.array([0.3, -0.5, 0.2])
    q_xyzw = Rotation.from_rotvec(phi).as_quat()
    assert np.allclose(SO3.exp(torch.from_numpy(phi)).data, q_xyzw)
    X = Sim3(torch.tensor([1.0, 2.0, 3.0, *q_xyzw, 2.0], dtype=torch.float64))
    expected = np.eye(4)
    expected[:3, :3], expected[:3, 3] = 2.0 * Rotation.from_rotvec(phi).as_matrix(), (1, 2, 3)
    assert np.allclose(X.matrix(), expected)
    assert np.allclose(X.log()[3:], [*phi, np.log(2.0)])
    assert X.translation().tolist() == [1.0, 2.0, 3.0] and np.allclose(X.quaternion(), q_xyzw)
    assert X.scale(3.0).data[[0, 1, 2, 7]].tolist() == [3.0, 6.0, 9.0, 6.0]


@every_group
def test_indexing_joining_and_reshaping(group):
    X = group.Random(2, 3)
    assert (X[1].data == X.data[1]).all() and X[:, None].shape == (2, 1, 3)
    assert X[torch.tensor([0, 1, 1])].shape == (3, 3)
    assert lietorch.cat([X, X], 1).shape == (2, 6) and lietorch.stack([X, X], 0).shape == (2, 2, 3)
    assert X.view((3, 2)).shape == X.view(3, 2).shape == X.reshape(3, 2).shape == (3, 2) and len(X.unbind(1)) == 3
    assert len(X) == len(list(X)) == 2
    Y = X.clone()
    Y[0] = group.Identity(3)
    assert (Y[0].log() == 0).all() and not (X[0].log() == 0).all()
    assert copy.deepcopy(X).shape == X.shape and repr(X).startswith(f"{group.__name__}: size=[2, 3]")


@every_group
def test_types_and_detaching(group):
    X = group(group.Random(2).data.requires_grad_())
    assert X.requires_grad and not X.detach().requires_grad
    assert X.double().dtype == X.to(torch.float64).dtype == torch.float64 and X.double().float().dtype == torch.float32
    assert X.cpu().device.type == "cpu"


@every_group
def test_broadcasting(group):
    X, p = group.Random(4, 1, 1, dtype=torch.float64), torch.randn(5, 6, 3, dtype=torch.float64)
    image = X * p
    assert image.shape == (4, 5, 6, 3)
    assert torch.allclose(image[2, 3, 4], X[2, 0, 0] * p[3, 4])
    assert (X * group.Random(7, dtype=torch.float64)).shape == (4, 1, 7)
    assert X.adj(torch.randn(5, 6, group.manifold_dim, dtype=torch.float64)).shape == (4, 5, 6, group.manifold_dim)
    assert X.retr(torch.zeros(group.manifold_dim, dtype=torch.float64)).shape == X.shape


@every_group
def test_empty_batches(group):
    X = group.Identity(0, 3)
    assert X.log().shape == (0, 3, group.manifold_dim) and (X * X).inv().matrix().shape == (0, 3, 4, 4)


def test_strided_tensors():
    xi = torch.randn(6, 10, dtype=torch.float64).T
    assert torch.equal(SE3.exp(xi).data, SE3.exp(xi.contiguous()).data)


def test_quaternions_are_taken_as_directions():
    data = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0])
    assert torch.allclose(SE3(data).log()[3:], torch.tensor([0.0, 0.0, torch.pi / 2]))


def test_jinv_is_the_derivative_of_the_logarithm():
    X, a = SE3.Random(dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    slope = (X.retr(1e-6 * a).log() - X.retr(-1e-6 * a).log()) / 2e-6
    assert torch.allclose(X.Jinv(a), slope, atol=1e-7)


def test_refusals():
    X = SE3.Identity(2)
    with pytest.raises(ValueError, match="SE3 stores 7 numbers"):
        SE3(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="tangent vectors of SE3 have 6"):
        SE3.exp(torch.zeros(2, 7))
    with pytest.raises(ValueError, match="3 or 4 coordinates"):
        X.act(torch.zeros(2, 5))
    with pytest.raises(TypeError, match="cannot multiply SE3 by SO3"):
        X * SO3.Identity(2)
    with pytest.raises(TypeError, match="one type, float32 or float64"):
        X * torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(TypeError, match="one type, float32 or float64"):
        X.to(torch.float16).inv()
    with pytest.raises(TypeError, match="a Sim3 is not a SE3"):
        SE3(Sim3.Identity(2))
    with pytest.raises(TypeError, match="different groups"):
        lietorch.cat([X, SO3.Identity(2)], 0)


def test_the_binding_never_copies():
    """A silent conversion would leave the output untouched, so wrong arrays are refused."""
    xi, out = np.zeros((4, 6)), np.zeros((4, 7))
    _lietorch.exp(3, xi, out)
    assert (out == [0, 0, 0, 0, 0, 0, 1]).all()
    for bad_out in (np.zeros((4, 7), np.float32), np.zeros((4, 14))[:, ::2], np.zeros(28)):
        with pytest.raises(TypeError):
            _lietorch.exp(3, xi, bad_out)
    with pytest.raises(ValueError, match=r"out must be \[4, 7\], got \[4, 8\]"):
        _lietorch.exp(3, xi, np.zeros((4, 8)))
    with pytest.raises(ValueError, match="group must be"):
        _lietorch.exp(9, xi, out)
