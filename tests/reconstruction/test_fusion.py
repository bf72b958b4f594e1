"""The map of a rendered corridor: accuracy, files, tiles, and honest emptiness."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from metric_slam.config.schema import FusionConfig
from metric_slam.errors import MissingDependencyError
from metric_slam.reconstruction import fusion, tiles
from metric_slam.reconstruction.fusion import FusionSummary, fuse
from metric_slam.reconstruction.preview import render_preview
from metric_slam.result import SlamResult
from tests.corridor import corridor_result, distance_to_corridor

o3d = pytest.importorskip("open3d")
CONFIG = FusionConfig(voxel_m=0.06)


@pytest.fixture(scope="module")
def result() -> SlamResult:
    return corridor_result(10)


@pytest.fixture(scope="module")
def fused(result: SlamResult, tmp_path_factory: pytest.TempPathFactory) -> tuple[FusionSummary, Path]:
    folder = tmp_path_factory.mktemp("map")
    return fuse(result, CONFIG, folder), folder


def test_surface_is_where_the_walls_are(fused: tuple[FusionSummary, Path]) -> None:
    summary, folder = fused
    assert summary.empty_reason is None and summary.unit == "m" and summary.voxel_size == 0.06
    mesh = o3d.t.io.read_triangle_mesh(str(folder / "mesh.ply"))
    distance = distance_to_corridor(mesh.vertex.positions.numpy())
    assert np.median(distance) < 0.02
    assert np.percentile(distance, 95) < 2.5 * 0.06
    assert len(mesh.triangle.indices) == summary.triangle_count
    assert mesh.get_surface_area() == pytest.approx(summary.mesh_area, rel=1e-3)
    assert 40 < summary.mesh_area < 220


def test_cloud_has_normals_that_face_the_cameras(fused: tuple[FusionSummary, Path]) -> None:
    summary, folder = fused
    cloud = o3d.t.io.read_point_cloud(str(folder / "map.ply"))
    points, normals = cloud.point.positions.numpy(), cloud.point.normals.numpy()
    assert len(points) == summary.point_count
    np.testing.assert_allclose(points.min(axis=0), summary.bounding_box[0], atol=1e-5)
    np.testing.assert_allclose(points.max(axis=0), summary.bounding_box[1], atol=1e-5)
    floor = np.abs(points[:, 1] - 1.5) < 0.05
    assert floor.sum() > 1000
    assert np.median(normals[floor, 1]) < -0.9


def test_colours_are_those_of_the_images(fused: tuple[FusionSummary, Path], result: SlamResult) -> None:
    cloud = o3d.t.io.read_point_cloud(str(fused[1] / "map.ply"))
    points, colours = cloud.point.positions.numpy(), cloud.point.colors.numpy().astype(float)
    near = (np.abs(points[:, 1] - 1.5) < 0.03) & (points[:, 2] > 3.5) & (points[:, 2] < 6.0)
    keyframe = result.keyframes[5]
    local = (points[near] - keyframe.T_world_cam[:3, 3]) @ keyframe.T_world_cam[:3, :3]
    u, v = np.round(keyframe.camera.project(local)).astype(int).T
    inside = (u >= 0) & (u < 320) & (v >= 0) & (v < 192)
    assert inside.sum() > 300
    seen = keyframe.image[v[inside], u[inside]].astype(float)
    assert np.median(np.abs(colours[near][inside] - seen)) < 20
    assert np.corrcoef(colours[near][inside].ravel(), seen.ravel())[0, 1] > 0.7


def test_only_the_two_files_stay(fused: tuple[FusionSummary, Path]) -> None:
    assert sorted(p.name for p in fused[1].iterdir()) == ["map.ply", "mesh.ply"]


def test_tiles_fit_without_seams(
    fused: tuple[FusionSummary, Path], result: SlamResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = fused
    monkeypatch.setattr(fusion, "MIN_COMPONENT_VOXELS", 0.0)
    single = fuse(result, CONFIG, tmp_path / "single")
    for module in (tiles, fusion):
        monkeypatch.setattr(module, "CELL_BLOCKS", 4)
    monkeypatch.setattr(tiles.BlockIndex.tiles, "__defaults__", (60,))
    cut = fuse(result, CONFIG, tmp_path / "cut")
    assert cut.tile_count > 2 * single.tile_count
    assert cut.triangle_count == single.triangle_count >= whole.triangle_count
    assert cut.mesh_area == pytest.approx(single.mesh_area, rel=1e-4)


def test_floaters_go(fused: tuple[FusionSummary, Path], result: SlamResult, tmp_path: Path) -> None:
    mesh = o3d.t.io.read_triangle_mesh(str(fused[1] / "mesh.ply")).to_legacy()
    mesh.merge_close_vertices(1e-4)
    _, _, area = mesh.cluster_connected_triangles()
    small = np.asarray(area)[np.asarray(area) < 800 * 0.06**2]
    assert small.sum() < 0.05 * fused[0].mesh_area


def test_progress_rises_to_one(result: SlamResult, tmp_path: Path) -> None:
    seen: list[float] = []
    few = dataclasses.replace(result, keyframes=result.keyframes[:4])
    fuse(few, FusionConfig(voxel_m=0.2), tmp_path, lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen) and seen[0] >= 0 and seen[-1] == 1.0


def test_voxel_is_chosen_and_explained(result: SlamResult, tmp_path: Path) -> None:
    few = dataclasses.replace(result, keyframes=result.keyframes[:4])
    summary = fuse(few, FusionConfig(), tmp_path)
    assert 0.02 < summary.voxel_size < 0.3
    assert "pixel footprints" in summary.voxel_reason and "depth noise" in summary.voxel_reason


def scaled(result: SlamResult, scale: float, count: int, scale_source: str = "sensor") -> SlamResult:
    """The first ``count`` keyframes of the same video in a world that is ``scale`` times as large."""
    keyframes = []
    for keyframe in result.keyframes[:count]:
        T_world_cam = keyframe.T_world_cam.copy()
        T_world_cam[:3, 3] *= scale
        keyframes.append(dataclasses.replace(keyframe, T_world_cam=T_world_cam, inv_depth=keyframe.inv_depth / scale))
    return dataclasses.replace(result, keyframes=keyframes, scale_source=scale_source)


def test_unknown_scale_changes_nothing_but_the_unit(result: SlamResult, tmp_path: Path) -> None:
    scale = 0.01
    tiny = scaled(result, scale, 6, "unknown")
    summary = fuse(tiny, FusionConfig(voxel_m=0.1, max_depth_m=0.01), tmp_path)
    assert summary.unit == "unknown" and summary.empty_reason is None
    assert summary.voxel_size < 0.003 and "not used" in summary.voxel_reason
    assert summary.max_depth > 0.05 and "not used" in summary.max_depth_reason
    points = o3d.t.io.read_point_cloud(str(summary.map_path)).point.positions.numpy() / scale
    assert np.median(distance_to_corridor(points)) < 0.03
    assert b"scale unknown" in summary.mesh_path.read_bytes()[:300]


@pytest.fixture(scope="module")
def at_its_size(result: SlamResult, tmp_path_factory: pytest.TempPathFactory) -> FusionSummary:
    return fuse(scaled(result, 1.0, 6), FusionConfig(), tmp_path_factory.mktemp("as_it_is"))


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_the_map_scales_with_the_scene(
    result: SlamResult, at_its_size: FusionSummary, tmp_path: Path, scale: float
) -> None:
    usual, other = at_its_size, fuse(scaled(result, scale, 6), FusionConfig(), tmp_path)
    assert other.voxel_size == pytest.approx(scale * usual.voxel_size, rel=1e-6)
    assert other.max_depth == pytest.approx(scale * usual.max_depth, rel=1e-4)
    assert other.fused_pixel_count == pytest.approx(usual.fused_pixel_count, rel=0.002)
    assert other.point_count == pytest.approx(usual.point_count, rel=0.02) and usual.point_count > 5000
    assert other.triangle_count == pytest.approx(usual.triangle_count, rel=0.02)
    assert other.mesh_area == pytest.approx(scale**2 * usual.mesh_area, rel=0.02)
    np.testing.assert_allclose(other.bounding_box, scale * np.array(usual.bounding_box), atol=2 * scale * 0.06)


def test_the_largest_depth_is_relative_unless_metres_are_asked_for(result: SlamResult, tmp_path: Path) -> None:
    assert fusion.choose_max_depth(FusionConfig(max_depth_medians=2.0), 4.0, metric=True)[0] == 8.0
    assert fusion.choose_max_depth(FusionConfig(max_depth_m=5.0), 4.0, metric=True)[0] == 5.0
    depth, reason = fusion.choose_max_depth(FusionConfig(max_depth_m=5.0), 4.0, metric=False)
    assert depth == 12.0 and "3 times the median depth" in reason and "not used" in reason
    near = fuse(scaled(result, 1.0, 4), FusionConfig(voxel_m=0.1, max_depth_m=4.0), tmp_path)
    assert near.max_depth == 4.0 and "configured" in near.max_depth_reason
    assert near.bounding_box[1][2] < 4.0 + 3 * 0.25 + 0.2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_keyframes(result: SlamResult, tmp_path: Path, count: int) -> None:
    summary = fuse(dataclasses.replace(result, keyframes=result.keyframes[:count]), CONFIG, tmp_path / "none")
    assert f"{count} keyframes" in summary.empty_reason and summary.map_path is None
    assert not (tmp_path / "none").exists()


def test_nothing_supported_and_nothing_confirmed(result: SlamResult, tmp_path: Path) -> None:
    guesses = [dataclasses.replace(k, confidence=np.zeros_like(k.confidence)) for k in result.keyframes[:4]]
    assert "supported" in fuse(dataclasses.replace(result, keyframes=guesses), CONFIG, tmp_path).empty_reason
    still = [dataclasses.replace(k, T_world_cam=np.eye(4)) for k in result.keyframes[:4]]
    summary = fuse(dataclasses.replace(result, keyframes=still), CONFIG, tmp_path)
    assert "2 other keyframes agree within 5% with none of" in summary.empty_reason and list(tmp_path.iterdir()) == []


def test_missing_open3d_names_the_libraries(
    result: SlamResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependencyError, match="libusb-1.0-0 libgl1 libegl1 libx11-6 libudev1 libidn2-0"):
        fuse(result, CONFIG, tmp_path)


def test_preview_shows_the_map_and_the_way(
    fused: tuple[FusionSummary, Path], result: SlamResult, tmp_path: Path
) -> None:
    import cv2

    path = render_preview(fused[0].mesh_path, result, tmp_path / "preview.png", size=(480, 270))
    picture = cv2.imread(str(path)).astype(int)[..., ::-1]
    assert picture.shape == (270, 480, 3)
    surface = picture.max(axis=2) < 215
    assert 0.05 < surface.mean() < 0.9
    way = (picture[..., 0] > 220) & (picture[..., 1] < 110) & (picture[..., 2] < 90)
    assert way.sum() > 40
    assert [p.name for p in tmp_path.iterdir()] == ["preview.png"]
