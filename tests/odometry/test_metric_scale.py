"""From what a prior sees in motion to a map in metres, with exact matches and a prior that answers by script."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from metric_slam.checkpointable import flattened, nested
from metric_slam.config.schema import Config, GroundPlaneConfig, SensorConfig
from metric_slam.depth.base import CurrentDepth, DepthPrior, MotionObservation
from metric_slam.depth.ground_plane.prior import GroundPlane
from metric_slam.depth.no_prior import NoPrior
from metric_slam.depth.sensor import SensorDepth
from metric_slam.errors import DatasetError
from metric_slam.frame import CameraMount, Frame
from metric_slam.geometry import lie
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.odometry.keyframe_prior import KeyframePrior
from metric_slam.odometry.metric_scale import MetricScale, ScaleLimits
from metric_slam.odometry.scale_startup import ScaleStartup
from tests.oracle import ExactDrive
from tests.scene import CAMERA, HEIGHT_M, Drive, Start, Street, grid_depth_m, pose, rotation, slam_of, straight

R = rotation(0.01, 0.0)
STEP_M = 0.5
WARM_UP = 4


class Call(NamedTuple):
    """What a prior was asked: frame index of the pair's second keyframe, and how."""

    index: int
    search: bool


class ScriptedPrior(DepthPrior):
    """Knows the true length of every pair, and sees it where ``sees`` says so."""

    name = "scripted"
    measures_motion = True

    def __init__(self, sees: Callable[[Call], bool | None] = lambda call: True, step_m: float = STEP_M) -> None:
        self.sees, self.step_m = sees, step_m
        self.calls: list[Call] = []
        self.lengths: list[float] = []
        self.current_depth: list[CurrentDepth | None] = []
        self.calibrations: list[int] = []
        self.paths: dict[int, np.ndarray] = {}
        self.plane_m: np.ndarray | None = None
        self.later_factor = 1.0

    def prepare(self, frame: Frame, camera: PinholeCamera) -> int:
        """The frame's index."""
        return frame.index

    def predict(self, state: int, camera: PinholeCamera) -> None:
        """Nothing."""

    def calibrate(self, motions: np.ndarray) -> None:
        """Counts."""
        self.calibrations.append(len(motions))

    def observe(
        self,
        previous: int,
        current: int,
        T_current_previous: np.ndarray,
        camera: PinholeCamera,
        *,
        search: bool,
        current_depth: CurrentDepth | None = None,
    ) -> MotionObservation | None:
        """True over present length; ``sees`` None: no observation, False: one that is not used."""
        call = Call(current, search)
        self.calls.append(call)
        self.current_depth.append(current_depth)
        used = self.sees(call)
        if used is None:
            return None
        length = float(np.linalg.norm(T_current_previous[:3, 3]))
        self.lengths.append(length)
        ratio = float(np.log(self.step_m * (current - previous) / length))
        return MotionObservation(ratio, 0.02, used, detail=(current,), previous_depth_m=self.plane_m)

    def revised(self, observation: MotionObservation, path_ahead: np.ndarray) -> MotionObservation:
        """Notes the path and stretches the observation."""
        self.paths[int(observation.detail[0])] = path_ahead
        log_ratio = observation.log_ratio + float(np.log(self.later_factor))
        return MotionObservation(log_ratio, observation.sigma, observation.used, observation.detail)


def from_index(first: int) -> Callable[[Call], bool]:
    """Sees pairs whose second frame is ``first`` or later."""
    return lambda call: call.index >= first


def drive(prior: DepthPrior, keyframes: int, **config: int) -> Start:
    """A straight drive of so many keyframes, half a metre apart."""
    start = Start(prior, **{"warm_up": WARM_UP, **config})
    start.start(pose(R=R))
    start.follow(straight(keyframes, STEP_M, R=R)[1:])
    return start


# ---------------------------------------------------------------- observations


def test_what_is_seen_becomes_a_baseline_in_metres() -> None:
    start = drive(ScriptedPrior(), 8)
    start.scale.collect()
    baselines = list(start.map.graph.baselines)
    assert [(b.source, b.target) for b in baselines] == [(i, i + 1) for i in range(7)]
    np.testing.assert_allclose([b.length_m for b in baselines], STEP_M, rtol=1e-6)
    assert {b.sigma for b in baselines} == {0.02}
    assert [o.index for o in start.scale.observations] == list(range(1, 8))
    assert start.scale.known
    np.testing.assert_allclose(start.steps_m(), STEP_M, rtol=0.01)


