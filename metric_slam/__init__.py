"""Dense monocular SLAM that outputs metres: a video of one calibrated camera in, a metric trajectory and map out.

The names in ``__all__`` are the public API. They are imported on first use, so that ``import metric_slam`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metric_slam.config.schema import Config
    from metric_slam.datasets import open_dataset
    from metric_slam.frame import Frame
    from metric_slam.geometry.camera import PinholeCamera
    from metric_slam.result import FrameState, SlamResult
    from metric_slam.slam import Slam

__version__ = "0.2.0.dev0"

_MODULE_OF = {
    "Config": "metric_slam.config.schema",
    "Frame": "metric_slam.frame",
    "FrameState": "metric_slam.result",
    "PinholeCamera": "metric_slam.geometry.camera",
    "Slam": "metric_slam.slam",
    "SlamResult": "metric_slam.result",
    "open_dataset": "metric_slam.datasets",
}

__all__ = [
    "Config",
    "Frame",
    "FrameState",
    "PinholeCamera",
    "Slam",
    "SlamResult",
    "__version__",
    "open_dataset",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
