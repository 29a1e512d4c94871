"""How many threads load a checkpoint."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from antiphon.kernels.threads import openmp_threads

__all__ = ["SMALL_BYTES", "load_threads"]

SMALL_BYTES = 2**28
"""Files up to this size together are loaded by one thread."""


def load_threads(folder: Path) -> AbstractContextManager[None]:
    """Within the context, this thread loads a small checkpoint alone.

    Such a checkpoint has a thousand small tensors, each of which is copied, checked and packed in less time
    than OpenMP's threads take to come together. Where something else has the cores, each of these operators
    waits, spinning, for a thread that does not run: that turned a third of a second into five.
    """
    return openmp_threads(1 if _num_bytes(folder) <= SMALL_BYTES else None)


def _num_bytes(folder: Path) -> int:
    """Of the files in the folder itself. What cannot be looked at counts as nothing: loading it says why."""
    total = 0
    try:
        for path in folder.iterdir():
            if path.is_file():
                total += path.stat().st_size
    except (OSError, ValueError):
        return 0
    return total
