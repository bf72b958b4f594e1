"""Tracking against exact keyframes, first with exact matches, then with DIS on rendered images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from metric_slam.config.schema import BundleAdjustmentConfig, DisConfig
from metric_slam.correspondence.base import Correspondence, CorrespondenceModel, EdgeQuery
from metric_slam.correspondence.dis import DisCorrespondence
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.graph.keyframes import Keyframe
from metric_slam.odometry import tracking
from metric_slam.odometry.tracking import (
    FrameTracker,
    TrackedFrame,
    invert_matches,
    motion_from_matches,
    pose_from_depth,
    transfer_depth,
)
from metric_slam.optimization.solver import CpuSolver
from tests.scene import (
    CAMERA,
    ExactMatching,
    Street,
    exact_matches,
    grid_depth_m,
    keyframe_at,
    make_map,
    pose,
    relative,
    rotation,
)

STREET = Street()
FIRST = pose(R=rotation(0.01, 0.005))
SECOND = pose(0.05, 0.9, y_m=-0.02, R=rotation(0.015, -0.004, 0.02))
GRID = CAMERA.grid()


@dataclass(frozen=True)
class Seen:
    """A frame as the tracker gets it."""

    features: object
    ignored: np.ndarray | None = None


def at(T_world_cam: np.ndarray) -> np.ndarray:
    """T_cam_world [4, 4]."""
    return np.linalg.inv(T_world_cam)


def tracker_of(keyframe: Keyframe, model: CorrespondenceModel, camera: PinholeCamera = CAMERA) -> FrameTracker:
    """A tracker whose map holds one keyframe."""
    slam_map = make_map(model, camera=camera)
    slam_map.append(keyframe)
    return FrameTracker(slam_map, model, CpuSolver(BundleAdjustmentConfig()))


def exact(first: np.ndarray = FIRST, second: np.ndarray = SECOND) -> Correspondence:
    target, seen = exact_matches(STREET, first, second)
    return Correspondence(target, seen.astype(np.float64))


def motion_error(found: np.ndarray, T_world_cam: np.ndarray) -> tuple[float, float]:
    """Metres and radians between a pose T_cam_world [4, 4] and the truth."""
    T = found @ T_world_cam
    angle = np.arccos(np.clip((np.trace(T[:3, :3]) - 1) / 2, -1, 1))
    return float(np.linalg.norm(T[:3, 3])), float(angle)


# ---------------------------------------------------------------- parts, exact matches


def test_inverted_matches_lead_back() -> None:
    y, x = np.mgrid[0:12, 0:40].astype(float)
    smooth = np.stack([x + 1.5 + 0.8 * np.sin(0.2 * x), y - 0.6 + 0.3 * np.cos(0.3 * y)], axis=-1)
    inverse = invert_matches(smooth)
    u, v = inverse[3:-3, 6:-6, 0], inverse[3:-3, 6:-6, 1]
    there = np.stack([u + 1.5 + 0.8 * np.sin(0.2 * u), v - 0.6 + 0.3 * np.cos(0.3 * v)], axis=-1)
    np.testing.assert_allclose(there, np.stack([x, y], axis=-1)[3:-3, 6:-6], atol=0.05)


def test_inverting_survives_predictions_from_behind_the_camera() -> None:
    wild = np.full((12, 40, 2), np.nan)
    wild[6:] = 1e9
    assert np.isfinite(invert_matches(wild)).all()


def test_pnp_finds_the_pose_of_exact_matches() -> None:
    found = pose_from_depth(keyframe_at(STREET, FIRST), exact(), CAMERA)
    assert found is not None
    distance_m, angle_rad = motion_error(found, SECOND)
    assert distance_m < 0.005 and angle_rad < 5e-4


def test_pnp_needs_matches() -> None:
    match = exact()
    few = Correspondence(match.target, np.where(np.arange(match.confidence.size) < 20, 1.0, 0.0).reshape(12, 40))
    assert pose_from_depth(keyframe_at(STREET, FIRST), few, CAMERA) is None


def test_two_views_give_motion_and_depth_up_to_one_factor() -> None:
    found = motion_from_matches(exact(), CAMERA)
    assert found is not None
    T, inv_depth = found
    truth = relative(FIRST, SECOND)
    length_m = np.linalg.norm(truth[:3, 3])
    assert np.linalg.norm(T[:3, 3]) == pytest.approx(1.0)
    assert T[:3, 3] @ truth[:3, 3] / length_m > np.cos(np.radians(0.5))
    assert np.arccos(np.clip((np.trace(T[:3, :3].T @ truth[:3, :3]) - 1) / 2, -1, 1)) < np.radians(0.1)
    known = np.isfinite(inv_depth)
    assert known.mean() > 0.5
    depth_m = grid_depth_m(STREET, FIRST)
    near = known & (depth_m > 0) & (depth_m < 15)
    ratio = inv_depth[near] * depth_m[near] / length_m
    np.testing.assert_allclose(np.percentile(ratio, [10, 50, 90]), 1.0, atol=0.03)


def test_a_camera_that_only_turns_gives_no_two_view_start() -> None:
    turned = pose(R=rotation(0.01, 0.005, 0.1))
    assert motion_from_matches(exact(second=turned), CAMERA) is None


def test_slow_travel_is_enough_for_a_two_view_start() -> None:
    assert motion_from_matches(exact(second=pose(z_m=0.3, R=rotation(0.01, 0.005, 0.03))), CAMERA) is not None


def test_too_few_matches_give_no_two_view_start() -> None:
    match = exact()
    assert motion_from_matches(Correspondence(match.target, np.zeros_like(match.confidence)), CAMERA) is None


def test_carried_depth_is_the_depth_of_the_new_view() -> None:
    match = exact(SECOND, FIRST)
    carried = transfer_depth(keyframe_at(STREET, FIRST), at(SECOND), match, CAMERA)
    depth_m = grid_depth_m(STREET, SECOND)
    seen = (match.confidence > 0) & (depth_m > 0) & (depth_m < 60)
    error = np.abs(carried * depth_m - 1)[seen]
    assert np.percentile(error, 50) < 0.005 and np.percentile(error, 90) < 0.05
    assert np.isfinite(carried).all() and (carried > 0).all(), "cells without a match get something sensible too"


# ---------------------------------------------------------------- the tracker, exact matches


class SparseMatching(ExactMatching):
    """Exact, but says only ``count`` of the matches, spread over the image."""

    def __init__(self, street: Street, count: int) -> None:
        super().__init__(street)
        self._count = count

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        return [replace(match, confidence=self._thinned(match.confidence)) for match in super().track(edges)]

    def _thinned(self, confidence: np.ndarray) -> np.ndarray:
        seen = np.flatnonzero(confidence)
        kept = np.zeros(confidence.size)
        kept[seen[np.linspace(0, len(seen) - 1, self._count).astype(int)]] = 1.0
        return kept.reshape(confidence.shape)


@pytest.mark.parametrize(("count", "enough"), [(10, False), (52, False), (64, True), (200, True)])
def test_too_few_matches_are_not_believed_however_well_they_fit(count: int, enough: bool) -> None:
    """12 % of 480 cells are 57.6: unrelated images match by chance in up to a tenth."""
    tracker = tracker_of(keyframe_at(STREET, FIRST, features=FIRST), SparseMatching(STREET, count))
    frame = tracker.track(Seen(SECOND), at(FIRST), depth_known=True)
    assert frame.coverage == pytest.approx(count / 480) and frame.tracked is enough
    if enough:
        assert motion_error(frame.T_cam_world, SECOND)[0] < 0.01
    else:
        np.testing.assert_array_equal(frame.T_cam_world, at(FIRST))


def test_refining_tells_the_share_that_fits() -> None:
    match, keyframe = exact(), keyframe_at(STREET, FIRST)
    tracker = tracker_of(keyframe, ExactMatching(STREET))
    found, inliers, fit = tracker.refine([(keyframe, match)], at(FIRST))
    assert fit == pytest.approx((match.confidence > 0).mean(), abs=0.02)
    assert inliers > 0.98 and motion_error(found, SECOND)[0] < 0.005
    before = keyframe.T_cam_world.copy(), keyframe.inv_depth.copy()
    wrong = match.target.copy()
    wrong[:, ::4] += 3.0  # every fourth column by 24 pixels
    share = (match.confidence[:, ::4] > 0).sum() / (match.confidence > 0).sum()
    found, inliers, _ = tracker.refine([(keyframe, replace(match, target=wrong))], at(FIRST))
    assert inliers == pytest.approx(1 - share, abs=0.03) and motion_error(found, SECOND)[0] < 0.02
    np.testing.assert_array_equal(keyframe.T_cam_world, before[0])
    np.testing.assert_array_equal(keyframe.inv_depth, before[1])


def vehicle_over(rows: int) -> tuple[FrameTracker, Seen]:
    """A tracker whose keyframe knows of so many rows of cells that move; and the exact second pose's features."""
    moving = np.zeros((12, 40), np.uint8)
    moving[12 - rows :] = 10
    keyframe = replace(keyframe_at(STREET, FIRST, features=FIRST), moving=moving)
    return tracker_of(keyframe, ExactMatching(STREET)), Seen(SECOND)


