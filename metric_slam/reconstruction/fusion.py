"""Fuses a finished SlamResult into ``map.ply`` (coloured cloud) and ``mesh.ply`` (coloured triangles) in metres.

Place in the flow: the last stage that computes; the report only reads its files. Three passes bound the memory for any
length of drive: (1) dense depths, checked between views, are stored on the disk (4 bytes a pixel, removed at the end)
and determine the voxel size; (2) the voxel blocks that they touch are divided into tiles; (3) each tile is fused,
cleaned, and appended to the two files.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from metric_slam.config.schema import FusionConfig
from metric_slam.errors import OutputError
from metric_slam.reconstruction.dense_stream import checked_depths, median_depth
from metric_slam.reconstruction.depth_files import DepthFiles
from metric_slam.reconstruction.images import KeyframeImages
from metric_slam.reconstruction.ply import PlyWriter
from metric_slam.reconstruction.surface import Surface, surface_geometry, touched_blocks
from metric_slam.reconstruction.tiles import CELL_BLOCKS, BlockIndex, Tile
from metric_slam.reconstruction.tsdf import MeshPart, TileFuser, import_open3d
from metric_slam.result import SlamResult

Progress = Callable[[float, str], None]
T = TypeVar("T")

MIN_COMPONENT_VOXELS = 800.0
"""Smallest connected surface that is kept, in voxel faces: smaller ones float in space after wrong matches."""

MAP_FILE, MESH_FILE = "map.ply", "mesh.ply"


@dataclass(frozen=True)
class FusionSummary:
    """Result of the fusion; lengths in metres, or in the trajectory's arbitrary unit where the scale is unknown."""

    keyframe_count: int
    fused_keyframe_count: int
    """Keyframes with a depth that other keyframes agree with."""

    dense_pixel_count: int
    """Pixels with a depth before the multi-view check, over all keyframes."""

    fused_pixel_count: int
    """Pixels whose depth other keyframes agree with."""

    voxel_size: float | None
    voxel_reason: str
    """How the voxel size was chosen, in words."""

    max_depth: float | None
    max_depth_reason: str
    """How the largest fused depth was chosen, in words."""

    unit: str
    """``"m"`` or ``"unknown"``."""

    point_count: int = 0
    triangle_count: int = 0
    mesh_area: float = 0.0
    """Square units."""

    bounding_box: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Lower and upper corner in the world frame."""

    tile_count: int = 0
    removed_component_count: int = 0
    """Small pieces of surface that were removed."""

    empty_reason: str | None = None
    """Cause of an empty map; None where there is a map."""

    map_path: Path | None = None
    mesh_path: Path | None = None
    timings_s: dict[str, float] = field(default_factory=dict)


def fuse(result: SlamResult, config: FusionConfig, output_dir: Path, progress: Progress | None = None) -> FusionSummary:
    """Write ``map.ply`` and ``mesh.ply`` to ``output_dir`` and return a summary.

    ``progress(fraction, message)`` is called during the work. Without anything to fuse no file is written and
    ``empty_reason`` holds the cause. Raises MissingDependencyError without Open3D, OutputError if a file cannot be
    written.
    """
    progress = progress or (lambda fraction, message: None)
    if len(result.keyframes) < config.min_views + 1:
        needed = config.min_views + 1
        return _nothing(result, f"{len(result.keyframes)} keyframes; {needed} are needed to compare a depth")
    typical_depth = median_depth(result.keyframes)
    if typical_depth is None:
        return _nothing(result, "no keyframe has a supported depth")
    import_open3d()
    output_dir = Path(output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=output_dir, prefix=".fusion.")
    except OSError as error:
        raise OutputError(f"{output_dir}: cannot be written ({error.strerror}); choose another folder") from error
    with scratch as folder:
        return _Fusion(result, config, typical_depth, Path(folder), progress).run(output_dir)


def choose_max_depth(config: FusionConfig, typical_depth: float, *, metric: bool) -> tuple[float, str]:
    """Farthest depth to fuse in world units and the reason; ``typical_depth`` is the median depth of the scene.

    ``metric`` False: the world has an arbitrary unit, and a limit in metres does not apply.
    """
    if config.max_depth_m is not None and metric:
        return config.max_depth_m, "as configured (fusion.max_depth_m)"
    unit = "m" if metric else "units"
    reason = f"{config.max_depth_medians:g} times the median depth of the scene ({typical_depth:.3g} {unit})"
    if config.max_depth_m is not None:
        reason += "; fusion.max_depth_m is in metres and was not used, for the scale is unknown"
    return config.max_depth_medians * typical_depth, reason


class _Fusion:
    """One run of the three passes."""

    def __init__(
        self, result: SlamResult, config: FusionConfig, typical_depth: float, folder: Path, progress: Progress
    ) -> None:
        self._result, self._config, self._progress = result, config, progress
        self._typical_depth = typical_depth
        self._metric = result.scale_source != "unknown"
        self._max_depth, self._max_depth_reason = choose_max_depth(config, typical_depth, metric=self._metric)
        self._images = KeyframeImages(result.keyframes)
        self._files = DepthFiles(folder, result.keyframes, self._max_depth)
        self._timings: dict[str, float] = {}
        self._dense_pixels = 0
        self._fused_pixels = 0
        self._fused_keyframes: list[int] = []
        self._blocks: dict[int, np.ndarray] = {}

    def run(self, output_dir: Path) -> FusionSummary:
        """Run all passes and write the files to ``output_dir``."""
        statistics = self._timed("depth", self._collect_depths)
        if not self._fused_keyframes:
            return _nothing(
                self._result,
                f"{self._config.min_views} other keyframes agree within {self._config.max_relative_error:.0%} "
                f"with none of {self._dense_pixels} depths nearer than {self._max_depth:.3g}",
            )
        voxel, reason = self._choose_voxel(statistics)
        fuser = TileFuser(voxel)
        plan = self._timed("plan", lambda: self._plan(fuser))
        writers = PlyWriter(output_dir / MAP_FILE, with_faces=False), PlyWriter(output_dir / MESH_FILE, with_faces=True)
        try:
            totals = self._timed("tsdf", lambda: self._fuse_tiles(fuser, plan, writers))
            unit = "metres" if self._metric else "arbitrary units (scale unknown)"
            if totals.points:
                for writer in writers:
                    writer.finish(f"metric_slam, {unit}, world = first camera (x right, y down, z forward)")
        finally:
            for writer in writers:
                writer.close()
        return self._summary(voxel, reason, totals, len(plan), output_dir)

    def _timed(self, name: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        value = work()
        self._timings[name] = time.perf_counter() - start
        return value

    # pass 1

    def _collect_depths(self) -> list[tuple[float, float, float]]:
        """Store the checked depths; returns medians of depth, sigma, and pixel footprint for each keyframe."""
        statistics = []
        keyframes = self._result.keyframes
        stream = checked_depths(
            keyframes,
            self._images,
            typical_depth=self._typical_depth,
            max_depth=self._max_depth,
            min_views=self._config.min_views,
            max_relative_error=self._config.max_relative_error,
            fine_flow=self._config.fine_flow,
        )
        for checked in stream:
            self._progress(0.7 * checked.position / len(keyframes), "dense depth")
            self._dense_pixels += checked.dense_count
            known = checked.view.depth > 0
            count = int(np.count_nonzero(known))
            if count == 0:
                continue
            self._fused_pixels += count
            self._fused_keyframes.append(checked.position)
            self._files.store_depth(checked)
            depth = checked.view.depth[known]
            sigma = float(np.median(depth * checked.relative_sigma[known]))
            statistics.append((float(np.median(depth)), sigma, float(np.median(depth)) / checked.view.camera.fx))
        return statistics

    def _choose_voxel(self, statistics: list[tuple[float, float, float]]) -> tuple[float, str]:
        """Choose the voxel edge: the configured one, else as fine as pixels and noise of the depths allow."""
        if self._config.voxel_m is not None and self._metric:
            return self._config.voxel_m, "as configured (fusion.voxel_m)"
        depth, sigma, footprint = np.median(np.array(statistics), axis=0)
        voxel = float(f"{max(3 * footprint, 0.5 * sigma):.2g}")
        unit = "m" if self._metric else "units"
        reason = (
            f"the larger of 3 pixel footprints ({3 * footprint:.3g} {unit}) and half the depth noise "
            f"({0.5 * sigma:.3g} {unit}) at the median fused depth of {depth:.3g} {unit}"
        )
        if self._config.voxel_m is not None:
            reason += "; fusion.voxel_m is in metres and was not used, for the scale is unknown"
        return voxel, reason

    # pass 2

    def _plan(self, fuser: TileFuser) -> list[tuple[Tile, list[int]]]:
        """Divide space into tiles, each with the positions of the keyframes that touch it."""
        index = BlockIndex()
        touched_by: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for position in self._fused_keyframes:
            self._progress(0.7 + 0.1 * position / len(self._result.keyframes), "planning tiles")
            view = self._files.view(position)
            geometry = surface_geometry(view, self._files.relative_sigma(position), fuser.voxel)
            self._files.store_surface(position, geometry)
            blocks = touched_blocks(view, geometry.normals, fuser.truncation, fuser.block_edge)
            self._blocks[position] = blocks.astype(np.int32)
            for cell in index.add(blocks):
                touched_by[tuple(cell)].append(position)
        plan = []
        for tile in index.tiles():
            # the cells around the tile contain its margin of one block
            lower, upper = tile.lower // CELL_BLOCKS, tile.upper // CELL_BLOCKS
            around = np.stack(np.meshgrid(*(range(a - 1, b + 1) for a, b in zip(lower, upper, strict=True))), -1)
            positions = {p for cell in around.reshape(-1, 3) for p in touched_by.get(tuple(cell), ())}
            plan.append((tile, sorted(positions)))
        return sorted(plan, key=lambda entry: entry[1][0])

    # pass 3

    def _surfaces(self, tile: Tile, positions: list[int]) -> Iterator[tuple[Surface, np.ndarray]]:
        """Surfaces that touch ``tile`` or its margin, each with its blocks there, int32 [M, 3]."""
        for position in positions:
            blocks = tile.with_margin(self._blocks[position])
            if len(blocks):
                yield self._files.surface(position, self._images), blocks

    def _fuse_tiles(
        self, fuser: TileFuser, plan: list[tuple[Tile, list[int]]], writers: tuple[PlyWriter, PlyWriter]
    ) -> _Totals:
        totals = _Totals()
        cloud, mesh = writers
        for done, (tile, positions) in enumerate(plan):
            self._progress(0.8 + 0.2 * done / len(plan), "fusing surfaces")
            part = fuser.fuse(tile, self._surfaces(tile, positions), MIN_COMPONENT_VOXELS * fuser.voxel**2)
            cloud.append(part.points, part.normals, part.colours)
            mesh.append(part.points, part.normals, part.colours, part.triangles)
            totals.add(part)
        self._progress(1.0, "map written")
        return totals

    def _summary(self, voxel: float, reason: str, totals: _Totals, tile_count: int, output_dir: Path) -> FusionSummary:
        written = totals.points > 0
        return FusionSummary(
            keyframe_count=len(self._result.keyframes),
            fused_keyframe_count=len(self._fused_keyframes),
            dense_pixel_count=self._dense_pixels,
            fused_pixel_count=self._fused_pixels,
            voxel_size=voxel,
            voxel_reason=reason,
            max_depth=self._max_depth,
            max_depth_reason=self._max_depth_reason,
            unit="m" if self._metric else "unknown",
            point_count=totals.points,
            triangle_count=totals.triangles,
            mesh_area=totals.area,
            bounding_box=(tuple(totals.lower.tolist()), tuple(totals.upper.tolist())) if written else None,
            tile_count=tile_count,
            removed_component_count=totals.removed,
            empty_reason=None
            if written
            else "all pieces of the fused surface are smaller than the smallest that is kept",
            map_path=output_dir / MAP_FILE if written else None,
            mesh_path=output_dir / MESH_FILE if written else None,
            timings_s=self._timings,
        )


class _Totals:
    """Sums over the tiles."""

    def __init__(self) -> None:
        self.points = self.triangles = self.removed = 0
        self.area = 0.0
        self.lower, self.upper = np.full(3, np.inf), np.full(3, -np.inf)

    def add(self, part: MeshPart) -> None:
        """Add the mesh of one tile."""
        self.points += len(part.points)
        self.triangles += len(part.triangles)
        self.removed += part.removed_components
        self.area += part.area
        if len(part.points):
            self.lower = np.minimum(self.lower, part.points.min(axis=0))
            self.upper = np.maximum(self.upper, part.points.max(axis=0))


def _nothing(result: SlamResult, reason: str) -> FusionSummary:
    return FusionSummary(
        keyframe_count=len(result.keyframes),
        fused_keyframe_count=0,
        dense_pixel_count=0,
        fused_pixel_count=0,
        voxel_size=None,
        voxel_reason="nothing to fuse",
        max_depth=None,
        max_depth_reason="nothing to fuse",
        unit="unknown" if result.scale_source == "unknown" else "m",
        empty_reason=reason,
    )
