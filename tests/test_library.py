"""The system as a library: images in, states out, everything at any moment; what does not fit is refused by name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import metric_slam
from metric_slam.checkpointable import StateTree
from metric_slam.choices import InputFacts
from metric_slam.config.schema import Config
from metric_slam.correspondence.base import Correspondence, EdgeQuery
from metric_slam.depth.base import DepthPrediction, DepthPrior
from metric_slam.depth.no_prior import NoPrior
from metric_slam.disk_store import DiskStore
from metric_slam.errors import ConfigError, InputError
from metric_slam.factory import SlamParts, build_parts
from metric_slam.frame import Frame
from metric_slam.geometry import lie
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.odometry.base import EncodedFrame, FeaturesOf, TrackState
from metric_slam.odometry.frame_poses import FramePoses
from metric_slam.odometry.sliding_window import new_keyframe
from metric_slam.odometry.tracking import FrameTracker
from metric_slam.result import FrameState, LoopResult, SlamResult
from metric_slam.slam import Slam
from tests.oracle import ExactDrive
from tests.scene import CAMERA, HEIGHT_M, Drive, Street, grid_depth_m, rotation, straight

R = rotation(0.01, 0.005)
STREET = Street()
DRIVE = Drive(STREET, straight(12, 0.6, R=R))
IMAGES = [DRIVE[index].image for index in range(len(DRIVE))]
COARSE = {"dis": {"finest_scale": 1}}
CONFIG = Config(prior="ground_plane", ground_plane={"camera_height_m": HEIGHT_M}, **COARSE)
WITHOUT_SCALE = Config(prior="none", loop={"enabled": False}, **COARSE)


def fed(slam: Slam, images: list[np.ndarray] = IMAGES, mask: np.ndarray | None = None) -> list[FrameState]:
    """The states of images ten times a second."""
    return [slam.process(image, 0.1 * k, mask=mask) for k, image in enumerate(images)]


def error_m(T_world_cam: np.ndarray, drive: Drive = DRIVE) -> np.ndarray:
    return np.linalg.norm(T_world_cam[:, :3, 3] - drive.T_world_cam_true[: len(T_world_cam), :3, 3], axis=1)


# ---------------------------------------------------------------- images in, states out


def test_images_become_states_without_a_data_set() -> None:
    slam = metric_slam.Slam(CAMERA, CONFIG)
    states = fed(slam)
    result = slam.finish()
    assert [state.index for state in states] == list(range(12))
    np.testing.assert_allclose([state.time_s for state in states], 0.1 * np.arange(12))
    poses = np.stack([state.T_world_cam for state in states])
    assert poses.dtype == np.float64 and poses.shape == (12, 4, 4)
    np.testing.assert_array_equal(poses[0], np.eye(4))
    assert error_m(poses)[2:].max() < 0.25 and error_m(result.T_world_cam)[2:].max() < 0.25
    assert all(state.tracked for state in states) and states[0].is_keyframe
    assert not states[0].scale_known and states[-1].scale_known and result.scale_source == "ground_plane"
    assert all(0 < state.inlier_ratio <= 1 for state in states)
    np.testing.assert_array_equal([state.is_keyframe for state in states], result.is_keyframe)


def test_it_is_the_system_that_a_data_set_gets() -> None:
    slam, other = Slam(CAMERA, CONFIG), Slam.for_dataset(DRIVE, CONFIG)
    fed(slam)
    for index in range(len(DRIVE)):
        other.process_frame(DRIVE[index])
    np.testing.assert_array_equal(slam.finish().T_world_cam, other.finish().T_world_cam)


def test_names_and_a_height_are_enough() -> None:
    slam = Slam(CAMERA, preset="fast", prior="ground_plane", correspondence="dis", camera_height_m=HEIGHT_M)
    assert slam.choices["prior"].startswith("ground_plane") and slam.choices["correspondence"].startswith("dis")
    fed(slam, IMAGES[:3])
    assert len(slam.trajectory().T_world_cam) == 3
    assert Slam(CAMERA, prior="none").choices["prior"].startswith("none")


# ---------------------------------------------------------------- bad input

GOOD = IMAGES[0]
BAD_FRAMES: dict[str, tuple[dict[str, object], str]] = {
    "size": ({"image": GOOD[:-8]}, "image is uint8 .88, 320, 3.*96, 320, 3"),
    "grey": ({"image": GOOD[..., 0]}, "image is grey"),
    "float": ({"image": GOOD / 255.0}, "image is float64"),
    "four channels": ({"image": np.dstack([GOOD, GOOD[..., 0]])}, "image is uint8 .96, 320, 4"),
    "a list": ({"image": GOOD.tolist()}, "image is a list"),
    "nothing": ({"image": None}, "image is None"),
    "time": ({"time_s": float("nan")}, "time_s is nan"),
    "a time in words": ({"time_s": "now"}, "time_s is 'now'"),
    "mask size": ({"mask": np.zeros((8, 8), bool)}, "mask.*bool .8, 8.*bool .96, 320"),
    "mask type": ({"mask": np.zeros((96, 320), np.uint8)}, "mask.*uint8.*bool .96, 320"),
    "depth": ({"depth_m": np.zeros((8, 8), np.float32)}, "depth_m is float32 .8, 8"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_a_frame_that_does_not_fit_is_refused_and_changes_nothing(case: str) -> None:
    arguments, words = BAD_FRAMES[case]
    slam = Slam(CAMERA, WITHOUT_SCALE)
    slam.process(GOOD, 0.0)
    with pytest.raises(InputError, match=words) as caught:
        slam.process(**{"image": GOOD, "time_s": 0.1, **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert slam.process(IMAGES[1], 0.1).index == 1 and len(slam.trajectory().T_world_cam) == 2


BAD_SYSTEMS: dict[str, tuple[Callable[[], Slam], type[Exception], str]] = {
    "camera": (lambda: Slam("camera.yaml"), InputError, "camera is 'camera.yaml'"),  # type: ignore[arg-type]
    "config": (lambda: Slam(CAMERA, {"prior": "none"}), InputError, "config is a dict"),  # type: ignore[arg-type]
    "prior": (lambda: Slam(CAMERA, prior=object()), InputError, "prior is a object"),  # type: ignore[arg-type]
    "prior class": (lambda: Slam(CAMERA, prior=NoPrior), InputError, "prior is a"),  # type: ignore[arg-type]
    "matcher": (
        lambda: Slam(CAMERA, prior="none", correspondence=object()),  # type: ignore[arg-type]
        InputError,
        "correspondence is a object",
    ),
    "prior name": (lambda: Slam(CAMERA, prior="crystal ball"), ConfigError, "prior.*crystal ball"),
    "preset": (lambda: Slam(CAMERA, preset="faster"), ConfigError, "preset.*faster"),
    "height": (lambda: Slam(CAMERA, camera_height_m=-1.0), Exception, "camera_height_m"),
    "no height": (lambda: Slam(CAMERA, prior="ground_plane"), ConfigError, "height"),
    "twice": (lambda: Slam(CAMERA, CONFIG, preset="fast"), InputError, "config is given.*preset"),
    "on_keyframe": (lambda: Slam(CAMERA, on_keyframe=3), InputError, "on_keyframe is 3"),  # type: ignore[arg-type]
    "on_loop": (lambda: Slam(CAMERA, on_loop="print"), InputError, "on_loop is 'print'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", BAD_SYSTEMS)
def test_what_does_not_fit_together_is_refused_by_name(case: str) -> None:
    build, kind, words = BAD_SYSTEMS[case]
    with pytest.raises(kind, match=words) as caught:
        build()
    assert isinstance(caught.value, metric_slam.errors.MetricSlamError) and "\n" not in str(caught.value)


def test_frames_come_in_order() -> None:
    slam = Slam.for_dataset(DRIVE, WITHOUT_SCALE)
    slam.process_frame(DRIVE[2])
    with pytest.raises(InputError, match="frame 2.*in order.*next index is 3"):
        slam.process_frame(DRIVE[2])
    with pytest.raises(InputError, match="frame 1"):
        slam.process_frame(DRIVE[1])
    assert slam.process_frame(DRIVE[5]).index == 5, "frames may be left out"
    assert slam.process(IMAGES[6], 0.6).index == 6


def test_a_finished_system_takes_no_frame_and_finishes_once() -> None:
    slam = Slam(CAMERA, WITHOUT_SCALE)
    fed(slam, IMAGES[:3])
    result = slam.finish()
    assert slam.finish() is result
    with pytest.raises(InputError, match=r"finish\(\)"):
        slam.process(IMAGES[3], 0.3)
    assert slam.finish() is result and len(result.T_world_cam) == 3


# ---------------------------------------------------------------- at any moment


def test_everything_can_be_read_in_the_middle_and_at_the_end() -> None:
    slam = Slam(CAMERA, CONFIG)
    assert len(slam.trajectory().T_world_cam) == 0 and slam.keyframes() == []
    assert slam.point_cloud().points_m.shape == (0, 3)
    states = []
    for count, image in enumerate(IMAGES, start=1):
        states.append(slam.process(image, 0.1 * len(states)))
        if count in (1, 2, 7, 12):
            check_present(slam, states)
    result = slam.finish()
    assert len(slam.keyframes()) == len(result.keyframes)
    np.testing.assert_array_equal(slam.trajectory().T_world_cam, result.T_world_cam)
    np.testing.assert_array_equal(slam.trajectory().times_s, result.times_s)
    for one, other in zip(slam.keyframes(), result.keyframes, strict=True):
        np.testing.assert_array_equal(one.inv_depth, other.inv_depth)
    check_points(slam)


def check_present(slam: Slam, states: list[FrameState]) -> None:
    trajectory, keyframes = slam.trajectory(), slam.keyframes()
    np.testing.assert_allclose(trajectory.times_s, [state.time_s for state in states])
    np.testing.assert_allclose(trajectory.T_world_cam[-1], states[-1].T_world_cam, atol=1e-9)
    assert [k.index for k in keyframes] == [state.index for state in states if state.is_keyframe]
    for keyframe in keyframes:
        np.testing.assert_allclose(keyframe.T_world_cam, trajectory.T_world_cam[keyframe.index], atol=1e-9)
        np.testing.assert_array_equal(keyframe.pixels, IMAGES[keyframe.index])
        assert (keyframe.inv_depth > 0).all() and keyframe.confidence.shape == keyframe.inv_depth.shape
    if len(states) > 6:
        check_points(slam)


def check_points(slam: Slam) -> None:
    """Points lie on the road or on a wall, in metres, as seen from the first camera."""
    points, colours = slam.point_cloud()
    assert points.dtype == np.float32 and colours.dtype == np.uint8 and points.shape == colours.shape
    assert len(points) > 500 and len(slam.point_cloud(min_consistent_views=3).points_m) < len(points)
    X = points[np.linalg.norm(points, axis=1) < 12] @ R.T
    off_m = np.minimum(np.abs(X[:, 1] - HEIGHT_M), np.abs(np.abs(X[:, 0]) - STREET.half_width_m))
    assert len(X) > 200 and np.median(off_m) < 0.15


def test_looking_does_not_change_what_comes() -> None:
    looked_at, left_alone = Slam(CAMERA, CONFIG), Slam(CAMERA, CONFIG)
    for k, image in enumerate(IMAGES):
        for slam in (looked_at, left_alone):
            slam.process(image, 0.1 * k)
        looked_at.trajectory(), looked_at.keyframes(), looked_at.point_cloud()
    np.testing.assert_array_equal(looked_at.finish().T_world_cam, left_alone.finish().T_world_cam)


def test_what_is_handed_out_cannot_change_the_map() -> None:
    slam = Slam(CAMERA, WITHOUT_SCALE)
    fed(slam, IMAGES[:4])
    before = slam.trajectory().T_world_cam.copy()
    slam.trajectory().T_world_cam[:] = 0
    for keyframe in slam.keyframes():
        keyframe.inv_depth[:] = 1e9
        keyframe.T_world_cam[:] = 0
    np.testing.assert_array_equal(slam.trajectory().T_world_cam, before)
    assert all((keyframe.inv_depth < 1e9).all() for keyframe in slam.keyframes())


def test_a_block_ends_the_worker_and_keeps_what_was_found() -> None:
    with Slam(CAMERA, CONFIG) as slam:
        fed(slam, IMAGES[:6])
        result = slam.finish()
    assert slam._scale._worker._shutdown
    np.testing.assert_array_equal(slam.trajectory().T_world_cam, result.T_world_cam)
    with pytest.raises(KeyError, match="mine"), Slam(CAMERA, CONFIG) as slam:
        fed(slam, IMAGES[:3])
        raise KeyError("mine")
    assert slam._scale._worker._shutdown and len(slam.trajectory().T_world_cam) == 3


def test_the_result_outlives_the_system() -> None:
    with Slam(CAMERA, WITHOUT_SCALE) as slam:
        fed(slam)
        result = slam.finish()
    again: SlamResult = pickle.loads(pickle.dumps(result))
    del slam
    np.testing.assert_array_equal(again.T_world_cam, result.T_world_cam)
    assert len(again.keyframes) > 3
    for keyframe in again.keyframes:
        np.testing.assert_array_equal(keyframe.pixels, IMAGES[keyframe.index])


# ---------------------------------------------------------------- callbacks


def test_keyframes_are_told_as_they_come() -> None:
    told: list[FrameState] = []
    slam = Slam(CAMERA, WITHOUT_SCALE, on_keyframe=told.append)
    states = fed(slam)
    assert told == [state for state in states if state.is_keyframe] and 3 < len(told)
    slam.finish()
    assert told == [state for state in states if state.is_keyframe]


def test_loops_are_told_as_they_are_closed() -> None:
    """Reversed over its own way: the same views again."""
    back = Drive(STREET, [*straight(16, 0.6, R=R), *straight(13, -0.6, R=R, start_m=0.6 * 14)])
    told: list[LoopResult] = []
    changes = {"loop": {"min_detour": 0.1, "every": 2}}
    slam = Slam(CAMERA, Config.model_validate({**CONFIG.model_dump(by_alias=True), **changes}), on_loop=told.append)
    for index in range(len(back)):
        slam.process(back[index].image, 0.1 * index)
    during = len(told)
    result = slam.finish()
    assert during > 0 and {(t.index, t.match_index) for t in told} >= {
        (loop.index, loop.match_index) for loop in result.loops if loop.accepted
    }
    for loop in told:
        true_m = np.linalg.norm(back.path[loop.index][:3, 3] - back.path[loop.match_index][:3, 3])
        assert true_m < 1.5 and loop.distance_m == pytest.approx(true_m, abs=0.2)


# ---------------------------------------------------------------- parts of one's own


class TrueDepth(DepthPrior):
    """Depth of the street where each frame was taken."""

    name = "mine"

    def __init__(self, path: list[np.ndarray]) -> None:
        self._path = path
        self.prepared: list[int] = []

    def prepare(self, frame: Frame, camera: PinholeCamera) -> np.ndarray:
        """Depth of the cells."""
        self.prepared.append(frame.index)
        return grid_depth_m(STREET, self._path[frame.index], camera)

    def predict(self, state: np.ndarray, camera: PinholeCamera) -> DepthPrediction:
        """What is nearer than 30 m."""
        return DepthPrediction(state, ((state > 0) & (state < 30)).astype(float))


def test_a_prior_of_ones_own() -> None:
    prior = TrueDepth(DRIVE.path)
    slam = Slam(CAMERA, WITHOUT_SCALE, prior=prior)
    states = fed(slam)
    result = slam.finish()
    assert slam.choices["prior"] == "mine: as given" and result.scale_source == "mine"
    assert states[0].scale_known and prior.prepared == np.flatnonzero(result.is_keyframe).tolist()
    assert error_m(result.T_world_cam).max() < 0.06


class CountingMatcher(ExactDrive):
    """True matches, counted."""

    name = "mine"

    def __init__(self, drive: Drive) -> None:
        super().__init__(drive)
        self.asked = 0

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """As :class:`ExactDrive`."""
        self.asked += len(edges)
        return super().track(edges)


def test_a_matcher_of_ones_own() -> None:
    model = CountingMatcher(DRIVE)
    slam = Slam(CAMERA, WITHOUT_SCALE, prior=TrueDepth(DRIVE.path), correspondence=model)
    fed(slam)
    result = slam.finish()
    assert slam.choices["correspondence"] == "mine: as given" and model.asked > 2 * len(DRIVE)
    assert error_m(result.T_world_cam).max() < 0.03


# ---------------------------------------------------------------- what must not be used

BONNET_ROWS = 14
"""The lowest 15 % of 96 rows."""

BONNET = np.zeros((CAMERA.height, CAMERA.width), bool)
BONNET[-BONNET_ROWS:] = True


def with_bonnet() -> list[np.ndarray]:
    """The same images with a black bonnet."""
    return [np.where(BONNET[..., None], np.uint8(0), image) for image in IMAGES]


FINE = Config(prior="ground_plane", ground_plane={"camera_height_m": HEIGHT_M})
"""The rows that are left show the road from seven metres on: coarse flow measures its scale to 5 %."""


@pytest.fixture(scope="module")
def masked() -> Slam:
    slam = Slam(CAMERA, FINE)
    fed(slam, with_bonnet(), BONNET)
    slam.finish()
    return slam


def test_a_masked_bonnet_does_not_change_the_path(masked: Slam) -> None:
    clean = Slam(CAMERA, FINE)
    fed(clean)
    found, expected = (slam.finish().T_world_cam for slam in (masked, clean))
    length_m = np.linalg.norm(expected[-1, :3, 3])
    assert masked.finish().scale_source == "ground_plane" and masked.finish().tracked.all()
    assert np.linalg.norm(found[-1, :3, 3]) == pytest.approx(length_m, rel=0.04)
    assert np.linalg.norm(found[2:, :3, 3] - expected[2:, :3, 3], axis=1).max() < 0.04 * length_m


def test_masked_cells_are_neither_matched_nor_mapped(masked: Slam) -> None:
    """A cell is masked if any of its pixels is: of the bonnet, the two lowest rows of cells."""
    graph = masked._parts.slam_map.graph
    assert len(graph) > 10
    for source, target in graph.pairs().tolist():
        matches = graph.matches_of(source, target)
        assert not matches[10:, :, 2:].any() and matches[:8, :, 2:].any()
        row = np.rint(matches[..., 1])
        assert not ((matches[..., 2:].max(axis=-1) > 0) & (row >= 10) & (row < 12)).any()
    for keyframe in masked.keyframes():
        assert not keyframe.confidence[10:].any() and keyframe.confidence[:10].any()
    colours = masked.point_cloud().colours
    assert len(colours) > 300 and (colours > 0).all(axis=1).mean() > 0.99, "no point is black"


# ---------------------------------------------------------------- an odometry of one's own


class OnRails:
    """An odometry that knows the way and makes every frame a keyframe: all that the protocol asks for."""

    def __init__(self, parts: SlamParts, path: list[np.ndarray]) -> None:
        self._map, self._path, self._told = parts.slam_map, path, 0
        self._prior = parts.prior
        self.frames = FramePoses(parts.slam_map, FrameTracker(parts.slam_map, parts.model, parts.slam_map.solver))

    def begin(self, frame: EncodedFrame, T_cam_world: np.ndarray) -> None:
        self._map.begin_submap(T_cam_world)

    def track(self, frame: EncodedFrame) -> TrackState:
        if not self.frames.records:
            self.begin(frame, np.eye(4))
        T_cam_world, state = lie.inverse(self._path[frame.index]), self._prior.prepare(frame.frame)
        inv_depth, grids = np.full(self._map.camera.grid().size[::-1], 0.1), self._prior.grids(state)
        pose = lie.matrix_to_pose_vec(T_cam_world)
        self._map.append(new_keyframe(frame, state, grids, pose, inv_depth, submap=0))
        self.frames.add_keyframe(frame.index, frame.time_s, tracked=False, inlier_ratio=1.0)
        return TrackState(T_cam_world, True, True, 1.0)

    def settled(self) -> range:
        found, self._told = range(self._told, len(self._map)), len(self._map)
        return found

    def finish(self) -> None: ...

    def refine_globally(self, global_ba: GlobalBundleAdjustment) -> None: ...

    def state(self) -> StateTree:
        return {"frames": self.frames.state()}

    def restore(self, state: StateTree, features_of: FeaturesOf) -> None:
        self.frames.restore(state["frames"], features_of)  # type: ignore[arg-type]


def on_rails(disk: DiskStore | None = None) -> Slam:
    parts = build_parts(WITHOUT_SCALE, CAMERA, InputFacts(None, lambda: False), disk=disk)
    return Slam.from_parts(CAMERA, replace(parts, odometry=OnRails(parts, DRIVE.path)))


def test_another_odometry_takes_the_place_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    slam, looked = on_rails(), list[int]()
    monkeypatch.setattr(slam._loops, "look", looked.append)
    states = fed(slam)
    np.testing.assert_allclose([s.T_world_cam for s in states], DRIVE.path, atol=1e-9)
    assert all(state.is_keyframe and state.tracked for state in states)
    result = slam.finish()
    np.testing.assert_allclose(result.T_world_cam, DRIVE.path, atol=1e-9)
    assert looked == list(range(12)) and len(result.keyframes) == 12 and result.scale_source == "unknown"


def test_its_state_is_part_of_a_checkpoint() -> None:
    disk = DiskStore()
    first, second = on_rails(disk), on_rails(disk)
    fed(first, IMAGES[:5])
    second.restore(first.state(), DRIVE.__getitem__)
    for slam in (first, second):
        slam.process(IMAGES[5], 0.5)
    np.testing.assert_array_equal(second.finish().T_world_cam, first.finish().T_world_cam)
