from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from metric_slam.datasets import Dataset, open_dataset, open_image_folder
from metric_slam.errors import CalibrationError, ConfigError, DatasetError
from metric_slam.frame import CameraMount

CAMERA = (20.0, 20.0, 15.5, 7.5)


def test_layouts_are_recognised_and_logged(
    kitti_root: Path, image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert open_dataset(kitti_root, sequence="03").name == "kitti/03"
        assert open_dataset(kitti_root).name == "kitti/03"
        assert open_dataset(kitti_root / "sequences" / "03").T_world_cam_true is not None
        assert open_dataset(str(image_folder), camera=CAMERA).name == "images/pictures"
    assert "is read as kitti: it holds sequences/" in caplog.text
    assert "is read as kitti: it holds image_2/" in caplog.text
    assert "is read as images" in caplog.text


def test_a_root_with_several_sequences_needs_a_choice(kitti_root: Path) -> None:
    shutil.copytree(kitti_root / "sequences/03", kitti_root / "sequences/05")
    with pytest.raises(DatasetError, match=r"\(03, 05\): choose one"):
        open_dataset(kitti_root)
    with pytest.raises(ConfigError, match="one sequence already"):
        open_dataset(kitti_root / "sequences" / "03", sequence="05")


def test_sequence_outside_of_a_root(kitti_root: Path, tmp_path: Path) -> None:
    shutil.copytree(kitti_root / "sequences/03", tmp_path / "loose")
    with pytest.raises(DatasetError, match="ROOT/sequences/"):
        open_dataset(tmp_path / "loose")


def test_raw_and_tum_are_recognised(shared: Path) -> None:
    raw = open_dataset(shared / "kitti_raw/2011_09_26/2011_09_26_drive_0013_sync")
    assert raw.name.startswith("kitti_raw/")
    tum = open_dataset(shared / "seven_scenes_redkitchen", camera=(525, 525, 320, 240), depth_scale=1000)
    assert tum.name == "tum/seven_scenes_redkitchen"


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nothing to read"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(tmp_path / "absent")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DatasetError, match="is a file"):
        open_dataset(tmp_path / "a.txt")
    with pytest.raises(DatasetError, match="no images in"):
        open_dataset(tmp_path, kind="images", camera=CAMERA)


def test_options_are_used_or_refused(kitti_root: Path, image_folder: Path) -> None:
    with pytest.raises(ConfigError, match="does not take the option camera"):
        open_dataset(kitti_root, camera=CAMERA)
    with pytest.raises(ConfigError, match="does not take the option depth_scale"):
        open_dataset(image_folder, camera=CAMERA, depth_scale=1000)
    with pytest.raises(ConfigError, match="unknown kind"):
        open_dataset(kitti_root, kind="euroc")


def test_image_folder(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CalibrationError, match="option camera"):
        open_image_folder(image_folder)
    (image_folder / "camera.txt").write_text("20, 20, 15.5, 7.5\n")
    data = open_image_folder(image_folder)
    assert "assuming 10 Hz" in caplog.text
    assert isinstance(data, Dataset)
    assert [frame.path.name for frame in data] == ["frame2.png", "frame9.png", "frame10.png"]
    assert data.mount is None and data.T_world_cam_true is None and data[0].depth_m is None
    mounted = open_image_folder(image_folder, rate_hz=30, mount=CameraMount(1.2))
    np.testing.assert_allclose(mounted.times_s, [0, 1 / 30, 2 / 30])
    assert mounted.mount == CameraMount(1.2)
    with pytest.raises(ConfigError, match="must be positive"):
        open_image_folder(image_folder, rate_hz=0)
