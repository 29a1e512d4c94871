"""Random numbers as a function of (seed, stream, row), so that a chunk gets the same as the whole utterance.

Philox (Salmon et al., 2011) is counter-based: it gives any row without the rows before it. Rows may be
negative: frames of a prompt lie before frame 0. On a GPU, `kernels.normal_rows` draws the same.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.random  # not at its first use, within a pass: an import that a signal interrupts keeps its lock

__all__ = ["EXCITATION", "MEL", "PHASE", "normal_rows", "signed_seed", "uniform_rows"]

MEL: Final = 1
"""The flow's initial noise; a row is a mel frame."""
PHASE: Final = 2
"""The source's initial phases; one row."""
EXCITATION: Final = 3
"""The source's noise; a row is a mel frame's samples."""

WORDS_PER_COUNT = 4
"""64-bit words that one step of the counter gives."""
MASK_64 = 2**64 - 1


def normal_rows(seed: int, stream: int, first_row: int, num_rows: int, width: int) -> np.ndarray[Any, Any]:
    """Standard normal float32 (num_rows, width), by the Box-Muller transform of pairs of 32-bit numbers."""
    words = _words(seed, stream, first_row, num_rows, -(-width // 2))
    radius = np.sqrt(-2 * np.log(((words >> np.uint64(32)) + 0.5) / 2**32))
    angle = (words & np.uint64(0xFFFFFFFF)) * (2 * np.pi / 2**32)
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(num_rows, -1)[:, :width].astype(np.float32)


def uniform_rows(seed: int, stream: int, first_row: int, num_rows: int, width: int) -> np.ndarray[Any, Any]:
    """Uniform float64 in [0, 1), (num_rows, width)."""
    return (_words(seed, stream, first_row, num_rows, width) >> np.uint64(11)) * 2.0**-53


def signed_seed(seed: int) -> int:
    """The 64 bits that count of a seed, as int64 has them."""
    word = seed & MASK_64
    return word - 2**64 if word >= 2**63 else word


def _words(seed: int, stream: int, first_row: int, num_rows: int, per_row: int) -> np.ndarray[Any, Any]:
    counts_per_row = -(-per_row // WORDS_PER_COUNT)
    key = (stream << 64) | (seed & MASK_64)
    counter = (first_row * counts_per_row) % 2**256
    words = np.random.Philox(counter=counter, key=key).random_raw(num_rows * counts_per_row * WORDS_PER_COUNT)
    return words.reshape(num_rows, -1)[:, :per_row]
