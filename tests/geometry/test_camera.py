"""The pinhole camera: what stays the same when its image is resized or reduced to the grid."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.errors import CalibrationError
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera

CAMERA = PinholeCamera(fx=720.0, fy=715.0, cx=609.3, cy=172.9, width=1242, height=375)


def test_projecting_the_rays_gives_the_pixels_back() -> None:
    v, u = np.mgrid[0 : CAMERA.height, 0 : CAMERA.width]
    np.testing.assert_allclose(CAMERA.project(7.5 * CAMERA.rays()), np.stack([u, v], axis=-1), atol=1e-9)


def test_resizing_keeps_the_corners_of_the_image_on_their_rays() -> None:
    """The outer edges, half a pixel outside the first and last centres, are the same scene before and after."""
    small = CAMERA.resized(640, 192)
    for camera in (CAMERA, small):
        edges = np.array([-0.5, camera.width - 0.5])
        np.testing.assert_allclose(
            (edges - camera.cx) / camera.fx, (np.array([-0.5, 1241.5]) - CAMERA.cx) / CAMERA.fx, atol=1e-12
        )


def test_a_cell_of_the_grid_looks_where_the_mean_of_its_pixels_looks() -> None:
    camera = CAMERA.resized(960, 288)
    rays = camera.rays().reshape(36, FEATURE_STRIDE, 120, FEATURE_STRIDE, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(camera.grid().rays(), rays, atol=1e-12)


@pytest.mark.parametrize("change", [{"fx": 0.0}, {"fy": -3.0}, {"cx": np.nan}, {"width": 0}])
def test_impossible_cameras_are_refused(change: dict[str, float]) -> None:
    values = {"fx": 700.0, "fy": 700.0, "cx": 320.0, "cy": 96.0, "width": 640, "height": 192} | change
    with pytest.raises(CalibrationError, match="impossible camera"):
        PinholeCamera(**values)
