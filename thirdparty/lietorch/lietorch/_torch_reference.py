"""Reference implementation of the compiled operations in torch, for any device.

The tests compare ``include/lietorch/ops.h`` with it. Every group is lifted into Sim3, where
exponentials are matrix exponentials, Jacobians are dense matrices and inverses are solved for; no closed form is shared
with the C++ code except the quaternion algebra. All functions take flat batches [n, width] and return a new tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._spec import GroupSpec


def _skew(v: Tensor) -> Tensor:
    """[n, 3] -> [n, 3, 3] with skew(v) w = v x w."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(-1, 3, 3)


def _lift_element(group: GroupSpec, data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Stored numbers [n, N] -> t [n, 3], unit q_xyzw [n, 4], s [n, 1] of the same element of Sim3."""
    full = data.new_tensor([0, 0, 0, 0, 0, 0, 1, 1]).repeat(len(data), 1)
    full[:, group.stored[0] : group.stored[1]] = data
    q = full[:, 3:7]
    return full[:, :3], q / q.norm(dim=-1, keepdim=True), full[:, 7:]


def _store(group: GroupSpec, t: Tensor, q: Tensor, s: Tensor) -> Tensor:
    return torch.cat([t, q, s], -1)[:, group.stored[0] : group.stored[1]].contiguous()


def _lift_tangent(group: GroupSpec, xi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[n, K] -> tau [n, 3], phi [n, 3], sigma [n, 1]."""
    full = xi.new_zeros(len(xi), 7)
    full[:, group.tangent[0] : group.tangent[1]] = xi
    return full[:, :3], full[:, 3:6], full[:, 6:]


def _restrict(group: GroupSpec, matrix: Tensor) -> Tensor:
    """[n, 7, 7] on the tangent space of Sim3 -> [n, K, K] on that of the group."""
    window = slice(*group.tangent)
    return matrix[:, window, window]


def _quat_left(q: Tensor) -> Tensor:
    """[n, 4] -> [n, 4, 4] with L(q) p = q * p, both x y z w."""
    x, y, z, w = q.unbind(-1)
    rows = [w, -z, y, x, z, w, -x, y, -y, x, w, z, -x, -y, -z, w]
    return torch.stack(rows, -1).reshape(-1, 4, 4)


def _quat_right(q: Tensor) -> Tensor:
    """[n, 4] -> [n, 4, 4] with R(q) p = p * q."""
    x, y, z, w = q.unbind(-1)
    rows = [w, z, -y, x, -z, w, x, y, y, -x, w, z, -x, -y, -z, w]
    return torch.stack(rows, -1).reshape(-1, 4, 4)


def _rotation(q: Tensor) -> Tensor:
    """Unit q [n, 4] -> [n, 3, 3], from p -> q * p * conj(q)."""
    conjugate = q * q.new_tensor([-1, -1, -1, 1])
    return (_quat_left(q) @ _quat_right(conjugate))[:, :3, :3]


def _matrix(group: GroupSpec, data: Tensor) -> Tensor:
    """[n, N] -> [n, 4, 4] = [s R, t; 0, 1]."""
    t, q, s = _lift_element(group, data)
    out = torch.eye(4, dtype=data.dtype, device=data.device).repeat(len(data), 1, 1)
    out[:, :3, :3] = s[:, :, None] * _rotation(q)
    out[:, :3, 3] = t
    return out


def _adjoint(group: GroupSpec, data: Tensor) -> Tensor:
    """Ad(X) [n, K, K]."""
    t, q, s = _lift_element(group, data)
    rotation = _rotation(q)
    out = torch.eye(7, dtype=data.dtype, device=data.device).repeat(len(data), 1, 1)
    out[:, :3, :3] = s[:, :, None] * rotation
    out[:, :3, 3:6] = _skew(t) @ rotation
    out[:, :3, 6] = -t
    out[:, 3:6, 3:6] = rotation
    return _restrict(group, out)


def _small_adjoint(group: GroupSpec, xi: Tensor) -> Tensor:
    """ad(xi) [n, K, K]."""
    tau, phi, sigma = _lift_tangent(group, xi)
    out = xi.new_zeros(len(xi), 7, 7)
    out[:, :3, :3] = _skew(phi) + sigma[:, :, None] * torch.eye(3, dtype=xi.dtype, device=xi.device)
    out[:, :3, 3:6] = _skew(tau)
    out[:, :3, 6] = -tau
    out[:, 3:6, 3:6] = _skew(phi)
    return _restrict(group, out)


def _integral_of_exponential(a: Tensor) -> Tensor:
    """int_0^1 exp(s a) ds for [n, k, k]: the corner of exp([a, I; 0, 0])."""
    k = a.shape[-1]
    block = a.new_zeros(len(a), 2 * k, 2 * k)
    block[:, :k, :k] = a
    block[:, :k, k:] = torch.eye(k, dtype=a.dtype, device=a.device)
    return torch.linalg.matrix_exp(block)[:, :k, k:]


def _jacobian(group: GroupSpec, xi: Tensor) -> Tensor:
    """Left Jacobian [n, K, K]."""
    return _integral_of_exponential(_small_adjoint(group, xi))


def _embedding_jacobian(group: GroupSpec, data: Tensor) -> Tensor:
    """d vec(exp(delta) X) / d delta, [n, N, K]."""
    t, q, s = _lift_element(group, data)
    out = data.new_zeros(len(data), 8, 7)
    out[:, :3, :3] = torch.eye(3, dtype=data.dtype, device=data.device)
    out[:, :3, 3:6] = -_skew(t)
    out[:, :3, 6] = t
    out[:, 3:7, 3:6] = 0.5 * _quat_right(q)[:, :, :3]
    out[:, 7, 6] = s[:, 0]
    return out[:, slice(*group.stored), slice(*group.tangent)]


def _image_jacobian(group: GroupSpec, image: Tensor) -> Tensor:
    """d (exp(delta) x) / d delta of homogeneous points [n, 4], [n, 4, K]."""
    x, w = image[:, :3], image[:, 3, None, None]
    out = image.new_zeros(len(image), 4, 7)
    out[:, :3, :3] = w * torch.eye(3, dtype=image.dtype, device=image.device)
    out[:, :3, 3:6] = -_skew(x)
    out[:, :3, 6] = x
    return out[:, :, slice(*group.tangent)]


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[:, :, None])[:, :, 0]


