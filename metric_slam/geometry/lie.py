"""The one door to the Lie groups of ``thirdparty/lietorch``, and poses as numpy arrays.

``SE3``, ``Sim3``, ``SO3`` and ``RxSO3`` are handed through on first use, so that the numpy helpers (all but
``interpolate``) need neither torch nor the compiled extension. Pose vectors are (tx, ty, tz, qx, qy, qz, qw): metres
and a unit quaternion, x y z w. A pose matrix T_a_b maps points from frame b to frame a.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from metric_slam.errors import MissingDependencyError

if TYPE_CHECKING:
    from lietorch import SE3, SO3, RxSO3, Sim3

__all__ = [
    "SE3",
    "SO3",
    "RxSO3",
    "Sim3",
    "interpolate",
    "inverse",
    "matrix_to_pose_vec",
    "pose_vec_to_matrix",
    "relative",
    "renormalise",
]

_REMEDY = "run `make install` or `pip install --no-build-isolation -e .` in the checkout"


def __getattr__(name: str) -> Any:
    """SE3, Sim3, SO3, RxSO3 from lietorch.

    Raises:
        MissingDependencyError: the extension is not built, or PyPI's unrelated ``lietorch`` is installed instead.
    """
    if name not in ("SE3", "Sim3", "SO3", "RxSO3"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        lietorch = importlib.import_module("lietorch")
    except ImportError as error:
        raise MissingDependencyError(f"the compiled package lietorch is missing ({error}): {_REMEDY}") from error
    if not hasattr(lietorch, name):
        raise MissingDependencyError(
            f"{lietorch.__file__} is an unrelated package: `pip uninstall lietorch`, then {_REMEDY}"
        )
    return getattr(lietorch, name)


def pose_vec_to_matrix(vec: ArrayLike) -> np.ndarray:
    """Pose vectors [..., 7] -> float64 [..., 4, 4]; quaternions of any length but zero are taken as directions."""
    vec = np.asarray(vec, dtype=np.float64)
    assert vec.shape[-1] == 7, vec.shape
    T = np.zeros((*vec.shape[:-1], 4, 4))
    T[..., :3, :3] = Rotation.from_quat(vec[..., 3:].reshape(-1, 4)).as_matrix().reshape(*vec.shape[:-1], 3, 3)
    T[..., :3, 3] = vec[..., :3]
    T[..., 3, 3] = 1.0
    return T


def matrix_to_pose_vec(T: ArrayLike) -> np.ndarray:
    """Pose matrices [..., 4, 4] -> float64 [..., 7] with qw >= 0; the nearest rotation is taken."""
    T = np.asarray(T, dtype=np.float64)
    R = _nearest_rotation(T[..., :3, :3])
    q_xyzw = Rotation.from_matrix(R.reshape(-1, 3, 3)).as_quat(canonical=True)
    return np.concatenate([T[..., :3, 3], q_xyzw.reshape(*T.shape[:-2], 4)], axis=-1)


def inverse(T: ArrayLike) -> np.ndarray:
    """Inverses [..., 4, 4] of rigid motions: T_b_a from T_a_b."""
    T = np.asarray(T, dtype=np.float64)
    assert T.shape[-2:] == (4, 4), T.shape
    R_transposed = np.swapaxes(T[..., :3, :3], -1, -2)
    out = np.zeros_like(T)
    out[..., :3, :3] = R_transposed
    out[..., :3, 3] = -(R_transposed @ T[..., :3, 3, None])[..., 0]
    out[..., 3, 3] = 1.0
    return out


def relative(T_world_a: ArrayLike, T_world_b: ArrayLike) -> np.ndarray:
    """T_a_b = inv(T_world_a) @ T_world_b, [..., 4, 4]; renormalise when such products are chained."""
    return inverse(T_world_a) @ np.asarray(T_world_b, dtype=np.float64)


def renormalise(T: ArrayLike) -> np.ndarray:
    """The rigid motions [..., 4, 4] with the rotations nearest to those given, in the Frobenius norm."""
    T = np.array(T, dtype=np.float64)
    T[..., :3, :3] = _nearest_rotation(T[..., :3, :3])
    T[..., 3, :] = (0.0, 0.0, 0.0, 1.0)
    return T


def interpolate(T0: ArrayLike, T1: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    """The geodesic exp(alpha log(T1 T0^-1)) T0 of SE(3): T0 at alpha = 0, T1 at 1, a screw of constant speed between.

    Poses [..., 4, 4] and alpha [...] broadcast; alpha outside 0..1 extrapolates. Result float64 [..., 4, 4].

    Raises:
        MissingDependencyError: the compiled extension is absent.
    """
    import torch

    group = __getattr__("SE3")
    start, end = (group(torch.from_numpy(matrix_to_pose_vec(T))) for T in (T0, T1))
    step = torch.from_numpy(np.asarray(alpha, dtype=np.float64))[..., None]
    return pose_vec_to_matrix(start.retr(step * (end * start.inv()).log()).data.numpy())


def _nearest_rotation(M: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] nearest to M: orthogonal Procrustes, reflections excluded as by Umeyama (1991)."""
    U, _, Vt = np.linalg.svd(M)
    U = U.copy()
    U[..., :, 2] *= np.sign(np.linalg.det(U @ Vt))[..., None]
    return np.asarray(U @ Vt)
