"""Copies what clients in an event loop give into plain values, before the engine's thread sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from antiphon.config import InputLimits
from antiphon.inputs.copies import is_plain, plain_params, plain_samples
from antiphon.inputs.processor import InputProcessor
from antiphon.plain import reading
from antiphon.types import Request, SamplingParams

if TYPE_CHECKING:
    from antiphon.sound.arrays import AudioArray
    from antiphon.sound.samples import SampleReader

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
    """A copy; raises InvalidRequest, also for ids that are not units."""
    return await _run(lambda: inputs.units(units), is_quick=is_plain(units))


async def take_samples(samples: Any, reader: SampleReader, limits: InputLimits) -> AudioArray:
    """A piece of a session's sound in any form that `read_audio` takes, as mono float32 (n,), which may be
    empty; raises InvalidRequest. reader: the session's own."""

    def copy() -> AudioArray:
        with reading("audio"):
            return reader.read(plain_samples("audio", samples, limits), or_none=True, scales_floats=False)

    return await _run(copy, is_quick=type(samples) is np.ndarray)


async def _run(copy: Callable[[], T], *, is_quick: bool) -> T:
    """Copy in the caller's thread, which is the event loop's. If that may run the client's own code, which
    may sleep, copy in a worker thread of that loop."""
    return copy() if is_quick else await asyncio.to_thread(copy)
