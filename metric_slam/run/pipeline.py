"""One run from data set to results folder: read, track, finish, write, evaluate, fuse, report.

Input: a resolved configuration and a data set; output: the folder of DESIGN §9. Nothing that was computed is lost: the
trajectory is written before anything that can fail, and Ctrl-C, an image that cannot be read or a bug ends the
tracking, not the run.
"""

from __future__ import annotations

import logging
import random
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rich.console import Console

from metric_slam.config.resolve import dump_yaml
from metric_slam.config.schema import Config, InputConfig
from metric_slam.datasets.base import Dataset
from metric_slam.datasets.read_ahead import read_ahead
from metric_slam.errors import ConfigError, EvaluationError, MetricSlamError, OutputError
from metric_slam.result import KeyframeResult, SlamResult, frames_csv, loops_csv
from metric_slam.run.checkpoint import Checkpoints
from metric_slam.run.progress import show_progress, sigterm_as_ctrl_c, stop_on_signal
from metric_slam.run.results_folder import ResultsFolder
from metric_slam.run.run_info import StageClock, collect_warnings, machine, package_versions, peak_rss_mb
from metric_slam.trajectory import to_reference_camera, write_kitti, write_tum

if TYPE_CHECKING:
    from metric_slam.slam import Slam

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """What a run tells its caller; everything else is in the folder."""

    output_dir: Path
    result: SlamResult
    metrics: dict[str, Any] | None
    """Content of metrics.json; None without ground truth."""

    info: dict[str, Any]
    """Content of run.json."""

    failure: MetricSlamError | None
    """What is missing from the results and why: an image that cannot be read, a full disk; None if nothing is."""


class _Withheld:
    """Holds back the exception that ends its block, a bug included, until what was done so far is written."""

    error: Exception | None = None

    def __enter__(self) -> _Withheld:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None

    def raise_bug(self) -> None:
        """Raise it, with the traceback of where it happened, unless it is something the user is told in one line."""
        if self.error is not None and not isinstance(self.error, MetricSlamError):
            raise self.error


@dataclass
class _Run:
    """The state of one run: what the verbs below share."""

    config: Config
    dataset: Dataset
    folder: ResultsFolder
    checkpoints: Checkpoints
    console: Console | None
    command: Sequence[str]
    warnings: list[str]
    clock: StageClock = field(default_factory=StageClock)
    started: float = field(default_factory=time.perf_counter)
    started_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    frames_selected: int = 0
    choices: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    frames_per_s: float = 0.0
    peak_rss_tracking_mb: float = 0.0
    interrupted: bool = False
    tracking: _Withheld = field(default_factory=_Withheld)
    write_failure: OutputError | None = None
    fusion: dict[str, Any] | None = None


def run(
    config: Config,
    dataset: Dataset,
    output_dir: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    command: Sequence[str] = (),
    console: Console | None = None,
) -> RunSummary:
    """Process ``dataset`` and write its results to ``output_dir``; ``command`` is noted in run.json.

    With ``resume`` an unfinished run there goes on after its latest checkpoint.

    Raises MetricSlamError where nothing could be done at all, KeyboardInterrupt where the user gave up before the first
    frame or for the second time. What ends the tracking later is in the summary if it is a MetricSlamError, and raised
    if it is not, both after all results so far are written.
    """
    folder = ResultsFolder.prepare(output_dir, overwrite, resume)
    try:
        with sigterm_as_ctrl_c(), collect_warnings() as warnings:
            indices = select_frames(len(dataset), config.input)
            checkpoints = Checkpoints(folder.path, config, dataset, resume=resume)
            try:
                return _run(_Run(config, dataset, folder, checkpoints, console, command, warnings), indices)
            finally:
                checkpoints.remove_unless_saved()
    finally:
        folder.release()


def _run(run: _Run, indices: range) -> RunSummary:
    run.frames_selected = len(indices)
    try:
        with stop_on_signal() as stop:
            result = _track(run, indices, stop)
            run.folder.remove_old_results()
            _write_trajectories(run, result)
            _write_run_info(run, result)
            _write_keyframes(run, result)
            metrics = _evaluate(run, result)
            run.interrupted = stop.is_set()
        _fuse(run, result)
        info = _write_run_info(run, result)
        _report(run, result, metrics, info)
        info = _write_run_info(run, result)
        if not run.interrupted and run.tracking.error is None:
            run.checkpoints.remove()
    finally:
        run.tracking.raise_bug()
    failure = run.tracking.error or run.write_failure
    assert failure is None or isinstance(failure, MetricSlamError)
    return RunSummary(run.folder.path, result, metrics, info, failure)


def select_frames(count: int, config: InputConfig) -> range:
    """Indices of the frames to process out of ``count``. Raises ConfigError when the selection is empty."""
    if config.start >= count:
        raise ConfigError(f"--start {config.start} leaves no frame of the {count}; frames are counted from 0")
    if config.end is not None and config.end > count:
        logger.warning("--end %d is beyond the last of the %d frames; all of them are used", config.end, count)
    return range(config.start, min(config.end or count, count), config.stride)


