"""Conversations whose engine, turns or replies fail, and that are left at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conversations import (
    BY_HAND,
    LONG,
    RATE_HZ,
    SETTINGS,
    Reader,
    Told,
    conversing,
    do_nothing,
    idle,
    load_speaking,
    push,
    settled,
    silence,
    speech,
    tokenized,
    units_of,
)
from serving import assert_nothing_held, run

from antiphon import (
    AsyncEngine,
    ConfigError,
    EngineDead,
    EngineOverloaded,
    InputLimits,
    InvalidRequest,
    Request,
)
from antiphon.aio.conversation import listening
from antiphon.aio.session import Session
from antiphon.conversation import (
    Conversation,
    ConversationSettings,
    Heard,
    Item,
    ItemAdded,
    NotHeard,
    ReplyAudio,
    ReplyBegun,
    ReplyEnded,
    ReplyOptions,
    SpeechStopped,
)

TALKS_LONG = replace(SETTINGS, reply=ReplyOptions(sampling_params=LONG))
SPEAKS_LONG = replace(BY_HAND, reply=ReplyOptions(sampling_params=LONG))


@pytest.fixture(scope="module")
def engine() -> Iterator[AsyncEngine]:
    """One for all tests: each of them leaves it as it was."""
    served = AsyncEngine.from_engine(load_speaking())
    yield served
    served.close()


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "voice_activity", lambda kind: Told())


@pytest.fixture(autouse=True)
def nothing_is_held(engine: AsyncEngine) -> Iterator[None]:
    yield
    run(asyncio.wait_for(idle(engine), 30))
    assert_nothing_held(engine.engine)


def refuse_once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: Any = lambda *args: True
) -> None:
    """Have the next call of a method refused, as where too many requests are waiting."""
    method, is_refused = getattr(owner, name), [True]

    def refusing(*args: Any, **options: Any) -> Any:
        if is_refused[0] and when(*args):
            is_refused[0] = False
            raise EngineOverloaded("9 requests are waiting already")
        return method(*args, **options)

    monkeypatch.setattr(owner, name, refusing)


# --- turns ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_turn_that_is_refused(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_once(monkeypatch, engine._thread, "start")

    async def main() -> None:
        async with conversing(engine, SETTINGS) as (talk, reader):
            await push(talk, speech(1), silence(0.7))
            lost = await reader.next(NotHeard)
            assert lost.error == "9 requests are waiting already"
            assert not len(talk.history)
            await push(talk, speech(1), silence(0.7))
            await reader.next(ReplyEnded)
            assert [item.role for item in talk.history] == ["user", "assistant"]

    run(main())


@pytest.mark.parametrize("when", ["speaking", "pausing"])
def test_a_turn_whose_session_dies(engine: AsyncEngine, when: str) -> None:
    async def main() -> None:
        async with conversing(engine, SETTINGS) as (talk, reader):
            await push(talk, speech(0.5))
            turn = talk._listening._turn
            assert turn is not None
            assert turn._session is not None
            if when == "pausing":
                await push(talk, silence(0.2))
            await engine.abort(turn._session.request_id or "")
            await push(talk, speech(2), silence(0.7))
            await reader.next(SpeechStopped)
            lost = await reader.next(NotHeard)
            assert "ended" in lost.error
            await push(talk, speech(0.6), silence(0.7))
            await reader.next(ReplyEnded)

    run(main())


def test_a_committed_turn_that_cannot_be_read(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_once(monkeypatch, engine._thread, "start")

    async def main() -> None:
        async with conversing(engine, BY_HAND) as (talk, reader):
            await push(talk, speech(0.5))
            with pytest.raises(InvalidRequest, match="input_audio_buffer: 9 requests are waiting"):
                await talk.commit()
            await push(talk, speech(0.5))
            await talk.commit()
            await reader.next(Heard)

    run(main())


def test_less_than_a_unit(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Session, *, tell: bool = False) -> list[int]:
        return []

    async def main() -> None:
        async with conversing(engine, BY_HAND) as (talk, _):
            await talk.push_audio(np.zeros(4, np.float32), RATE_HZ)
            with monkeypatch.context() as patched:
                patched.setattr(Session, "peek_units", nothing)
                with pytest.raises(InvalidRequest, match="speech of at least one unit"):
                    await talk.commit()
            assert not len(talk.history)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["audio", "model"])
def test_a_turn_that_is_too_long(limit: str) -> None:
    """It ends, it is told why, and the next one is answered. What nobody can read is not kept."""
    limits = {"limits": InputLimits(max_audio_s=2)} if limit == "audio" else {"max_model_len": 150}

    async def main() -> None:
        engine = load_speaking(**limits)
        served = AsyncEngine.from_engine(engine)
        async with served, conversing(served, SETTINGS) as (talk, reader):
            await push(talk, speech(6), silence(0.7))
            lost = await reader.next(NotHeard)
            assert "expected at most" in lost.error or "max_model_len" in lost.error
            assert talk._listening._buffer is not None
            assert len(talk._listening._buffer) < 2 * RATE_HZ
            await push(talk, speech(0.6), silence(0.7))
            assert (await reader.next(ReplyEnded)).status in ("completed", "incomplete")
        assert_nothing_held(engine)

    run(main())


def test_more_audio_than_is_kept() -> None:
    """Where only a commit ends a turn, and none comes."""

    async def main() -> None:
        async with (
            AsyncEngine.from_engine(load_speaking(limits=InputLimits(max_audio_s=2))) as served,
            conversing(served, BY_HAND) as (talk, reader),
        ):
            await push(talk, silence(1.9))
            with pytest.raises(InvalidRequest, match="before a commit, got more"):
                await push(talk, silence(0.5))
            await talk.clear()
            await push(talk, speech(0.5))
            await talk.commit()
            await reader.next(Heard)

    run(main())


def test_wrong_audio_changes_nothing(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(kind: str) -> Told:
        raise ConfigError("silero-vad is not installed")

    async def main() -> None:
        async with conversing(engine, BY_HAND) as (talk, _):
            for samples, rate_hz in ((np.full(10, np.nan), 16000), (speech(0.1), 0), ("sound", 16000)):
                with pytest.raises(InvalidRequest, match="audio"):
                    await talk.push_audio(samples, rate_hz)
            with monkeypatch.context() as patched:
                patched.setattr(listening, "voice_activity", missing)
                with pytest.raises(ConfigError):
                    await talk.push_audio(speech(0.1), 24000)
            await talk.push_audio(speech(0.1), RATE_HZ)
            with pytest.raises(InvalidRequest, match="expected the rate of the first piece"):
                await talk.push_audio(speech(0.1), 24000)
            with monkeypatch.context() as patched:
                patched.setattr(listening, "voice_activity", missing)
                with pytest.raises(ConfigError):
                    await talk.update(SETTINGS)
            assert talk.settings == BY_HAND
            item = await talk.find_item(await talk.commit())
            assert units_of(item) == tokenized(engine, speech(0.1))

    run(main())


# --- replies --------------------------------------------------------------------------------------


def test_a_reply_that_is_refused(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_once(monkeypatch, engine._thread, "start")

    async def main() -> None:
        async with conversing(engine, BY_HAND) as (talk, reader):
            await talk.add_item(Item("user", ("Hello",)))
            await talk.respond()
            ended = await reader.next(ReplyEnded)
            assert (ended.status, ended.error) == ("failed", "9 requests are waiting already")
            await talk.respond()
            assert (await reader.next(ReplyEnded)).error is None

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["refused", "aborted"])
def test_a_reply_begun_ahead_that_is_lost(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It is made anew when it is wanted."""
    if how == "refused":
        refuse_once(monkeypatch, engine._thread, "start", lambda request, *rest: request.is_speculative)

    async def main() -> None:
        async with conversing(engine, SETTINGS, all_told=True) as (talk, reader):
            await push(talk, speech(1), silence(0.2))
            await settled(talk)
            ahead = talk._replying._ahead
            assert ahead is not None
            if how == "aborted":
                while not await engine.abort(ahead.reply_id):
                    await asyncio.sleep(0)
            while not ahead.has_failed():
                await asyncio.sleep(0)
            await push(talk, silence(0.6))
            ended = await reader.next(ReplyEnded)
            assert ended.status in ("completed", "incomplete")
            assert talk.speculation.num_confirmed == 0
            assert reader.of(Heard)

    run(main())


