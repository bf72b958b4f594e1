"""The rendered world: hills, exposure, traffic, houses that look alike; and that old drives keep their pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metric_slam.datasets import open_dataset
from metric_slam.datasets.synthetic import DriveSpec, render_drive
from metric_slam.datasets.synthetic.build import build_world
from metric_slam.datasets.synthetic.exposure import exposure_gains
from metric_slam.datasets.synthetic.hills import Hills
from metric_slam.datasets.synthetic.kit import Kit
from metric_slam.datasets.synthetic.route import drive_motion, drive_poses
from metric_slam.datasets.synthetic.traffic import Traffic

pytest.importorskip("open3d", reason="Open3D, which renders the drive, is not usable here", exc_type=ImportError)

from metric_slam.datasets.synthetic.body import Body  # noqa: E402
from metric_slam.datasets.synthetic.render import Renderer  # noqa: E402

TOWN = DriveSpec(route="town", length_m=200.0, width=160, height=48, noise_sigma=0.0)


@pytest.fixture(scope="module")
def town() -> Renderer:
    return Renderer(build_world(TOWN))


def _rays_down(poses: np.ndarray) -> np.ndarray:
    return np.concatenate([poses[:, :3, 3], poses[:, :3, 1]], axis=1).astype(np.float32)


def test_camera_stays_above_a_hilly_road() -> None:
    spec = replace(TOWN, hills_m=8.0, body_motion=0.0, pitch_deg=0.0)
    kit = build_world(spec)
    world, poses = Body(kit.mesh.build(), kit.hills), drive_poses(spec)
    hits = world.cast(_rays_down(poses))
    assert len(hits.index) == len(poses)
    np.testing.assert_allclose(hits.depth_m, spec.camera_height_m, atol=0.02)
    # and the camera looks along the road, as far as the bend between its wheels lets it
    normals = world.flat_normals[hits.triangle]
    normals *= np.sign(normals[:, 2:])
    assert np.degrees(np.abs(np.arcsin(np.sum(normals * poses[:, :3, 2], axis=1)))).max() < 0.8
    assert np.degrees(np.abs(np.arcsin(np.sum(normals * poses[:, :3, 0], axis=1)))).max() < 0.8
    assert np.ptp(poses[:, 2, 3]) > 1.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hills_are_those_of_a_town(seed: int) -> None:
    spec = DriveSpec(route="town", length_m=1500.0, hills_m=8.0, seed=seed)
    motion = drive_motion(spec)
    height = Hills.of(spec).height(motion.path[::20])  # every metre
    grade = np.gradient(height)
    assert 3.5 < np.ptp(height) <= 8
    assert 0.05 < np.abs(grade).max() < 0.12
    assert 100 < 1 / np.abs(np.gradient(grade)).max() < 500
    R = motion.poses[:, :3, :3]
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1) - np.eye(3), 0, atol=1e-9)


def test_slope_is_the_gradient_of_the_height() -> None:
    hills = Hills.of(DriveSpec(hills_m=5.0))
    xy = np.random.default_rng(0).uniform(-500, 500, (50, 2))
    for axis in (0, 1):
        step = 1e-4 * np.eye(2)[axis]
        numeric = (hills.height(xy + step) - hills.height(xy - step)) / 2e-4
        np.testing.assert_allclose(hills.slope(xy)[:, axis], numeric, atol=1e-7)


def test_flat_town(town: Renderer) -> None:
    poses = drive_poses(replace(TOWN, body_motion=0.0, pitch_deg=0.0))
    hits = town._world.cast(_rays_down(poses))
    np.testing.assert_allclose(hits.depth_m, TOWN.camera_height_m, atol=1e-3)


def test_same_spec_gives_same_pixels(town: Renderer) -> None:
    pose = drive_poses(TOWN)[40]
    again = Renderer(build_world(TOWN)).render(TOWN.camera, pose)
    for a, b in zip(town.render(TOWN.camera, pose), again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_town_has_texture_and_sky(town: Renderer) -> None:
    for pose in drive_poses(TOWN)[5::50]:
        image, depth_m = town.render(TOWN.camera, pose)
        grey = image.astype(float).mean(axis=2)
        assert 50 < grey.mean() < 190 and grey.std() > 20
        assert 0.0 < (depth_m == 0).mean() < 0.6


def test_exposure_changes_the_brightness(town: Renderer) -> None:
    spec = replace(TOWN, exposure_change=0.7)
    gains = exposure_gains(spec, 300)
    assert np.exp(-0.7) - 1e-9 <= gains.min() < 0.7 and 1.1 < gains.max() <= np.exp(0.7) + 1e-9
    np.testing.assert_array_equal(exposure_gains(spec, 100), gains[:100])
    assert (exposure_gains(TOWN, 50) == 1).all()
    steps = np.abs(np.diff(np.log(gains)))
    assert steps.max() > 0.06  # in or out of shade within five frames
    assert np.median(steps) < 0.03
    pose = drive_poses(spec)[20]
    dark, plain, bright = (
        town.render(spec.camera, pose, gain=gain)[0].mean() for gain in (gains.min(), 1.0, gains.max())
    )
    assert dark < 0.9 * plain and bright > 1.04 * plain


@pytest.mark.parametrize("wanted", [0.1, 0.2])
def test_moving_cars_cover_their_share(wanted: float) -> None:
    spec = replace(TOWN, width=640, height=192, length_m=400.0, moving_cars=wanted)
    motion, camera = drive_motion(spec), spec.camera
    traffic = Traffic(Kit(spec.seed, 0.1), spec, motion)
    directions = camera.rays()[2::8, 2::8].reshape(-1, 3)
    covered = []
    for index in range(0, len(motion.poses), 6):
        pose = motion.poses[index]
        centres = np.broadcast_to(pose[:3, 3], directions.shape)
        rays = np.concatenate([centres, directions @ pose[:3, :3].T], axis=1).astype(np.float32)
        hits = Body(traffic.at(index)).cast(rays)
        covered.append(len(hits.index) / len(rays))
        assert 4.5 < hits.depth_m[np.abs(directions[hits.index, 0]) < 0.05].min(initial=99.0)
    assert np.mean(covered) == pytest.approx(wanted, abs=0.25 * wanted + 0.01)


def test_moving_cars_move_and_keep_their_shape() -> None:
    spec = replace(TOWN, moving_cars=0.1, hills_m=6.0)
    motion = drive_motion(spec)
    traffic = Traffic(Kit(spec.seed, 0.1), spec, motion)
    ahead = len(traffic._ahead.mesh.points_m)
    shapes = []
    for index in (10, 60):
        points = traffic.at(index).points_m[:ahead].reshape(-1, 3).astype(float)
        lifted = Hills.of(spec).height(points[:, :2])
        assert -0.1 < (points[:, 2] - lifted).min() < 0.1
        shapes.append(np.linalg.norm(points - points[0], axis=1))
        in_camera = np.linalg.inv(motion.poses[index]) @ [*points.mean(axis=0), 1.0]
        assert 5 < in_camera[2] < 20
    np.testing.assert_allclose(shapes[0], shapes[1], atol=1e-3)


def test_everything_at_once_is_rendered(tmp_path: Path) -> None:
    size = {"frames": 2, "width": 128, "height": 40}
    spec = replace(TOWN, **size, hills_m=6.0, stops=1, exposure_change=0.5, alike_houses=True, moving_cars=0.2)
    data = open_dataset(render_drive(spec, cache=tmp_path))
    assert len(data) == 2
    frame = data[1]
    # the back of the truck ahead stands in the middle of the image
    assert frame.depth_m is not None and 4.5 < np.median(frame.depth_m[15:25, 60:68]) < 15.5


def test_alike_houses_repeat() -> None:
    spec = replace(TOWN, alike_houses=True, body_motion=0.0)
    world = Body(build_world(spec).mesh.build())
    pose = drive_poses(spec)[10]
    right, forward = pose[:3, 0], np.round(pose[:3, 2], 1)
    along = pose[:3, 3] + np.arange(0, 24.0, 0.5)[:, None] * forward + 2.0 * np.array([0, 0, 1])
    rays = np.concatenate([along, np.broadcast_to(right, along.shape)], axis=1).astype(np.float32)
    depth_m = np.full(len(rays), np.inf)
    hits = world.cast(rays)
    depth_m[hits.index] = hits.depth_m
    np.testing.assert_allclose(depth_m[:24], depth_m[24:], atol=0.02)


@pytest.mark.parametrize(
    ("route", "median_m", "means"),
    [
        ("block", 12.3398, [[127.61, 105.42, 178.33, 93.73, 111.02], [87.84, 95.29, 107.99, 85.09, 87.96],
                            [86.37, 105.09, 103.94, 81.62, 79.76]]),
        ("street", 13.25, [[139.58, 107.36, 134.04, 86.9, 96.17], [120.11, 97.26, 103.28, 81.48, 73.54],
                           [117.4, 101.69, 105.52, 66.92, 38.57]]),
    ],
)  # fmt: skip
def test_old_drives_keep_their_pixels(route: str, median_m: float, means: list[list[float]]) -> None:
    """Mean grey values of 32x16 pixels each, and the median depth, of frame 30 as they were before there was a town."""
    spec = DriveSpec(route=route, width=160, height=48)
    image, depth_m = Renderer(build_world(spec)).render(spec.camera, drive_poses(spec)[30], 1.0, 30)
    got = image.astype(float).mean(axis=2).reshape(3, 16, 5, 32).mean(axis=(1, 3))
    np.testing.assert_allclose(got, means, atol=0.05)
    assert np.median(depth_m[depth_m > 0]) == pytest.approx(median_m, abs=2e-4)
