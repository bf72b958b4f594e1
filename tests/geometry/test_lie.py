"""Poses as numpy arrays and the door to the Lie groups."""

import sys
import types

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from metric_slam.errors import MissingDependencyError
from metric_slam.geometry import lie


def random_poses(*shape, seed=0):
    """Pose vectors [..., 7] with unit quaternions."""
    vec = np.random.default_rng(seed).normal(size=(*shape, 7))
    vec[..., 3:] /= np.linalg.norm(vec[..., 3:], axis=-1, keepdims=True)
    return vec


def test_vector_to_matrix_and_back():
    vec = random_poses(2, 5)
    T = lie.pose_vec_to_matrix(vec)
    assert T.shape == (2, 5, 4, 4) and T.dtype == np.float64
    assert np.allclose(T[1, 2, :3, :3], Rotation.from_quat(vec[1, 2, 3:]).as_matrix())
    assert (T[..., 3, :] == [0, 0, 0, 1]).all()
    back = lie.matrix_to_pose_vec(T)
    assert np.allclose(back[..., :3], vec[..., :3]) and (back[..., 6] >= 0).all()
    assert np.allclose(back[..., 3:], vec[..., 3:] * np.sign(vec[..., 6:]))
    assert lie.pose_vec_to_matrix(vec[0, 0]).shape == (4, 4) and lie.matrix_to_pose_vec(T[0, 0]).shape == (7,)
    assert lie.pose_vec_to_matrix(np.zeros((0, 7))).shape == (0, 4, 4)


def test_inverse_and_relative():
    T_world_a, T_world_b = lie.pose_vec_to_matrix(random_poses(2, 6))
    assert np.allclose(lie.inverse(T_world_a), np.linalg.inv(T_world_a))
    assert np.allclose(T_world_a @ lie.relative(T_world_a, T_world_b), T_world_b)


def test_renormalise_finds_the_nearest_rotation():
    T = lie.pose_vec_to_matrix(random_poses(8))
    assert np.allclose(lie.renormalise(T), T)
    rough = T + 1e-2 * np.random.default_rng(1).normal(size=T.shape)
    clean = lie.renormalise(rough)
    R = clean[:, :3, :3]
    assert np.allclose(R @ np.swapaxes(R, 1, 2), np.eye(3)) and np.allclose(np.linalg.det(R), 1.0)
    assert (clean[:, 3] == [0, 0, 0, 1]).all() and (clean[:, :3, 3] == rough[:, :3, 3]).all()
    # no rotation nearby is nearer
    error = np.linalg.norm(R - rough[:, :3, :3], axis=(1, 2))
    for rotvec in 1e-3 * np.random.default_rng(2).normal(size=(20, 3)):
        other = R @ Rotation.from_rotvec(rotvec).as_matrix()
        assert (np.linalg.norm(other - rough[:, :3, :3], axis=(1, 2)) >= error).all()


def test_chained_products_stay_rigid_when_renormalised():
    step = lie.pose_vec_to_matrix(random_poses())
    T = np.eye(4)
    for _ in range(2000):
        T = lie.renormalise(T @ step)
    assert np.abs(T[:3, :3] @ T[:3, :3].T - np.eye(3)).max() < 1e-14


def test_interpolation_is_a_screw_of_constant_speed():
    T0, T1 = lie.pose_vec_to_matrix(random_poses(2))
    path = lie.interpolate(T0, T1, np.linspace(0, 1, 5))
    assert path.shape == (5, 4, 4)
    assert np.allclose(path[0], T0) and np.allclose(path[4], T1)
    steps = path[1:] @ lie.inverse(path[:-1])
    assert np.allclose(steps, steps[0])
    assert np.allclose(lie.interpolate(T0, T1, 2.0), T1 @ lie.inverse(T0) @ T1)
    # half a quarter turn about z, seen from outside
    quarter = np.eye(4)
    quarter[:3, :3] = Rotation.from_rotvec([0, 0, np.pi / 2]).as_matrix()
    half = lie.interpolate(np.eye(4), quarter, 0.5)
    assert np.allclose(Rotation.from_matrix(half[:3, :3]).as_rotvec(), [0, 0, np.pi / 4])


def test_interpolation_takes_the_short_way():
    T0, T1 = np.eye(4), np.eye(4)
    T1[:3, :3] = Rotation.from_rotvec([0, np.deg2rad(200), 0]).as_matrix()
    half = lie.interpolate(T0, T1, 0.5)
    assert np.allclose(Rotation.from_matrix(half[:3, :3]).as_rotvec(degrees=True), [0, -80, 0])


def test_groups_come_through_the_door():
    from lietorch import SE3

    assert lie.SE3 is SE3 and lie.Sim3.__name__ == "Sim3"
    with pytest.raises(AttributeError, match="SE4"):
        lie.SE4  # noqa: B018


def test_a_missing_extension_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "lietorch", None)  # makes `import lietorch` fail
    with pytest.raises(MissingDependencyError, match=r"pip install --no-build-isolation -e \."):
        lie.SE3  # noqa: B018
    with pytest.raises(MissingDependencyError):
        lie.interpolate(np.eye(4), np.eye(4), 0.5)
    assert np.allclose(lie.inverse(np.eye(4)), np.eye(4))  # the numpy part works without it


def test_the_unrelated_package_of_that_name_is_recognised(monkeypatch):
    stranger = types.ModuleType("lietorch")
    stranger.__file__ = "site-packages/lietorch/__init__.py"
    monkeypatch.setitem(sys.modules, "lietorch", stranger)
    with pytest.raises(MissingDependencyError, match="pip uninstall lietorch"):
        lie.SE3  # noqa: B018
