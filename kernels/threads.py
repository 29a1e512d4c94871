"""How many threads the C++ kernels use, and how many torch's operators beside them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from antiphon.kernels.checks import INT32_MIN, check_integer
from antiphon.kernels.registry import cpp_available

__all__ = ["openmp_library", "openmp_threads", "set_num_threads"]


def set_num_threads(count: int) -> None:
    """Threads of later C++ kernels, the caller included; for all of the process, like torch's. Less than 1
    is 1.

    Raises ValueError for what is no number of threads.
    """
    count = check_integer("count", count, INT32_MIN)
    if cpp_available():
        from antiphon.kernels import _C

        _C.set_num_threads(count)


@contextmanager
def openmp_threads(count: int | None) -> Iterator[None]:
    """What this thread starts meanwhile uses so many of OpenMP's threads, other threads as many as before.
    None: this one too.

    With 1, torch's operators between C++ kernels wake nobody: to copy some hundred rows, OpenMP's threads
    would, and then they spin for 16 ms on the cores that the kernels want. `torch.set_num_threads` is no
    way to say that, since threads that begin meanwhile would inherit it. Does nothing where torch was
    built without OpenMP.
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
    """OpenMP, whose names torch, when it is imported, gives to the whole process; None where torch has
    none."""
    import torch

    if not torch.backends.openmp.is_available():
        return None
    names = ctypes.PyDLL(None)  # these calls take nanoseconds: not worth letting go of the interpreter
    return names if hasattr(names, "omp_set_num_threads") else None
