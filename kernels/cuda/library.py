"""The compiled kernels. The library is built where there is nvcc, and loads without CUDA installed."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["FILE", "call", "can_run", "has_library", "library"]

FILE = "native/antiphon_cuda.so"


def has_library() -> bool:
    return _path().is_file()


@cache
def library() -> ctypes.CDLL:
    return ctypes.CDLL(str(_path()))


def can_run() -> bool:
    """Whether the driver and the GPU take the library's kernels: a driver that is older than the CUDA they
    were compiled by does not. Asked of the current GPU, without a launch. A library that was built before
    this question could be asked is passed over."""
    status = getattr(library(), "antiphon_ctc_collapse_status", None)
    return status is not None and int(status()) == 0


def call(function: object, *arguments: object) -> None:
    """Calls a function of the library that returns a cudaError_t. Raises RuntimeError unless that is 0."""
    code = function(*arguments)  # type: ignore[operator]
    if code != 0:
        raise RuntimeError(f"CUDA: a kernel could not be launched (error {code})")


def _path() -> Path:
    package = find_spec("antiphon.kernels")
    assert package is not None and package.origin is not None, "antiphon is a package with a file"
    return Path(package.origin).parent / FILE
