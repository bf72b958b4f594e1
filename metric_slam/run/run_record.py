"""What a run notes about itself while it goes on: the content of run.json."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

import numpy as np

from metric_slam.config.schema import Config
from metric_slam.errors import MetricSlamError, OutputError
from metric_slam.result import SlamResult
from metric_slam.run.results_folder import JsonObject
from metric_slam.run.run_info import StageClock, machine, package_versions, peak_rss_mb


@dataclass
class RunRecord:
    """The notes of one run; the pipeline fills them in."""

    sequence: str
    """Name of the data set."""

    config: Config
    command: Sequence[str]
    warnings: Sequence[str]
    """Grows as the run logs them."""

    frames_selected: int
    steps_before_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds of what came before the run, e.g. the rendering of the drive."""

    stages: StageClock = field(default_factory=StageClock)
    """Seconds of the stages inside the steps; those of tracking overlap where a worker measures."""

    steps: StageClock = field(default_factory=StageClock)
    """Wall-clock seconds of the steps of the run, one after the other."""

    process_s: list[float] = field(default_factory=list)
    """Seconds of each call of ``process``."""

    choices: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    frames_per_s: float = 0.0
    peak_rss_tracking_mb: float = 0.0
    interrupted: bool = False
    tracking_error: Exception | None = None
    write_failure: OutputError | None = None
    fusion: JsonObject | None = None
    _started: float = field(default_factory=time.perf_counter)
    _started_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def step_seconds(self) -> dict[str, float]:
        """Seconds of each step in order, what lies between them as ``other``, and their ``total``; three decimals."""
        run_s = time.perf_counter() - self._started
        steps = {**self.steps_before_s, **self.steps.seconds}
        total = sum(self.steps_before_s.values()) + run_s
        steps |= {"other": max(0.0, total - sum(steps.values())), "total": total}
        return {name: round(seconds, 3) for name, seconds in steps.items()}

    def as_json(self, result: SlamResult) -> JsonObject:
        """Content of run.json at this moment."""
        error = self.tracking_error or self.write_failure
        share = result.consistent_share
        return {
            "sequence": self.sequence,
            "command": shlex.join(self.command),
            "started_at": self._started_at,
            "interrupted": self.interrupted,
            "error": None if error is None else described(error),
            "frames": len(result.frame_indices),
            "frames_selected": self.frames_selected,
            "keyframes": len(result.keyframes),
            "frames_not_tracked": int(np.count_nonzero(~result.tracked)),
            "submaps": result.submap_count,
            "consistent_share": None if share is None else round(share, 3),
            "loops_closed": sum(loop.accepted for loop in result.loops),
            "loops_rejected": sum(not loop.accepted for loop in result.loops),
            "prior_withdrawn": sum(not observation.used for observation in result.scale_observations),
            "preset": self.config.preset_name,
            "choices": self.choices,
            "scale_source": result.scale_source,
            "frames_per_s": round(self.frames_per_s, 3),
            "process_latency": latency(self.process_s),
            "steps_s": self.step_seconds(),
            "timings_s": {**self.stages.rounded(), "total": round(time.perf_counter() - self._started, 3)},
            "peak_rss_mb": round(peak_rss_mb(), 1),
            "peak_rss_tracking_mb": round(self.peak_rss_tracking_mb, 1),
            "solver_status_counts": dict(result.solver_status_counts),
            "fusion": self.fusion,
            "warnings": list(self.warnings),
            "device": self.device,
            "seed": self.config.seed,
            "versions": package_versions(),
            "machine": machine(),
        }


def latency(seconds: Sequence[float]) -> dict[str, float] | None:
    """Median, 99th percentile and maximum of calls in milliseconds; None without calls."""
    if not seconds:
        return None
    milliseconds = 1e3 * np.asarray(seconds)
    p50, p99 = np.percentile(milliseconds, [50, 99])
    figures = {"p50_ms": p50, "p99_ms": p99, "max_ms": milliseconds.max()}
    return {name: round(float(value), 2) for name, value in figures.items()}


def described(error: Exception) -> str:
    """One line about an error; of a bug also the class, without which a KeyError is meaningless."""
    return str(error) if isinstance(error, MetricSlamError) else " ".join(f"{type(error).__name__}: {error}".split())
