#!/usr/bin/env python
"""Shift of the map's scale by zero-mean noise of the depth prior, measured on the rendered drive.

    python benchmarks/prior_noise.py [--frames 150] [--sigma 0.1 0.2 0.3] [--preset fast] [--seeds 0]

The prior of every run is the true depth times exp(sigma n), n standard normal and independent for each cell of the grid
(8 x 8 pixels of the working image), so that log depth is unbiased. The scale is that of the Sim(3) fit of the estimated
trajectory to the true one (metrics.json): below 1 the map is too long. The first row, without noise, is the reference.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from runs import environment

from metric_slam.datasets.base import Dataset
from metric_slam.datasets.synthetic import open_demo
from metric_slam.geometry.camera import FEATURE_STRIDE

ROOT = Path(__file__).resolve().parents[1]
SIGMAS = (0.1, 0.2, 0.3)
MAX_CHANGE = 0.004
"""Relative change of the scale that is still accepted."""


def noisy_depth(depth_m: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Depth [H, W] (0: none) times exp(sigma n), n constant over each cell of 8 x 8 pixels, float32."""
    H, W = depth_m.shape
    cells = np.random.default_rng(seed).standard_normal((-(-H // FEATURE_STRIDE), -(-W // FEATURE_STRIDE)))
    noise = np.repeat(np.repeat(cells, FEATURE_STRIDE, axis=0), FEATURE_STRIDE, axis=1)[:H, :W]
    return (depth_m * np.exp(sigma * noise)).astype(np.float32)


def write_depths(dataset: Dataset, frames: int, sigma: float, seed: int, folder: Path) -> None:
    """One npy file for each of the first frames, named like its image."""
    folder.mkdir(parents=True)
    for index in range(frames):
        frame = dataset[index]
        assert frame.depth_m is not None and frame.path is not None, index
        np.save(folder / f"{frame.path.stem}.npy", noisy_depth(frame.depth_m, sigma, 1_000_003 * seed + index))


def fitted_scale(depths: Path, frames: int, preset: str, out: Path, settings: list[str]) -> float:
    """Scale of the Sim(3) fit of a run with these depth maps."""
    command = [sys.executable, "scripts/run_kitti.py", "--seq", "demo", "--correspondence", "dis", "--preset", preset]
    command += ["--prior", "precomputed", "--precomputed-depth", str(depths), "--end", str(frames)]
    command += ["--no-fusion", "--overwrite", "--out", str(out), *(w for s in settings for w in ("--set", s))]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return float(metrics["fitted_scale"]["value"])


def main() -> int:
    """The command; exit code 1 where a change is larger than accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=150, help="first frames of the drive that are used")
    parser.add_argument("--sigma", type=float, nargs="+", default=list(SIGMAS), help="standard deviations of log depth")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the noise")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="configuration key; repeatable")
    arguments = parser.parse_args()
    dataset, frames = open_demo(), arguments.frames
    table = Table("sigma", "seed", "fitted scale", "change")
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        exact = None
        for sigma, seed in [(0.0, 0), *((sigma, seed) for sigma in arguments.sigma for seed in arguments.seeds)]:
            depths = Path(scratch) / f"depth_{sigma}_{seed}"
            write_depths(dataset, frames, sigma, seed, depths)
            scale = fitted_scale(depths, frames, arguments.preset, Path(scratch) / "run", arguments.set)
            exact = scale if exact is None else exact
            change = scale / exact - 1.0
            worst = max(worst, abs(change))
            table.add_row(f"{sigma:.2f}", str(seed), f"{scale:.4f}", f"{100 * change:+.2f} %")
    Console().print(table)
    return int(worst > MAX_CHANGE)


if __name__ == "__main__":
    sys.exit(main())