def seed_everything(seed: int) -> None:
    """Seed the random generators of Python, numpy, OpenCV and torch."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    cv2.setRNGSeed(seed)
    torch.manual_seed(seed)


def _build(run: _Run) -> Slam:
    with run.clock.stage("setup"):
        from metric_slam.factory import resolve_device
        from metric_slam.slam import Slam

        run.device = resolve_device(run.config.device)
        seed_everything(run.config.seed)
        slam = Slam.for_dataset(run.dataset, run.config, run.checkpoints.disk)
        run.checkpoints.restore(slam)
        return slam


def _track(run: _Run, indices: range, stop: Event) -> SlamResult:
    """Feed every frame and finish; what goes wrong in between, and Ctrl-C, only ends the feeding.

    The system lives no longer than this: fusion needs its memory.
    """
    slam = _build(run)
    run.choices = dict(slam.choices)
    start, before_s = time.perf_counter(), sum(slam.timings_s.values())
    before = done = run.checkpoints.done
    with (
        show_progress("tracking", len(indices), run.console) as progress,
        closing(read_ahead(run.dataset, indices[before:])) as frames,
        run.tracking,
    ):
        while not stop.is_set():
            with run.clock.stage("read"):
                frame = next(frames, None)
            if frame is None:
                break
            slam.process_frame(frame)
            done += 1
            progress.update(done)
            with run.clock.stage("checkpoint"):
                run.checkpoints.after_frame(slam, done)
    run.interrupted = stop.is_set()
    if done == 0:
        raise run.tracking.error or KeyboardInterrupt
    if run.tracking.error is not None:
        reason = _described(run.tracking.error)
        logger.warning("tracking ended after %d of %d frames: %s", done, len(indices), reason)
    with run.clock.stage("checkpoint"):
        run.write_failure = run.checkpoints.save_last(slam, done)
    result = _finish(run, slam)
    seconds = time.perf_counter() - start
    run.frames_per_s = (done - before) / seconds
    accounted_s = sum(run.clock.seconds.get(stage, 0.0) for stage in ("read", "checkpoint", "finish"))
    accounted_s += sum(result.timings_s.values()) - before_s
    run.clock.seconds["other"] = seconds - accounted_s
    run.peak_rss_tracking_mb = peak_rss_mb()
    return result


def _described(error: Exception) -> str:
    """One line; of a bug also the class, without which a KeyError says nothing."""
    return str(error) if isinstance(error, MetricSlamError) else " ".join(f"{type(error).__name__}: {error}".split())


def _finish(run: _Run, slam: Slam) -> SlamResult:
    """Finish; takes over the stages of the system, and ``finish`` holds what they do not account for."""
    before_s, start = sum(slam.timings_s.values()), time.perf_counter()
    result = slam.finish()
    in_stages_s = sum(result.timings_s.values()) - before_s
    run.clock.seconds |= {**result.timings_s, "finish": time.perf_counter() - start - in_stages_s}
    return result


def _write_trajectories(run: _Run, result: SlamResult) -> None:
    with run.clock.stage("write"):
        with run.folder.whole_file("trajectory.tum") as path:
            write_tum(path, result.times_s, result.T_world_cam)
        with run.folder.whole_file("trajectory_kitti.txt") as path:
            write_kitti(path, to_reference_camera(result.T_world_cam, run.dataset.T_cam_ref))
        run.folder.write_text("frames.csv", frames_csv(result))
        run.folder.write_text("loops.csv", loops_csv(result))
        run.folder.write_text("config.yaml", dump_yaml(run.config))


def _write_keyframes(run: _Run, result: SlamResult) -> None:
    with run.clock.stage("write"):
        for keyframe in result.keyframes:
            with run.folder.whole_file(f"keyframes/{keyframe.index:06d}.npz") as path:
                np.savez_compressed(path, **keyframe_arrays(keyframe))


def keyframe_arrays(keyframe: KeyframeResult) -> dict[str, np.ndarray]:
    """Content of keyframes/NNNNNN.npz: pose, intrinsics [fx fy cx cy] of the 1/8 grid, and the maps on that grid.

    The image stays in the data set; what a keyframe without a prior lacks is left out.
    """
    arrays: dict[str, Any] = {
        "index": keyframe.index,
        "time_s": keyframe.time_s,
        "T_world_cam": keyframe.T_world_cam,
        "grid_camera": keyframe.camera.grid().vector(),
        "inv_depth": keyframe.inv_depth,
        "confidence": keyframe.confidence,
        "prior_log_scale": keyframe.prior_log_scale,
    }
    arrays |= {name: getattr(keyframe, name) for name in ("prior_depth_m", "prior_confidence", "confirmed")}
    return {name: np.asarray(value) for name, value in arrays.items() if value is not None}


def _evaluate(run: _Run, result: SlamResult) -> dict[str, Any] | None:
    """Write metrics.json: figures of the reference camera's path, or the reason why there are none."""
    metrics, reason = None, "the data set has no ground truth"
    truth = run.dataset.T_world_cam_true
    if truth is not None:
        with run.clock.stage("evaluation"):
            from metric_slam.evaluation import evaluate

            try:
                metrics = evaluate(
                    to_reference_camera(result.T_world_cam, run.dataset.T_cam_ref),
                    truth[result.frame_indices] @ run.dataset.T_cam_ref,
                    times_s=result.times_s,
                    scale_known=result.scale_source != "unknown",
                )
            except EvaluationError as error:
                reason = str(error)
                logger.warning("no metrics: %s", reason)
    run.folder.write_json("metrics.json", metrics if metrics is not None else {"headline": None, "reason": reason})
    return metrics


