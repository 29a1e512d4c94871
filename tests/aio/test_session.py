"""Speech that tasks of an event loop send in while it is spoken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from golden_cases import Case, cases
from serving import Gate, assert_nothing_held, check_events, collect, load, run, serving

from antiphon import (
    AsyncEngine,
    Completion,
    Engine,
    EngineDead,
    EngineOverloaded,
    Event,
    Finished,
    InvalidRequest,
    Message,
    Request,
    SamplingParams,
    Speech,
    TranscriptUpdate,
    Units,
)
from antiphon.aio.engine_thread import EngineThread
from antiphon.aio.session import Session

SHORT = SamplingParams(max_tokens=4)
LONG = SamplingParams(max_tokens=2000, ignore_eos=True)
RATE_HZ = 16000
OPEN = Request(Units([]), request_id="a")


def spoken(name: str) -> tuple[Case, Request, list[int]]:
    """A golden case, its request without what was said, and what was said."""
    case = next(case for case in cases() if case.name == name)
    content = case.request().content
    assert isinstance(content, list)
    units = content[-1]
    assert isinstance(units, Units)
    return case, replace(case.request("a"), content=[*content[:-1], Units([])]), list(units.units)


def reply(events: list[Event]) -> Completion:
    """What came after the commit, complete and in order."""
    kinds = [isinstance(event, TranscriptUpdate) for event in events]
    num_updates = sum(kinds)
    assert all(kinds[:num_updates]), "nothing else is told while it is open"
    return check_events(events[num_updates:])


class FakeListener:
    """Hears each sample's value as a unit, which may be a fault; `gate` lets it hear."""

    def __init__(self, gate: threading.Semaphore | None, pieces: list[int]) -> None:
        self._gate = gate
        self._units: list[int] = []
        self._pieces = pieces

    def push(self, samples: np.ndarray) -> Any:
        if self._gate is not None:
            self._gate.acquire()
        if (samples < 0).any():
            raise RuntimeError("the codec fell over")
        self._pieces.append(len(samples))
        self._units += [int(sample) for sample in samples]
        return self._heard() if len(self._units) > 1 else None

    def finish(self) -> Any:
        return self._heard()

    def peek(self) -> Any:
        return [*self._heard(), 63]

    def _heard(self) -> Any:
        return list(self._units)


@dataclass
class FakeCodec:
    """Fails or waits as a test tells it to."""

    gate: threading.Semaphore | None = None

    def __post_init__(self) -> None:
        self.rates_hz: list[int] = []
        self.pieces: list[int] = []
        """How many samples were heard at a time."""

    def listen(self, rate_hz: int, *, max_audio_s: float, trim_silence: bool | None) -> FakeListener:
        assert trim_silence is None
        assert max_audio_s > 0
        self.rates_hz.append(rate_hz)
        return FakeListener(self.gate, self.pieces)


def hearing(codec: FakeCodec, **settings: Any) -> Engine:
    """An engine that hears with `codec`, and does not speak."""
    engine = load(**settings)
    engine.codec = codec  # type: ignore[assignment]
    return engine


def sound(units: list[int]) -> np.ndarray:
    return np.array(units, np.float32)


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s2t", "s2s", "s2s_image"])
def test_units_go_in_while_they_are_spoken(name: str) -> None:
    engine = load()
    case, request, units = spoken(name)

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            async with served.open(request) as session:
                assert session.request_id == "a"
                reader = asyncio.create_task(collect(session))
                for n in range(0, len(units), 7):
                    await session.push_units([*units[:n], 63, 63])
                await session.push_units(units)
                await session.commit()
                events = await reader
                assert [event async for event in session] == []
            assert case.differences(reply(events)) == []
        assert_nothing_held(engine)

    run(main())


def test_a_reader_gets_hypotheses_while_it_is_open() -> None:
    engine = load()
    case, request, units = spoken("s2t")

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(request) as session:
            texts = []
            for n in (10, len(units)):
                await session.push_units(units[:n])
                event = await anext(session)
                assert isinstance(event, TranscriptUpdate)
                texts.append(event.text)
            assert texts[-1] == case.data["asr_text"]
            await session.commit()
            assert case.differences(check_events(await collect(session))) == []

    run(main())


