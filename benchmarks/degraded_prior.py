#!/usr/bin/env python
"""Write depth maps of the rendered drive with errors like those of a learned prior: the prior of demo-degraded-prior.

    python benchmarks/degraded_prior.py [DIR]

Each map is the true depth times exp(smooth field of 10 %) times exp(3 % common to the frame), see
``metric_slam.datasets.synthetic.degrade_depth``; seed = frame number; 16-bit png, 256 units per metre.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from metric_slam.datasets.base import Dataset
from metric_slam.datasets.images import write_depth_m
from metric_slam.datasets.synthetic import DriveSpec, degrade_depth, open_demo

ROOT = Path(__file__).resolve().parents[1]
SMOOTH_SIGMA, FRAME_SIGMA = 0.10, 0.03
UNITS_PER_METRE = 256.0


def default_folder() -> Path:
    """Where the maps of the default drive are kept; its name changes with the drive and with the errors."""
    errors = f"{round(100 * SMOOTH_SIGMA)}_{round(100 * FRAME_SIGMA)}"
    return ROOT / ".cache" / f"degraded_prior_{DriveSpec().key()}_{errors}"


def write_degraded_depth(dataset: Dataset, folder: Path) -> None:
    """One degraded map for each frame of ``dataset``, named like its image; nothing is done where ``folder`` exists.

    The folder appears complete or not at all.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".degrading_", dir=folder.parent))
    try:
        for index in range(len(dataset)):
            frame = dataset[index]
            assert frame.depth_m is not None and frame.path is not None, index
            depth_m = degrade_depth(frame.depth_m, index, smooth_sigma=SMOOTH_SIGMA, frame_sigma=FRAME_SIGMA)
            write_depth_m(scratch / f"{frame.path.stem}.png", depth_m, UNITS_PER_METRE)
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=default_folder(), metavar="DIR")
    folder = parser.parse_args().folder
    write_degraded_depth(open_demo(), folder)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