def exp(group: GroupSpec, xi: Tensor) -> Tensor:
    """[n, K] -> [n, N]."""
    tau, phi, sigma = _lift_tangent(group, xi)
    theta = phi.norm(dim=-1, keepdim=True)
    # torch.sinc(x) = sin(pi x) / (pi x) and is 1 at 0
    q = torch.cat([0.5 * torch.sinc(theta / (2 * torch.pi)) * phi, torch.cos(0.5 * theta)], -1)
    generator = xi.new_zeros(len(xi), 4, 4)
    generator[:, :3, :3] = _skew(phi) + sigma[:, :, None] * torch.eye(3, dtype=xi.dtype, device=xi.device)
    generator[:, :3, 3] = tau
    return _store(group, torch.linalg.matrix_exp(generator)[:, :3, 3], q, torch.exp(sigma))


def log(group: GroupSpec, data: Tensor) -> Tensor:
    """[n, N] -> [n, K]; the rotation part has at most the length pi."""
    t, q, s = _lift_element(group, data)
    u, w = q[:, :3], q[:, 3:]
    n = u.norm(dim=-1, keepdim=True)
    sign = torch.where(w < 0, -1.0, 1.0).to(data.dtype)
    ratio = torch.where(n > 0, torch.atan2(n, w.abs()) / n.clamp_min(torch.finfo(data.dtype).tiny), 1.0)
    phi, sigma = 2 * sign * ratio * u, torch.log(s)
    generator = _skew(phi) + sigma[:, :, None] * torch.eye(3, dtype=data.dtype, device=data.device)
    tau = torch.linalg.solve(_integral_of_exponential(generator), t)
    return torch.cat([tau, phi, sigma], -1)[:, slice(*group.tangent)].contiguous()


