"""Run metric_slam on one sequence of the KITTI odometry benchmark, or on the rendered drive with ``--seq demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metric_slam.cli.main import open_kitti_or_demo, run_script, run_with_options
from metric_slam.cli.options import RunOptions, with_run_options


@with_run_options
def run_kitti(
    options: RunOptions,
    seq: Annotated[str, typer.Option("--seq", help="00 ... 21, or demo for the rendered drive.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Holds sequences/; default $KITTI_ODOMETRY, then data/kitti.")
    ] = None,
) -> None:
    """Metric trajectory, map and report of one KITTI odometry sequence."""
    step = "rendering" if seq == "demo" else "opening"
    run_with_options(lambda console: open_kitti_or_demo(seq, data, options, console), options, step=step)


if __name__ == "__main__":
    run_script(run_kitti)