def test_a_reply_that_is_confirmed_before_it_was_sent(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, SETTINGS, all_told=True) as (talk, reader):
            await push(talk, speech(1), silence(0.2))
            turn = talk._listening._turn
            assert turn is not None
            await turn.settled()
            assert turn.units is not None
            talk._replying.speculate(SETTINGS.reply, turn.units, turn.item_id)
            ahead = talk._replying._ahead
            assert ahead is not None
            await ahead.confirm(engine, 0.0)
            assert ahead._task is not None
            assert not ahead._was_over
            await push(talk, silence(0.6))
            assert (await reader.next(ReplyEnded)).reply_id == ahead.reply_id

    run(main())


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("how", ["closed", "failed"])
def test_the_end_of_the_engine(monkeypatch: pytest.MonkeyPatch, how: str, busy: bool) -> None:
    """Each reply ends, and so does the conversation, also if nothing is being made."""

    async def main() -> None:
        engine = load_speaking()
        served = AsyncEngine.from_engine(engine)
        talk = served.converse(SPEAKS_LONG)
        async with talk:
            reader = Reader(talk)
            if busy:
                await talk.add_item(Item("user", ("Hello",)))
                await talk.respond()
                await reader.next(ReplyAudio)
                await push(talk, speech(0.5))
            if how == "failed":

                def fail(*args: Any) -> Any:
                    raise RuntimeError("out of luck")

                monkeypatch.setattr(engine, "step", fail)
                await asyncio.wait([asyncio.ensure_future(served.generate(Request("Hello")))])
            else:
                await served.aclose()
            events = await reader.end()
            ends = [event for event in events if isinstance(event, ReplyEnded)]
            assert [end.status for end in ends] == (["failed"] if busy else [])
            reason = "the engine is closed" if how == "closed" else "out of luck"
            assert all(end.error is not None and reason in end.error for end in ends)
            for call in (talk.clear(), talk.respond(), talk.push_audio(speech(0.1), RATE_HZ), talk.commit()):
                with pytest.raises(EngineDead, match=reason):
                    await call
        await served.aclose()

    run(main())


