"""What a step asks of a device: counted on the path that a GPU takes, with stand-ins for its recordings."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from checkpoints import RANDOM_MODEL
from plain_capture import PlainCapture, recording
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from antiphon import Engine
from antiphon.bench.engine import add_paced_request

Result = TypeVar("Result", bound="Tensor | tuple[Tensor, ...]")


@dataclass
class Counts:
    replays: int = 0
    waits: int = 0
    operators: list[str] = field(default_factory=list)
    """Operators between the replays, each of which would be a launch or a copy."""


class CountingCapture(PlainCapture):
    """Replays are counted, and what they call is not."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.is_inside = False

    def __call__(self, function: Callable[[], Result]) -> Callable[[], Result]:
        replay = super().__call__(function)

        def counted() -> Result:
            self.counts.replays += 1
            self.is_inside = True
            try:
                return replay()
            finally:
                self.is_inside = False

        return counted

    def wait(self) -> None:
        self.counts.waits += 1

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        self.counts = Counts()
        with _Operators(self):
            yield self.counts


class _Operators(TorchDispatchMode):
    def __init__(self, capture: CountingCapture) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capture = capture

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._capture.is_inside:
            self._capture.counts.operators.append(str(function))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(("num_requests", "quantization"), [(1, None), (64, None), (8, "int8")])
def test_a_step_is_one_replay_and_one_wait(num_requests: int, quantization: str | None) -> None:
    """With text it is two; and beside each there is a copy of its numbers and a copy of its results, and
    nothing else."""
    capture = CountingCapture()
    with recording(capture):
        engine = Engine(
            RANDOM_MODEL, quantization=quantization, max_num_seqs=num_requests, kv_cache_bytes=64 << 20
        )
    rng = random.Random(0)
    for _ in range(num_requests):
        add_paced_request(engine, 20, 150, 0.18, rng)
    states = list(engine.scheduler.waiting)
    while not all(len(state.unit_ids) > 1 for state in states):
        engine.step()
    plain, with_text = 0, 0
    while engine.has_unfinished() and min(len(state.unit_ids) for state in states) < 148:
        num_before = sum(len(state.text_ids) for state in states)
        with capture.counting() as counts:
            engine.step()
        is_plain = sum(len(state.text_ids) for state in states) == num_before
        assert (counts.replays, counts.waits) == ((1, 1) if is_plain else (2, 2))
        assert counts.operators == ["aten.copy_.default"] * 2 * counts.replays
        plain, with_text = plain + is_plain, with_text + (not is_plain)
    assert plain > 100
    assert with_text > 5


def test_prompts_do_not_keep_others_from_being_replayed() -> None:
    """A request that arrives is read beside one that speaks, which is still replayed."""
    capture = CountingCapture()
    with recording(capture):
        engine = Engine(RANDOM_MODEL, max_num_seqs=4, max_num_batched_tokens=16)
    rng = random.Random(0)
    add_paced_request(engine, 20, 100, 0.0, rng)
    (speaking,) = engine.scheduler.waiting
    while len(speaking.unit_ids) < 2:
        engine.step()
    add_paced_request(engine, 200, 10, 0.0, rng)
    (reading,) = engine.scheduler.waiting
    num_steps = 0
    while not reading.unit_ids:
        before = len(speaking.unit_ids)
        with capture.counting() as counts:
            engine.step()
        assert len(speaking.unit_ids) == before + 1
        assert counts.replays <= 2  # the second where text is read, too
        num_steps += 1
    assert num_steps > 10
