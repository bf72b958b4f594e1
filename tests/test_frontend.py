"""The start of a map, with exact matches: what the first keyframes are given, and where metres come from."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from metric_slam.config import BundleAdjustmentConfig, FrontendConfig, GroundPlaneConfig, SensorConfig
from metric_slam.correspondence.base import EdgeQuery
from metric_slam.depth.base import DepthPrior
from metric_slam.depth.ground_plane import GroundPlane
from metric_slam.depth.no_prior import NoPrior
from metric_slam.depth.sensor import SensorDepth
from metric_slam.edge_selection import new_keyframe_pairs
from metric_slam.factor_graph import FactorGraph
from metric_slam.frame import CameraMount, Frame
from metric_slam.frontend import Frontend, View
from metric_slam.geometry import lie
from metric_slam.keyframes import KeyframeStore
from metric_slam.tracking import TrackedFrame
from tests.scene import CAMERA, HEIGHT_M, ExactMatching, Street, pose, pose_vec, rotation

R = rotation(0.01, 0.0)
ORIGIN = pose_vec(np.eye(4))


class Start:
    """A frontend that is fed frames at true poses, with exact matches."""

    def __init__(self, prior: DepthPrior, *, street: Street | None = None, with_depth: bool = False, **config: int):
        self.street, self.prior, self.with_depth = street or Street(), prior, with_depth
        self.model = ExactMatching(self.street)
        self.store = KeyframeStore(CAMERA)
        self.graph = FactorGraph(self.store, self.model, BundleAdjustmentConfig(), prior.scale_sigma)
        self.frontend = Frontend(self.store, self.graph, prior, FrontendConfig(**config))
        self.count = 0

    def view(self, T_world_cam: np.ndarray) -> View:
        image, depth_m = self.street.render(T_world_cam)
        frame = Frame(self.count, 0.1 * self.count, image, CAMERA, depth_m=depth_m if self.with_depth else None)
        self.count += 1
        return View(frame.index, frame.time_s, image, T_world_cam, self.prior.prepare(frame, CAMERA))

    def start(self, T_world_cam: np.ndarray, at: np.ndarray = ORIGIN) -> None:
        self.frontend.start(self.view(T_world_cam), at)

    def add(self, T_world_cam: np.ndarray, guess: np.ndarray = ORIGIN) -> bool:
        last = self.store[-1].features
        forward, backward = self.model.track([EdgeQuery(last, T_world_cam), EdgeQuery(T_world_cam, last)])
        return self.frontend.add(self.view(T_world_cam), TrackedFrame(forward, backward, guess, 9.0, 0.9, True))

    def steps_m(self) -> np.ndarray:
        centres = lie.inverse(lie.pose_vec_to_matrix(self.store.poses(0, len(self.store))))[:, :3, 3]
        return np.linalg.norm(np.diff(centres, axis=0), axis=1)


def ground_plane() -> GroundPlane:
    return GroundPlane(GroundPlaneConfig(), CameraMount(HEIGHT_M))


@pytest.mark.parametrize("step_m", [0.5, 1.0, 2.0])
def test_two_views_of_a_road_begin_in_metres(step_m: float) -> None:
    start = Start(ground_plane())
    start.start(pose(R=R))
    assert not start.frontend.depth_known
    assert start.add(pose(z_m=step_m, R=R))
    assert start.frontend.depth_known
    assert start.steps_m()[0] == pytest.approx(step_m, rel=0.05)
    for k in range(2, 5):
        last = start.store[-1].pose
        assert start.add(pose(z_m=k * step_m, R=R), last)
    np.testing.assert_allclose(start.steps_m(), step_m, rtol=0.05)
    assert len(start.frontend.scale_observations) == 4
    assert all(abs(o.log_ratio) < 0.05 for o in start.frontend.scale_observations)
    assert sorted(o.index for o in start.frontend.scale_observations) == [1, 2, 3, 4]


def test_a_view_from_the_same_place_does_not_begin_a_map() -> None:
    start = Start(ground_plane())
    start.start(pose(R=R))
    assert not start.add(pose(R=rotation(0.01, 0.0, 0.05)))
    assert len(start.store) == 1 and len(start.graph) == 0 and not start.frontend.depth_known
    assert start.add(pose(z_m=1.0, R=R)), "the next view can still begin it"


def test_without_a_prior_the_first_step_is_the_unit() -> None:
    start = Start(NoPrior())
    start.start(pose(R=R))
    assert start.add(pose(z_m=0.7, R=R))
    first = start.steps_m()[0]
    assert first == pytest.approx(1.0, abs=0.15)
    for k in range(2, 6):
        assert start.add(pose(z_m=0.7 * k, R=R), start.store[-1].pose)
    np.testing.assert_allclose(start.steps_m() / start.steps_m()[0], 1.0, rtol=0.03)
    assert start.frontend.scale_observations == []


def test_a_depth_sensor_is_metric_from_the_first_frame() -> None:
    start = Start(SensorDepth(SensorConfig()), with_depth=True)
    start.start(pose(R=R))
    assert start.frontend.depth_known
    assert start.add(pose(z_m=0.9, R=R))
    assert start.steps_m()[0] == pytest.approx(0.9, rel=0.02)
    assert start.store[1].prior_weight.any() and start.graph.is_metric(0, 2)


def test_no_road_at_the_start_is_said(caplog: pytest.LogCaptureFixture) -> None:
    start = Start(ground_plane(), street=Street(road=False, walls=False, end_m=20.0))
    start.prior.observe = lambda *states, search: None  # type: ignore[method-assign]
    start.start(pose(R=R))
    with caplog.at_level(logging.WARNING):
        assert start.add(pose(0.4, 1.0, R=R))
    assert "does not show the road" in caplog.text and start.steps_m()[0] == pytest.approx(1.0, abs=0.2)


def test_a_new_segment_takes_the_usual_step_as_its_scale() -> None:
    start = Start(NoPrior())
    start.start(pose(R=R))
    for k in range(1, 4):
        assert start.add(pose(z_m=0.5 * k, R=R), start.store[-1].pose)
    usual = float(np.median(start.steps_m()))
    start.start(pose(z_m=30.0, R=R), start.store[-1].pose)
    assert start.frontend.segments == [0, 4] and not start.frontend.depth_known
    assert start.add(pose(z_m=30.5, R=R), start.store[-1].pose)
    assert start.steps_m()[-1] == pytest.approx(usual, rel=0.15)
    edges = [(i, j) for i in range(6) for j in range(6) if (i, j) in start.graph]
    assert edges and all((i < 4) == (j < 4) for i, j in edges), "no edge across the gap"


def test_the_window_slides_and_old_keyframes_are_left_alone() -> None:
    start = Start(ground_plane(), window=4, warm_up=3)
    start.start(pose(R=R))
    for k in range(1, 6):
        assert start.add(pose(z_m=0.8 * k, R=R), start.store[-1].pose)
    before = start.store.poses(0, 3)
    assert start.add(pose(z_m=0.8 * 6, R=R), start.store[-1].pose)
    np.testing.assert_array_equal(start.store.poses(0, 3), before)
    np.testing.assert_allclose(start.steps_m(), 0.8, rtol=0.05)


def test_the_whole_trajectory_is_optimised_with_the_first_pose_fixed() -> None:
    start = Start(ground_plane())
    start.start(pose(R=R))
    for k in range(1, 5):
        assert start.add(pose(z_m=0.8 * k, R=R), start.store[-1].pose)
    start.store[3].pose = start.store[3].pose + np.array([0.05, -0.04, 0.06, 0, 0, 0, 0])
    start.frontend.optimise_all()
    np.testing.assert_array_equal(start.store[0].pose, ORIGIN)
    np.testing.assert_allclose(start.steps_m(), 0.8, rtol=0.03)


def test_pairs_of_a_new_keyframe() -> None:
    assert new_keyframe_pairs(5, FrontendConfig(radius=3)) == [(2, 5), (5, 2), (3, 5), (5, 3)]
    assert new_keyframe_pairs(1, FrontendConfig(radius=3)) == []
    assert new_keyframe_pairs(5, FrontendConfig(radius=1)) == []
