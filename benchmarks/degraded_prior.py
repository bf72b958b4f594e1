#!/usr/bin/env python
"""Write depth maps of a rendered drive with errors like those of a learned prior: for demo-degraded-prior and town.

    python benchmarks/degraded_prior.py [DIR] [--town]

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
TOWN = DriveSpec(overlap_m=110.0)
"""Around a block of the rendered town and on until 110 m are driven a second time: 460 frames."""

UNITS_PER_METRE = 256.0


def default_folder(spec: DriveSpec | None = None) -> Path:
    """Return the folder of the maps of a drive (default: the demo); its name changes with the drive and the errors."""
    errors = f"{round(100 * SMOOTH_SIGMA)}_{round(100 * FRAME_SIGMA)}"
    return ROOT / ".cache" / f"degraded_prior_{(spec or DriveSpec()).key()}_{errors}"


def write_degraded_depth(dataset: Dataset, folder: Path) -> None:
    """Write one degraded map for each frame of ``dataset``, named like its image, unless ``folder`` exists.

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
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="default: in .cache/ of the checkout")
    parser.add_argument("--town", action="store_true", help="of the case town instead of the demo")
    options = parser.parse_args()
    spec = TOWN if options.town else DriveSpec()
    folder = options.folder or default_folder(spec)
    write_degraded_depth(open_demo(spec), folder)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
