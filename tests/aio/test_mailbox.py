"""What a slow reader finds: events that are merged, complete, and never more than a reply."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from antiphon import (
    AudioDelta,
    Completion,
    Event,
    Finished,
    TextDelta,
    TranscriptDelta,
    TranscriptUpdate,
    UnitDelta,
)
from antiphon.aio.mailbox import MAX_PENDING_EVENTS, Mailbox, ring


async def read(mailbox: Mailbox) -> list[Event]:
    """All events up to `Finished`."""
    events = [await mailbox.get()]
    while not isinstance(events[-1], Finished):
        events.append(await mailbox.get())
    return events


def finished() -> Finished:
    return Finished("a", Completion("a"))


def test_a_backlog_within_the_limit_stays_as_it_was_made() -> None:
    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop(), "a")
        sent: list[Event] = [TextDelta("a", str(i), (i,)) for i in range(MAX_PENDING_EVENTS - 1)]
        sent.append(finished())
        for event in sent:
            mailbox.put([event])
        assert await read(mailbox) == sent

    asyncio.run(main())


def test_a_longer_one_is_merged_by_kind_and_adds_up() -> None:
    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop(), "a")
        mailbox.put([TranscriptDelta("a", "he"), TranscriptDelta("a", "ard")])
        for i in range(500):
            mailbox.put([TextDelta("a", f"{i} ", (i, -i)), UnitDelta("a", (i,), (2 * i,))])
            mailbox.put([AudioDelta("a", np.array([i, i + 0.5], np.float32), 22050)])
        mailbox.put([finished()])
        events = await read(mailbox)
        assert len(events) <= MAX_PENDING_EVENTS
        assert "".join(e.text for e in events if isinstance(e, TranscriptDelta)) == "heard"
        text = [e for e in events if isinstance(e, TextDelta)]
        assert "".join(e.text for e in text) == "".join(f"{i} " for i in range(500))
        assert [k for e in text for k in e.token_ids] == [k for i in range(500) for k in (i, -i)]
        assert [k for e in events if isinstance(e, UnitDelta) for k in e.units] == list(range(500))
        spoken = [k for e in events if isinstance(e, UnitDelta) for k in e.spoken_chars]
        assert spoken == list(range(0, 1000, 2))
        audio = [e for e in events if isinstance(e, AudioDelta)]
        assert {e.sample_rate_hz for e in audio} == {22050}
        np.testing.assert_array_equal(np.concatenate([e.samples for e in audio]), np.arange(0, 500, 0.5))
        assert [type(e) for e in events[:4]] == [TranscriptDelta, TextDelta, UnitDelta, AudioDelta]

    asyncio.run(main())


def test_an_error_comes_after_the_events() -> None:
    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop(), "a")
        mailbox.put([TextDelta("a", "so far")])
        mailbox.fail(RuntimeError("and no further"))
        assert await mailbox.get() == TextDelta("a", "so far")
        with pytest.raises(RuntimeError, match="and no further"):
            await mailbox.get()

    asyncio.run(main())


def test_many_mailboxes_are_rung_by_one_call_into_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        call_soon_threadsafe = loop.call_soon_threadsafe

        def counted(*arguments: object) -> object:
            calls.append(arguments)
            return call_soon_threadsafe(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        mailboxes = [Mailbox(loop, str(i)) for i in range(10)]
        readers = asyncio.gather(*(mailbox.get() for mailbox in mailboxes))
        for _ in range(3):  # in the later of these, everybody has been rung already
            for mailbox in mailboxes:
                mailbox.put([TextDelta("a", "!")])
            ring(mailboxes)
        assert len(await readers) == 10
        assert len(calls) == 1

    asyncio.run(main())


def test_ringing_in_a_closed_loop_does_nothing_and_the_mailbox_is_abandoned() -> None:
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop, "a")
    assert not mailbox.is_abandoned
    loop.close()
    mailbox.put([finished()])
    ring([mailbox])
    assert mailbox.is_abandoned


def test_of_hypotheses_the_last_one_is_kept() -> None:
    """Each replaces the one before; what is told after the commit adds to none of them."""

    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop(), "a")
        for i in range(100):
            mailbox.put([TranscriptUpdate("a", f"heard {i}")])
        mailbox.put([TranscriptDelta("a", "heard"), TranscriptDelta("a", " it all"), finished()])
        events = await read(mailbox)
        assert len(events) <= MAX_PENDING_EVENTS
        kinds = [type(e) for e in events]
        assert kinds == sorted(kinds, key=[TranscriptUpdate, TranscriptDelta, Finished].index)
        assert [e.text for e in events if isinstance(e, TranscriptUpdate)][-1] == "heard 99"
        assert "".join(e.text for e in events if isinstance(e, TranscriptDelta)) == "heard it all"

    asyncio.run(main())


def test_opening_waits_until_the_engine_has_taken_the_request() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        taken, ended, refused = (Mailbox(loop, "a") for _ in range(3))
        waiting = [asyncio.create_task(mailbox.taken()) for mailbox in (taken, ended, refused)]
        await asyncio.sleep(0)
        taken.is_taken = True
        ended.put([finished()])
        refused.fail(ZeroDivisionError())
        assert not any(task.done() for task in waiting)
        ring([taken, ended, refused])
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [type(None), type(None), ZeroDivisionError]
        assert isinstance(await ended.get(), Finished), "it is still there to be read"

    asyncio.run(main())


def test_a_reader_that_is_not_rung_finds_out_by_itself() -> None:
    """When a call into the event loop failed, the reader used to wait forever."""

    async def main() -> None:
        over: list[Exception] = []
        mailbox = Mailbox(asyncio.get_running_loop(), "a", lambda: over[0] if over else None)
        reading = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        mailbox.put([TextDelta("a", "!")])
        assert await asyncio.wait_for(reading, 60) == TextDelta("a", "!")
        waiting = [asyncio.create_task(wait) for wait in (mailbox.get(), Mailbox.taken(mailbox))]
        await asyncio.sleep(0)
        mailbox.put([TextDelta("a", "the last")])
        over.append(ZeroDivisionError("nobody is there"))
        assert await waiting[0] == TextDelta("a", "the last")
        with pytest.raises(ZeroDivisionError):
            await waiting[1]
        with pytest.raises(ZeroDivisionError):
            await mailbox.get()

    asyncio.run(main())