def test_what_is_withdrawn_is_told_and_not_used() -> None:
    start = drive(ScriptedPrior(lambda call: False), 6)
    start.finish()
    scale = start.scale
    assert list(start.map.graph.baselines) == [] and not scale.known
    assert [(o.index, o.used) for o in scale.observations] == [(i, False) for i in range(1, 6)]


def test_what_is_not_seen_leaves_no_trace() -> None:
    start = drive(ScriptedPrior(lambda call: None), 6)
    start.finish()
    assert list(start.map.graph.baselines) == [] and start.scale.observations == []
    assert not start.scale.known


def test_a_prior_that_learns_nothing_from_motion_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = SensorDepth(SensorConfig())
    monkeypatch.setattr(prior, "observe", None)
    start = Start(prior, with_depth=True)
    start.start(pose(R=R))
    start.follow(straight(4, STEP_M, R=R)[1:])
    start.finish()
    np.testing.assert_allclose(start.steps_m(), STEP_M, rtol=0.03)
    assert start.scale.known


def test_a_mistake_of_the_prior_reaches_the_caller() -> None:
    def broken(call: Call) -> bool:
        if call == Call(6, search=False):
            raise DatasetError("the map of frame 6 cannot be read")
        return True

    start = drive(ScriptedPrior(broken), 6, warm_up=2)
    assert start.add(pose(z_m=3.0, R=R), start.last_pose)
    with pytest.raises(DatasetError, match="frame 6"):
        start.add(pose(z_m=3.5, R=R), start.last_pose)


def test_an_answer_is_in_the_graph_before_the_next_solve() -> None:
    start = drive(ScriptedPrior(), 8)
    known: list[int] = []
    solve = start.map.solve

    def noting(*arguments: object) -> object:
        known.append(max(b.target for b in start.map.graph.baselines))
        return solve(*arguments)

    start.map.solve = noting  # type: ignore[method-assign,assignment]
    start.follow([pose(z_m=STEP_M * k, R=R) for k in range(8, 11)])
    assert known == [7, 8, 9]


def test_the_prior_is_calibrated_before_it_looks() -> None:
    prior = ScriptedPrior()
    drive(prior, 12)
    assert prior.calibrations[0] == 1, "the first motion, up to scale"
    assert prior.calibrations[-1] == 11 and sorted(prior.calibrations) == prior.calibrations


@pytest.mark.parametrize("step_m", [0.5, 1.0])
def test_the_speed_of_the_worker_does_not_matter(step_m: float) -> None:
    """Bit-identical maps with a worker that is at once done and one that comes late every other time."""

    class Slow(GroundPlane):
        asked = 0

        def observe(self, *states: object, **options: bool) -> MotionObservation | None:
            self.asked += 1
            time.sleep(0.03 * (self.asked % 2))
            return super().observe(*states, **options)

    maps = []
    for kind in (GroundPlane, Slow):
        start = Start(kind(GroundPlaneConfig(), CameraMount(HEIGHT_M)))
        start.start(pose(R=R))
        start.follow(straight(12, step_m, R=R)[1:])
        start.finish()
        maps.append(start)
    fast, slow = maps
    np.testing.assert_array_equal(fast.map.pose_vectors(range(12)), slow.map.pose_vectors(range(12)))
    for field in ("inv_depth", "prior_depth_m", "road_depth_m"):
        found, expected = (one.map.stacked_on_host(field, range(12)) for one in (fast, slow))
        np.testing.assert_array_equal(found, expected)
    assert found.any(), "a road was seen"
    found, expected = (list(one.map.graph.baselines) for one in (fast, slow))
    assert found == expected and len(found) == 11
    assert fast.scale.observations == slow.scale.observations


# ---------------------------------------------------------------- is the scale known?

LIMITS = ScaleLimits()


