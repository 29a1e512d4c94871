"""What clients in an event loop give, made of plain values before the engine's thread hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from antiphon.config import InputLimits
from antiphon.plain import reading
from antiphon.text.copies import is_plain, plain_params, plain_samples
from antiphon.text.processor import InputProcessor
from antiphon.types import Request, SamplingParams

__all__ = ["take_request", "take_samples", "take_units"]

T = TypeVar("T")


async def take_request(
    inputs: InputProcessor, request: Request, sampling_params: SamplingParams | None
) -> tuple[Request, SamplingParams | None]:
    """Copies of both; raises InvalidRequest."""
    return await _run(
        lambda: (inputs.plain(request), plain_params(sampling_params)),
        is_quick=is_plain(request) and is_plain(sampling_params),
    )


async def take_units(inputs: InputProcessor, units: Sequence[int]) -> tuple[int, ...]:
    """A copy, of units that there are; raises InvalidRequest."""
    return await _run(lambda: inputs.units(units), is_quick=is_plain(units))


async def take_samples(samples: Any, limits: InputLimits) -> np.ndarray:
    """Samples in any form that `read_audio` takes, as mono float32 (n,); raises InvalidRequest."""
    # Sound libraries are loaded by the first session that brings sound.
    from antiphon.codec.audio import mono_samples

    def copy() -> np.ndarray:
        with reading("audio"):
            return mono_samples(plain_samples("audio", samples, limits))

    return await _run(copy, is_quick=type(samples) is np.ndarray)


async def _run(copy: Callable[[], T], *, is_quick: bool) -> T:
    """In the caller's thread, the event loop's; but where code of the client's is run, which may sleep, in
    another one of that loop's."""
    return copy() if is_quick else await asyncio.to_thread(copy)
