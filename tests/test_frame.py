"""A frame refuses what does not fit its camera, with one line that names the argument and the remedy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metric_slam.errors import InputError, MetricSlamError
from metric_slam.frame import CameraMount, Frame
from metric_slam.geometry.camera import PinholeCamera

CAMERA = PinholeCamera(100.0, 100.0, 48.0, 32.0, 96, 64)
IMAGE = np.zeros((64, 96, 3), np.uint8)


def good() -> Frame:
    return Frame(
        3,
        0.1,
        IMAGE,
        CAMERA,
        depth_m=np.ones((64, 96), np.float32),
        T_world_cam_true=np.eye(4),
        mask=np.zeros((64, 96), bool),
    )


def test_a_frame_that_fits_is_taken() -> None:
    assert good().index == 3
    numpy_scalars = Frame(np.int64(1), np.float64(0.5), IMAGE[:, ::-1], CAMERA)
    assert numpy_scalars.mask is None and numpy_scalars.depth_m is None


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("image", np.zeros((32, 96, 3), np.uint8), r"uint8 \[32, 96, 3\], expected uint8 \[64, 96, 3\].*resized"),
        ("image", np.zeros((96, 64, 3), np.uint8), r"camera is 96x64"),
        ("image", np.zeros((64, 96), np.uint8), "grey.*COLOR_GRAY2RGB"),
        ("image", np.zeros((64, 96, 1), np.uint8), "grey.*COLOR_GRAY2RGB"),
        ("image", np.zeros((64, 96, 4), np.uint8), "three channels"),
        ("image", np.zeros((1, 64, 96, 3), np.uint8), "one colour image"),
        ("image", np.zeros((64, 96, 3), np.float32), "float32.*convert it to uint8"),
        ("image", np.zeros((64, 96, 3), np.uint16), "uint16.*convert it to uint8"),
        ("image", [[0]], "a list.*numpy array"),
        ("camera", np.eye(3), r"float64 \[3, 3\].*PinholeCamera"),
        ("time_s", float("nan"), "nan.*finite time stamp in seconds"),
        ("time_s", float("inf"), "finite"),
        ("time_s", "12", "'12'"),
        ("index", -1, "-1.*integer from 0"),
        ("index", 1.5, "1.5"),
        ("depth_m", np.ones((32, 48), np.float32), r"float32 \[32, 48\], expected float32 \[64, 96\]"),
        ("depth_m", np.ones((64, 96), np.uint16), "uint16.*metres"),
        ("depth_m", np.ones((64, 96, 1), np.float32), "expected float32"),
        ("mask", np.zeros((64, 96), np.uint8), "uint8.*True where pixels must not be used"),
        ("mask", np.zeros((64, 95), bool), r"bool \[64, 95\]"),
        ("T_world_cam_true", np.eye(3), "4x4"),
    ],
)
def test_what_does_not_fit_is_refused(argument: str, value: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        replace(good(), **{argument: value})  # type: ignore[arg-type]  # wrong types are the point
    assert str(error.value).startswith(f"{argument} is ")
    assert "\n" not in str(error.value)


def test_the_error_is_a_value_error_and_one_of_ours() -> None:
    assert issubclass(InputError, ValueError) and issubclass(InputError, MetricSlamError)


@pytest.mark.parametrize("height", [0.0, -1.65, float("nan"), float("inf"), "1.65", True])
def test_an_impossible_mounting_is_refused(height: object) -> None:
    with pytest.raises(InputError, match="height_m is .*greater than 0"):
        CameraMount(height)  # type: ignore[arg-type]  # wrong types are the point


def test_a_mounting_takes_metres() -> None:
    assert CameraMount(1.65).height_m == 1.65