@pytest.mark.parametrize("rows", [0, 4, 8])
def test_coverage_is_that_of_the_cells_that_stand_still(rows: int) -> None:
    tracker, seen = vehicle_over(rows)
    frame = tracker.track(seen, at(SECOND), depth_known=True)
    match, margin = exact(), min(rows, 1)
    matched = int((match.confidence[: 12 - rows - margin] > 0).sum())
    assert frame.coverage == pytest.approx(matched / (40 * (12 - rows)))
    assert not frame.forward.confidence[12 - rows - margin :].any() or rows == 0
    assert frame.backward.confidence[-1].any(), "backward, all cells are told"
    assert frame.tracked and motion_error(frame.T_cam_world, SECOND)[0] < 0.01


def test_a_vehicle_that_hides_half_of_the_view_makes_no_new_place_of_it() -> None:
    """The share of all cells that is matched falls with what moves; that of the cells that stand still does not."""
    clear, hidden = (vehicle_over(rows)[0].track(Seen(SECOND), at(SECOND), depth_known=True) for rows in (0, 6))
    assert hidden.coverage > 0.6 * clear.coverage
    assert (hidden.forward.confidence > 0).mean() < 0.6 * clear.coverage


def test_cells_that_are_ignored_are_neither_matched_nor_missed() -> None:
    """The lowest rows show the bonnet: no match leaves them or leads into them, and the rest covers the view."""
    ignored = np.zeros((12, 40), bool)
    ignored[10:] = True
    keyframe = keyframe_at(STREET, FIRST, features=FIRST)
    whole = tracker_of(keyframe, ExactMatching(STREET)).track(Seen(SECOND), at(SECOND), depth_known=True)
    tracker = tracker_of(replace(keyframe, ignored=ignored), ExactMatching(STREET))
    frame = tracker.track(Seen(SECOND, ignored), at(SECOND), depth_known=True)
    for match in (frame.forward, frame.backward):
        assert not match.confidence[10:].any() and match.confidence[:8].any()
        v = np.rint(match.target[..., 1])
        assert not ((match.confidence > 0) & (v >= 10) & (v < 12)).any()
    into = (whole.forward.confidence > 0) & (np.rint(whole.forward.target[..., 1]) >= 10)
    kept = int((whole.forward.confidence > 0).sum() - (into | (ignored & (whole.forward.confidence > 0))).sum())
    assert frame.coverage == pytest.approx(kept / (40 * 10), abs=0.03)
    assert frame.tracked and motion_error(frame.T_cam_world, SECOND)[0] < 0.01