@pytest.mark.parametrize("count", [1, LIMITS.confirmations - 1, LIMITS.confirmations])
def test_some_measurements_make_the_scale_known_and_one_does_not(count: int) -> None:
    """One pair in a hundred fits a road by chance."""
    start = drive(ScriptedPrior(lambda call: call.index in range(5, 5 + count)), 12)
    start.scale.collect()
    assert len(list(start.map.graph.baselines)) == count and start.scale.measured
    assert start.scale.known is (count >= LIMITS.confirmations)


def test_a_scale_whose_measurements_are_withdrawn_is_unknown_again() -> None:
    withdrawn: set[int] = set()
    start = drive(ScriptedPrior(lambda call: call.index not in withdrawn), 6, warm_up=8)  # so that states are kept
    start.scale.collect()
    assert start.scale.known and len(list(start.map.graph.baselines)) == 5
    for still_known, gone in ((True, {1, 2}), (False, {1, 2, 3}), (False, {1, 2, 3, 4, 5})):
        withdrawn |= gone
        for position in gone:
            start.scale.observe(position)
        start.scale.collect()
        assert start.scale.known is still_known
        assert [b.target for b in start.map.graph.baselines] == sorted(set(range(1, 6)) - gone)
    assert not start.scale.measured


def test_a_few_chance_fits_among_many_failures_are_not_enough() -> None:
    """Three of forty are no road; three of thirty are."""
    start = drive(ScriptedPrior(lambda call: call.index in (10, 14, 18)), 41)
    start.scale.collect()
    assert len(start.scale.observations) == 40 and len(list(start.map.graph.baselines)) == 3
    assert LIMITS.min_used_share == 0.1 and not start.scale.known
    start = drive(ScriptedPrior(lambda call: call.index in (10, 14, 18)), 31)
    start.scale.collect()
    assert len(start.scale.observations) == 30 and start.scale.known


@pytest.mark.parametrize(("count", "source"), [(1, "unknown"), (3, "scripted")])
def test_the_result_names_its_source_of_scale_only_when_that_is_known(count: int, source: str) -> None:
    world = Drive(Street(), straight(9, STEP_M, R=R))
    prior = ScriptedPrior(lambda call: call.index in range(5, 5 + count))
    config = Config(loop={"enabled": False}, motion_filter={"min_flow_px": 0.5})
    slam = slam_of(config, prior, ExactDrive(world))
    states = [slam.process_frame(world[index]) for index in range(len(world))]
    result = slam.finish()
    assert result.is_keyframe.all() and result.scale_source == source
    assert states[-1].scale_known is (source == "scripted") and not states[4].scale_known


# ---------------------------------------------------------------- start-up


@pytest.mark.parametrize("first_seen", [2, 5, 9, 16])
def test_a_road_that_comes_late_rescales_the_whole_submap(first_seen: int) -> None:
    """The start was a guess of one metre a step; half a metre it is."""
    start = drive(ScriptedPrior(from_index(first_seen)), first_seen)
    guessed = start.steps_m()
    assert abs(np.median(guessed) - STEP_M) > 0.15, "a guess that happens to be right shows nothing"
    start.follow([pose(z_m=STEP_M * (first_seen + i), R=R) for i in range(3)])
    np.testing.assert_allclose(start.steps_m(), STEP_M, rtol=0.04)
    depth_m = grid_depth_m(start.street, pose(z_m=STEP_M, R=R))
    near = (depth_m > 0) & (depth_m < 10)
    assert np.median(start.map[1].inv_depth[near] * depth_m[near]) == pytest.approx(1.0, abs=0.04)
    np.testing.assert_allclose(start.map[0].T_cam_world, np.eye(4), atol=1e-12)


def test_the_start_up_ends_some_keyframes_after_the_first_answer() -> None:
    prior = ScriptedPrior(from_index(3))
    drive(prior, 14).scale.collect()
    searched = [call.index for call in prior.calls if call.search]
    assert max(searched) == 3 + WARM_UP - 1
    narrow = [call.index for call in prior.calls if not call.search]
    assert narrow[-3:] == [11, 12, 13], "from then on each pair is looked at once"


