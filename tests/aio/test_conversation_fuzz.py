"""Random calls of a conversation's clients: whatever they do, its events make a story."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from conversations import BY_HAND, LONG, SETTINGS, Reader, Told, idle, load_speaking, push, silence, speech
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from serving import assert_nothing_held

from antiphon import AsyncEngine, InvalidRequest, SamplingParams
from antiphon.aio.conversation import listening
from antiphon.conversation import Conversation, ConversationSettings, Item, ReplyOptions, TurnDetection

SOUNDS = (speech(0.1), speech(0.4), speech(0.7, seed=1), silence(0.1), silence(0.3), silence(0.7))
BRIEF = ReplyOptions(sampling_params=SamplingParams(max_tokens=4, max_units=12))
TEXT = ReplyOptions(("text",), sampling_params=SamplingParams(max_tokens=6))
OPTIONS = (BRIEF, TEXT, ReplyOptions(sampling_params=LONG))
ALL_SETTINGS = (
    replace(SETTINGS, reply=BRIEF),
    replace(SETTINGS, reply=OPTIONS[2]),
    replace(BY_HAND, reply=BRIEF),
    replace(SETTINGS, reply=BRIEF, history=False, speculate=False),
    ConversationSettings(TEXT, TurnDetection(kind="semantic_vad", eagerness="high")),
    ConversationSettings(BRIEF, TurnDetection(interrupt_response=False, idle_timeout_ms=300)),
    ConversationSettings(BRIEF, TurnDetection(create_response=False)),
)


class Client(RuleBasedStateMachine):
    engine: AsyncEngine
    loop: asyncio.AbstractEventLoop
    talk: Conversation
    reader: Reader
    is_closed = False

    @initialize(chosen=st.sampled_from(ALL_SETTINGS))
    def enter(self, chosen: ConversationSettings) -> None:
        async def enter() -> None:
            self.talk = await self.engine.converse(chosen).__aenter__()
            self.reader = Reader(self.talk)

        self.loop.run_until_complete(enter())

    def do(self, call: Awaitable[Any]) -> None:
        """InvalidRequest is the client's fault, and any other error the conversation's."""

        async def do() -> None:
            with suppress(InvalidRequest):
                await asyncio.wait_for(call, 60)

        self.loop.run_until_complete(do())
        assert not self.reader._task.done() or self.is_closed, self.reader._task

    def item_id(self, index: int) -> str:
        order = self.reader.story.order
        return order[index % len(order)] if order else "item_none"

    @rule(sounds=st.lists(st.sampled_from(SOUNDS), min_size=1, max_size=4), size=st.sampled_from([500, 4000]))
    def speak(self, sounds: list[Any], size: int) -> None:
        self.do(push(self.talk, *sounds, size=size))

    @rule(ticks=st.sampled_from([0, 1, 3, 10, 50]))
    def wait(self, ticks: int) -> None:
        self.do(asyncio.sleep(ticks / 1000))

    @rule()
    def commit(self) -> None:
        self.do(self.talk.commit())

    @rule()
    def clear(self) -> None:
        self.do(self.talk.clear())

    @rule(index=st.integers(0, 9), role=st.sampled_from(["system", "user", "assistant"]))
    def add(self, index: int, role: Any) -> None:
        after = (None, "root", self.item_id(index))[index % 3]
        self.do(self.talk.add_item(Item(role, (f"text {index}",)), after))

    @rule(index=st.integers(0, 9))
    def remove(self, index: int) -> None:
        self.do(self.talk.remove_item(self.item_id(index)))

    @rule(options=st.sampled_from(OPTIONS), keep=st.booleans(), items=st.booleans())
    def respond(self, options: ReplyOptions, keep: bool, items: bool) -> None:
        given = [Item("user", ("aside",))] if items else None
        self.do(self.talk.respond(options, items=given, keep=keep))

    @rule()
    def cancel(self) -> None:
        self.do(self.talk.cancel())

    @rule(index=st.integers(0, 9), seconds=st.sampled_from([0.0, 0.1, 0.5, 9.0]), is_cut=st.booleans())
    def heard(self, index: int, seconds: float, is_cut: bool) -> None:
        call = self.talk.truncate if is_cut else self.talk.played
        self.do(call(self.item_id(index), seconds))

    @rule(chosen=st.sampled_from(ALL_SETTINGS))
    def update(self, chosen: ConversationSettings) -> None:
        self.do(self.talk.update(chosen))

    @rule(
        sounds=st.lists(st.sampled_from(SOUNDS), min_size=1, max_size=3),
        others=st.lists(st.sampled_from(["commit", "clear", "cancel", "respond"]), max_size=3),
    )
    def at_once(self, sounds: list[Any], others: list[str]) -> None:
        """Several tasks at a time."""

        async def all_at_once() -> None:
            calls = [push(self.talk, *sounds), *(getattr(self.talk, name)() for name in others)]
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert result is None or isinstance(result, (str, InvalidRequest)), result

        self.do(all_at_once())

    @rule()
    def close(self) -> None:
        self.is_closed = True
        self.do(self.talk.aclose())

    def teardown(self) -> None:
        if not hasattr(self, "talk"):
            return

        async def end() -> None:
            await self.talk.aclose()
            await self.reader.end()
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == 2, "this one, and the one that waits for it"
            await idle(self.engine)
            assert_nothing_held(self.engine.engine)

        self.loop.run_until_complete(asyncio.wait_for(end(), 60))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.mark.slow
@pytest.mark.long
def test_random_clients(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "voice_activity", lambda kind: Told())
    served = AsyncEngine.from_engine(load_speaking(max_model_len=400))
    machine: Any = type("Client", (Client,), {"engine": served, "loop": loop})
    machine.TestCase.settings = settings(max_examples=100, stateful_step_count=15, deadline=None)
    try:
        machine.TestCase("runTest").runTest()
    finally:
        served.close()