# ---------------------------------------------------------------- the tracker, DIS


class Tracked:
    """A tracker whose last keyframe is exact."""

    def __init__(self, camera: PinholeCamera = CAMERA) -> None:
        self.model, self.camera = DisCorrespondence(DisConfig(), threads=1), camera
        features = self.encode(STREET.render(FIRST, camera)[0]).features
        self.keyframe = keyframe_at(STREET, FIRST, features=features, camera=camera)
        self.tracker = tracker_of(self.keyframe, self.model, camera)

    def encode(self, image: np.ndarray) -> Seen:
        return Seen(self.model.encode(image, self.camera))

    def track(self, T_world_cam: np.ndarray, predicted: np.ndarray, **options: bool) -> TrackedFrame:
        seen = self.encode(STREET.render(T_world_cam, self.camera)[0])
        return self.tracker.track(seen, at(predicted), **{"depth_known": True, **options})


@pytest.fixture(scope="module")
def tracked() -> Tracked:
    return Tracked()


@pytest.mark.parametrize("predicted", [SECOND, FIRST, pose(z_m=1.6, R=rotation(0.0, 0.0, -0.03))])
def test_the_pose_is_found_from_good_and_poor_predictions(tracked: Tracked, predicted: np.ndarray) -> None:
    frame = tracked.track(SECOND, predicted)
    distance_m, angle_rad = motion_error(frame.T_cam_world, SECOND)
    assert frame.tracked and distance_m < 0.02 and angle_rad < 1e-3


