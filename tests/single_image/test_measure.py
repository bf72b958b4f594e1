"""Distances between pixels: exact on exact depth, honest about their errors, and on the map that a run wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.config.schema import Config
from metric_slam.datasets.base import Dataset
from metric_slam.errors import ConfigError, DatasetError, InputError
from metric_slam.geometry.camera import FEATURE_STRIDE
from metric_slam.run import pipeline
from metric_slam.single_image.measure import (
    DepthView,
    MeasuredPoint,
    Measurement,
    depth_at,
    describe,
    distance,
    distance_sigma,
    keyframe_view,
    measure,
    network_view,
    scale_source,
    unproject,
)
from tests.scene import CAMERA, HEIGHT_M, Drive, Street, pose, rotation, straight

STREET = Street(end_m=30.0)
CONFIG = Metric3DConfig()
Pixel = tuple[float, float]


def on_road(pixel: Pixel) -> np.ndarray:
    """The true point of a pixel of the road."""
    return unproject(pixel, HEIGHT_M * CAMERA.fy / (pixel[1] - CAMERA.cy), CAMERA)


def on_wall(pixel: Pixel) -> np.ndarray:
    """The true point of a pixel of a wall beside the road."""
    return unproject(pixel, STREET.half_width_m * CAMERA.fx / abs(pixel[0] - CAMERA.cx), CAMERA)


def on_end(pixel: Pixel) -> np.ndarray:
    """The true point of a pixel of the wall across the street."""
    return unproject(pixel, 30.0, CAMERA)


def street_view(confidence: float = 1.0, config: Metric3DConfig = CONFIG) -> DepthView:
    """Exact depth of every pixel, as a network would give it."""
    depth_m = STREET.render(pose())[1]
    return network_view(depth_m, np.full(depth_m.shape, confidence, np.float32), CAMERA, config)


def grid_view(street: Street, stride: int = FEATURE_STRIDE) -> DepthView:
    """Exact depth of the cells of the grid."""
    inv_depth = 1.0 / street.render(pose(), CAMERA.grid())[1].astype(np.float64)
    return DepthView(inv_depth, np.full(inv_depth.shape, 0.1), 0.02, CAMERA.grid(), "made up", stride)


def test_a_point_is_where_its_pixel_is_seen() -> None:
    point = unproject((200.25, 71.5), 7.0, CAMERA)
    assert point[2] == 7.0
    np.testing.assert_allclose(CAMERA.project(point), [200.25, 71.5])
    assert distance(point, point + [3.0, 0.0, 4.0]) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (on_road((130.0, 72.0)), on_road((190.5, 80.25))),
        (on_road((160.0, 60.0)), on_road((160.0, 90.0))),
        (on_wall((20.5, 30.0)), on_wall((300.25, 50.0))),
        (on_road((150.0, 75.0)), on_wall((30.0, 20.0))),
        (on_end((150.0, 40.0)), on_end((170.0, 45.5))),
    ],
    ids=["road", "along the road", "wall to wall", "road to wall", "end"],
)
def test_distances_in_a_rendered_street(first: np.ndarray, second: np.ndarray) -> None:
    pixels = [tuple(CAMERA.project(point).tolist()) for point in (first, second)]
    found = measure(street_view(), *pixels)
    assert found.unit == "m" and found.distance == pytest.approx(distance(first, second), rel=0.01)
    np.testing.assert_allclose(found.first.position, first, rtol=0.01, atol=1e-3)
    assert f"{found.distance:.2f}" in found.text and " m ± " in found.text


def test_planes_are_exact_on_the_coarse_grid_too() -> None:
    a, b = (101.0, 66.3), (222.7, 84.0)
    found = measure(grid_view(Street(walls=False, end_m=400.0)), a, b)
    assert found.distance == pytest.approx(distance(on_road(a), on_road(b)), rel=1e-4)
    assert found.first.relative_sigma == pytest.approx(0.1, rel=1e-3)
    assert grid_view(STREET).image_size == CAMERA.size


def test_uncertainty_grows_with_distance() -> None:
    view = street_view()
    rows = (90.0, 75.0, 65.0, 57.0, 54.0)
    found = [measure(view, (150.0, row), (170.0, row)) for row in rows]
    assert all(near.sigma < far.sigma for near, far in zip(found, found[1:], strict=False))
    ahead = [measure(view, (159.5, 90.0), (159.5, row)) for row in rows[1:]]
    assert all(near.sigma < far.sigma for near, far in zip(ahead, ahead[1:], strict=False))
    assert all(0 < m.sigma < m.distance for m in ahead)


def test_uncertainty_is_what_random_depths_scatter() -> None:
    random = np.random.default_rng(0)
    pixels, depths, own, shared = ((60.0, 70.0), (250.0, 55.0)), (6.0, 11.0), (0.03, 0.05), 0.02
    points = [unproject(p, z, CAMERA) for p, z in zip(pixels, depths, strict=True)]
    common = 1 + shared * random.standard_normal(20_000)
    moved = [points[k] * (common + own[k] * random.standard_normal(20_000))[:, None] for k in range(2)]
    scatter = np.linalg.norm(moved[0] - moved[1], axis=1).std()
    assert distance_sigma(*points, *own, shared) == pytest.approx(scatter, rel=0.03)


def test_a_common_error_scales_the_distance_and_an_unsure_point_counts_most() -> None:
    a, b = np.array([0.0, 0.0, 4.0]), np.array([3.0, 0.0, 4.0])
    assert distance_sigma(a, b, 0.0, 0.0, 0.05) == pytest.approx(0.15)
    assert distance_sigma(a, b, 0.2, 0.0) == pytest.approx(0.0)  # its ray is square to the line
    assert distance_sigma(a, b, 0.0, 0.2) == pytest.approx(0.6)
    assert distance_sigma(a, a, 0.1, 0.1) == pytest.approx(np.hypot(0.4, 0.4))


def test_confidence_of_the_network_is_its_mean_error_and_never_better_than_the_prior() -> None:
    sure, unsure = (depth_at(street_view(c), (150.0, 75.0))[1] for c in (1.0, 0.6))
    assert sure == pytest.approx(CONFIG.sigma, rel=1e-3)
    assert unsure == pytest.approx(0.4 * np.sqrt(np.pi / 2), rel=1e-3)
    doubtful = street_view(config=Metric3DConfig(sigma=0.3, scale_sigma=0.1))
    assert measure(doubtful, (150, 75), (170, 80)).sigma > 2 * measure(street_view(), (150, 75), (170, 80)).sigma


def test_an_edge_is_less_sure_than_a_surface() -> None:
    depth_m = np.full((40, 60), 5.0, np.float32)
    depth_m[:, 30:] = 20.0
    camera = CAMERA.resized(60, 40)
    view = network_view(depth_m, np.ones_like(depth_m), camera, CONFIG)
    assert depth_at(view, (10.0, 20.0)) == pytest.approx((5.0, CONFIG.sigma))
    assert depth_at(view, (29.5, 20.0))[1] > 3 * CONFIG.sigma


def test_unknown_depth_is_not_made_up() -> None:
    depth_m = np.full((40, 60), 5.0, np.float32)
    depth_m[:20] = 0.0
    view = network_view(depth_m, np.ones_like(depth_m), CAMERA.resized(60, 40), CONFIG)
    with pytest.raises(ConfigError, match=r"no depth is known at pixel \(10, 5\)"):
        measure(view, (10, 5), (10, 30))
    assert depth_at(view, (10, 19.7))[0] == pytest.approx(5.0)  # the known side alone
    for outside in ((60, 30), (-1, 30), (10, 39.5), (float("nan"), 30)):
        with pytest.raises(ConfigError, match="outside of the image of 60x40"):
            measure(view, outside, (10, 30))
    with pytest.raises(ConfigError, match="give two different ones"):
        measure(view, (10, 30), (10, 30))


def short_run(out: Path, prior: str) -> Dataset:
    """Twelve frames through the whole pipeline, without map and report."""
    R = rotation(0.01, 0.005)
    drive = Drive(Street(), straight(12, 0.6, R=R), with_depth=prior == "sensor")
    config = Config.model_validate({"prior": prior, "fusion": {"enabled": False}, "dis": {"finest_scale": 1}})
    pipeline.run(config, drive, out)
    return drive


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with a depth sensor."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_report", lambda *_: None)
        short_run(out, "sensor")
    return out


def test_a_results_folder_is_measured_in_metres(results: Path) -> None:
    index = sorted(int(p.stem) for p in (results / "keyframes").glob("*.npz"))[2]
    view = keyframe_view(results, index)
    assert view.image_size == CAMERA.size and scale_source(results) == "sensor"
    T = straight(12, 0.6, R=rotation(0.01, 0.005))[index]
    depth_m = Street().render(T)[1]
    a, b = (130, 80), (190, 85)
    truth = distance(*(unproject((x, y), float(depth_m[y, x]), CAMERA) for x, y in (a, b)))
    found = measure(view, a, b)
    assert found.unit == "m" and found.distance == pytest.approx(truth, rel=0.03)
    assert 0.01 * truth < found.sigma < 0.2 * truth and abs(found.distance - truth) < found.sigma


def test_what_is_said_of_the_errors_holds_over_many_distances(results: Path) -> None:
    random, off = np.random.default_rng(0), []
    for path in sorted((results / "keyframes").glob("*.npz"))[1:]:
        view = keyframe_view(results, int(path.stem))
        depth_m = Street().render(straight(12, 0.6, R=rotation(0.01, 0.005))[int(path.stem)])[1]
        cells = np.argwhere(np.isfinite(view.relative_sigma))
        for cell in random.choice(cells, (40, 2)):
            a, b = ((8 * int(x) + 3, 8 * int(y) + 3) for y, x in cell)
            depths = [float(depth_m[y, x]) for x, y in (a, b)]
            if a == b or 0 in depths:
                continue
            found = measure(view, a, b)
            truth = distance(*(unproject(p, z, CAMERA) for p, z in zip((a, b), depths, strict=True)))
            off.append(abs(found.distance - truth) / found.sigma)
    assert len(off) > 100 and np.mean(np.array(off) < 1) > 0.68 and np.mean(np.array(off) < 2) > 0.95


def test_an_unknown_scale_is_no_metre(results: Path, tmp_path: Path) -> None:
    (tmp_path / "keyframes").mkdir()
    keyframe = sorted((results / "keyframes").glob("*.npz"))[1]
    (tmp_path / "keyframes" / keyframe.name).write_bytes(keyframe.read_bytes())
    with pytest.raises(DatasetError, match="holds no scale_source"):
        keyframe_view(tmp_path, int(keyframe.stem))
    (tmp_path / "run.json").write_text(json.dumps({"scale_source": "unknown"}))
    found = measure(keyframe_view(tmp_path, int(keyframe.stem)), (130, 80), (190, 85))
    assert found.unit == "units (scale unknown)" and found.distance > 0


def test_what_a_folder_lacks_is_one_line(results: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no keyframe 999 \(of \d+ from 0 to \d+\): nearest are"):
        keyframe_view(results, 999)
    with pytest.raises(DatasetError, match="holds no keyframes/"):
        keyframe_view(tmp_path, 0)
    (tmp_path / "keyframes").mkdir()
    (tmp_path / "keyframes" / "000000.npz").write_bytes(b"not an archive")
    with pytest.raises(DatasetError, match="damaged"):
        keyframe_view(tmp_path, 0)


def test_cells_without_support_are_guesses(tmp_path: Path) -> None:
    (tmp_path / "keyframes").mkdir()
    shape = CAMERA.grid().size[::-1]
    confidence = np.ones(shape)
    confidence[:, :20] = 0.0
    confidence[:, 30:] = 0.25
    np.savez(
        tmp_path / "keyframes" / "000007.npz",
        inv_depth=np.full(shape, 0.1),
        confidence=confidence,
        grid_camera=CAMERA.grid().vector(),
    )
    (tmp_path / "run.json").write_text('{"scale_source": "ground_plane"}')
    view = keyframe_view(tmp_path, 7)
    with pytest.raises(ConfigError, match="no depth is known"):
        depth_at(view, (50, 50))
    sure, unsure = depth_at(view, (200, 50)), depth_at(view, (300, 50))
    assert sure == pytest.approx((10.0, 0.1)) and unsure == pytest.approx((10.0, 0.2))


def test_a_prior_that_agrees_makes_the_map_surer(tmp_path: Path) -> None:
    (tmp_path / "keyframes").mkdir()
    shape = CAMERA.grid().size[::-1]
    prior_m = np.full(shape, 10.0)
    prior_m[:, 20:] = 20.0
    prior_m[:, 30:] = 0.0
    np.savez(
        tmp_path / "keyframes" / "000007.npz",
        inv_depth=np.full(shape, 0.1),
        confidence=np.where(np.arange(shape[1]) < 10, 0.0, np.ones(shape)),
        grid_camera=CAMERA.grid().vector(),
        prior_depth_m=prior_m,
        prior_confidence=np.ones(shape),
        prior_log_scale=0.0,
    )
    (tmp_path / "run.json").write_text('{"scale_source": "ground_plane"}')
    view = keyframe_view(tmp_path, 7)
    alone, agrees, contradicts, silent = (depth_at(view, (x, 50))[1] for x in (40, 120, 200, 300))
    assert alone == pytest.approx(0.04) and agrees == pytest.approx(1 / np.hypot(1 / 0.1, 1 / 0.04))
    assert contradicts == pytest.approx(0.1) and silent == pytest.approx(0.1)


def measurement(scale: float, unit: str = "m") -> Measurement:
    """Two points ``scale`` times 12.3 deep and 3.42 apart."""
    first, second = (MeasuredPoint((10.0, 20.0), scale * np.array([x, 0.0, 12.3]), 0.04) for x in (0.0, 3.42))
    return Measurement(first, second, 3.42 * scale, 0.314 * scale, unit)


def test_text_has_units_and_as_many_digits_as_are_meaningful() -> None:
    found = measurement(1.0)
    assert found.text == "3.42 m ± 0.31 m" and measurement(0.01).text == "0.0342 m ± 0.0031 m"
    assert measurement(100.0).text == "342.00 m ± 31.40 m"
    assert found.first.text("m") == "depth 12.30 m ± 4.0 % (per point; the common scale error is not included)"
    lines = describe(street_view(), found)
    assert lines[0] == "distance 3.42 m ± 0.31 m" and lines[1].startswith("first  (10, 20): depth 12.30 m ± 4.0 %")
    assert len(lines) == 4 and f"common scale error of {100 * CONFIG.scale_sigma:.1f} %" in lines[-1]
    unknown = describe(street_view(), measurement(1.0, "units (scale unknown)"))
    assert len(unknown) == 5 and "lengths are in an arbitrary unit" in unknown[1]


def test_wrong_arguments_are_named_in_one_line() -> None:
    ones, camera = np.ones((40, 60)), CAMERA.resized(60, 40)
    wrong = [
        (lambda: DepthView(ones[:-1], ones, 0.1, camera, "x"), "inv_depth has shape"),
        (lambda: DepthView(ones, ones.T, 0.1, camera, "x"), "relative_sigma has shape"),
        (lambda: DepthView(ones, ones, -0.1, camera, "x"), "scale_sigma"),
        (lambda: DepthView(ones, ones, 0.1, camera, "x", stride=0), "stride"),
        (lambda: network_view(ones, ones[1:], camera, CONFIG), "confidence has shape"),
        (lambda: unproject((1.0, 2.0, 3.0), 1.0, camera), "pixel must be"),  # type: ignore[arg-type]
        (lambda: unproject((1.0, 2.0), -1.0, camera), "depth must be"),
        (lambda: distance(np.zeros(2), np.zeros(3)), "first must be a point"),
        (lambda: distance(np.zeros(3), np.full(3, np.nan)), "second must be a point"),
        (lambda: distance_sigma(np.zeros(3), np.ones(3), -0.1, 0.1), "first_sigma must be"),
        (lambda: distance_sigma(np.zeros(3), np.ones(3), 0.1, 0.1, float("nan")), "scale_sigma must be"),
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_ignored_cells_of_the_map_have_no_depth(tmp_path: Path) -> None:
    (tmp_path / "keyframes").mkdir()
    shape = CAMERA.grid().size[::-1]
    ignored = np.zeros(shape, bool)
    ignored[:, :20] = True
    maps = {"inv_depth": np.full(shape, 0.1), "confidence": np.ones(shape), "ignore_cells": ignored}
    np.savez(tmp_path / "keyframes" / "000007.npz", grid_camera=CAMERA.grid().vector(), **maps)
    (tmp_path / "run.json").write_text('{"scale_source": "ground_plane"}')
    view = keyframe_view(tmp_path, 7)
    assert depth_at(view, (200, 50))[0] == pytest.approx(10.0)
    with pytest.raises(ConfigError, match="no depth is known"):
        depth_at(view, (50, 50))