def test_before_the_first_answer_all_of_a_young_submap_is_searched_and_later_only_the_newest_pair() -> None:
    prior = ScriptedPrior(lambda call: None)
    start = drive(prior, 1)
    per_keyframe = []
    for k in range(1, 15):
        prior.calls.clear()
        start.follow([pose(z_m=STEP_M * k, R=R)])
        per_keyframe.append([call.index for call in prior.calls if call.search])
    assert per_keyframe[0] == [1, 1], "once for the length of the first step, once to rescale"
    assert per_keyframe[1:4] == [[1, 2], [1, 2, 3], [1, 2, 3, 4]]
    assert per_keyframe[6] == [4, 5, 6, 7] and per_keyframe[7] == [5, 6, 7, 8]
    assert per_keyframe[8:] == [[k] for k in range(9, 15)]


def test_one_wrong_answer_among_the_first_does_not_set_the_scale() -> None:
    class OneLie(ScriptedPrior):
        def observe(self, previous: int, current: int, *rest: object, **options: object) -> MotionObservation | None:
            self.step_m = 3 * STEP_M if current == 2 else STEP_M
            return super().observe(previous, current, *rest, **options)

    start = drive(OneLie(), 3)
    factors: list[float] = []
    rescale = start.map.rescale
    start.map.rescale = lambda *a: (factors.append(a[0]), rescale(*a))  # type: ignore[method-assign,assignment]
    start.follow([pose(z_m=STEP_M * k, R=R) for k in range(3, 10)])
    assert len(factors) >= 2
    np.testing.assert_allclose(factors[1:], 1.0, atol=0.02)
    start.finish()
    np.testing.assert_allclose(start.steps_m(), STEP_M, rtol=0.05)


def test_an_answer_that_does_not_hold_in_a_second_look_is_taken_back() -> None:
    looks: dict[int, int] = {}

    def only_once(call: Call) -> bool:
        if call.search or call.index != 2:
            return True
        looks[2] = looks.get(2, 0) + 1
        return looks[2] == 1

    prior = ScriptedPrior(only_once)
    prior.plane_m = np.zeros((12, 40))
    prior.plane_m[8:] = 8.0
    start = drive(prior, 6)
    start.scale.collect()
    assert looks[2] > 1
    assert [(b.source, b.target) for b in start.map.graph.baselines] == [(0, 1), (2, 3), (3, 4), (4, 5)]
    assert [o.used for o in start.scale.observations if o.index == 2] == [False]
    assert not start.map[1].road_depth_m.any() and start.map[2].road_depth_m.any()


# ---------------------------------------------------------------- submaps


def test_a_new_submap_finds_its_own_scale_and_leaves_the_earlier_alone() -> None:
    prior = ScriptedPrior(lambda call: call.index < 8 or call.index >= 12)
    start = drive(prior, 8)
    start.scale.collect()
    before = start.map.T_cam_world(slice(8)), start.map.stacked_on_host("inv_depth", range(8))
    start.start(pose(z_m=60.0, R=R), start.last_pose)
    prior.step_m = 1.0  # and the usual step of half a metre will be a wrong guess
    start.follow([pose(z_m=60.0 + 1.0 * i, R=R) for i in range(1, 4)])
    assert abs(np.median(start.steps_m()[8:]) - 1.0) > 0.3
    start.follow([pose(z_m=60.0 + 1.0 * i, R=R) for i in range(4, 7)])
    np.testing.assert_allclose(start.steps_m()[8:], 1.0, rtol=0.04)
    np.testing.assert_array_equal(start.map.T_cam_world(slice(8)), before[0])
    np.testing.assert_array_equal(start.map.stacked_on_host("inv_depth", range(8)), before[1])
    np.testing.assert_allclose(start.map[8].T_cam_world, before[0][-1], atol=1e-12)
    pairs = [(b.source, b.target) for b in start.map.graph.baselines]
    assert (7, 8) not in pairs and (0, 1) in pairs and (11, 12) in pairs


def lost_after(keyframes: int, prior: ScriptedPrior, gap_m: float = 60.0) -> Start:
    """A drive after which tracking is lost: a submap begins that goes on one step ahead, as far as anyone knows."""
    start = drive(prior, keyframes)
    start.scale.collect()
    step = np.linalg.inv(pose(z_m=STEP_M, R=R)) @ pose(R=R)
    start.start(pose(z_m=gap_m, R=R), step @ start.last_pose)
    return start


