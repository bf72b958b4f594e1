"""PLY files written in parts, read back by Open3D."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metric_slam.errors import OutputError
from metric_slam.reconstruction.ply import PlyWriter

o3d = pytest.importorskip("open3d")


def parts() -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(0)
    return [
        (
            rng.normal(size=(n, 3)).astype(np.float32),
            rng.normal(size=(n, 3)).astype(np.float32),
            rng.integers(0, 256, (n, 3)).astype(np.uint8),
            rng.integers(0, n, (2 * n, 3)),
        )
        for n in (5, 9)
    ]


def test_mesh_reads_back(tmp_path: Path) -> None:
    writer = PlyWriter(tmp_path / "mesh.ply", with_faces=True)
    for part in parts():
        writer.append(*part)
    assert list(tmp_path.glob("*.ply")) == [], "nothing may appear before finish"
    writer.finish("metres")
    assert [p.name for p in tmp_path.iterdir()] == ["mesh.ply"]
    mesh = o3d.t.io.read_triangle_mesh(str(tmp_path / "mesh.ply"))
    first, second = parts()
    np.testing.assert_array_equal(mesh.vertex.positions.numpy(), np.concatenate([first[0], second[0]]))
    np.testing.assert_array_equal(mesh.vertex.normals.numpy(), np.concatenate([first[1], second[1]]))
    np.testing.assert_array_equal(np.round(mesh.vertex.colors.numpy() * 255), np.concatenate([first[2], second[2]]))
    np.testing.assert_array_equal(mesh.triangle.indices.numpy(), np.concatenate([first[3], second[3] + 5]))


def test_cloud_reads_back(tmp_path: Path) -> None:
    writer = PlyWriter(tmp_path / "new" / "map.ply", with_faces=False)
    for part in parts():
        writer.append(*part[:3])
    writer.finish("metres")
    cloud = o3d.t.io.read_point_cloud(str(tmp_path / "new" / "map.ply"))
    assert len(cloud.point.positions) == 14
    assert b"comment metres\n" in (tmp_path / "new" / "map.ply").read_bytes()[:200]


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="map.ply"):
        PlyWriter(tmp_path / "taken" / "map.ply", with_faces=False)
