"""Render the drive that ``make demo`` maps into the cache, unless it is there, and print its folder."""

from __future__ import annotations

from rich.console import Console

from metric_slam.datasets.synthetic import open_demo
from metric_slam.run.progress import show_progress

if __name__ == "__main__":
    with show_progress("rendering", 0, Console(stderr=True)) as progress:
        sequence = open_demo(progress=progress.update)
    print(sequence.name)
