"""benchmarks/degraded_prior.py: a map for every frame, wrong by as much as they say, and the same again."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

from metric_slam.datasets import open_dataset
from metric_slam.depth.precomputed import read_depth
from tests.benchmarks.conftest import TINY


def test_maps_are_the_truth_with_errors(tiny_data: Path, tmp_path: Path) -> None:
    degraded_prior = importlib.import_module("degraded_prior")
    dataset = open_dataset(tiny_data / "kitti_odometry", kind="kitti", sequence="04")
    folder = tmp_path / "sub" / "maps"
    degraded_prior.write_degraded_depth(dataset, folder)
    files = sorted(folder.iterdir())
    assert [file.stem for file in files] == [path.stem for path in dataset.image_paths] and len(files) == TINY.frames
    assert list(folder.parent.iterdir()) == [folder], "nothing is left beside it"

    log_error = []
    for index, file in enumerate(files):
        depth_m, true_m = read_depth(file, degraded_prior.UNITS_PER_METRE), dataset[index].depth_m
        known = (true_m > 1.0) & (depth_m > 0.0)
        assert known.mean() > 0.3 and not (depth_m[true_m == 0.0] > 0.0).any()
        log_error.append(np.log(depth_m[known] / true_m[known]))
    means = np.array([error.mean() for error in log_error])
    assert 0.05 < np.sqrt(np.mean([error.var() for error in log_error])) < 0.15
    assert 0.01 < means.std() < 0.1

    degraded_prior.write_degraded_depth(dataset, tmp_path / "again")
    assert all((tmp_path / "again" / file.name).read_bytes() == file.read_bytes() for file in files)


def test_maps_that_exist_are_left_alone(tmp_path: Path) -> None:
    importlib.import_module("degraded_prior").write_degraded_depth([], tmp_path)
    assert not list(tmp_path.iterdir())