@pytest.mark.slow
def test_closed_at_any_moment(engine: AsyncEngine) -> None:
    """The story ends, and no task is left."""

    async def main(num_ticks: int) -> None:
        before = asyncio.all_tasks()
        async with conversing(engine, TALKS_LONG) as (talk, _):

            async def use() -> None:
                await talk.add_item(Item("user", ("Hello",)))
                await push(talk, speech(0.6), silence(0.2), speech(0.3), silence(0.8))
                await push(talk, speech(0.6), silence(0.2))
                await talk.commit()

            using = asyncio.create_task(use())
            for _ in range(num_ticks):
                await asyncio.sleep(0)
            if num_ticks % 2:
                await asyncio.sleep(num_ticks / 1000)
            await talk.aclose()
            await talk.aclose()
            [error] = await asyncio.gather(using, return_exceptions=True)
            assert error is None or "closed" in str(error)
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == before

    for num_ticks in (*range(0, 40, 3), *range(40, 700, 61)):
        asyncio.run(asyncio.wait_for(main(num_ticks), 60))


def test_two_close_it_at_once(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, SPEAKS_LONG) as (talk, reader):
            await talk.add_item(Item("user", ("Hello",)))
            await talk.respond()
            await reader.next(ReplyBegun)
            await asyncio.gather(talk.aclose(), talk.aclose())
            assert (await reader.next(ReplyEnded)).reason == "client_cancelled"
            with pytest.raises(InvalidRequest, match="it is closed"):
                await talk.respond()

    run(main())


def test_never_entered(engine: AsyncEngine) -> None:
    async def main() -> None:
        talk = engine.converse()
        with pytest.raises(InvalidRequest, match="was not entered"):
            await talk.clear()
        with pytest.raises(InvalidRequest, match="has to be entered first"):
            await anext(talk)
        await talk.aclose()
        assert [event async for event in talk] == []
        with pytest.raises(InvalidRequest, match="only be entered once"):
            await talk.__aenter__()

    run(main())


def test_two_readers(engine: AsyncEngine) -> None:
    """Each event goes to one of them, and both come to the end."""

    async def read(talk: Conversation) -> list[object]:
        return [event async for event in talk]

    async def main() -> None:
        async with engine.converse(BY_HAND) as talk:
            readers = [asyncio.create_task(read(talk)) for _ in range(2)]
            for text in "abc":
                await talk.add_item(Item("user", (text,)))
        events = [event for reader in readers for event in await reader]
        assert len(events) == 6

    run(main())


def test_callers_that_are_cancelled(engine: AsyncEngine) -> None:
    """What has not begun is not done, and the conversation goes on."""

    async def main() -> None:
        async with conversing(engine, BY_HAND) as (talk, reader):
            gate = asyncio.Event()

            async def wait() -> None:
                await gate.wait()

            first = asyncio.create_task(talk._do(wait))
            await asyncio.sleep(0)
            second = asyncio.create_task(talk.add_item(Item("user", ("never",))))
            await asyncio.sleep(0)
            for task in (first, second):
                task.cancel()
            await asyncio.wait([first, second])
            gate.set()
            await talk.add_item(Item("user", ("then",)))
            assert [item.text for item in talk.history] == ["then"]
            assert (await reader.next(ItemAdded)).item.text == "then"
            reading = asyncio.ensure_future(anext(talk))
            await asyncio.sleep(0)
            reading.cancel()
            await talk._do(do_nothing)

    run(main())


def test_the_loop_ends_first(engine: AsyncEngine) -> None:
    """`asyncio.run` cancels all tasks, the conversation's own among them."""

    async def main() -> None:
        talk = await engine.converse(SPEAKS_LONG).__aenter__()
        await talk.add_item(Item("user", ("Hello",)))
        await talk.respond()

    asyncio.run(main())


def test_settings_are_checked() -> None:
    with pytest.raises(InvalidRequest, match="modalities: expected"):
        ConversationSettings(ReplyOptions(("audio",)))
