# The CUDA kernels compiled for the CPU (METRIC_SLAM_EMULATION=1): the functions of _droid_backends, each with a stream.
from collections.abc import Callable

def __getattr__(name: str) -> Callable[..., None]: ...
