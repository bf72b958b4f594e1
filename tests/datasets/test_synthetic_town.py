from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from metric_slam.datasets.synthetic import DriveSpec, revisits
from metric_slam.datasets.synthetic.route import LANE_OFFSET_M, STREET_WIDTH_M, Motion, drive_motion
from metric_slam.datasets.synthetic.town_plan import town_plan
from metric_slam.errors import ConfigError

LOOPS = DriveSpec(route="town", length_m=1500.0, loops=3, seed=5)
LIKE_KITTI_00 = DriveSpec(route="town", length_m=3700.0, loops=8)
LONG = DriveSpec(route="town", length_m=5000.0)


@lru_cache
def _motion(spec: DriveSpec) -> Motion:
    return drive_motion(spec)


def _returns(spec: DriveSpec) -> list[tuple[float, float, float]]:
    """Stretches driven again: where they begin, how long they are, where they were driven first; metres."""
    s_m, runs = _motion(spec).s_m, []
    for now, before in revisits(spec):
        if runs and now - runs[-1][1] <= 3:
            runs[-1][1] = now
        else:
            runs.append([now, now, before])
    return [(s_m[a], s_m[b] - s_m[a], s_m[first]) for a, b, first in runs]


@pytest.mark.parametrize("spec", [LOOPS, LIKE_KITTI_00, replace(LOOPS, seed=0), replace(LOOPS, length_m=700, loops=1)])
def test_it_returns_as_often_as_asked(spec: DriveSpec) -> None:
    returns = _returns(spec)
    assert len(returns) == spec.loops
    for begin_m, length_m, first_m in returns:
        assert length_m >= 40
        assert begin_m - (first_m + length_m) > 100
    begins = [begin_m for begin_m, _, _ in returns]
    # spread: every part of the drive has one
    part = (spec.length_m - 300) / spec.loops
    assert np.diff(begins).max(initial=0) < 2 * part and begins[-1] > 300 + (spec.loops - 1) * part - 50


@pytest.mark.parametrize("spec", [LONG, replace(LOOPS, loops=0), DriveSpec(route="town", length_m=200.0)])
def test_without_loops_it_never_returns(spec: DriveSpec) -> None:
    assert revisits(spec) == []


def test_revisits_are_the_same_place_seen_the_same_way() -> None:
    poses = _motion(LOOPS).poses
    now, before = np.array(revisits(LOOPS)).T
    assert (now > before).all() and (np.diff(now) > 0).all()
    assert np.linalg.norm(poses[now, :2, 3] - poses[before, :2, 3], axis=1).max() <= 3
    # on the very same lane: nearest frames are half a frame's way apart at most, and to the side nothing
    side = np.einsum("ij,ij->i", poses[now, :3, 3] - poses[before, :3, 3], poses[before, :3, 0])
    assert np.percentile(np.abs(side), 80) < 0.1  # but where the two ways part
    assert np.einsum("ij,ij->i", poses[now, :3, 2], poses[before, :3, 2]).min() > np.cos(np.radians(20))


@pytest.mark.parametrize("spec", [LOOPS, LONG, DriveSpec(route="town", length_m=200.0, seed=3)])
def test_length_and_speeds(spec: DriveSpec) -> None:
    poses = _motion(spec).poses
    steps = np.linalg.norm(np.diff(poses[:, :2, 3], axis=0), axis=1)
    assert steps.sum() == pytest.approx(spec.length_m, rel=0.01)
    assert 0.58 < steps.min() and 1.3 < steps.max() < 1.46
    assert np.abs(np.diff(steps)).max() < 0.06  # 6 m/s^2 at 10 Hz
    heading = np.unwrap(np.arctan2(poses[:, 1, 2], poses[:, 0, 2]))
    yaw_rate = np.diff(heading) * 10
    assert np.abs(yaw_rate).max() * 6.5 < 5.5
    if spec.length_m > 1000:
        assert yaw_rate.max() > 0.4 and yaw_rate.min() < -0.4  # it turns to the left and to the right


def test_it_keeps_to_its_lane() -> None:
    plan, xy = town_plan(LOOPS), _motion(LOOPS).poses[:, :2, 3]
    heading = _motion(LOOPS).poses[:, :2, 2]
    heading = heading / np.linalg.norm(heading, axis=1, keepdims=True)
    for axis, lines in ((0, plan.ys), (1, plan.xs)):
        offset = xy[:, 1 - axis, None] - np.array(lines)
        nearest = offset[np.arange(len(offset)), np.abs(offset).argmin(axis=1)]
        along = np.abs(heading[:, axis]) > 0.9999
        right = -np.sign(heading[along, axis]) if axis == 0 else np.sign(heading[along, axis])
        near = np.abs(nearest[along] - right * LANE_OFFSET_M)
        assert along.sum() > 200 and np.percentile(near, 95) < 0.1
    blocks_x, blocks_y = (np.abs(xy[:, k, None] - np.array(c)).min(axis=1) for k, c in ((0, plan.xs), (1, plan.ys)))
    assert not ((blocks_x > STREET_WIDTH_M / 2) & (blocks_y > STREET_WIDTH_M / 2)).any()


def test_stops_stand_still() -> None:
    spec = replace(LOOPS, stops=4)
    poses = _motion(spec).poses
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    standing = np.concatenate([[False], steps < 0.003, [False]])
    begins, ends = np.flatnonzero(np.diff(standing.astype(int)) > 0), np.flatnonzero(np.diff(standing.astype(int)) < 0)
    lasting = (ends - begins) >= 15
    assert lasting.sum() == 4 and (ends - begins).max() <= 45
    for a, b in zip(begins[lasting], ends[lasting], strict=True):
        still = poses[a + 1 : b]
        shaken = still[1:, :3, 3] - still[:-1, :3, 3]
        assert 0 < np.abs(shaken).max() < 0.003
        turned = np.einsum("ij,ij->i", still[1:, :3, 2], still[:-1, :3, 2])
        assert np.degrees(np.arccos(np.clip(turned, -1, 1))).max() < 0.05
    speed = np.diff(_motion(spec).s_m) * 10
    assert np.abs(np.diff(speed)).max() * 10 < 6
    assert len(_returns(spec)) == spec.loops


def test_frames_are_the_first_of_the_drive() -> None:
    np.testing.assert_array_equal(drive_motion(replace(LOOPS, frames=30)).poses, _motion(LOOPS).poses[:30])


@pytest.mark.parametrize(
    "wrong",
    [
        {"length_m": 100.0}, {"length_m": 9000.0}, {"loops": -1}, {"length_m": 500.0, "loops": 1}, {"loops": 6},
        {"stops": -1}, {"stops": 20}, {"hills_m": -1.0}, {"hills_m": 50.0}, {"exposure_change": 3.0},
        {"moving_cars": 0.6}, {"route": "street", "loops": 1}, {"route": "block", "alike_houses": True},
    ],
)  # fmt: skip
def test_impossible_specs(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(DriveSpec(route="town"), **wrong)
    assert "\n" not in str(caught.value)
