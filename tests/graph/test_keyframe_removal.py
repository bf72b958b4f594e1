"""Removing keyframes: whatever is appended and removed, everything that counts keyframes goes on meaning the same."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.correspondence.base import Correspondence
from metric_slam.depth.base import MotionObservation
from metric_slam.geometry import lie
from metric_slam.graph.baselines import BaselineFactor
from metric_slam.graph.slam_map import PriorGrids, SlamMap
from metric_slam.odometry.droid.odometry import DroidOdometry
from metric_slam.odometry.sliding_window import new_keyframe
from tests.oracle import config, oracle_slam, sensor, winding
from tests.scene import Drive, Street

DRIVE = Drive(Street(waves=4), winding(40, 0.25), with_depth=True)


class Tower:
    """A system that is fed keyframes whose every trace carries frame indices: what is paired can be read off."""

    def __init__(self) -> None:
        self.slam, self.network = oracle_slam(config(), DRIVE, sensor())
        self.slam.process_frame(DRIVE[0])
        parts = self.slam._parts
        assert isinstance(parts.odometry, DroidOdometry)
        self.map: SlamMap = parts.slam_map
        self.odometry, self.frames, self.scale = parts.odometry, parts.odometry._frames, parts.scale
        self.pairs: set[tuple[int, int]] = set()
        """Frame indices of the edges there should be."""

        self.kept = [0]
        self.count = 1

    def append(self, random: np.random.Generator) -> None:
        """A keyframe with edges to some of those before it, and some of everything else."""
        frame = self.slam._parts.encode(DRIVE[self.count])
        zeros = np.zeros((12, 40))
        pose = lie.matrix_to_pose_vec(np.linalg.inv(DRIVE.path[frame.index]))
        inv_depth, grids = np.full((12, 40), 0.1 + 0.001 * frame.index), PriorGrids(zeros, zeros, zeros)
        position = self.map.append(new_keyframe(frame, None, grids, pose, inv_depth, submap=0))
        self.frames.add_keyframe(frame.index, frame.time_s, tracked=True, inlier_ratio=1.0)
        for other in range(max(0, position - 4), position):
            if other == position - 1 or random.random() < 0.6:
                self._connect(other, position)
        self.map.graph.set_baseline(BaselineFactor(position - 1, position, 1000.0 * self.kept[-1] + frame.index, 0.1))
        self.scale._in_force[position] = float(frame.index), MotionObservation(0.0, 0.1, True, ())
        self.kept.append(frame.index)
        self.count += 1
        if self.count < len(DRIVE) and random.random() < 0.5:
            between = self.slam._parts.encode(DRIVE[self.count])
            self.frames.add_waiting(between)
            said = self.map.disk.put(np.full((12, 40, 4), frame.index, np.float32))
            self.frames.records[-1].matches[position] = said
            self.count += 1

    def _connect(self, i: int, j: int) -> None:
        """An edge that says whose it is; half of them are active."""
        a, b = self.map[i].index, self.map[j].index
        for source, target in ((a, b), (b, a)):
            said = np.stack([np.full((12, 40), source), np.full((12, 40), target)], axis=-1).astype(float)
            ends = (i, j) if source == a else (j, i)
            self.map.graph.add_matched(*ends, Correspondence(said, np.ones((12, 40, 2))))
            self.pairs.add((source, target))
            if (a + b) % 2:
                self.odometry._active.add([ends], again=True)

    def remove(self, position: int) -> None:
        """As droid odometry does it."""
        index = self.map[position].index
        self.odometry.remove_keyframe(position)
        self.kept.remove(index)
        self.pairs = {pair for pair in self.pairs if index not in pair}

    def check(self) -> None:
        """Positions mean what they should, everywhere."""
        index = [k.index for k in self.map]
        assert index == self.kept
        for keyframe in self.map:
            assert keyframe.inv_depth[0, 0] == pytest.approx(0.1 + 0.001 * keyframe.index) or keyframe.index == 0
            assert np.array_equal(keyframe.features.image, DRIVE[keyframe.index].image)
        self._check_graph(index)
        for position, (marker, _) in self.scale._in_force.items():
            assert marker == index[position]
        records = self.frames.records
        assert [r.index for r in records] == list(range(self.count))
        assert [r.index for r in records if r.is_keyframe] == self.kept
        for record in records:
            assert index[record.keyframe] == max(i for i in index if i <= record.index)
            said = {p: int(stored.load()[0, 0, 0]) for p, stored in record.matches.items()}
            assert all(index[p] == source for p, source in said.items())
            if record.is_keyframe:
                found = np.linalg.inv(self.frames.T_cam_world(record))
                np.testing.assert_allclose(found, DRIVE.path[record.index], atol=1e-9)
        waiting = [w.record.index for w in self.frames._waiting]
        assert waiting == sorted(set(range(self.count)) - set(self.kept))

    def _check_graph(self, index: list[int]) -> None:
        graph, active = self.map.graph, self.odometry._active
        found = {(index[i], index[j]) for i, j in graph.pairs().tolist()}
        assert found == self.pairs
        for i, j in graph.pairs().tolist():
            matches = graph.matches_of(i, j)
            assert (matches[0, 0, 0], matches[0, 0, 1]) == (index[i], index[j])
            assert ((i, j) in active) == bool((index[i] + index[j]) % 2)
        for factor in graph.baselines:
            assert factor.length_m == 1000.0 * index[factor.source] + index[factor.target]


@pytest.mark.parametrize("seed", range(4))
def test_everything_stays_aligned(seed: int) -> None:
    random, tower = np.random.default_rng(seed), Tower()
    while tower.count < 30:
        tower.append(random)
        if len(tower.kept) > 2 and random.random() < 0.5:
            tower.remove(int(random.integers(1, len(tower.kept))))
        tower.check()


def test_a_removed_keyframe_keeps_its_pose() -> None:
    random, tower = np.random.default_rng(0), Tower()
    for _ in range(5):
        tower.append(random)
    record = next(r for r in tower.frames.records if r.index == tower.kept[3])
    before = tower.frames.T_cam_world(record)
    tower.remove(3)
    assert not record.is_keyframe and not record.tracked and record.keyframe == 2
    np.testing.assert_allclose(tower.frames.T_cam_world(record), before, atol=1e-9)


def test_what_has_left_the_window_cannot_be_removed() -> None:
    random, tower = np.random.default_rng(0), Tower()
    for _ in range(5):
        tower.append(random)
    tower.map.evict_before(3, 3)
    with pytest.raises(AssertionError):
        tower.map.remove(2)