def test_the_frame_reports_flow_and_coverage(tracked: Tracked) -> None:
    frame = tracked.track(SECOND, SECOND)
    target, seen = exact_matches(STREET, FIRST, SECOND)
    y, x = np.mgrid[0:12, 0:40]
    flow_px = 8 * np.linalg.norm(target - np.stack([x, y], axis=-1), axis=-1)[seen]
    assert frame.mean_flow_px == pytest.approx(flow_px.mean(), rel=0.2)
    assert 0.8 * seen.mean() < frame.coverage < 1.1 * seen.mean() + 0.1
    assert tracked.track(FIRST, FIRST).mean_flow_px < 0.05


def test_a_prediction_far_off_is_replaced_by_pnp(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    far_off = pose(R=rotation(yaw_rad=2.0))  # the solver itself comes back from 1.5 rad
    good = tracked.track(SECOND, SECOND)
    keyframe = tracked.keyframe
    calls: list[int] = []

    def counted(*arguments: object) -> np.ndarray | None:
        calls.append(1)
        return pose_from_depth(*arguments)

    monkeypatch.setattr(tracking, "pose_from_depth", counted)
    found, inliers, _ = tracked.tracker._pose(keyframe, good.forward, at(far_off))
    assert calls, "the motion model's start was good enough to hide what is tested here"
    distance_m, angle_rad = motion_error(found, SECOND)
    assert inliers > 0.9 and distance_m < 0.02 and angle_rad < 1e-3


def test_without_depth_only_matches_are_made(tracked: Tracked) -> None:
    frame = tracked.track(SECOND, FIRST, depth_known=False)
    np.testing.assert_array_equal(frame.T_cam_world, at(FIRST))
    assert frame.tracked and frame.mean_flow_px > 5


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("depth_known", [True, False])
def test_an_empty_image_is_lost_and_keeps_the_prediction(tracked: Tracked, level: int, depth_known: bool) -> None:
    seen = tracked.encode(np.full((CAMERA.height, CAMERA.width, 3), level, np.uint8))
    frame = tracked.tracker.track(seen, at(SECOND), depth_known=depth_known)
    assert not frame.tracked
    np.testing.assert_array_equal(frame.T_cam_world, at(SECOND))
    assert np.isfinite(frame.mean_flow_px) and np.isfinite(frame.coverage)


@pytest.mark.parametrize("depth_known", [True, False])
def test_another_place_is_lost(depth_known: bool) -> None:
    """At a size that is worked with: the few hundred cells of the small camera may meet by chance."""
    camera = CAMERA.resized(640, 192)
    wide = Tracked(camera=camera)
    for seed in range(70, 76):
        other = Street(seed=seed, half_width_m=8.0).render(pose(z_m=100.0, R=rotation(0.01, 0.005)), camera)[0]
        frame = wide.tracker.track(wide.encode(other), at(SECOND), depth_known=depth_known)
        assert not frame.tracked, (seed, frame.coverage)
        np.testing.assert_array_equal(frame.T_cam_world, at(SECOND))
    assert wide.track(SECOND, FIRST, depth_known=depth_known).tracked


def test_texture_is_told_from_its_absence(tracked: Tracked) -> None:
    assert tracked.tracker.is_textured(tracked.encode(STREET.render(SECOND)[0]).features)
    blank = tracked.encode(np.full((CAMERA.height, CAMERA.width, 3), 90, np.uint8))
    assert not tracked.tracker.is_textured(blank.features)
