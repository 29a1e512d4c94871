"""`vllm.sampling_params`, as far as it is used."""

from __future__ import annotations

from enum import Enum

__all__ = ["RequestOutputKind"]


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2
