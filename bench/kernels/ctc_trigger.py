"""Which units of a step are a new label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from antiphon.bench.kernels.case import Case, Setting
from antiphon.kernels.ctc_trigger import ctc_trigger

__all__ = ["cases"]

BLANK = 0


def cases(setting: Setting) -> Iterator[Case]:
    for n in (1, 16, 64):

        def inputs(backend: str, n: int = n) -> tuple[Any, ...]:
            last = torch.full((n,), BLANK, dtype=torch.int32, device=setting.device)
            return setting.randint(0, 4, n), last, torch.randperm(n, device=setting.device), BLANK

        yield Case(
            shape=str(n),
            num_bytes=n * (8 + 8 + 4 + 4 + 1),
            num_ops=0,
            inputs=inputs,
            call=ctc_trigger,
        )
