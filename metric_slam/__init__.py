"""Dense monocular SLAM that outputs metres: a video of one calibrated camera in, a metric trajectory and map out.

The names below are the library's front door; they load on first use, so that ``import metric_slam`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Config": "metric_slam.config.schema",
    "Frame": "metric_slam.frame",
    "FrameState": "metric_slam.result",
    "PinholeCamera": "metric_slam.geometry.camera",
    "Slam": "metric_slam.slam",
    "SlamResult": "metric_slam.result",
    "open_dataset": "metric_slam.datasets",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