def test_nothing_is_stepped_while_users_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's thread used to spin: an open request never finishes by itself."""
    engine = load(max_num_seqs=1)
    gate = Gate(monkeypatch, engine, "step")
    _, request, units = spoken("s2t")

    async def main() -> None:
        async with serving(engine, gate) as served, served.open(request) as session:
            gate.open()
            await session.push_units(units)
            await anext(session)
            await served.abort("nobody")  # when this is answered, all earlier commands are done
            num_steps = gate.num_calls
            for _ in range(20):
                await served.abort("nobody")
            assert gate.num_calls == num_steps
            assert (await served.generate(Request("Hello"), SHORT)).finish_reason == "length"
            await session.commit()
            assert reply(await collect(session)).finish_reason in ("stop", "length")

    run(main())


def test_units_that_are_refused_leave_those_before() -> None:
    engine = load(max_model_len=800)
    case, request, units = spoken("s2s")

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(request) as session:
            with pytest.raises(InvalidRequest, match="expected at least one unit before the commit"):
                await session.commit()
            await session.push_units(units)
            for wrong, message in ([64], "got 64"), ([1] * 900, "max_model_len"):
                with pytest.raises(InvalidRequest, match=message):
                    await session.push_units(wrong)
            with pytest.raises(InvalidRequest, match="this session was given units"):
                await session.push_audio(sound([1]), RATE_HZ)
            await session.commit()
            for call in (session.commit(), session.push_units([1]), session.push_audio(sound([1]), RATE_HZ)):
                with pytest.raises(InvalidRequest, match="session: it is committed"):
                    await call
            assert case.differences(reply(await collect(session))) == []
            with pytest.raises(InvalidRequest, match="session: it has ended"):
                await session.push_units([1])

    run(main())


# --- audio ----------------------------------------------------------------------------------------


def test_audio_is_heard_by_the_codec() -> None:
    """The packaged codec hears the same as in a recording that came at once."""
    t = np.arange(24000) / RATE_HZ
    samples = (0.3 * np.sin(2 * np.pi * (150 + 60 * t) * t)).astype(np.float32)
    engine = Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", kv_cache_bytes=32 << 20)

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            whole = await served.generate(Request(Speech((samples, RATE_HZ))), SHORT)
            async with served.open(OPEN, SHORT) as session:
                for piece in np.split(samples, 30):
                    await session.push_audio(piece, RATE_HZ)
                await session.commit()
                done = reply(await collect(session))
            assert done.metrics.num_prompt_tokens == whole.metrics.num_prompt_tokens
            assert (done.text_ids, done.transcript) == (whole.text_ids, whole.transcript)

    run(main())


def test_audio_of_a_golden_case() -> None:
    codec = FakeCodec()
    engine = hearing(codec)
    case, request, units = spoken("s2t")

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(request) as session:
            buffer = np.zeros(5, np.float32)
            for n in range(0, len(units), 5):
                piece = sound(units[n : n + 5])
                buffer[: len(piece)] = piece
                await session.push_audio(buffer[: len(piece)], RATE_HZ)
                buffer[:] = -1  # its next use must not change the audio that waits
            await session.commit()
            assert case.differences(reply(await collect(session))) == []
        assert codec.rates_hz == [RATE_HZ]
        assert sum(codec.pieces) == len(units)

    run(main())


