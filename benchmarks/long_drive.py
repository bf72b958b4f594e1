#!/usr/bin/env python
"""Whole drives: the effect of loops, bounds on memory and time, and the resumption of killed runs.

    python benchmarks/long_drive.py loops     # 1.5 km, three loops, degraded prior: with and without closing them
    python benchmarks/long_drive.py alike     # one and the same house every 12 m, 700 m without and 900 m with one loop
    python benchmarks/long_drive.py length    # 4,541 frames, laps of the rendered block: memory, time per frame
    python benchmarks/long_drive.py kill      # kill -9 at three random moments, then --resume
    python benchmarks/long_drive.py hills     # a road that is not flat, scale from the road
    python benchmarks/long_drive.py cars      # moving cars in a fifth of the image, and the same drive without

Rendering is done first and kept in the cache of rendered drives; results go to results/long_drive/.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from degraded_prior import TOWN, write_degraded_depth

from metric_slam.config.resolve import Setting, resolve_config
from metric_slam.config.schema import Config
from metric_slam.datasets.base import Dataset
from metric_slam.datasets.sequence import ImageSequence
from metric_slam.datasets.synthetic import DriveSpec, cache_folder, open_demo
from metric_slam.frame import Frame
from metric_slam.run import pipeline
from metric_slam.trajectory import read_tum

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "long_drive"
LAP_FRAMES = 384
"""Frames after which the drive around the block is back at its start, 1.1 m further."""

WHOLE_DRIVE = 4541
TRUE_LOOP_M = 5.0


def settings(**values: object) -> Config:
    """Return preset fast without a map, overlaid with ``section__key=value``."""
    given: dict[str, object] = {"preset": "fast", "fusion.enabled": False}
    given |= {name.replace("__", "."): value for name, value in values.items()}
    return resolve_config(None, (), {key: Setting(value, "benchmark") for key, value in given.items()})


def run(name: str, dataset: Dataset, config: Config) -> pipeline.RunSummary:
    """Run once and print the figures."""
    summary = pipeline.run(config, dataset, OUT / name, overwrite=True)
    result, info = summary.result, summary.info
    assert dataset.T_world_cam_true is not None and summary.metrics is not None, name
    truth = dataset.T_world_cam_true[result.frame_indices]
    error_m = np.linalg.norm(result.T_world_cam[:, :3, 3] - truth[:, :3, 3], axis=1)
    apart_m = [
        np.linalg.norm(dataset.T_world_cam_true[p.index][:3, 3] - dataset.T_world_cam_true[p.match_index][:3, 3])
        for p in result.loops
        if p.accepted
    ]
    used = sum(observation.used for observation in result.scale_observations)
    figures = {
        "frames": info["frames"],
        "path_m": round(float(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum()), 1),
        "t_rel_percent": summary.metrics["kitti"]["alignments"]["none"]["t_rel_percent"],
        "ate_unaligned_m": round(float(np.sqrt((error_m**2).mean())), 3),
        "loops": len(apart_m),
        "false_loops": sum(bool(apart > TRUE_LOOP_M) for apart in apart_m),
        "rejected_loops": info["loops_rejected"],
        "submaps": info["submaps"],
        "scale_used_withdrawn": [used, len(result.scale_observations) - used],
        "frames_per_s": info["frames_per_s"],
        "peak_rss_mb": info["peak_rss_mb"],
        "load": round(os.getloadavg()[0], 1),
    }
    print(name, json.dumps(figures), flush=True)
    return summary


def loops() -> None:
    """Compare the error with and without loops."""
    spec = DriveSpec(route="town", length_m=1500.0, loops=3, seed=5)
    drive = open_demo(spec)
    folder = cache_folder() / f"degraded_{spec.key()}"
    write_degraded_depth(drive, folder)
    prior = {"prior": "precomputed", "precomputed__folder": str(folder)}
    ate = {}
    for name, enabled in (("loops", True), ("no_loops", False)):
        summary = run(name, drive, settings(loop__enabled=enabled, **prior))
        error_m = summary.result.T_world_cam[:, :3, 3] - drive.T_world_cam_true[:, :3, 3]
        ate[name] = float(np.sqrt((error_m**2).sum(axis=1).mean()))
    print(f"unaligned ATE with loops over without: {ate['loops'] / ate['no_loops']:.3f}")


def alike() -> None:
    """Count false loops in a town of one and the same house, without and with a true return."""
    town = DriveSpec(route="town", length_m=700.0, alike_houses=True, seed=6)
    for name, spec in (("alike", town), ("alike_loop", replace(town, length_m=900.0, loops=1))):
        drive = open_demo(spec)
        folder = cache_folder() / f"degraded_{spec.key()}"
        write_degraded_depth(drive, folder)
        summary = run(name, drive, settings(prior="precomputed", precomputed__folder=str(folder)))
        assert drive.T_world_cam_true is not None
        again = revisited(drive.T_world_cam_true)
        found = {p.index for p in summary.result.loops if p.accepted and p.index in again}
        print(f"{name}: {len(again)} frames show a place again, {len(found)} of them are loops")


def revisited(T_world_cam: np.ndarray) -> set[int]:
    """Return the frames at most 2 m from, and in the same direction as, one that lies 40 m or more back on the way."""
    centres, forward = T_world_cam[:, :3, 3], T_world_cam[:, :3, 2]
    way_m = np.cumsum(np.linalg.norm(np.diff(centres, axis=0, prepend=centres[:1]), axis=1))
    near = np.linalg.norm(centres[:, None] - centres, axis=2) < 2.0
    near &= (forward @ forward.T > 0.8) & (way_m[:, None] - way_m > 40.0)
    return set(np.flatnonzero(near.any(axis=1)).tolist())


def laps(frames: int) -> ImageSequence:
    """Return laps of the drive around the block."""
    drive = open_demo(TOWN)
    order = [i % LAP_FRAMES for i in range(frames)]
    assert drive.T_world_cam_true is not None
    return replace(
        drive,
        name="synthetic/laps",
        times_s=np.arange(frames) / TOWN.rate_hz,
        image_paths=tuple(drive.image_paths[i] for i in order),
        depth_paths=None,
        T_world_cam_true=drive.T_world_cam_true[order],
    )


class Clocked:
    """A data set that records when each of its frames is read."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.read_s: list[float] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Frame:
        self.read_s.append(time.perf_counter())
        return self._dataset[index]


