#!/usr/bin/env python
"""Errors of the matchers that need no weights, against the exact flow of the rendered drive, and milliseconds a flow.

    python benchmarks/flow.py [--device cpu] [--places 5]

640 x 192, finest scale 1, no prediction, from several places of the drive to one, two and three frames later and back.
Only cells count that are visible in both images; *sure* are those of them with a confidence above 0.2, and errors are
theirs, in pixels.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from oracle import at_centres
from tables import markdown_table

from metric_slam.config.schema import DisConfig
from metric_slam.correspondence.base import CorrespondenceModel, EdgeQuery
from metric_slam.correspondence.dis import DisCorrespondence
from metric_slam.correspondence.inverse_search import InverseSearch
from metric_slam.datasets.synthetic import open_demo
from metric_slam.frame import Frame
from metric_slam.geometry import lie
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera

GAPS = (1, 2, 3)
SURE = 0.2
IN_FRONT_M = 0.2
SAME_SURFACE, SAME_SURFACE_M = 0.05, 0.1

View = tuple[Frame, np.ndarray, np.ndarray]
"""A frame, its depth at the centres of the cells [h, w], T_world_cam [4, 4]."""


def places(count: int) -> tuple[PinholeCamera, list[list[View]]]:
    """The camera, and four frames in a row at several places of the drive."""
    drive = open_demo()
    grid = drive.camera.grid()
    starts = np.linspace(0, len(drive) - 1 - max(GAPS), count).astype(int)

    def view(index: int) -> View:
        return drive[index], at_centres(drive[index].depth_m, grid), drive.T_world_cam_true[index]

    return drive.camera, [[view(int(start) + k) for k in range(max(GAPS) + 1)] for start in starts]


def exact(source: View, target: View, grid: PinholeCamera) -> tuple[np.ndarray, np.ndarray]:
    """Where the cells of the source lie in the target, cells [h, w, 2], and which are visible there, bool [h, w]."""
    T_target_source = lie.inverse(target[2]) @ source[2]
    points = (grid.rays() * source[1].astype(float)[..., None]) @ T_target_source[:3, :3].T + T_target_source[:3, 3]
    front = (source[1] > 0) & (points[..., 2] > IN_FRONT_M)
    where = grid.project(np.where(front[..., None], points, 1.0))
    u, v = (np.rint(where[..., axis]).astype(int) for axis in (0, 1))
    inside = front & (u >= 0) & (v >= 0) & (u < grid.width) & (v < grid.height)
    there = target[1][np.where(inside, v, 0), np.where(inside, u, 0)]
    return where, inside & (np.abs(there - points[..., 2]) < SAME_SURFACE * points[..., 2] + SAME_SURFACE_M)


def row(model: CorrespondenceModel, camera: PinholeCamera, drive: list[list[View]], gap: int) -> list[str]:
    """Median, 90 and 97 % of the errors, share of sure cells, milliseconds a flow."""
    errors, sure, seconds = [], [], 0.0
    for views in drive:
        first, second = views[0], views[gap]
        features = [model.encode(view[0].image, camera) for view in (first, second)]
        edges = [EdgeQuery(*features), EdgeQuery(*features[::-1])]
        model.track(edges)  # once to warm up
        begin = time.perf_counter()
        found = model.track(edges)
        seconds += time.perf_counter() - begin
        for ends, match in zip(((first, second), (second, first)), found, strict=True):
            where, visible = exact(*ends, camera.grid())
            counts = visible & (match.confidence > SURE)
            errors.append(FEATURE_STRIDE * np.linalg.norm(match.target - where, axis=-1)[counts])
            sure.append(counts.sum() / visible.sum())
    every = np.concatenate(errors)
    figures = [f"{np.percentile(every, percent):.2f}" for percent in (50, 90, 97)]
    return [*figures, f"{100 * np.mean(sure):.0f} %", f"{1000 * seconds / len(sure):.0f}"]


def main() -> int:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="of inverse_search")
    parser.add_argument("--places", type=int, default=5)
    arguments = parser.parse_args()
    camera, drive = places(arguments.places)
    models = {
        "dis, medium": DisCorrespondence(DisConfig(finest_scale=1), threads=1),
        "dis, ultrafast": DisCorrespondence(DisConfig(finest_scale=1, preset="ultrafast"), threads=1),
        "inverse_search": InverseSearch(DisConfig(finest_scale=1), arguments.device),
    }
    rows = [[f"{name}, {gap} on", *row(model, camera, drive, gap)] for gap in GAPS for name, model in models.items()]
    header = ("matcher, frames", "median px", "90 % px", "97 % px", "sure", "ms a flow")
    print(markdown_table(header, rows))
    print(f"torch threads: {torch.get_num_threads()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
