"""Writes what a run has computed into its results folder, every file whole."""

from __future__ import annotations

import logging

from metric_slam.config.resolve import dump_yaml
from metric_slam.config.schema import Config
from metric_slam.datasets.base import Dataset
from metric_slam.errors import EvaluationError
from metric_slam.result import SlamResult
from metric_slam.run.results_folder import JsonObject, ResultsFolder
from metric_slam.trajectory import to_reference_camera, write_kitti

log = logging.getLogger(__name__)


def write_trajectories(folder: ResultsFolder, result: SlamResult, dataset: Dataset, config: Config) -> None:
    """Write the files about frames (:meth:`SlamResult.trajectory_files`), trajectory_kitti.txt and config.yaml.

    The KITTI file is the path of the data set's reference camera. Raises OutputError naming the file.
    """
    for name, write in result.trajectory_files():
        with folder.whole_file(name) as path:
            write(path)
    T_world_ref = to_reference_camera(result.T_world_cam, dataset.T_cam_ref)
    with folder.whole_file("trajectory_kitti.txt") as path:
        write_kitti(path, T_world_ref)
    folder.write_text("config.yaml", dump_yaml(config))


def write_keyframes(folder: ResultsFolder, result: SlamResult) -> None:
    """Write keyframes/NNNNNN.npz without images, which stay in the data set. Raises OutputError naming the file."""
    for name, write in result.keyframe_files(images=False):
        with folder.whole_file(name) as path:
            write(path)


def write_metrics(folder: ResultsFolder, result: SlamResult, dataset: Dataset) -> JsonObject | None:
    """Write metrics.json: figures of the reference camera's path, or the reason why there are none; returns them."""
    metrics, reason = None, "the data set has no ground truth"
    truth = dataset.T_world_cam_true
    if truth is not None:
        from metric_slam.evaluation import evaluate

        try:
            metrics = evaluate(
                to_reference_camera(result.T_world_cam, dataset.T_cam_ref),
                truth[result.frame_indices] @ dataset.T_cam_ref,
                times_s=result.times_s,
                scale_known=result.scale_source != "unknown",
            )
        except EvaluationError as error:
            reason = str(error)
            log.warning("no metrics: %s", reason)
    folder.write_json("metrics.json", metrics if metrics is not None else {"headline": None, "reason": reason})
    return metrics
