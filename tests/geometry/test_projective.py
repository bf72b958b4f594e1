"""Reprojection: the torch twin against differences and autograd, and the kernel against the reference."""

from __future__ import annotations

from pathlib import Path

import droid_backends as native
import numpy as np
import pytest
import torch

from metric_slam.geometry.lie import SE3
from metric_slam.geometry.projective import Projection, relative_poses, reproject, viewing_rays
from metric_slam.optimization import bundle_adjustment
from tests.ba_problems import disturbed, moved_poses, true_window

FIXTURE = Path(__file__).parents[2] / ".." / "shared" / "parity" / "projective.npz"


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, ...]:
    """poses, inverse depths, intrinsics, source, target."""
    window = disturbed(true_window(n=3, height=4, width=5))
    return window.poses, window.inv_depth, window.intrinsics, window.source, window.target


def twin(*arrays: np.ndarray) -> Projection:
    return reproject(*map(torch.tensor, arrays))


def native_jacobians(arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (len(arrays[3]), *arrays[1].shape[1:])
    out = np.zeros((*shape, 2, 6)), np.zeros((*shape, 2, 6)), np.zeros((*shape, 2))
    native.reproject_jacobians(*arrays, *out)
    return out


@pytest.mark.parametrize("side", ["source", "target"])
def test_pose_jacobians_are_differences(arrays: tuple[np.ndarray, ...], side: str) -> None:
    poses, inv_depth, intrinsics, source, target = arrays
    end = source if side == "source" else target
    analytic = twin(*arrays).Ji if side == "source" else twin(*arrays).Jj
    for e, k in enumerate(end):
        for a in range(6):
            coords = []
            for sign in (1.0, -1.0):
                xi = np.zeros((len(poses), 6))
                xi[k, a] = sign * 1e-6
                one = (moved_poses(poses, xi), inv_depth, intrinsics, source[e : e + 1], target[e : e + 1])
                coords.append(twin(*one).coords[0])
            torch.testing.assert_close((coords[0] - coords[1]) / 2e-6, analytic[e, ..., a], rtol=1e-6, atol=1e-7)


def test_depth_jacobian_is_difference_and_autograd(arrays: tuple[np.ndarray, ...]) -> None:
    poses, inv_depth, intrinsics, source, target = arrays
    up, down = (twin(poses, inv_depth + h, intrinsics, source, target).coords for h in (1e-6, -1e-6))
    torch.testing.assert_close((up - down) / 2e-6, twin(*arrays).Jz, rtol=1e-6, atol=1e-7)

    d = torch.tensor(inv_depth, requires_grad=True)
    projection = reproject(*map(torch.tensor, (poses,)), d, *map(torch.tensor, (intrinsics, source, target)))
    weights = torch.rand(projection.coords.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (projection.coords * weights).sum().backward()
    by_cell = (projection.Jz * weights).sum(-1).detach()
    expected = torch.zeros_like(d).index_add(0, torch.tensor(source), by_cell)
    torch.testing.assert_close(d.grad, expected)


def test_kernel_agrees_with_twin(arrays: tuple[np.ndarray, ...]) -> None:
    expected = twin(*arrays)
    coords, inv_depth, valid = bundle_adjustment.reproject(*arrays)
    np.testing.assert_allclose(coords, expected.coords, atol=1e-12)
    np.testing.assert_allclose(inv_depth, expected.inv_depth, atol=1e-13)
    assert (valid == expected.valid.numpy()).all()
    for ours, theirs in zip(native_jacobians(arrays), (expected.Ji, expected.Jj, expected.Jz), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_known_projection() -> None:
    """One metre to the right of the first camera, a point straight ahead at 4 m is seen a quarter to the left."""
    poses = np.array([[0.0, 0, 0, 0, 0, 0, 1], [-1.0, 0, 0, 0, 0, 0, 1]])
    intrinsics = np.array([8.0, 8.0, 1.0, 1.0])
    projection = twin(poses, np.full((2, 3, 3), 0.25), intrinsics, np.array([0]), np.array([1]))
    assert projection.coords[0, 1, 1].tolist() == pytest.approx([1.0 - 8.0 * 0.25, 1.0])
    assert float(projection.inv_depth[0, 1, 1]) == pytest.approx(0.25)


def test_infinity_and_behind() -> None:
    """d = 0 is only turned; a point that lies behind the target is marked and stays finite."""
    poses = np.array([[0.0, 0, 0, 0, 0, 0, 1], [0.0, 0, -5.0, 0, 0, 0, 1]])
    inv_depth = np.zeros((2, 2, 2))
    inv_depth[0, 0, 0] = 1.0  # 1 m ahead of the first camera, 4 m behind the second
    arrays = poses, inv_depth, np.array([2.0, 2.0, 0.5, 0.5]), np.array([0]), np.array([1])
    for coords, valid in (
        (twin(*arrays).coords.numpy(), twin(*arrays).valid.numpy()),
        (bundle_adjustment.reproject(*arrays)[0], bundle_adjustment.reproject(*arrays)[2]),
    ):
        assert valid[0].tolist() == [[False, True], [True, True]]
        assert np.isfinite(coords).all()
        assert coords[0, 1, 1].tolist() == [1.0, 1.0]


def test_there_and_back(arrays: tuple[np.ndarray, ...]) -> None:
    """The edge j -> i of the projected point returns to the cell it came from."""
    poses, inv_depth, intrinsics, source, target = arrays
    forth = twin(*arrays)
    T_ji = relative_poses(torch.tensor(poses), torch.tensor(target), torch.tensor(source))
    fx, fy, cx, cy = intrinsics
    x, y = (forth.coords[..., 0] - cx) / fx, (forth.coords[..., 1] - cy) / fy
    points = torch.stack([x, y, torch.ones_like(x)], -1) / forth.inv_depth[..., None]
    back = T_ji[:, None, None].act(points)
    rays = viewing_rays(torch.tensor(intrinsics), *inv_depth.shape[1:])
    torch.testing.assert_close(back / back[..., 2:], rays.expand_as(back))
    torch.testing.assert_close(back[..., 2], 1.0 / torch.tensor(inv_depth[source]))


def test_a_common_motion_of_the_world_changes_nothing(arrays: tuple[np.ndarray, ...]) -> None:
    poses, *rest = arrays
    world = SE3.exp(torch.tensor([3.0, -2.0, 1.0, 0.5, -1.0, 0.3], dtype=torch.float64))
    elsewhere = (SE3.InitFromVec(torch.tensor(poses)) * world).vec().numpy()
    torch.testing.assert_close(twin(elsewhere, *rest).coords, twin(*arrays).coords)


@pytest.mark.skipif(not FIXTURE.exists(), reason="the parity fixtures are not on this machine")
def test_agrees_with_the_reference() -> None:
    with np.load(FIXTURE) as data:
        arrays = tuple(data[name] for name in ("poses", "disps", "intrinsics", "ii", "jj"))
        expected, valid = twin(*arrays), data["valid"].astype(bool)
        assert (expected.valid.numpy() == valid).all()
        np.testing.assert_allclose(expected.coords[valid], data["coords"][valid], atol=1e-10)
        np.testing.assert_allclose(expected.Ji[valid], data["Ji"][valid], atol=1e-9)


def test_wrong_shapes_are_refused() -> None:
    window = true_window(n=2)
    with pytest.raises(ValueError, match="same leading size"):
        bundle_adjustment.reproject(window.poses[:1], window.inv_depth, window.intrinsics, window.source, window.target)
    with pytest.raises(ValueError, match="outside 0..N-1"):
        bundle_adjustment.reproject(window.poses, window.inv_depth, window.intrinsics, window.source, window.target + 5)
    with pytest.raises(TypeError):
        bundle_adjustment.reproject(
            window.poses.astype(np.float32), window.inv_depth, window.intrinsics, window.source, window.target
        )
