"""Frames that show nothing, or something else, where a recurrent network matches: never silently a keyframe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from metric_slam.correspondence.base import Correspondence
from metric_slam.depth.no_prior import NoPrior
from metric_slam.disk_store import DiskStore
from metric_slam.odometry.droid.odometry import forward_backward_share, is_textured
from metric_slam.result import SlamResult, frames_csv
from metric_slam.slam import Slam
from tests.oracle import config, oracle_slam, run, sensor, winding
from tests.scene import CAMERA, Drive, Street, feed, pose

BLACK = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
STREET = Street(waves=10)
PATH = winding(26, 0.25)


def nearly_black(seed: int) -> np.ndarray:
    """Dark noise, another one each time."""
    return np.random.default_rng(seed).integers(0, 3, BLACK.shape, dtype=np.uint8)


def drive(dark: Sequence[int] = (), path: Sequence[np.ndarray] = PATH) -> Drive:
    return Drive(STREET, path, with_depth=True, images={i: nearly_black(i) for i in dark})


def cut(at: int, away_m: float = -300.0) -> list[np.ndarray]:
    """The way goes on elsewhere, where nothing of before is seen."""
    return [*PATH[:at], *(pose(z_m=away_m) @ T for T in PATH[at:])]


def step_errors_m(result: SlamResult, at: Drive) -> np.ndarray:
    paths = result.T_world_cam, np.stack(at.path)
    found, true = (np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1) for T in paths)
    return np.abs(found - true)


def no_edge_between_submaps(slam: Slam) -> bool:
    slam_map = slam._parts.slam_map
    return all(slam_map[i].submap == slam_map[j].submap for i, j in slam_map.graph.pairs())


@pytest.mark.parametrize("dark", [[13], [3], [12, 13, 14]], ids=["later", "warm-up", "three"])
def test_empty_frames_are_bridged(dark: list[int]) -> None:
    result, _, _ = run(config(), sensor(), drive(dark))
    assert np.flatnonzero(~result.tracked).tolist() == dark and not result.is_keyframe[dark].any()
    assert result.inlier_ratio[dark].max() == 0.0 and result.submap.max() == 0
    assert step_errors_m(result, drive()).max() < 0.15, "between their neighbours"
    assert frames_csv(result).splitlines()[1 + dark[0]].endswith(",0,0,0.000,0")


@pytest.mark.parametrize("at", [16, 3], ids=["later", "warm-up"])
def test_a_cut_starts_a_new_submap(at: int, caplog: pytest.LogCaptureFixture) -> None:
    whole = drive(path=cut(at))
    with caplog.at_level("WARNING"):
        result, slam, _ = run(config(), sensor(), whole)
    begin = at + 5  # sliding_window.max_lost
    assert f"frame {begin}: tracking was lost" in caplog.text
    assert not result.tracked[at : begin + 1].any() and not result.is_keyframe[at:begin].any()
    assert result.is_keyframe[begin] and result.tracked[begin + 1 :].all() and result.tracked[:at].all()
    np.testing.assert_array_equal(result.submap, np.arange(len(PATH)) >= begin)
    errors = step_errors_m(result, whole)
    assert errors[: at - 1].max() < 0.03 and errors[begin:].max() < 0.03
    assert no_edge_between_submaps(slam)
    last, first = result.T_world_cam[at - 1], result.T_world_cam[begin]
    ahead_m = np.linalg.norm(first[:3, 3] - last[:3, 3])
    assert 0.2 < ahead_m < 0.25 * 9, "as far as the motion of before leads"


def test_a_cut_that_seems_to_be_no_motion_is_noticed_later() -> None:
    whole = drive(path=cut(12, away_m=300.0))  # what is behind the camera stays where it is for the oracle
    result, slam, _ = run(config(), sensor(), whole)
    begin = int(np.argmax(result.submap))
    assert 17 <= begin < 26 and not result.tracked[12 : begin + 1].any() and not result.is_keyframe[12:begin].any()
    assert no_edge_between_submaps(slam)


def test_another_place_for_some_frames_is_no_new_submap() -> None:
    path = [*PATH[:14], *(pose(z_m=-300.0) @ T for T in PATH[14:17]), *PATH[17:]]
    result, _, _ = run(config(), NoPrior(), drive(path=path))
    assert np.flatnonzero(~result.tracked).tolist() == [14, 15, 16] and result.submap.max() == 0
    assert not result.is_keyframe[14:17].any()


def test_the_end_may_be_dark() -> None:
    dark = list(range(15, 26))
    result, _, _ = run(config(), sensor(), drive(dark))
    assert not result.tracked[15:].any() and result.tracked[:15].all() and result.submap.max() == 0
    travelled_m = result.T_world_cam[-1, 2, 3] - result.T_world_cam[14, 2, 3]
    assert 0.2 < travelled_m < 0.25 * 12, "goes on at the speed of before, for a while"


@pytest.mark.parametrize("stop", [18, 22])
def test_a_loss_survives_a_stop(stop: int) -> None:
    whole, disk = drive(path=cut(16)), DiskStore()
    first, second = (oracle_slam(config(), whole, sensor(), disk)[0] for _ in range(2))
    feed(first, whole, range(stop))
    second.restore(first.state(), whole.__getitem__)
    for slam in (first, second):
        feed(slam, whole, range(stop, len(whole)))
    one, other = first.finish(), second.finish()
    np.testing.assert_array_equal(one.T_world_cam, other.T_world_cam)
    np.testing.assert_array_equal(one.submap, other.submap)


def test_what_has_texture() -> None:
    assert is_textured(STREET.render(PATH[0])[0])
    assert not is_textured(BLACK) and not is_textured(nearly_black(0)) and not is_textured(BLACK + 200)
    low = np.clip(STREET.render(PATH[0])[0] // 4, 0, 255).astype(np.uint8)
    assert is_textured(low), "a dim image"


def test_cells_found_again() -> None:
    y, x = np.mgrid[0:12, 0:40].astype(float)
    cells = np.stack([x, y], axis=-1)
    sure = np.full((12, 40, 2), 0.6)
    there, back = Correspondence(cells + [4, 0], sure), Correspondence(cells - [4, 0], sure)
    assert forward_backward_share(there, back) == pytest.approx(36 / 40)
    assert forward_backward_share(there, Correspondence(cells - [6, 0], sure)) == 0.0
    assert forward_backward_share(there, Correspondence(cells - [4, 0], 0.1 * sure)) == 0.0
    wild = np.random.default_rng(0).uniform(0, 1, (2, 12, 40, 2)) * [40, 12]
    assert forward_backward_share(Correspondence(wild[0], sure), Correspondence(wild[1], sure)) < 0.05
