"""Speech of units by a `SpeechWorker`, held up and broken as tests want it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from antiphon import (
    StreamSchedule,
)
from antiphon.codec import Codec
from antiphon.codec.flow.flow import FlowInput
from antiphon.outputs.speech_worker import SpeechWorker

STREAMED = StreamSchedule()
LONG_S = 60.0
POISON = 63
"""A unit that breaks the flow in tests that say so."""


def units_of(count: int, seed: int) -> list[int]:
    units: list[int] = np.random.default_rng(seed).integers(0, POISON, count).tolist()
    return units


def all_spoken(worker: SpeechWorker) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str | None]]:
    """Samples of each request until nothing is open, and what it ended with."""
    pieces: dict[str, list[np.ndarray[Any, Any]]] = {}
    ends: dict[str, str | None] = {}
    while True:
        is_done = worker.num_speaking == 0
        for spoken in worker.poll(0.05):
            assert spoken.request_id not in ends, "nothing follows the end"
            pieces.setdefault(spoken.request_id, []).append(spoken.samples)
            if spoken.is_last:
                ends[spoken.request_id] = spoken.error
        if is_done:
            return {name: np.concatenate(parts) for name, parts in pieces.items()}, ends


def wait_until(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LONG_S
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def breaks_on_poison(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = codec.decoder.flow.generate

    def breaking(inputs: list[FlowInput]) -> Any:
        if any(POISON in row.units.tolist() for row in inputs):
            raise RuntimeError("out of luck")
        return generate(inputs)

    monkeypatch.setattr(codec.decoder.flow, "generate", breaking)


class Gate:
    """Holds the speech thread before each chunk, and notes whose chunk it was (by its first unit)."""

    def __init__(self, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[int] = []
        self.is_held = threading.Event()
        self.is_open = threading.Event()
        generate = codec.decoder.flow.generate

        def held(inputs: list[FlowInput]) -> Any:
            self.order += [int(row.units[0]) for row in inputs]
            self.is_held.set()
            assert self.is_open.wait(LONG_S)
            return generate(inputs)

        monkeypatch.setattr(codec.decoder.flow, "generate", held)


class Clock:
    """Stands in for `time` in the worker: its seconds pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s


class Fault(BaseException):
    """Caught by nothing that catches what is usual."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def raises_once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException, at: int = 1
) -> None:
    real, count = getattr(owner, name), itertools.count(1)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if next(count) == at:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, wrapped)


def speaks(worker: SpeechWorker, *names: str, schedule: StreamSchedule | None = STREAMED) -> None:
    for name in names:
        worker.begin(name, None, 0, schedule)
        worker.push(name, units_of(60, 1), final=True)


def no_threads(monkeypatch: pytest.MonkeyPatch, prefix: str, most: int = 0) -> None:
    """As when the system's limit is reached: no more than `most` of this kind start."""
    start, count = threading.Thread.start, itertools.count()

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix) and next(count) >= most:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