def test_a_submap_begins_with_the_speed_of_the_one_before() -> None:
    """Half a metre a step before the loss; then the prior sees nothing for a while."""
    prior = ScriptedPrior(lambda call: call.index < 8)
    start = lost_after(8, prior)
    prior.calls.clear()
    prior.lengths.clear()
    start.follow([pose(z_m=60.0 + STEP_M * i, R=R) for i in range(1, 4)])
    np.testing.assert_allclose(start.steps_m(), STEP_M, rtol=0.03)
    assert prior.lengths[0] == pytest.approx(STEP_M, rel=0.02), "the first pair is shown to the prior in metres"
    first_seen = prior.current_depth[-len(prior.calls)]
    assert first_seen is not None
    depth_m = grid_depth_m(start.street, pose(z_m=60.0, R=R))
    near = (depth_m > 0) & (depth_m < 10)
    assert np.median(first_seen.inv_depth[near] * depth_m[near]) == pytest.approx(1.0, abs=0.05), "and its depth too"


def test_a_submap_that_resumes_is_not_searched_widely_while_it_is_young() -> None:
    """A vehicle moves about as fast as before, so what a wide search would find elsewhere is not believed: here half
    the truth."""

    def misled(call: Call) -> bool:
        prior.step_m = 0.5 * STEP_M if call.search else STEP_M
        return call.index < 8 or call.search

    prior = ScriptedPrior(misled)
    prior.sees = lambda call: True
    start = lost_after(8, prior)
    prior.sees = misled
    prior.calls.clear()
    start.follow([pose(z_m=60.0 + STEP_M * i, R=R) for i in range(1, WARM_UP + 1)])
    assert prior.calls and not any(call.search for call in prior.calls)
    np.testing.assert_allclose(start.steps_m()[8:], STEP_M, rtol=0.03)
    start.follow([pose(z_m=60.0 + STEP_M * i, R=R) for i in range(WARM_UP + 1, WARM_UP + 3)])
    assert any(call.search for call in prior.calls), "a speed that is never confirmed is no more than a guess"


def test_the_first_submap_is_searched_widely_from_its_first_pair() -> None:
    prior = ScriptedPrior()
    drive(prior, 3)
    assert prior.calls[0] == Call(1, search=True)


def test_without_metres_before_the_loss_a_submap_is_searched_widely() -> None:
    """A usual step of a map whose scale is only a guess says nothing."""
    prior = ScriptedPrior(lambda call: call.index > 9)
    start = lost_after(8, prior)
    prior.calls.clear()
    start.follow([pose(z_m=60.0 + STEP_M, R=R), pose(z_m=60.0 + 2 * STEP_M, R=R)])
    assert prior.calls[0] == Call(9, search=True)
    np.testing.assert_allclose(start.steps_m()[8:], STEP_M, rtol=0.03)


def test_a_checkpoint_knows_that_a_submap_resumed() -> None:
    start = lost_after(8, ScriptedPrior())
    start.follow([pose(z_m=60.0 + STEP_M, R=R)])
    start.scale.collect()
    prior = ScriptedPrior()
    other = MetricScale(start.map, prior, KeyframePrior(prior, CAMERA))
    startup = ScaleStartup(start.map, prior, other, WARM_UP)
    assert not startup._resumed
    other.restore(nested(flattened(start.scale.state())))
    startup.restore(nested(flattened(start.startup.state())))
    assert startup._resumed and other.known and other.observations == start.scale.observations
    assert startup.rescale_submap()
    assert prior.calls and not any(call.search for call in prior.calls)


# ---------------------------------------------------------------- the road in every cell


class RoadBelow(ScriptedPrior):
    """Finds the road where it is told the depth is."""

    def road_inv_depth(
        self, current_depth: CurrentDepth, camera: PinholeCamera, baseline: float | None
    ) -> np.ndarray | None:
        """Twice the depth."""
        return 0.5 * current_depth.inv_depth


