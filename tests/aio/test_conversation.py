"""Conversations with the small random model, whose speech is where the sound says it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from checkpoints import RANDOM_MODEL
from conversations import (
    BY_HAND,
    LONG,
    RATE_HZ,
    SETTINGS,
    SHORT,
    Reader,
    Told,
    completion,
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

from antiphon import AsyncEngine, Engine, InvalidRequest, Message, Request, SamplingParams, Units
from antiphon.aio.conversation import listening
from antiphon.aio.conversation.items import num_spoken
from antiphon.conversation import (
    Conversation,
    ConversationSettings,
    Heard,
    HeardUpdate,
    InputCleared,
    InputCommitted,
    InputTimedOut,
    Item,
    ItemAdded,
    ItemDone,
    ItemTruncated,
    ReplyAudio,
    ReplyBegun,
    ReplyEnded,
    ReplyOptions,
    ReplySpoken,
    ReplyText,
    SpeechStarted,
    SpeechStopped,
    TurnDetection,
)

SPEAKS_LONG = replace(BY_HAND, reply=ReplyOptions(sampling_params=LONG))
TALKS_LONG = replace(SETTINGS, reply=ReplyOptions(sampling_params=LONG))
TEXT = ReplyOptions(("text",), sampling_params=SamplingParams(max_tokens=6))


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
    if engine.health().alive:
        run(asyncio.wait_for(idle(engine), 30))
        assert_nothing_held(engine.engine)


# --- turns and replies ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_turn_is_answered(engine: AsyncEngine) -> None:
    said = speech(1.2)

    async def main() -> None:
        async with conversing(engine, SETTINGS, all_told=True) as (talk, reader):
            await push(talk, silence(1), said, silence(1))
            ended = await reader.next(ReplyEnded)
            assert ended.status == "incomplete" or ended.status == "completed"
            kinds = [type(event) for event in reader.events if not isinstance(event, HeardUpdate | Heard)]
            assert kinds[:7] == [
                SpeechStarted,
                SpeechStopped,
                InputCommitted,
                ItemAdded,
                ItemDone,
                ReplyBegun,
                ItemAdded,
            ]
            assert kinds[-2:] == [ItemDone, ReplyEnded]
            started, stopped = reader.of(SpeechStarted)[0], reader.of(SpeechStopped)[0]
            assert abs(started.at_s - (len(silence(1)) / RATE_HZ - 0.3)) < 1e-6
            end_s = (len(silence(1)) + len(said)) / RATE_HZ
            assert end_s < stopped.at_s < end_s + 0.13
            assert stopped.delay_s == talk.endpoint_delay_s
            assert 0.3 < stopped.delay_s < 0.6
            heard = reader.of(Heard)[0]
            item = await talk.find_item(heard.item_id)
            assert item.transcript == heard.text
            assert heard.seconds == len(units_of(item)) / 25
            sound = np.concatenate([event.samples for event in reader.of(ReplyAudio)])
            assert len(sound) / reader.of(ReplyAudio)[0].sample_rate_hz == ended.metrics.audio_s
            reply = await talk.find_item(ended.item_id)
            assert "".join(event.text for event in reader.of(ReplyText)) == reply.text

    run(main())


@pytest.mark.parametrize("size", [160, 1600, 100_000])
def test_silence_never_reaches_the_model(engine: AsyncEngine, size: int) -> None:
    """However the sound is cut into pieces, and with a pause inside of the turn."""
    sounds = silence(1), speech(0.8), silence(0.3), speech(0.6, seed=1), silence(0.9)
    samples = np.concatenate(sounds)

    async def main() -> None:
        async with conversing(engine, SETTINGS) as (talk, reader):
            await push(talk, *sounds, size=size)
            item = (await reader.next(ItemDone)).item
            start, end = reader.of(SpeechStarted)[0].at_s, reader.of(SpeechStopped)[0].at_s
            own = samples[round(start * RATE_HZ) : round(end * RATE_HZ)]
            assert len(own) < len(samples) - RATE_HZ
            assert units_of(item) == tokenized(engine, own)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("speculate", [True, False])
@pytest.mark.parametrize("sampling", [SHORT, replace(SHORT, temperature=1.0, seed=5)])
def test_a_reply_equals_the_plain_request(
    engine: AsyncEngine, sampling: SamplingParams, speculate: bool
) -> None:
    options = ReplyOptions(sampling_params=sampling)
    settings = ConversationSettings(options, speculate=speculate)

    async def main() -> None:
        async with conversing(engine, settings, all_told=True) as (talk, reader):
            await talk.add_item(Item("user", ("Look.",)))
            for turn in range(2):
                await push(talk, speech(0.7, seed=turn), silence(0.2))
                await settled(talk)
                await push(talk, speech(0.5, seed=9), silence(0.2))
                await settled(talk)
                await push(talk, silence(0.6))
                ended = await reader.next(ReplyEnded)
                items = [item for item in talk.history if item.item_id != ended.item_id]
                messages: list[Message] = []
                for item in items:
                    parts = (item.heard_text,) if item.role == "assistant" else item.parts
                    if messages and messages[-1].role == item.role:
                        parts = (*messages.pop().content, *parts)  # type: ignore[misc]
                    messages.append(Message(item.role, parts))
                plain = Request(messages=messages, modalities=("text", "audio"))
                await talk.played(ended.item_id, 100)
                given = talk._replying._past[ended.item_id].request.sampling_params or sampling
                assert given == (
                    sampling if sampling.seed is not None else replace(sampling, seed=given.seed)
                )
                expected = await engine.generate(plain, given)
                got = completion(talk, ended.item_id)
                assert (got.text_ids, got.unit_ids) == (expected.text_ids, expected.unit_ids)
                assert got.transcript == expected.transcript
                assert got.metrics.num_prompt_tokens == expected.metrics.num_prompt_tokens
                played = [event for event in reader.of(ReplyAudio) if event.reply_id == ended.reply_id]
                assert expected.audio is not None
                np.testing.assert_allclose(
                    np.concatenate([event.samples for event in played]), expected.audio, atol=2e-3
                )
            begun = talk.speculation.num_begun
            assert begun == 4 if speculate else begun == 0
            assert talk.speculation.num_confirmed == begun / 2

    run(main())


@pytest.mark.slow
def test_seeds_do_not_depend_on_speculation(engine: AsyncEngine) -> None:
    """Not even on replies that were begun and dropped."""
    options = ReplyOptions(sampling_params=replace(SHORT, temperature=1.0))

    async def replies(number: int, *, speculate: bool) -> list[list[int]]:
        settings = ConversationSettings(options, speculate=speculate)
        found = []
        async with Conversation(engine, settings, number) as talk:
            reader = Reader(talk)
            for _ in range(2):
                await push(talk, speech(0.6), silence(0.2))
                await settled(talk)
                await push(talk, speech(0.5), silence(0.2))
                await settled(talk)
                await push(talk, silence(0.6))
                begun = await reader.next(ReplyBegun)
                await talk.respond(TEXT, items=[Item("user", ("Aside.",))], keep=False)
                await reader.next(ReplyEnded)
                await reader.next(ReplyEnded)
                # All of it, whatever the clock says: the next question is not to cut it short.
                await talk.played(begun.item_id, 60.0)
            found = [reply.completion.unit_ids for reply in talk._replying._past.values() if reply.completion]
        await reader.end()
        assert len(found) == 2
        return found

    async def main() -> None:
        with_it = await replies(7, speculate=True)
        assert with_it == await replies(7, speculate=False)
        assert with_it != await replies(8, speculate=True), "each conversation has its own"

    run(main())


def test_the_first_sound_is_there_when_the_turn_ends(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, SETTINGS) as (talk, reader):
            await push(talk, silence(0.5), speech(0.8), silence(0.2))
            await settled(talk)
            ahead = talk._replying._ahead
            assert ahead is not None
            while not ahead.has_failed() and ahead._last is None:
                await asyncio.sleep(0.001)
            await settled(talk)
            assert ahead.num_held_units > 0
            assert not reader.of(ReplyBegun), "it is kept back"
            assert not reader.of(Heard)
            await push(talk, silence(0.6))
            ended = await reader.next(ReplyEnded)
            assert reader.of(ReplyAudio)
            assert ended.metrics.ttfa_s == 0
            assert talk.speculation.num_confirmed == 1

    run(main())


def test_a_reply_is_dropped_when_the_user_goes_on(engine: AsyncEngine) -> None:
    """And what it computed of the prompt is of use."""

    async def main() -> None:
        async with conversing(engine, TALKS_LONG) as (
            talk,
            _,
        ):
            await push(talk, speech(1.0), silence(0.2))
            await settled(talk)
            ahead = talk._replying._ahead
            assert ahead is not None
            while not ahead.num_held_units:
                await asyncio.sleep(0.001)
                await talk._do(do_nothing)
            await push(talk, speech(0.5))
            assert talk._replying._ahead is None
            assert ahead.has_ended
            assert talk.speculation.num_dropped_units > 0
            assert talk.speculation.num_confirmed == 0

    run(main())


@pytest.mark.slow
def test_a_second_turn_computes_only_what_is_new(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, SETTINGS) as (talk, reader):
            await talk.add_item(Item("user", ("A long story. " * 40,)))
            prompts = []
            for turn in range(3):
                await push(talk, speech(1.5, seed=turn), silence(0.8))
                ended = await reader.next(ReplyEnded)
                prompts.append(ended.metrics)
                await talk.played(ended.item_id, 100)
            block = 16
            for before, after in pairwise(prompts):
                assert after.num_prompt_tokens > before.num_prompt_tokens
                assert after.num_cached_tokens >= before.num_prompt_tokens - 2 * block

    run(main())


# --- turns that the client ends -------------------------------------------------------------------


def test_turns_by_hand(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, BY_HAND, all_told=True) as (talk, reader):
            with pytest.raises(InvalidRequest, match="expected audio since the last turn"):
                await talk.commit()
            sounds = silence(0.5), speech(0.5), silence(0.9), speech(0.5, seed=1), silence(0.4)
            await push(talk, *sounds)
            await settled(talk)
            item_id = await talk.commit()
            item = await talk.find_item(item_id)
            begin = round(0.5 / 0.032) * 512 - 4800
            end = len(np.concatenate(sounds[:4])) + 3 * 512
            assert units_of(item) == tokenized(engine, np.concatenate(sounds)[begin:end])
            reply_id = await talk.respond()
            ended = await reader.next(ReplyEnded)
            assert ended.reply_id == reply_id
            assert not reader.of(SpeechStarted), "nobody has asked for turns to be found"
            assert talk.speculation.num_confirmed == 1
            with pytest.raises(InvalidRequest, match="expected something of the user's"):
                await talk.respond()
            with pytest.raises(InvalidRequest, match="expected audio since"):
                await talk.commit()

    run(main())


def test_a_commit_in_the_middle_of_a_word(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, SETTINGS, all_told=True) as (talk, reader):
            await push(talk, speech(1))
            item = await talk.find_item(await talk.commit())
            assert units_of(item) == tokenized(engine, speech(1))
            assert reader.of(SpeechStopped) == [SpeechStopped(item.item_id, len(speech(1)) / RATE_HZ, 0)]
            await reader.next(Heard)
            assert not reader.of(ReplyBegun), "a client that commits asks for the reply"

    run(main())


def test_a_commit_of_what_seems_to_be_silence(engine: AsyncEngine) -> None:
    """It is for the model to say; but less than a unit is nothing at all."""

    async def main() -> None:
        async with conversing(engine, BY_HAND, all_told=True) as (talk, reader):
            await push(talk, silence(0.5))
            item = await talk.find_item(await talk.commit())
            assert units_of(item) == tokenized(engine, silence(0.5))
            await reader.next(Heard)

    run(main())


def test_clear(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, SETTINGS) as (talk, reader):
            await push(talk, speech(1), silence(0.2))
            await settled(talk)
            await talk.clear()
            await reader.next(InputCleared)
            await push(talk, silence(1))
            assert not reader.of(InputCommitted)
            await talk.clear()
            with pytest.raises(InvalidRequest, match="expected audio since"):
                await talk.commit()

    run(main())


# --- what was heard of a reply --------------------------------------------------------------------


def test_barge_in(engine: AsyncEngine) -> None:
    """The history has the words that were begun, and nothing of what was not heard."""
    settings = ConversationSettings(ReplyOptions(sampling_params=LONG))

    async def main() -> None:
        async with conversing(engine, settings) as (talk, reader):
            await push(talk, speech(1), silence(0.7))
            spoken = await reader.next(ReplySpoken)
            sound = reader.of(ReplyAudio)[-1:] or [await reader.next(ReplyAudio)]
            assert spoken.end_s < 0.6, "in the first piece of sound"
            await talk.played(sound[0].item_id, spoken.end_s)
            await push(talk, speech(0.3))
            ended = await reader.next(ReplyEnded)
            assert (ended.status, ended.reason) == ("cancelled", "turn_detected")
            assert ended.num_text > 0
            assert ended.num_units > 0
            item = await talk.find_item(ended.item_id)
            assert item.heard_s == spoken.end_s
            assert item.status == "incomplete"
            heard = item.heard_text
            assert item.text.startswith(heard)
            assert len(heard) >= spoken.num_chars
            assert talk.history.messages()[1].content == (heard,)
            await push(talk, speech(0.7), silence(0.7))
            again = await reader.next(ReplyBegun)
            request = talk._replying._current
            assert request is not None
            assert request.reply_id == again.reply_id
            messages = request.request.messages
            assert messages is not None
            assert [message.role for message in messages] == ["user", "assistant", "user"]
            assert messages[1].content == (heard,)

    run(main())


def test_nothing_was_heard_of_it(engine: AsyncEngine) -> None:
    """Then two turns make one message, and each has a transcript of its own."""
    settings = ConversationSettings(ReplyOptions(sampling_params=LONG))

    async def main() -> None:
        async with conversing(engine, settings, all_told=True) as (talk, reader):
            await push(talk, speech(1), silence(0.7))
            begun = await reader.next(ReplyBegun)
            await talk.played(begun.item_id, 0)
            await push(talk, speech(0.8, seed=3), silence(0.7))
            assert (await reader.next(ReplyEnded)).status == "cancelled"
            await reader.next(ReplyBegun)
            await talk.cancel()
            while len(reader.of(Heard)) < 2:
                await asyncio.sleep(0.001)
            turns = [item for item in talk.history if item.role == "user"]
            for item in turns:
                alone = await engine.generate(Request(Units(units_of(item)), ("transcript",)))
                assert item.transcript == alone.transcript.strip()
            [message] = talk.history.messages()
            assert message.content == tuple(part for item in turns for part in item.parts)

    run(main())


def test_speech_while_a_reply_still_plays(engine: AsyncEngine) -> None:
    """It was made in full, and is cut all the same."""

    async def main() -> None:
        async with conversing(engine, SETTINGS) as (talk, reader):
            await push(talk, speech(1), silence(0.7))
            ended = await reader.next(ReplyEnded)
            await talk.played(ended.item_id, 0.2)
            await push(talk, speech(0.3))
            assert await reader.next(ItemTruncated) == ItemTruncated(ended.item_id, 0.2)
            assert (await talk.find_item(ended.item_id)).heard_s == 0.2
            await talk.clear()
            await talk.played(ended.item_id, 10)
            await push(talk, silence(0.3), speech(0.3))
            assert len(reader.of(ItemTruncated)) == 1

    run(main())


@pytest.mark.slow
def test_truncate(engine: AsyncEngine) -> None:
    settings = SPEAKS_LONG

    async def main() -> None:
        async with conversing(engine, settings) as (talk, reader):
            user = Item("user", ("Go on.",))
            await talk.add_item(user)
            await talk.respond()
            sound = await reader.next(ReplyAudio)
            await talk.truncate(sound.item_id, 0.1)
            await reader.next(ItemTruncated)
            assert (await reader.next(ReplyEnded)).status == "incomplete"
            item = await talk.find_item(sound.item_id)
            assert item.heard_s == 0.1, "it was said while the reply was being made"
            assert len(item.heard_text) < len(item.text)
            await talk.truncate(item.item_id, 2)
            assert (await talk.find_item(item.item_id)).heard_s == 2, "the last one counts"
            for item_id, seconds, why in (
                (item.item_id, 1000.0, "the reply's sound so far"),
                (item.item_id, -1.0, "the reply's sound so far"),
                (user.item_id, 0.0, "a spoken reply"),
                ("other", 0.0, "expected the id of an item"),
            ):
                with pytest.raises(InvalidRequest, match=why):
                    await talk.truncate(item_id, seconds)

    run(main())


@pytest.mark.slow
def test_words_are_told_as_they_are_spoken(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, SPEAKS_LONG) as (
            talk,
            reader,
        ):
            await talk.add_item(Item("user", ("Go on.",)))
            await talk.respond()
            ended = await reader.next(ReplyEnded)
            done = completion(talk, ended.item_id)
            assert ended.metrics.audio_s is not None
            last = reader.of(ReplySpoken)[-1]
            assert last.num_chars == done.spoken_chars[-1]
            assert last.end_s <= ended.metrics.audio_s + 0.04

    run(main())


# --- items ----------------------------------------------------------------------------------------


def test_items(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, BY_HAND) as (talk, reader):
            first, second, third = (Item("user", (text,)) for text in "abc")
            await talk.add_item(second)
            await talk.add_item(first, after="root")
            await talk.add_item(third, after=second.item_id)
            assert [item.text for item in talk.history] == ["a", "b", "c"]
            with pytest.raises(InvalidRequest, match="is the id of another item"):
                await talk.add_item(first)
            with pytest.raises(InvalidRequest, match="previous_item_id: expected the id of an item"):
                await talk.add_item(Item("user", ("d",)), after="nowhere")
            await talk.remove_item(second.item_id)
            with pytest.raises(InvalidRequest, match="item_id: expected the id of an item"):
                await talk.remove_item(second.item_id)
            with pytest.raises(InvalidRequest, match="item_id: expected the id of an item"):
                await talk.find_item(second.item_id)
            await talk.add_item(Item("system", ("Be brief.",)))
            assert talk.history.messages("Be kind.") == [
                Message("system", "Be kind.\n\nBe brief."),
                Message("user", ("a", "c")),
            ]
            with pytest.raises(InvalidRequest, match=r"item\.role: expected one of system, user, assistant"):
                Item("narrator")  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest, match=r"item.content\[0\]: expected one of str"):
                Item("assistant", (Units((1,)),))
        assert reader.story.order == [first.item_id, third.item_id, next(reversed(reader.story.order))]

    run(main())


def test_a_reply_whose_item_is_removed(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, BY_HAND) as (talk, reader):
            await talk.add_item(Item("user", ("Hello",)))
            await talk.respond()
            begun = await reader.next(ReplyBegun)
            await talk.remove_item(begun.item_id)
            ended = await reader.next(ReplyEnded)
            assert ended.status in ("completed", "incomplete")
            assert len(talk.history) == 1

    run(main())


def test_text_alone(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, replace(BY_HAND, reply=TEXT)) as (talk, reader):
            await talk.add_item(Item("user", ("Hello",)))
            await talk.respond()
            ended = await reader.next(ReplyEnded)
            plain = await engine.generate(Request("Hello"), TEXT.sampling_params)
            assert not reader.of(ReplyAudio)
            assert (await talk.find_item(ended.item_id)).text == plain.text
            assert ended.num_text == len(plain.text_ids)
            with pytest.raises(InvalidRequest, match="a spoken reply"):
                await talk.truncate(ended.item_id, 0)

    run(main())


@pytest.mark.slow
def test_without_a_codec() -> None:
    async def main() -> None:
        engine = Engine(RANDOM_MODEL, device="cpu", kv_cache_bytes=32 << 20, progress=False)
        served = AsyncEngine.from_engine(engine)
        async with served, conversing(served, replace(SETTINGS, reply=TEXT)) as (talk, reader):
            with pytest.raises(InvalidRequest, match="no codec is loaded"):
                await talk.push_audio(speech(0.1), RATE_HZ)
            with pytest.raises(InvalidRequest, match="expected audio"):
                await talk.commit()
            await talk.clear()
            await talk.add_item(Item("user", ("Hello",)))
            await talk.respond()
            assert (await reader.next(ReplyEnded)).status in ("completed", "incomplete")
        assert_nothing_held(engine)

    run(main())


def test_replies_aside(engine: AsyncEngine) -> None:
    """They are no part of the conversation, and do not stand in its way."""

    async def main() -> None:
        async with conversing(engine, SPEAKS_LONG) as (
            talk,
            reader,
        ):
            await talk.add_item(Item("user", ("Hello",)))
            kept = await talk.respond()
            with pytest.raises(InvalidRequest, match="another is being made"):
                await talk.respond()
            aside = await talk.respond(items=[Item("user", ("Aside",))], keep=False)
            with pytest.raises(InvalidRequest, match="got 'other'"):
                await talk.cancel("other")
            await talk.cancel(aside)
            await talk.cancel()
            ends = [await reader.next(ReplyEnded), await reader.next(ReplyEnded)]
            assert [(e.reply_id, e.status, e.reason) for e in ends] == [
                (aside, "cancelled", "client_cancelled"),
                (kept, "cancelled", "client_cancelled"),
            ]
            with pytest.raises(InvalidRequest, match="none is being made"):
                await talk.cancel()
            assert len(talk.history) == 2
            with pytest.raises(InvalidRequest, match="expected something of the user's"):
                await talk.respond(items=[])

    run(main())


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_history(engine: AsyncEngine) -> None:
    """A turn is read with the system messages and what is new."""
    settings = replace(SETTINGS, history=False)

    async def main() -> None:
        async with conversing(engine, settings, all_told=True) as (talk, reader):
            await talk.add_item(Item("system", ("Be brief.",)))
            await talk.add_item(Item("user", ("Look.",)))
            read = []
            for turn in range(3):
                await push(talk, speech(0.8, seed=turn), silence(0.2))
                await settled(talk)
                await push(talk, silence(0.6))
                await reader.next(ReplyBegun)
                reply = talk._replying._current
                assert reply is not None
                read.append(list(reply.request.messages or ()))
                ended = await reader.next(ReplyEnded)
                await talk.played(ended.item_id, 100)
                if turn == 1:
                    await talk.update(replace(settings, history=True))
            assert talk.speculation.num_confirmed == 3
        assert [[message.role for message in messages] for messages in read[:2]] == 2 * [["system", "user"]]
        assert [num_spoken(messages[-1]) for messages in read[:2]] == [1, 1]
        assert "Look." in read[0][-1].content  # type: ignore[operator]
        assert "Look." not in read[1][-1].content  # type: ignore[operator]
        assert [message.role for message in read[2]] == ["system", *2 * ["user", "assistant"], "user"]

    run(main())


def test_other_turns_from_here_on(engine: AsyncEngine) -> None:
    async def main() -> None:
        async with conversing(engine, BY_HAND) as (talk, reader):
            await push(talk, speech(0.5))
            await talk.update(SETTINGS)
            await reader.next(InputCleared)
            await push(talk, silence(0.5), speech(0.6), silence(0.7))
            stopped = await reader.next(SpeechStopped)
            end_s = len(np.concatenate([speech(0.5), silence(0.5), speech(0.6)])) / RATE_HZ
            assert end_s < stopped.at_s < end_s + 0.13
            item = next(iter(talk.history))
            begin = len(speech(0.5)) + len(silence(0.5)) - 4800
            samples = np.concatenate([speech(0.5), silence(0.5), speech(0.6), silence(0.7)])
            assert units_of(item) == tokenized(engine, samples[begin : round(stopped.at_s * RATE_HZ)])

    run(main())


@pytest.mark.slow
def test_a_reply_that_is_not_interrupted(engine: AsyncEngine) -> None:
    """The turn that ends meanwhile is answered after it."""
    detection = TurnDetection(interrupt_response=False)

    async def main() -> None:
        async with conversing(engine, replace(SETTINGS, turn_detection=detection), all_told=True) as (
            talk,
            reader,
        ):
            await talk.add_item(Item("user", ("Go on.",)))
            first = await talk.respond(ReplyOptions(sampling_params=LONG))
            await push(talk, speech(0.6), silence(0.7))
            await reader.next(Heard)
            assert talk._replying.is_busy
            assert (await reader.next(ReplyEnded)).reply_id == first
            second = await reader.next(ReplyEnded)
            assert second.reply_id != first
            assert [item.role for item in talk.history] == ["user", "assistant", "user", "assistant"]

    run(main())


def test_turns_without_replies(engine: AsyncEngine) -> None:
    detection = TurnDetection(create_response=False)

    async def main() -> None:
        async with conversing(engine, replace(SETTINGS, turn_detection=detection), all_told=True) as (
            talk,
            reader,
        ):
            for turn in range(2):
                await push(talk, speech(0.6, seed=turn), silence(0.7))
                heard = await reader.next(Heard)
                units = units_of(await talk.find_item(heard.item_id))
                alone = await engine.generate(Request(Units(units), ("transcript",)))
                assert heard.text == alone.transcript.strip()
            assert talk.speculation.num_begun == 0
            assert not reader.of(ReplyBegun)

    run(main())


def test_idle_timeouts_leave_out_what_is_played(engine: AsyncEngine) -> None:
    detection = TurnDetection(idle_timeout_ms=1000)

    async def main() -> None:
        async with conversing(engine, replace(SETTINGS, turn_detection=detection)) as (talk, reader):
            await push(talk, silence(1.1))
            timed_out = await reader.next(InputTimedOut)
            assert (round(timed_out.start_s, 3), round(timed_out.end_s, 3)) == (0.024, 1.024)
            await push(talk, speech(0.6), silence(0.7))
            ended = await reader.next(ReplyEnded)
            await talk.played(ended.item_id, 0.1)
            await push(talk, silence(3))
            assert len(reader.of(InputTimedOut)) == 1, "the reply is being played"
            await talk.played(ended.item_id, 100)
            await push(talk, silence(0.9))
            assert len(reader.of(InputTimedOut)) == 1
            await push(talk, silence(0.3))
            assert len(reader.of(InputTimedOut)) == 2

    run(main())
