"""The same computation on different numbers of OpenMP threads."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import TypeVar

import pytest

Result = TypeVar("Result")

only_with_openmp = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux builds use OpenMP")


def on_threads(run: Callable[[], Result], counts: tuple[int, ...] = (1, 2, 3)) -> list[Result]:
    """What ``run`` returns on each number of threads; the setting is put back."""
    openmp = ctypes.CDLL("libgomp.so.1")
    before, results = openmp.omp_get_max_threads(), []
    try:
        for count in counts:
            openmp.omp_set_num_threads(count)
            results.append(run())
    finally:
        openmp.omp_set_num_threads(before)
    return results
