"""``python -m metric_slam`` is the command ``metric-slam``."""

from metric_slam.cli.main import main

if __name__ == "__main__":
    main()