def length() -> None:
    """Measure time per frame and memory over a drive as long as KITTI 00."""
    dataset = Clocked(laps(WHOLE_DRIVE))
    run("length", dataset, settings())
    read_s, tenth = np.array(dataset.read_s), WHOLE_DRIVE // 10
    first, last = read_s[tenth] - read_s[0], read_s[-1] - read_s[-1 - tenth]
    print(f"seconds per frame, first tenth {first / tenth:.4f}, last {last / tenth:.4f}, ratio {last / first:.2f}")


def kill(seed: int = 0) -> None:
    """Compare a run that is killed three times with one that is not."""
    drive = open_demo(TOWN)
    folder = str(drive.image_paths[0].parents[1])
    words = [sys.executable, "-m", "metric_slam", "run", folder, "--preset", "fast", "--no-fusion"]
    words += ["--set", "state.checkpoint_s=2"]
    whole, killed = OUT / "whole", OUT / "killed"
    subprocess.run([*words, "--out", str(whole), "--overwrite"], check=True, capture_output=True)
    wait_s = random.Random(seed)
    for attempt in range(4):
        mode = "--resume" if attempt else "--overwrite"
        process = subprocess.Popen([*words, "--out", str(killed), mode], stdout=subprocess.DEVNULL)
        if attempt < 3:
            time.sleep(wait_s.uniform(7.0, 14.0))
            process.send_signal(signal.SIGKILL)
        process.wait()
    one, other = (read_tum(folder / "trajectory.tum").T_world_cam for folder in (whole, killed))
    print(f"frames {len(one)} and {len(other)}, largest difference {np.abs(one - other).max():.2e}")


def hills() -> None:
    """Measure the scale from a road that is not flat."""
    spec = DriveSpec(route="town", length_m=700.0, hills_m=8.0, seed=3)
    run("hills", open_demo(spec), settings(prior="ground_plane"))


def cars() -> None:
    """Compare a drive with moving cars with the same drive without them."""
    spec = DriveSpec(route="town", length_m=500.0, seed=4)
    for name, share in (("static", 0.0), ("cars", 0.2)):
        run(name, open_demo(replace(spec, moving_cars=share)), settings(prior="ground_plane"))


def main() -> None:
    """Run the command."""
    cases = {"loops": loops, "alike": alike, "length": length, "kill": kill, "hills": hills, "cars": cars}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=cases)
    cases[parser.parse_args().case]()


if __name__ == "__main__":
    main()
