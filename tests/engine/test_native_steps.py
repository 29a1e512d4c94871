"""Decode steps in one call: the same replies as kernel by kernel, and no tensors made for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from checkpoints import RANDOM_MODEL
from golden_cases import cases
from serving import assert_nothing_held, load
from torch.utils._python_dispatch import TorchDispatchMode

from antiphon import Completion, Engine, Request, SamplingParams, UnitDelta
from antiphon.kernels.registry import cpp_available
from antiphon.model.native_decoding import NativeDecoding
from antiphon.sched.plan import Chunk

pytestmark = pytest.mark.skipif(not cpp_available(), reason="needs the C++ kernels")

POSITION_BYTES, BLOCKS = 2048, 150
REQUESTS = [case.request() for case in cases()]
SAMPLED = Request(
    "Hello", ("text", "audio"), sampling_params=SamplingParams(temperature=0.8, top_k=4, seed=3, max_units=12)
)


def replies(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    done = engine.generate(requests)
    assert_nothing_held(engine)
    assert all(one.error is None for one in done)
    return done


def said(done: Sequence[Completion]) -> list[tuple[Any, ...]]:
    return [(d.transcript, d.text_ids, d.unit_ids, d.spoken_chars, d.finish_reason) for d in done]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many chunks each kind of step computed in one call, and how many units had to be heard later."""
    counts = {"think": 0, "hear": 0, "speak": 0, "unheard": 0}
    for name in ("think", "hear", "speak"):
        step = getattr(NativeDecoding, name)

        def counting(
            self: NativeDecoding, chunks: Sequence[Chunk], name: str = name, step: Any = step
        ) -> object:
            counts[name] += len(chunks)
            found = step(self, chunks)
            if name == "speak":
                counts["unheard"] += found.labels.count(None)
            return found

        monkeypatch.setattr(NativeDecoding, name, counting)
    return counts


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"quantization": "int8", "kv_cache_dtype": "int8"},
        {"dtype": "bfloat16", "block_size": 4, "text_lookahead": 0},
        {"unit_head": "units", "max_num_batched_tokens": 7},
    ],
    ids=["float32", "int8", "bfloat16", "units"],
)
def test_replies_are_those_of_the_single_kernels(
    settings: dict[str, Any], counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [*REQUESTS, SAMPLED]
    found = said(replies(load(**settings), requests))
    used = dict(counted)
    assert used["think"] > 20 and used["speak"] > 50
    monkeypatch.setattr(NativeDecoding, "is_supported", lambda model: False)
    assert said(replies(load(**settings), requests)) == found
    assert counted == used


def test_requests_that_make_way_for_each_other_are_heard_later(counted: dict[str, int]) -> None:
    """A unit that has no block when it is picked is heard in a step of its own."""
    requests = [case.request() for case in cases() if case.speaks]
    expected = said(replies(load(), requests))
    assert counted["unheard"] == 0
    scarce = Engine(RANDOM_MODEL, device="cpu", block_size=4, kv_cache_bytes=BLOCKS * 4 * POSITION_BYTES)
    done = replies(scarce, requests)
    assert said(done) == expected
    assert counted["unheard"] > 0 and sum(one.metrics.num_preemptions for one in done) > 0


def test_sampled_ids_go_kernel_by_kernel(counted: dict[str, int]) -> None:
    replies(load(), [SAMPLED])
    assert counted["speak"] == 0 and counted["think"] > 0


class Counting(TorchDispatchMode):
    def __init__(self, operators: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operators = operators

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._operators.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_tensor_is_made_between_two_steps() -> None:
    engine = load()
    params = SamplingParams(max_units=20, ignore_eos=True)
    for _ in range(2):
        engine.add_request(Request("Hello", ("text", "units"), sampling_params=params))
    told: set[str] = set()
    while len(told) < 2:  # the first unit follows a prompt
        told |= {event.request_id for event in engine.step() if isinstance(event, UnitDelta)}
    operators: list[str] = []
    with Counting(operators):
        for _ in range(8):
            engine.step()
    assert operators == []
