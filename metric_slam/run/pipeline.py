"""One run from data set to results folder: read, track, finish, write, evaluate, fuse, report.

Input: a resolved configuration and a data set; output: the results folder. Nothing that was
computed is lost: the trajectory is written before anything that can fail, and Ctrl-C, an image that cannot be read or a
bug ends the tracking, not the run.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import numpy as np
from rich.console import Console

from metric_slam.config.schema import Config, InputConfig
from metric_slam.datasets.base import Dataset
from metric_slam.datasets.read_ahead import read_ahead
from metric_slam.errors import ConfigError, MetricSlamError, OutputError
from metric_slam.result import SlamResult
from metric_slam.run.checkpoint import Checkpoints
from metric_slam.run.progress import show_progress, sigterm_as_ctrl_c, stop_on_signal
from metric_slam.run.results_folder import JsonObject, ResultsFolder
from metric_slam.run.run_info import collect_warnings, peak_rss_mb
from metric_slam.run.run_record import RunRecord, described
from metric_slam.run.write_results import write_keyframes, write_metrics, write_trajectories

if TYPE_CHECKING:
    from metric_slam.slam import Slam

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """What a run returns to its caller; everything else is in the folder."""

    output_dir: Path
    result: SlamResult
    metrics: JsonObject | None
    """Content of metrics.json; None without ground truth."""

    info: JsonObject
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
        """Raise it with its traceback, unless it is an error that the user is told in one line."""
        if self.error is not None and not isinstance(self.error, MetricSlamError):
            raise self.error


@dataclass
class _Run:
    """The state of one run: what the functions below share."""

    config: Config
    dataset: Dataset
    folder: ResultsFolder
    checkpoints: Checkpoints
    console: Console | None
    record: RunRecord
    tracking: _Withheld


def run(
    config: Config,
    dataset: Dataset,
    output_dir: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    command: Sequence[str] = (),
    console: Console | None = None,
    steps_before_s: Mapping[str, float] | None = None,
) -> RunSummary:
    """Process ``dataset`` and write its results to ``output_dir``.

    With ``resume`` an unfinished run there goes on after its latest checkpoint. ``command`` and ``steps_before_s``
    (seconds of what came before, by name) are noted in run.json.

    Raises MetricSlamError where nothing could be done at all, KeyboardInterrupt where the user interrupted before the
    first frame or for the second time. What ends the tracking later is in the summary if it is a MetricSlamError, and
    raised if it is not, both after all results so far are written.
    """
    folder = ResultsFolder.prepare(output_dir, overwrite, resume)
    try:
        with sigterm_as_ctrl_c(), collect_warnings() as warnings:
            indices = select_frames(len(dataset), config.input)
            record = RunRecord(dataset.name, config, command, warnings, len(indices), steps_before_s or {})
            checkpoints = Checkpoints(folder.path, config, dataset, resume=resume)
            try:
                return _run(_Run(config, dataset, folder, checkpoints, console, record, _Withheld()), indices)
            finally:
                checkpoints.remove_unless_saved()
    finally:
        folder.release()


def _run(run: _Run, indices: range) -> RunSummary:
    steps = run.record.steps
    try:
        with stop_on_signal() as stop:
            result = _track(run, indices, stop)
            with steps.stage("writing"), run.record.stages.stage("write"):
                run.folder.remove_old_results()
                write_trajectories(run.folder, result, run.dataset, run.config)
                _write_run_info(run, result)
                write_keyframes(run.folder, result)
            with steps.stage("evaluation"), run.record.stages.stage("evaluation"):
                metrics = write_metrics(run.folder, result, run.dataset)
            run.record.interrupted = stop.is_set()
        _fuse(run, result)
        _report(run, result, metrics, _write_run_info(run, result))
        info = _write_run_info(run, result)
        if not run.record.interrupted and run.tracking.error is None:
            run.checkpoints.remove()
    finally:
        run.tracking.raise_bug()
    failure = run.tracking.error or run.record.write_failure
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


def _track(run: _Run, indices: range, stop: Event) -> SlamResult:
    """Process every frame and finish; an error in between, and Ctrl-C, only ends the processing.

    The system lives no longer than this: fusion needs its memory.
    """
    record = run.record
    with record.steps.stage("setup"), record.stages.stage("setup"):
        slam = _build(run)
    start, before_s = time.perf_counter(), sum(slam.timings_s.values())
    before = run.checkpoints.done
    with record.steps.stage("tracking"):
        done = _process_frames(run, slam, indices, stop)
        record.interrupted, record.tracking_error = stop.is_set(), run.tracking.error
        if done == 0:
            raise run.tracking.error or KeyboardInterrupt
        if run.tracking.error is not None:
            reason = described(run.tracking.error)
            logger.warning("tracking ended after %d of %d frames: %s", done, len(indices), reason)
        with record.stages.stage("checkpoint"):
            record.write_failure = run.checkpoints.save_last(slam, done)
    with record.steps.stage("global BA"):
        result = _finish(run, slam)
    seconds = time.perf_counter() - start
    record.frames_per_s = (done - before) / seconds
    accounted_s = sum(record.stages.seconds.get(stage, 0.0) for stage in ("read", "checkpoint", "finish"))
    accounted_s += sum(result.timings_s.values()) - before_s
    record.stages.seconds["other"] = seconds - accounted_s
    record.peak_rss_tracking_mb = peak_rss_mb()
    return result


def _build(run: _Run) -> Slam:
    from metric_slam.choices import resolve_device
    from metric_slam.slam import Slam

    run.record.device = resolve_device(run.config.device)
    seed_everything(run.config.seed)
    slam = Slam.for_dataset(run.dataset, run.config, run.checkpoints.disk)
    run.checkpoints.restore(slam)
    run.record.choices = dict(slam.choices)
    return slam


def _process_frames(run: _Run, slam: Slam, indices: range, stop: Event) -> int:
    """Process the frames until the last one, an error (withheld) or ``stop``; returns how many are done in all."""
    record, done = run.record, run.checkpoints.done
    with (
        show_progress("tracking", len(indices), run.console) as progress,
        closing(read_ahead(run.dataset, indices[done:])) as frames,
        run.tracking,
    ):
        while not stop.is_set():
            with record.stages.stage("read"):
                frame = next(frames, None)
            if frame is None:
                break
            start = time.perf_counter()
            slam.process_frame(frame)
            record.process_s.append(time.perf_counter() - start)
            done += 1
            progress.update(done)
            with record.stages.stage("checkpoint"):
                run.checkpoints.after_frame(slam, done)
    return done


def _finish(run: _Run, slam: Slam) -> SlamResult:
    """Finish; takes over the stages of the system, and ``finish`` holds what they do not account for."""
    before_s, start = sum(slam.timings_s.values()), time.perf_counter()
    result = slam.finish()
    in_stages_s = sum(result.timings_s.values()) - before_s
    run.record.stages.seconds |= {**result.timings_s, "finish": time.perf_counter() - start - in_stages_s}
    return result


def _fuse(run: _Run, result: SlamResult) -> None:
    """Write map.ply, mesh.ply and map.png, unless switched off or Open3D is not usable here."""
    if not run.config.fusion.enabled:
        return
    with _optional_step(run, "fusion"):
        from metric_slam.reconstruction.fusion import fuse

        with (
            show_progress("fusion, %", 100, run.console) as progress,
            run.folder.whole_files() as temporary,
        ):
            summary = fuse(result, run.config.fusion, temporary, lambda part, _: progress.update(round(100 * part)))
        run.record.fusion = {key: value for key, value in asdict(summary).items() if not key.endswith("_path")}
        if summary.empty_reason is not None:
            logger.warning("no map: %s", summary.empty_reason)
    if run.record.fusion and run.record.fusion["triangle_count"]:
        with _optional_step(run, "picture"):
            from metric_slam.reconstruction.preview import render_preview

            with run.folder.whole_file("map.png") as path:
                render_preview(run.folder.path / "mesh.ply", result, path)


def _report(run: _Run, result: SlamResult, metrics: JsonObject | None, info: JsonObject) -> None:
    """Write plots/*.png and report.html."""
    with _optional_step(run, "report"):
        from metric_slam.report.page import write_report

        truth = run.dataset.T_world_cam_true
        truth = None if truth is None else truth[result.frame_indices]
        with run.folder.whole_files() as temporary:
            stages = {name: seconds for name, seconds in info["timings_s"].items() if name != "total"}
            details = {**info, "timings_s": stages, "config": run.config.model_dump(mode="json")}
            picture = run.folder.path / "map.png"
            write_report(temporary, result, truth, metrics, details, picture if picture.exists() else None)


@contextmanager
def _optional_step(run: _Run, name: str) -> Iterator[None]:
    """A step whose failure is logged and noted but keeps the trajectory; a second Ctrl-C ends the run."""
    record = run.record
    try:
        with record.steps.stage(name), record.stages.stage(name):
            yield
    except OutputError as error:
        record.write_failure = record.write_failure or error
        logger.warning("%s skipped: %s", name, error)
    except (MetricSlamError, RuntimeError, MemoryError) as error:  # the latter two are how Open3D's C++ fails
        logger.warning("%s skipped: %s", name, str(error) or type(error).__name__)
    except KeyboardInterrupt:
        if record.interrupted:
            raise
        record.interrupted = True
        logger.warning("%s skipped: interrupted", name)


def _write_run_info(run: _Run, result: SlamResult) -> JsonObject:
    info = run.record.as_json(result)
    run.folder.write_json("run.json", info)
    return info
