"""``python -m metric_slam`` is the command ``metric-slam``."""

from metric_slam.cli import main

if __name__ == "__main__":
    main()
