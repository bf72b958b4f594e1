"""Dense bundle adjustment, correlation lookup and their kernels, compiled from C++; arrays in, arrays out.

``cuda`` is the module with the same functions for the memory of a GPU, None where it was not built or does not load;
``why_no_cuda`` then has the reason.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

try:
    from . import _droid_backends
    from ._droid_backends import *  # noqa: F403
except ImportError as error:
    raise ImportError(
        f"the compiled part of droid_backends cannot be loaded ({error}): run `pip install --no-build-isolation -e .`"
    ) from error

cuda: ModuleType | None = None
why_no_cuda = ""
try:
    cuda = import_module("._droid_backends_cuda", __name__)
except ModuleNotFoundError:
    why_no_cuda = "the CUDA kernels were not built"
except ImportError as error:
    why_no_cuda = f"the CUDA kernels cannot be loaded ({error})"

__all__ = ["cuda", "why_no_cuda", *(name for name in dir(_droid_backends) if not name.startswith("_"))]