def _fuse(run: _Run, result: SlamResult) -> None:
    """Write map.ply, mesh.ply and map.png, unless switched off or Open3D is not usable here."""
    if not run.config.fusion.enabled:
        return
    with _optional_stage(run, "fusion"):
        from metric_slam.reconstruction.fusion import fuse

        with (
            show_progress("fusion, %", 100, run.console) as progress,
            run.folder.whole_files() as temporary,
        ):
            summary = fuse(result, run.config.fusion, temporary, lambda part, _: progress.update(round(100 * part)))
        run.fusion = {key: value for key, value in asdict(summary).items() if not key.endswith("_path")}
        if summary.empty_reason is not None:
            logger.warning("no map: %s", summary.empty_reason)
    if run.fusion and run.fusion["triangle_count"]:
        with _optional_stage(run, "map_picture"):
            from metric_slam.reconstruction.preview import render_preview

            with run.folder.whole_file("map.png") as path:
                render_preview(run.folder.path / "mesh.ply", result, path)


def _report(run: _Run, result: SlamResult, metrics: dict[str, Any] | None, info: dict[str, Any]) -> None:
    with _optional_stage(run, "report"):
        from metric_slam.report.page import write_report

        truth = run.dataset.T_world_cam_true
        truth = None if truth is None else truth[result.frame_indices]
        with run.folder.whole_files() as temporary:
            stages = {name: seconds for name, seconds in info["timings_s"].items() if name != "total"}
            details = {**info, "timings_s": stages, "config": run.config.model_dump(mode="json")}
            picture = run.folder.path / "map.png"
            write_report(temporary, result, truth, metrics, details, picture if picture.exists() else None)


@contextmanager
def _optional_stage(run: _Run, name: str) -> Iterator[None]:
    """A stage whose failure is told and noted but does not take the trajectory with it; a second Ctrl-C gives up."""
    try:
        with run.clock.stage(name):
            yield
    except OutputError as error:
        run.write_failure = run.write_failure or error
        logger.warning("%s skipped: %s", name, error)
    except (MetricSlamError, RuntimeError, MemoryError) as error:  # the latter two are how Open3D's C++ fails
        logger.warning("%s skipped: %s", name, str(error) or type(error).__name__)
    except KeyboardInterrupt:
        if run.interrupted:
            raise
        run.interrupted = True
        logger.warning("%s skipped: interrupted", name)


def _write_run_info(run: _Run, result: SlamResult) -> dict[str, Any]:
    total_s = time.perf_counter() - run.started
    error = run.tracking.error or run.write_failure
    info = {
        "sequence": run.dataset.name,
        "command": shlex.join(run.command),
        "started_at": run.started_at,
        "interrupted": run.interrupted,
        "error": None if error is None else _described(error),
        "frames": len(result.frame_indices),
        "frames_selected": run.frames_selected,
        "keyframes": len(result.keyframes),
        "frames_not_tracked": int(np.count_nonzero(~result.tracked)),
        "submaps": result.submap_count,
        "cells_confirmed": None if result.confirmed_share is None else round(result.confirmed_share, 3),
        "loops_closed": sum(loop.believed for loop in result.loops),
        "loops_rejected": sum(not loop.believed for loop in result.loops),
        "prior_withdrawn": sum(not seen.used for seen in result.scale_observations),
        "preset": run.config.preset_name,
        "choices": run.choices,
        "scale_source": result.scale_source,
        "frames_per_s": round(run.frames_per_s, 3),
        "timings_s": {**run.clock.rounded(), "total": round(total_s, 3)},
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "peak_rss_tracking_mb": round(run.peak_rss_tracking_mb, 1),
        "solver_status_counts": dict(result.solver_status_counts),
        "fusion": run.fusion,
        "warnings": list(run.warnings),
        "device": run.device,
        "seed": run.config.seed,
        "versions": package_versions(),
        "machine": machine(),
    }
    run.folder.write_json("run.json", info)
    return info
