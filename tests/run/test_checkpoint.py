"""A run that is killed goes on and ends as if it had not been; what does not fit is refused and left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metric_slam.checkpointable import flattened, nested
from metric_slam.config.schema import Config
from metric_slam.disk_store import DiskStore
from metric_slam.errors import ImageError, OutputError, ResumeError
from metric_slam.frame import Frame
from metric_slam.run import checkpoint, pipeline
from metric_slam.slam import Slam
from metric_slam.trajectory import read_tum
from tests.odometry.test_vehicle_ahead import behind, swaying
from tests.scene import Drive, Street, feed, rotation, straight

R = rotation(0.01, 0.005)
MOVING = straight(8, 0.6, R=R)
PATH = [*MOVING, *[MOVING[-1]] * 3, *straight(9, 0.6, R=R, start_m=0.6 * 8)]  # with a short stop
DRIVE = Drive(Street(), PATH)
CONFIG = Config.model_validate(
    {
        "dis": {"finest_scale": 1},
        "fusion": {"enabled": False},
        "loop": {"min_detour": 0.1},
        "state": {"checkpoint_s": 0},
    }
)


class Breaks(Drive):
    """A drive of which no frame from a certain one on can be read, for the time being."""

    breaks_at = 10**9

    def __getitem__(self, index: int) -> Frame:
        if index >= self.breaks_at:
            raise ImageError(f"frame {index} cannot be read: mend it")
        return super().__getitem__(index)


def poses(slam: Slam) -> np.ndarray:
    return slam._parts.slam_map.T_cam_world()


@pytest.fixture(scope="module")
def uninterrupted() -> np.ndarray:
    slam = Slam.for_dataset(DRIVE, CONFIG)
    feed(slam, DRIVE)
    return slam.finish().T_world_cam


@pytest.mark.parametrize("at", [1, 7, 10, 16])
def test_a_restored_system_goes_on_to_the_last_bit(at: int, uninterrupted: np.ndarray) -> None:
    disk = DiskStore()
    first = Slam.for_dataset(DRIVE, CONFIG, disk)
    feed(first, DRIVE, range(at))
    state = flattened(first.state())
    assert all(isinstance(value, np.ndarray) and value.dtype != object for value in state.values())
    second = Slam.for_dataset(DRIVE, CONFIG, disk)
    second.restore(nested(state), DRIVE.__getitem__)
    np.testing.assert_array_equal(poses(second), poses(first))
    feed(second, DRIVE, range(at, len(DRIVE)))
    np.testing.assert_array_equal(second.finish().T_world_cam, uninterrupted)


def test_what_is_known_to_move_is_known_to_the_restored_system() -> None:
    """Behind a vehicle, in the middle of what is left out of matches."""
    drive, disk, at = behind(swaying, seed=0), DiskStore(), 12
    first, second = (Slam.for_dataset(drive, CONFIG, disk) for _ in range(2))
    feed(first, drive, range(at))
    assert first._parts.slam_map[-1].moving_cells.any()
    second.restore(first.state(), drive.__getitem__)
    for slam in (first, second):
        feed(slam, drive, range(at, at + 5))
    np.testing.assert_array_equal(poses(second), poses(first))
    masks = [slam._parts.slam_map[-1].moving_cells for slam in (first, second)]
    np.testing.assert_array_equal(*masks)


def broken_run(out: Path, at: int) -> Breaks:
    drive = Breaks(Street(), PATH)
    drive.breaks_at = at
    summary = pipeline.run(CONFIG, drive, out)
    assert isinstance(summary.failure, ImageError) and checkpoint.has_checkpoint(out)
    drive.breaks_at = 10**9
    return drive


def test_a_run_that_ended_early_is_resumed(tmp_path: Path, uninterrupted: np.ndarray) -> None:
    drive = broken_run(tmp_path / "out", 12)
    with pytest.raises(OutputError, match="--resume"):
        pipeline.run(CONFIG, drive, tmp_path / "out")
    summary = pipeline.run(CONFIG, drive, tmp_path / "out", resume=True)
    assert summary.failure is None and not checkpoint.has_checkpoint(tmp_path / "out")
    found = read_tum(tmp_path / "out" / "trajectory.tum").T_world_cam
    np.testing.assert_allclose(found, uninterrupted, atol=1e-6)


def test_another_sequence_version_or_configuration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = broken_run(tmp_path, 9)
    before = (tmp_path / "trajectory.tum").read_bytes()
    other = Drive(Street(), PATH[:-1])
    with pytest.raises(ResumeError, match="another sequence.*--overwrite"):
        pipeline.run(CONFIG, other, tmp_path, resume=True)
    changed = CONFIG.model_copy(update={"seed": 5})
    with pytest.raises(ResumeError, match="seed=0, not 5"):
        pipeline.run(changed, drive, tmp_path, resume=True)
    monkeypatch.setattr(checkpoint, "__version__", "99.0")
    with pytest.raises(ResumeError, match="another version.*this is 99.0"):
        pipeline.run(CONFIG, drive, tmp_path, resume=True)
    assert (tmp_path / "trajectory.tum").read_bytes() == before and checkpoint.has_checkpoint(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "bytes", "text", "arrays"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    drive = broken_run(tmp_path, 9)
    before = (tmp_path / "trajectory.tum").read_bytes()
    path = tmp_path / "state" / ("arrays.bin" if damage == "arrays" else "state.npz")
    content = path.read_bytes()
    if damage == "text":
        path.write_text("nonsense")
    elif damage == "bytes":
        path.write_bytes(content[:3000] + b"\xff" * 400 + content[3400:])
    else:
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ResumeError, match="--overwrite"):
        pipeline.run(CONFIG, drive, tmp_path, resume=True)
    assert (tmp_path / "trajectory.tum").read_bytes() == before


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no unfinished run"):
        pipeline.run(CONFIG, DRIVE, tmp_path, resume=True)


def test_a_small_disk_budget_ends_the_run_with_what_there_is(tmp_path: Path) -> None:
    small = replace_state(CONFIG, disk_budget_gb=2e-4)
    summary = pipeline.run(small, DRIVE, tmp_path)
    assert isinstance(summary.failure, OutputError) and "disk budget" in str(summary.failure)
    assert 1 < summary.info["frames"] < len(DRIVE) and (tmp_path / "trajectory.tum").exists()


def replace_state(config: Config, **values: float) -> Config:
    return config.model_copy(update={"state": config.state.model_copy(update=values)})


def test_a_folder_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    drive = broken_run(tmp_path, 6)
    assert replace(drive).breaks_at == 10**9
    summary = pipeline.run(CONFIG, drive, tmp_path, overwrite=True)
    assert summary.failure is None and summary.info["frames"] == len(DRIVE)
