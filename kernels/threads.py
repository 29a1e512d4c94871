"""How many threads the C++ kernels use."""

from __future__ import annotations

from antiphon.kernels.registry import cpp_available

__all__ = ["set_num_threads"]


def set_num_threads(count: int) -> None:
    """Threads of later C++ kernels, the caller included; for all of the process, like torch's."""
    if cpp_available():
        from antiphon import _C

        _C.set_num_threads(count)
