"""Poses of frames between keyframes, with exact matches: they follow the map, and the map at its end decides."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from metric_slam.checkpointable import flattened, nested
from metric_slam.config.schema import BundleAdjustmentConfig, GlobalBaConfig
from metric_slam.correspondence.base import Correspondence
from metric_slam.geometry import lie
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.odometry.frame_poses import FramePoses
from metric_slam.odometry.tracking import FrameTracker, TrackedFrame
from metric_slam.optimization.solver import CpuSolver
from tests.scene import ExactMatching, Street, exact_matches, keyframe_at, make_map, nowhere, pose, rotation

R = rotation(0.01, 0.005)
STREET = Street(end_m=40.0)
EMPTY = Correspondence(np.zeros((12, 40, 2)), np.zeros((12, 40)))


@dataclass(frozen=True)
class Seen:
    """A frame between keyframes."""

    features: object
    ignored: np.ndarray | None = None


class Walk:
    """Frames at known places, put on record by hand."""

    def __init__(self) -> None:
        model = ExactMatching(STREET)
        self.map = make_map(model)
        self.tracker = FrameTracker(self.map, model, CpuSolver(BundleAdjustmentConfig()))
        self.frames = FramePoses(self.map, self.tracker)
        self.truth: list[np.ndarray] = []

    @property
    def next_index(self) -> int:
        return len(self.truth)

    def keyframe(self, T_world_cam: np.ndarray, *, tracked: bool = True, depth_scale: float = 1.0) -> None:
        """An exact keyframe, or one whose depth is off by a factor."""
        self.map.append(keyframe_at(STREET, T_world_cam, features=T_world_cam, depth_scale=depth_scale))
        self.frames.add_keyframe(self.next_index, 0.1 * self.next_index, tracked=tracked, inlier_ratio=0.9)
        self.truth.append(T_world_cam)

    def frame(
        self,
        T_world_cam: np.ndarray,
        found: np.ndarray | None = None,
        *,
        matched: bool = True,
        time_s: float | None = None,
    ) -> None:
        """A frame that tracking put at ``found`` (T_world_cam); without ``matched`` nothing but that is known."""
        match = EMPTY
        if matched:
            target, seen = exact_matches(STREET, self.map[-1].features, T_world_cam)
            match = Correspondence(target, seen.astype(np.float64))
        pose_found = lie.inverse(T_world_cam if found is None else found)
        tracked = TrackedFrame(match, match, pose_found, 3.0, float(matched), matched)
        time_s = 0.1 * self.next_index if time_s is None else time_s
        self.frames.add(self.next_index, time_s, Seen(T_world_cam), tracked, moved=True)
        self.truth.append(T_world_cam)

    def errors_m(self) -> np.ndarray:
        """Of the final positions."""
        return np.linalg.norm(self.frames.final()[:, :3, 3] - np.stack(self.truth)[:, :3, 3], axis=1)


def test_a_frame_is_solved_again_against_the_final_map() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.frame(pose(z_m=0.4, R=R), found=pose(0.1, 0.2, R=rotation(0.02)))
    walk.frame(pose(0.05, 0.8, R=rotation(0.01, 0.005, 0.02)), found=pose(R=R))
    assert walk.errors_m().max() < 0.005
    final = walk.frames.final()
    np.testing.assert_allclose(final[2, :3, :3], walk.truth[2][:3, :3], atol=1e-3)
    np.testing.assert_array_equal(final[0], lie.inverse(walk.map[0].T_cam_world))


def test_a_frame_that_fits_the_final_map_nowhere_keeps_the_pose_of_tracking() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.frame(pose(z_m=0.4, R=R))
    random = np.random.default_rng(0)
    record = walk.frames.records[1]
    wrong = record.matches[0].load()
    wrong[..., :2] = random.uniform(0, 40, wrong[..., :2].shape)
    record.matches[0] = walk.map.disk.put(wrong)
    np.testing.assert_allclose(walk.frames.final()[1], walk.truth[1], atol=1e-9)


@pytest.mark.parametrize("matched", [True, False])
@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_frames_follow_a_change_of_scale(factor: float, matched: bool) -> None:
    """A frame hangs on its keyframe by a length; both grow together, with matches and without."""
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.keyframe(pose(z_m=1.0, R=R))
    walk.frame(pose(0.1, 1.4, R=R), matched=matched)
    walk.map.rescale(factor)
    present = lie.inverse(walk.frames.T_cam_world(walk.frames.records[2]))
    np.testing.assert_allclose(present[:3, 3], factor * walk.truth[2][:3, 3], atol=1e-9)
    np.testing.assert_allclose(walk.frames.final()[2, :3, 3], factor * walk.truth[2][:3, 3], atol=0.005 * factor)


def test_refined_depths_do_not_move_a_frame() -> None:
    """Their median is no unit of length: of the keyframe nothing but the depths of some cells changed."""
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.keyframe(pose(z_m=1.0, R=R))
    walk.frame(pose(0.1, 1.4, R=R), matched=False)
    for pair in ((0, 1), (1, 0)):
        target, seen = exact_matches(STREET, *(walk.truth[i] for i in pair))
        walk.map.graph.add_matched(*pair, Correspondence(target, seen.astype(np.float64)))
    walk.map.set_inv_depth(1, walk.map[1].inv_depth * 1.3)
    record = walk.frames.records[2]
    before = walk.frames.T_cam_world(record)
    GlobalBundleAdjustment(walk.map, GlobalBaConfig()).refine_depths()
    assert abs(walk.map[1].median_inv_depth / walk.map[0].median_inv_depth - 1.3) > 0.1, "they were refined"
    np.testing.assert_array_equal(walk.frames.T_cam_world(record), before)
    np.testing.assert_allclose(walk.frames.final()[2], walk.truth[2], atol=1e-9)
    walk.map.set_inv_depth(1, walk.map[1].inv_depth * 0.5)
    np.testing.assert_array_equal(walk.frames.T_cam_world(record), before)


def test_only_rescalings_after_a_frame_was_added_count() -> None:
    """Lengths in the record are those of the map at that moment."""
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.map.rescale(5.0)
    walk.frame(pose(0.1, 0.4, R=R), matched=False)
    record = walk.frames.records[1]
    np.testing.assert_allclose(lie.inverse(walk.frames.T_cam_world(record)), walk.truth[1], atol=1e-9)
    walk.map.set_poses(walk.map.T_world_cam(), np.log([2.0]))
    walk.map.rescale(1.5)
    found = lie.inverse(walk.frames.T_cam_world(record))
    np.testing.assert_allclose(found[:3, 3], 3.0 * walk.truth[1][:3, 3], atol=1e-9)


def test_frames_follow_their_keyframe() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.frame(pose(z_m=0.4, R=R))
    moved = pose(3.0, 7.0, R=rotation(yaw_rad=0.5))
    walk.map.move([0], moved)
    np.testing.assert_allclose(walk.frames.final()[1], moved @ walk.truth[1], atol=0.005)


# ---------------------------------------------------------------- frames without matches


def test_unmatched_frames_move_evenly_between_their_neighbours() -> None:
    """Tracking went on at a speed that was wrong by then; times tell how the way is shared."""
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.frame(pose(z_m=0.2, R=R))
    for time_s in (0.2, 0.3, 0.5):  # a frame is missing
        truth, wrong = pose(z_m=0.2 + 0.8 * (time_s - 0.1), R=R), pose(z_m=9 * time_s, R=R)
        walk.frame(truth, found=wrong, matched=False, time_s=time_s)
    walk.frame(pose(z_m=0.2 + 0.8 * 0.5, R=R), time_s=0.6)
    assert walk.errors_m().max() < 0.01


def test_unmatched_frames_turn_on_an_arc() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))

    def on_arc(angle_rad: float) -> np.ndarray:
        return pose(5 * (1 - np.cos(angle_rad)), 5 * np.sin(angle_rad), R=rotation(yaw_rad=angle_rad) @ R)

    walk.frame(on_arc(0.02))
    for i in range(1, 5):
        walk.frame(on_arc(0.02 + 0.02 * i), found=pose(R=R), matched=False)
    walk.frame(on_arc(0.12))
    final = walk.frames.final()
    assert walk.errors_m().max() < 0.01
    np.testing.assert_allclose(final[:, :3, :3], np.stack(walk.truth)[:, :3, :3], atol=2e-3)


def test_a_data_set_without_times_is_shared_by_count() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    for i in range(1, 5):
        walk.frame(pose(z_m=0.2 * i, R=R), found=pose(R=R), matched=i == 4, time_s=0.0)
    assert walk.errors_m().max() < 0.01


def test_a_keyframe_at_the_end_of_a_gap_ends_it_and_stays() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    for i in range(1, 4):
        walk.frame(pose(z_m=0.3 * i, R=R), found=pose(R=R), matched=False)
    walk.keyframe(pose(z_m=1.2, R=R))
    assert walk.errors_m().max() < 0.01
    np.testing.assert_array_equal(walk.frames.final()[[0, 4]], walk.map.T_world_cam())


def test_nothing_is_drawn_from_one_submap_to_the_next() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    for i in range(1, 4):
        walk.frame(pose(z_m=0.3 * i, R=R), matched=False)
    walk.keyframe(pose(z_m=20.0, R=R), tracked=False)  # where a new submap begins is a guess
    walk.frame(pose(z_m=20.4, R=R), matched=False)
    walk.frame(pose(z_m=20.8, R=R))
    final = walk.frames.final()
    np.testing.assert_allclose(final[:4, 2, 3], [0.0, 0.3, 0.6, 0.9], atol=1e-9)
    np.testing.assert_allclose(final[4:, 2, 3], [20.0, 20.4, 20.8], atol=0.01)


def test_unmatched_frames_at_the_end_stay_where_tracking_put_them() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.frame(pose(z_m=0.3, R=R))
    for i in (2, 3):
        walk.frame(pose(z_m=0.3 * i, R=R), matched=False)
    assert walk.errors_m().max() < 0.005


# ---------------------------------------------------------------- prediction


def test_motion_goes_on() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    np.testing.assert_allclose(walk.frames.predicted(0.1), lie.inverse(pose(R=R)), atol=1e-12)
    walk.frame(pose(0.02, 0.3, R=R))
    np.testing.assert_allclose(walk.frames.predicted(0.2), lie.inverse(pose(0.04, 0.6, R=R)), atol=1e-9)
    np.testing.assert_allclose(walk.frames.predicted(0.25), lie.inverse(pose(0.05, 0.75, R=R)), atol=1e-9)
    bounded = lie.inverse(pose(0.12, 1.8, R=R))
    np.testing.assert_allclose(walk.frames.predicted(99.0), bounded, atol=1e-9)


def test_motion_goes_on_without_times_and_after_a_change_of_scale() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.frame(pose(z_m=0.3, R=R), time_s=0.0)
    np.testing.assert_allclose(walk.frames.predicted(0.0), lie.inverse(pose(z_m=0.6, R=R)), atol=1e-9)
    walk.map.rescale(3.0)
    np.testing.assert_allclose(walk.frames.predicted(0.0), lie.inverse(pose(z_m=1.8, R=R)), atol=1e-9)


def test_what_is_kept_of_a_frame_lies_on_the_disk() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.frame(pose(z_m=0.3, R=R))
    walk.frame(pose(z_m=0.6, R=R), matched=False)
    kept, none = (record.matches for record in walk.frames.records[1:])
    assert none == {} and list(kept) == [0] and walk.map.disk.byte_count == kept[0].byte_count
    assert kept[0].load().dtype == np.float32


def test_a_frame_hangs_between_the_keyframes_around_it() -> None:
    """The keyframe before it has wrong depth; the one after it, which sees it too, pulls it to the truth."""

    def error_m(*, next_keyframe: bool) -> float:
        walk = Walk()
        walk.keyframe(pose(R=R), depth_scale=1.2)
        walk.frame(pose(z_m=0.5, R=R))
        if next_keyframe:
            walk.keyframe(pose(z_m=1.0, R=R))
            assert sorted(walk.frames.records[1].matches) == [0, 1]
        return float(walk.errors_m()[1])

    assert error_m(next_keyframe=True) < 0.7 * error_m(next_keyframe=False)


# ---------------------------------------------------------------- at any moment, and after a stop


def test_the_present_poses_are_those_of_tracking_on_the_present_map() -> None:
    walk = Walk()
    walk.keyframe(pose(R=R))
    walk.frame(pose(z_m=0.4, R=R))
    walk.keyframe(pose(z_m=1.0, R=R))
    walk.frame(pose(z_m=1.4, R=R), found=pose(z_m=1.5, R=R))
    truth = np.stack(walk.truth)
    np.testing.assert_allclose(walk.frames.current()[:3], truth[:3], atol=1e-9)
    np.testing.assert_allclose(walk.frames.current()[3], pose(z_m=1.5, R=R), atol=1e-9)
    moved = pose(3.0, 7.0, R=rotation(yaw_rad=0.5))
    walk.map.move([1], moved)
    np.testing.assert_allclose(walk.frames.current()[:2], truth[:2], atol=1e-9)
    np.testing.assert_allclose(walk.frames.current()[2], moved @ truth[2], atol=1e-9)
    assert Walk().frames.current().shape == (0, 4, 4)


def test_a_checkpoint_keeps_records_and_frames_that_wait() -> None:
    walk, ignored = Walk(), np.zeros((12, 40), bool)
    ignored[11] = True
    walk.keyframe(pose(R=R))
    walk.map.rescale(2.0)
    walk.frame(pose(z_m=0.4, R=R))
    walk.frame(pose(z_m=0.6, R=R), matched=False)
    walk.frame(pose(z_m=0.8, R=R))
    walk.frames._waiting[1] = replace(walk.frames._waiting[1], ignored=ignored)
    other_map = make_map(ExactMatching(STREET), disk=walk.map.disk)
    other_map.restore(walk.map.state(), nowhere)
    other = FramePoses(other_map, walk.tracker)
    other.restore(nested(flattened(walk.frames.state())), lambda index: f"features {index}")
    assert [w.features for w in other._waiting] == ["features 1", "features 3"]
    assert [w.record for w in other._waiting] == [other.records[1], other.records[3]]
    assert other._waiting[0].ignored is None
    np.testing.assert_array_equal(other._waiting[1].ignored, ignored)
    np.testing.assert_array_equal(other.current(), walk.frames.current())
    np.testing.assert_array_equal(other.final(), walk.frames.final())
    for one, two in zip(walk.frames.records, other.records, strict=True):
        for name in ("index", "time_s", "keyframe", "length_scale", "is_keyframe", "tracked", "inlier_ratio"):
            assert getattr(one, name) == getattr(two, name)
        assert list(one.matches) == list(two.matches)
