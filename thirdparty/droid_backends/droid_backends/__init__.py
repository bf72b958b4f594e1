"""Dense bundle adjustment, correlation lookup and their kernels, compiled from C++; arrays in, arrays out."""

try:
    from . import _droid_backends
    from ._droid_backends import *  # noqa: F403
except ImportError as error:
    raise ImportError(
        f"the compiled part of droid_backends cannot be loaded ({error}): run `pip install --no-build-isolation -e .`"
    ) from error

__all__ = [name for name in dir(_droid_backends) if not name.startswith("_")]