def test_a_caller_that_pushes_faster_than_is_heard_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has piled up meanwhile is heard together."""
    codec = FakeCodec(threading.Semaphore(0))
    engine = hearing(codec)
    case, request, units = spoken("s2t")
    monkeypatch.setattr("antiphon.aio.audio_feed.MAX_PENDING_PIECES", 4)
    pushed: list[int] = []

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(request) as session:

            async def push() -> None:
                for unit in units:
                    await session.push_audio(sound([unit]), RATE_HZ)
                    pushed.append(unit)

            pushing = asyncio.create_task(push())
            for _ in range(100):
                await asyncio.sleep(0)
            # the first pieces are being heard, at most 4, and a full queue waits
            assert len(pushed) <= 2 * 4
            assert not pushing.done()
            # others are served meanwhile
            assert (await served.generate(Request("Hello"), SHORT)).finish_reason == "length"
            assert codec.gate is not None
            codec.gate.release(10_000)
            await pushing
            await session.commit()
            assert case.differences(reply(await collect(session))) == []
        assert len(codec.pieces) < len(units)

    run(main())


def test_a_peek_of_real_audio() -> None:
    """Whatever has been pushed, and however it was cut."""
    t = np.arange(24000) / 24000
    samples = (0.3 * np.sin(2 * np.pi * (150 + 60 * t) * t)).astype(np.float32)
    engine = Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", kv_cache_bytes=32 << 20)
    codec = engine.codec
    assert codec is not None

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            async with served.open(OPEN, SHORT) as session:
                assert await session.peek_units() == []
                for begin in range(0, 24000, 5000):
                    await session.push_audio(samples[begin : begin + 5000], 24000)
                    assert await session.peek_units() == codec.tokenize(samples[: begin + 5000], 24000)
                await session.commit()
                done = reply(await collect(session))
            (whole,) = [await served.generate(Request(Speech((samples, 24000))), SHORT)]
            assert (done.text_ids, done.transcript) == (whole.text_ids, whole.transcript)

    run(main())


def test_a_peek_hears_what_was_pushed_before_it() -> None:
    codec = FakeCodec(threading.Semaphore(0))
    engine = hearing(codec)
    case, request, units = spoken("s2t")

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(request) as session:
            peeks = []
            for unit in units[:6]:
                await session.push_audio(sound([unit]), RATE_HZ)
                peeks.append(asyncio.create_task(session.peek_units()))
                await asyncio.sleep(0)
            peeks.pop(1).cancel()
            await asyncio.sleep(0.01)
            assert not any(peek.done() for peek in peeks)
            assert codec.gate is not None
            codec.gate.release(10_000)
            found = await asyncio.gather(*peeks)
            for n, heard in zip((1, 3, 4, 5, 6), found, strict=True):
                assert heard[:n] == units[:n] and heard[-1] == 63
            await session.push_audio(sound(units[6:]), RATE_HZ)
            last = asyncio.create_task(session.peek_units())
            await asyncio.sleep(0)
            await session.commit()
            assert await last == [*units, 63], "it was asked before the commit"
            with pytest.raises(InvalidRequest, match="it is committed"):
                await session.peek_units()
            assert case.differences(reply(await collect(session))) == []

    run(main())


def test_a_peek_that_is_not_answered() -> None:
    engine = hearing(FakeCodec(threading.Semaphore(0)))

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            session = served.open(replace(OPEN, request_id="u"))
            with pytest.raises(InvalidRequest, match="it has to be entered first"):
                await session.peek_units()
            async with session:
                await session.push_units([1, 2])
                with pytest.raises(InvalidRequest, match="this session was given units"):
                    await session.peek_units()
            gate = engine.codec.gate  # type: ignore[union-attr]
            async with served.open(OPEN) as session:
                await session.push_audio(sound([1, -1]), RATE_HZ)
                peek = asyncio.create_task(session.peek_units())
                await asyncio.sleep(0)
                gate.release()
                with pytest.raises(RuntimeError, match="the codec fell over"):
                    await peek
                with pytest.raises((RuntimeError, InvalidRequest)):
                    await session.peek_units()
            async with served.open(replace(OPEN, request_id="c")) as session:
                await session.push_audio(sound([1]), RATE_HZ)
                peek = asyncio.create_task(session.peek_units())
                await asyncio.sleep(0)
            with pytest.raises(InvalidRequest, match="the session has ended"):
                await peek
            gate.release(10)
        assert_nothing_held(engine)

    run(main())


def test_audio_that_fails_ends_only_its_own_session() -> None:
    engine = hearing(FakeCodec())
    case, request, units = spoken("s2t")

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            async with served.open(replace(request, request_id="b")) as other:
                async with served.open(request) as session:
                    reader = asyncio.create_task(collect(session))
                    await session.push_audio(sound([1, 2]), RATE_HZ)
                    await session.push_audio(sound([-1]), RATE_HZ)
                    with pytest.raises(RuntimeError, match="the codec fell over"):
                        await session.commit()
                    with pytest.raises(RuntimeError, match="the codec fell over"):
                        await reader
                    with pytest.raises(InvalidRequest, match="it has ended"):
                        await session.push_audio(sound([1]), RATE_HZ)
                await other.push_audio(sound(units), RATE_HZ)
                await other.commit()
                assert case.differences(reply(await collect(other))) == []
            assert served.health().alive
        assert_nothing_held(engine)

    run(main())


def test_more_audio_than_the_model_can_read_ends_the_session() -> None:
    engine = hearing(FakeCodec(), max_model_len=300)

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(OPEN) as session:
            await session.push_audio(sound([1] * 400), RATE_HZ)
            with pytest.raises(InvalidRequest, match="max_model_len"):
                await session.commit()
            with pytest.raises(InvalidRequest, match="max_model_len"):
                await anext(session)

    run(main())


def test_a_commit_without_a_unit_ends_a_session_of_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = hearing(FakeCodec())

    class Deaf(FakeListener):
        def _heard(self) -> Any:
            return []

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(OPEN) as session:
            monkeypatch.setattr(engine.codec, "listen", lambda *_, **__: Deaf(None, []))
            await session.push_audio(sound([1]), RATE_HZ)
            for call in (session.commit(), anext(session)):
                with pytest.raises(InvalidRequest, match="expected at least one unit before the commit"):
                    await call
        assert_nothing_held(engine)

    run(main())


BAD_AUDIO: list[tuple[Any, Any, str]] = [
    (sound([1]), 8000, "expected the rate of the first piece, 16000, got 8000"),
    (sound([1]), 0, "expected a rate"),
    (np.zeros((2, 2, 2)), RATE_HZ, "expected samples of shape"),
    (np.array([np.nan]), RATE_HZ, "expected finite samples"),
    ("sound", RATE_HZ, "audio: expected"),
    (np.zeros(RATE_HZ * 301, np.float32), RATE_HZ, "expected at most 300 s"),
]


@pytest.mark.parametrize(
    ("samples", "rate_hz", "message"), BAD_AUDIO, ids=[message for *_, message in BAD_AUDIO]
)
def test_wrong_audio_is_not_taken_and_the_session_goes_on(samples: Any, rate_hz: Any, message: str) -> None:
    engine = hearing(FakeCodec())
    case, request, units = spoken("s2t")

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(request) as session:
            await session.push_audio(sound(units[:9]), RATE_HZ)
            with pytest.raises(InvalidRequest, match=message):
                await session.push_audio(samples, rate_hz)
            with pytest.raises(InvalidRequest, match="this session was given audio"):
                await session.push_units([1])
            await session.push_audio(sound(units[9:]), RATE_HZ)
            await session.commit()
            assert case.differences(reply(await collect(session))) == []

    run(main())


def test_without_a_codec_units_have_to_be_pushed() -> None:
    engine = load()

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(OPEN, SHORT) as session:
            with pytest.raises(InvalidRequest, match="no codec is loaded"):
                await session.push_audio(sound([1]), RATE_HZ)
            await session.push_units([1])
            await session.commit()
            assert reply(await collect(session)).finish_reason == "length"

    run(main())


# --- coming and going -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("Hello", "request: expected a Request, got str"),
        (Request("Hello"), "expected an open request to end in Units"),
        (Request(Units([64])), "got 64"),
        (Request(messages=[Message("assistant", "Hello")]), "to be the user's"),
    ],
)
def test_a_wrong_request_raises_on_entering(request_: Any, message: str) -> None:
    engine = load()

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            with pytest.raises(InvalidRequest, match=message):
                async with served.open(request_):
                    raise AssertionError("it was entered")

    run(main())
    assert_nothing_held(engine)


def test_too_many_requests_raise_on_entering() -> None:
    engine = load(max_num_waiting=1, max_num_seqs=1)

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(OPEN) as first:
            await first.push_units([1])
            await anext(first)  # it runs
            async with served.open(replace(OPEN, request_id="b")) as second:
                await second.push_units([1])
                await anext(second)  # and now this one does
                with pytest.raises(EngineOverloaded):
                    await served.open(replace(OPEN, request_id="c")).__aenter__()

    run(main())


async def before_the_commit(session: Session) -> None:
    pass


async def after_a_push(session: Session) -> None:
    await session.push_units([1, 2, 3])


async def with_audio_that_waits(session: Session) -> None:
    for _ in range(5):
        await session.push_audio(sound([1, 2, 3]), RATE_HZ)


async def after_the_commit(session: Session) -> None:
    await session.push_units([1, 2, 3])
    await session.commit()
    while isinstance(await anext(session), TranscriptUpdate):
        pass


@pytest.mark.parametrize(
    "when",
    [before_the_commit, after_a_push, with_audio_that_waits, after_the_commit],
    ids=lambda when: when.__name__,
)
def test_leaving_aborts_the_request_and_frees_all_blocks(when: Callable[[Session], Any]) -> None:
    codec = FakeCodec(threading.Semaphore(0))
    engine = hearing(codec)

    async def use(session: Session) -> None:
        async with session:
            await when(session)
            raise ZeroDivisionError

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            session = served.open(OPEN, LONG)
            with pytest.raises(ZeroDivisionError):
                await use(session)
            assert not await served.abort("a"), "leaving had aborted it: that command came first"
            assert_nothing_held(engine)
            with pytest.raises(InvalidRequest, match="it has ended"):
                await session.push_units([1])
            assert [event async for event in session] == []
            assert codec.gate is not None
            codec.gate.release(10)

    run(main())
    for thread in threading.enumerate():
        if thread.name.startswith("antiphon"):
            thread.join(timeout=60)
            assert not thread.is_alive()


def test_leaving_wakes_readers_and_pushers() -> None:
    codec = FakeCodec(threading.Semaphore(0))
    engine = hearing(codec)

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            async with served.open(OPEN) as session:

                async def push() -> None:
                    while True:
                        await session.push_audio(sound([1]), RATE_HZ)

                reading, pushing = asyncio.create_task(collect(session)), asyncio.create_task(push())
                for _ in range(200):
                    await asyncio.sleep(0)
            assert await reading == []
            with pytest.raises(InvalidRequest, match="ended"):
                await pushing
            assert codec.gate is not None
            codec.gate.release(10)

    run(main())


def test_abort_by_id_is_an_end_like_any_other() -> None:
    engine = load()

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(OPEN) as session:
            await session.push_units([1, 2])
            assert await served.abort("a")
            with pytest.raises(InvalidRequest, match="the request has ended"):
                await session.push_units([1, 2, 3])
            events = await collect(session)
            assert isinstance(events[-1], Finished)
            assert events[-1].completion.finish_reason == "abort"

    run(main())


def test_a_cancelled_reader_leaves_the_session_open() -> None:
    engine = load()
    case, request, units = spoken("s2t")

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served, served.open(request) as session:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(session), timeout=0)
            await session.push_units(units)
            await session.commit()
            assert case.differences(reply(await collect(session))) == []

    run(main())


def test_a_session_that_is_dropped_aborts_its_request() -> None:
    engine = load()

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            session = await served.open(OPEN).__aenter__()
            await session.push_units([1, 2])
            del session
            assert not await served.abort("a")
            assert_nothing_held(engine)

    run(main())


def test_a_session_that_was_not_entered_says_so() -> None:
    engine = load()

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            session = served.open(OPEN)
            assert session.request_id is None
            for call in (session.push_units([1]), session.commit(), anext(session)):
                with pytest.raises(InvalidRequest, match="it has to be entered first"):
                    await call
            await session.aclose()
            async with session:
                with pytest.raises(InvalidRequest, match="only be entered once"):
                    await session.__aenter__()

    run(main())


def test_a_failure_of_the_engine_reaches_every_session(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    cause = RuntimeError("the device fell off the bus")

    async def main() -> None:
        async with AsyncEngine.from_engine(engine) as served:
            async with served.open(OPEN) as session:
                monkeypatch.setattr(
                    engine.scheduler, "update_speech", lambda *_: (_ for _ in ()).throw(cause)
                )
                with pytest.raises(EngineDead, match="the device fell off the bus"):
                    await session.push_units([1])
                for call in (session.commit(), anext(session)):
                    with pytest.raises(EngineDead, match="the device fell off the bus"):
                        await call
            with pytest.raises(EngineDead):
                async with served.open(OPEN):
                    pass

    run(main())


def test_closing_answers_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()
    gate = Gate(monkeypatch, engine, "step")
    stopping, stop = threading.Event(), EngineThread.stop

    def told(thread: EngineThread) -> None:
        stop(thread)
        stopping.set()

    monkeypatch.setattr(EngineThread, "stop", told)

    async def main() -> None:
        async with serving(engine, gate) as served, served.open(OPEN) as session:
            await gate.reached()
            closing = asyncio.create_task(served.aclose())
            await asyncio.to_thread(stopping.wait)
            pushing = asyncio.create_task(session.push_units([1]))
            await asyncio.sleep(0)
            gate.open()
            with pytest.raises(EngineDead, match="the engine is closed"):
                await pushing
            await closing

    run(main())
