"""Sequences whose parts do not fit together are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metric_slam.datasets.sequence import ImageSequence
from metric_slam.errors import InputError
from metric_slam.geometry.camera import PinholeCamera

CAMERA = PinholeCamera(20.0, 20.0, 15.5, 7.5, 32, 16)
IMAGES = (Path("0.png"), Path("1.png"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("times_s", np.zeros(3)),
        ("depth_paths", (None,)),
        ("T_world_cam_true", np.zeros((2, 3, 4))),
        ("depth_scale", 0.0),
        ("depth_scale", float("nan")),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, value: object) -> None:
    fitting = {"times_s": np.zeros(2), "depth_paths": (None, None), "T_world_cam_true": None, "depth_scale": 1000.0}
    assert len(ImageSequence("x", CAMERA, image_paths=IMAGES, **fitting)) == 2
    with pytest.raises(InputError, match=f"^{name} ") as caught:
        ImageSequence("x", CAMERA, image_paths=IMAGES, **{**fitting, name: value})
    assert "\n" not in str(caught.value)
