"""Reprojection and its Jacobians, kernel and reference implementation, where DROID-SLAM calls a pixel valid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from parity_checks import Fixture, FixtureError, Row, compare

TOLERANCE = 1e-8
"""Grid cells; Jacobians reach some hundreds, so theirs is relative to the largest value."""


def check(data: Fixture) -> list[Row]:
    """Rows of both implementations."""
    valid = np.asarray(data["valid"]).astype(bool)
    return [*_rows("kernel", _kernel(data), data, valid), *_rows("reference", _reference(data), data, valid)]


def _inputs(data: Fixture) -> tuple[np.ndarray, ...]:
    floats = (np.ascontiguousarray(data[name], dtype=np.float64) for name in ("poses", "disps", "intrinsics"))
    return (*floats, *(np.ascontiguousarray(data[name], dtype=np.int64) for name in ("ii", "jj")))


def _kernel(data: Fixture) -> dict[str, np.ndarray]:
    try:
        import droid_backends
    except ImportError as error:
        raise FixtureError(f"droid_backends cannot be imported ({error}): install the project") from error
    inputs, shape = _inputs(data), (len(data["ii"]), *data["disps"].shape[1:])
    coords, inv_depth, valid = np.empty((*shape, 2)), np.empty(shape), np.empty(shape, dtype=bool)
    Ji, Jj, Jz = np.empty((*shape, 2, 6)), np.empty((*shape, 2, 6)), np.empty((*shape, 2))
    droid_backends.reproject(*inputs, coords, inv_depth, valid)
    droid_backends.reproject_jacobians(*inputs, Ji, Jj, Jz)
    return {"coords": coords, "inv_depth": inv_depth, "valid": valid, "Ji": Ji, "Jj": Jj, "Jz": Jz}


def _reference(data: Fixture) -> dict[str, np.ndarray]:
    from metric_slam.geometry.projective import reproject

    projection = reproject(*map(torch.from_numpy, _inputs(data)))
    return {name: getattr(projection, name).numpy() for name in ("coords", "inv_depth", "valid", "Ji", "Jj", "Jz")}


def _rows(name: str, ours: dict[str, np.ndarray], data: Fixture, valid: np.ndarray) -> Iterator[Row]:
    yield compare(f"{name} valid", ours["valid"], valid, 0)
    reference = {
        "coords": data["coords"],
        "inv_depth": data["coords_depth"][..., 2],
        "Ji": data["Ji"],
        "Jj": data["Jj"],
        "Jz": data["Jz"][..., 0],
    }
    for output, values in reference.items():
        unit = np.abs(values[valid]).max(initial=1.0) if output.startswith("J") else 1.0
        yield compare(f"{name} {output}", ours[output][valid] / unit, values[valid] / unit, TOLERANCE)