def test_while_the_scale_is_unknown_the_road_is_looked_for_at_any_scale() -> None:
    baselines = []

    class Listening(RoadBelow):
        def road_inv_depth(
            self, current_depth: CurrentDepth, camera: PinholeCamera, baseline: float | None
        ) -> np.ndarray:
            baselines.append(baseline)
            return super().road_inv_depth(current_depth, camera, baseline)

    drive(Listening(lambda call: None), 4)
    assert baselines and None not in baselines and min(baselines) > 0
    baselines.clear()
    start = drive(Listening(), 4)
    assert baselines[-1] is None, "a scale that is known is about right"
    road = start.moving.road_inv_depth(start.map[2].current_depth)
    np.testing.assert_array_equal(road, 0.5 * start.map[2].inv_depth)
    none = drive(ScriptedPrior(), 4)
    assert none.moving.road_inv_depth(none.map[2].current_depth) is None, "a prior that knows of no road"


def test_the_last_answer_of_a_submap_belongs_to_that_submap() -> None:
    start = drive(ScriptedPrior(), 9)
    start.start(pose(z_m=60.0, R=R), start.last_pose)
    assert (7, 8) in [(b.source, b.target) for b in start.map.graph.baselines]
    assert start.scale.observations[-1].index == 8


# ---------------------------------------------------------------- afterthoughts


def test_the_path_that_followed_is_given_in_the_axes_of_the_first_camera() -> None:
    prior = ScriptedPrior()
    start = drive(prior, 7)
    elsewhere = pose(4.0, 9.0, R=rotation(yaw_rad=0.8) @ R)
    start.start(pose(z_m=60.0, R=R), lie.inverse(elsewhere))
    start.follow([pose(z_m=60.0 + STEP_M * i, R=R) for i in range(1, 5)])
    start.finish()
    assert sorted(prior.paths) == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    for index, path in prior.paths.items():
        end = 6 if index < 7 else 11
        assert path.shape == (end - index + 2, 3), "to the end of its submap"
        along = STEP_M * np.arange(len(path))[:, None] * (R.T @ [0.0, 0.0, 1.0])
        np.testing.assert_allclose(path, along, atol=0.05 * along[-1, 2])


def test_what_is_revised_moves_the_map() -> None:
    prior = ScriptedPrior()
    prior.later_factor = 1.03
    start = drive(prior, 10)
    np.testing.assert_allclose(start.steps_m().mean(), STEP_M, rtol=0.01)
    start.finish()
    np.testing.assert_allclose(start.steps_m().mean(), 1.03 * STEP_M, rtol=0.01)


def test_nothing_to_revise() -> None:
    start = drive(ScriptedPrior(lambda call: False), 5)
    assert not start.scale.revise()
    assert not drive(NoPrior(), 5).scale.revise()


# ---------------------------------------------------------------- maps


def test_maps_of_a_prior_that_predicts() -> None:
    prior = SensorDepth(SensorConfig(sigma=0.05, max_depth_m=20.0))
    start = Start(prior, with_depth=True)
    frame = start.frame(pose(R=R)).frame
    assert not start.scale.known
    maps = start.depth.grids(start.depth.prepare(frame))
    assert start.scale.known
    np.testing.assert_allclose(maps.weight, maps.confidence / 0.05**2)
    assert maps.depth_m.max() <= 20.0 and 0 < maps.confidence.max() <= 1.0


def test_an_image_without_depth_is_no_knowledge() -> None:
    start = Start(SensorDepth(SensorConfig()))
    empty = Frame(0, 0.0, np.zeros((96, 320, 3), np.uint8), CAMERA, depth_m=np.zeros((96, 320), np.float32))
    maps = start.depth.grids(start.depth.prepare(empty))
    assert not maps.confidence.any() and not start.scale.known


def test_what_is_asked_after_the_worker_has_ended_is_measured_at_once() -> None:
    """A library user may leave the block of a Slam before calling finish()."""
    start = Start(ScriptedPrior(), warm_up=WARM_UP)
    start.start(pose(R=R))
    start.follow(straight(5, STEP_M, R=R, start_m=STEP_M))
    start.scale.close()
    before = len(start.scale.observations)
    start.follow([pose(z_m=6 * STEP_M, R=R)])
    start.finish()
    assert len(start.scale.observations) == before + 1 and start.scale.known