def inv(group: GroupSpec, data: Tensor) -> Tensor:
    """[n, N] -> [n, N]."""
    _, q, s = _lift_element(group, data)
    t_inv = torch.linalg.inv(_matrix(group, data))[:, :3, 3]
    return _store(group, t_inv, q * q.new_tensor([-1, -1, -1, 1]), 1 / s)


def mul(group: GroupSpec, a: Tensor, b: Tensor) -> Tensor:
    """[n, N], [n, N] -> [n, N]."""
    (_, q_a, s_a), (_, q_b, s_b) = _lift_element(group, a), _lift_element(group, b)
    t = (_matrix(group, a) @ _matrix(group, b))[:, :3, 3]
    return _store(group, t, _times(_quat_left(q_a), q_b), s_a * s_b)


def adj(group: GroupSpec, data: Tensor, a: Tensor) -> Tensor:
    """Ad(X) a."""
    return _times(_adjoint(group, data), a)


def adjT(group: GroupSpec, data: Tensor, a: Tensor) -> Tensor:
    """Ad(X)^T a."""
    return _times(_adjoint(group, data).mT, a)


def act(group: GroupSpec, data: Tensor, p: Tensor) -> Tensor:
    """Images [n, 3] of points [n, 3]."""
    return act4(group, data, torch.nn.functional.pad(p, (0, 1), value=1.0))[:, :3].contiguous()


def act4(group: GroupSpec, data: Tensor, p: Tensor) -> Tensor:
    """Images [n, 4] of homogeneous points [n, 4]."""
    return _times(_matrix(group, data), p)


def act_grad_element(group: GroupSpec, x: Tensor, g: Tensor) -> Tensor:
    """Images x [n, 3] and their gradients g [n, 3] -> gradient of delta [n, K]."""
    pad = torch.nn.functional.pad
    return act4_grad_element(group, pad(x, (0, 1), value=1.0), pad(g, (0, 1)))


def act4_grad_element(group: GroupSpec, x: Tensor, g: Tensor) -> Tensor:
    """Images x [n, 4] and their gradients g [n, 4] -> gradient of delta [n, K]."""
    return _times(_image_jacobian(group, x).mT, g)


def act_grad_point(group: GroupSpec, data: Tensor, g: Tensor) -> Tensor:
    """Gradients g [n, 3] of images -> gradients of the points [n, 3]."""
    return _times(_matrix(group, data)[:, :3, :3].mT, g)


def act4_grad_point(group: GroupSpec, data: Tensor, g: Tensor) -> Tensor:
    """Gradients g [n, 4] of images -> gradients of the points [n, 4]."""
    return _times(_matrix(group, data).mT, g)


def small_adjT(group: GroupSpec, a: Tensor, g: Tensor) -> Tensor:
    """ad(a)^T g."""
    return _times(_small_adjoint(group, a).mT, g)


def jacobianT(group: GroupSpec, xi: Tensor, g: Tensor) -> Tensor:
    """J(xi)^T g."""
    return _times(_jacobian(group, xi).mT, g)


def jacobian_inverseT(group: GroupSpec, xi: Tensor, g: Tensor) -> Tensor:
    """J(xi)^-T g."""
    return torch.linalg.solve(_jacobian(group, xi).mT, g)


def jacobian_inverse(group: GroupSpec, xi: Tensor, v: Tensor) -> Tensor:
    """J(xi)^-1 v."""
    return torch.linalg.solve(_jacobian(group, xi), v)


def project(group: GroupSpec, data: Tensor, g: Tensor) -> Tensor:
    """Gradient of the stored numbers [n, N] -> gradient of delta [n, K]."""
    return _times(_embedding_jacobian(group, data).mT, g)


def lift(group: GroupSpec, data: Tensor, h: Tensor) -> Tensor:
    """Gradient of delta [n, K] -> the smallest gradient [n, N] of the stored numbers that projects onto it."""
    return _times(torch.linalg.pinv(_embedding_jacobian(group, data)).mT, h)
