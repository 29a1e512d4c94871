"""How many threads the C++ kernels use, and how many torch's operators use beside them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from antiphon.kernels.checks import INT32_MIN, check_integer
from antiphon.kernels.registry import cpp_available

__all__ = ["openmp_library", "openmp_threads", "set_num_threads"]


def set_num_threads(count: int) -> None:
    """The number of threads of later C++ kernels, the caller's included, for the whole process, as in torch.
    Less than 1 counts as 1.

    Raises ValueError if `count` is not an integer of 32 bits.
    """
    count = check_integer("count", count, INT32_MIN)
    if cpp_available():
        from antiphon.kernels import _C

        _C.set_num_threads(count)


@contextmanager
def openmp_threads(count: int | None) -> Iterator[None]:
    """Within the context, what this thread runs uses `count` of OpenMP's threads; other threads keep their
    number. None: so does this one.

    With 1, torch's operators between C++ kernels wake no other threads. OpenMP's threads would otherwise wake
    to copy a hundred rows or so, and then spin for 16 ms on the cores that the kernels want.
    `torch.set_num_threads` does not serve, since threads that start meanwhile would inherit the number. Does
    nothing if torch was built without OpenMP.
    """
    openmp = openmp_library()
    if openmp is None or count is None:
        yield
        return
    before = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(count)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(before)


@cache
def openmp_library() -> ctypes.PyDLL | None:
    """OpenMP, whose symbols are visible to the whole process once torch is imported; None if torch was built
    without it."""
    import torch

    if not torch.backends.openmp.is_available():
        return None
    names = ctypes.PyDLL(None)  # these calls take nanoseconds: not worth releasing the GIL
    return names if hasattr(names, "omp_set_num_threads") else None
