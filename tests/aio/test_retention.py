"""Conversations that grow longer than the model can read: which turns it goes on reading."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from conversations import (
    BY_HAND,
    SETTINGS,
    Reader,
    Told,
    completion,
    conversing,
    idle,
    load_speaking,
    push,
    settled,
    silence,
    speech,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage
from serving import assert_nothing_held, run

from antiphon import AsyncEngine, Engine, Image, InvalidRequest, Message, Request, SamplingParams, Units
from antiphon.aio.conversation import listening
from antiphon.aio.conversation.retention import REPLY_SHARE, TURN_SHARE, Retention
from antiphon.config import InputLimits
from antiphon.conversation import (
    Conversation,
    ConversationSettings,
    Heard,
    History,
    Item,
    NotHeard,
    ReplyEnded,
    ReplyOptions,
)

QUESTIONS = Path(__file__).parents[1] / "golden" / "spoken_questions"
TEXT = ReplyOptions(("text",), system="S", sampling_params=SamplingParams(max_tokens=4))
LONGEST = 400


# --- which turns are left out ---------------------------------------------------------------------


def parts_of(messages: list[Message]) -> list[Any]:
    """Text counts as one part for each character."""
    contents: list[Any] = [message.content for message in messages]
    return [part for content in contents for part in content]


class Counted:
    """Stands for `InputProcessor`: a character takes a position, as does a unit."""

    def num_positions(self, messages: list[Message]) -> int:
        return 2 * len(messages) + sum(map(self._length, parts_of(messages)))

    def _length(self, part: Any) -> int:
        return len(part.units) if isinstance(part, Units) else 7 if isinstance(part, Image) else len(part)


def answering(longest: int, **limits: int) -> Any:
    config = SimpleNamespace(max_model_len=longest, limits=InputLimits(**limits))
    blocks = SimpleNamespace(num_blocks=1000, text_block_size=16, speech_block_size=16)
    return SimpleNamespace(engine=SimpleNamespace(config=config, inputs=Counted(), cache_config=blocks))


def retention(history: History, longest: int, ratio: float | None = 0.8, **limits: int) -> Retention:
    settings = ConversationSettings(TEXT, retention_ratio=ratio)
    return Retention(answering(longest, **limits), history, settings)


def items_of(roles: list[tuple[str, int]]) -> list[Item]:
    """By role and length; the texts of no two are alike."""
    found = []
    for number, (kind, length) in enumerate(roles):
        text = chr(200 + number) * length
        parts: dict[str, Any] = {
            "speech": ("user", (Units((number,) * length),)),
            "picture": ("user", (Image(b""), text)),
            "typed": ("user", (text,)),
        }
        role, content = parts.get(kind, (kind, (text,)))
        found.append(Item(role, content))
    return found


ROLES = st.tuples(st.sampled_from(["speech", "picture", "typed", "assistant", "system"]), st.integers(1, 30))


@given(
    st.lists(ROLES, max_size=14),
    st.lists(ROLES, max_size=14),
    st.integers(20, 200),
    st.floats(0.1, 1),
    st.lists(st.integers(0, 20), max_size=3),
)
def test_the_newest_turns_are_read(
    first: list[tuple[str, int]],
    more: list[tuple[str, int]],
    longest: int,
    ratio: float,
    removed: list[int],
) -> None:
    history = History()
    chosen = retention(history, longest, ratio)
    news = (Units((999,) * 5),)
    for batch in (first, more):
        for item in items_of([*first, *more])[len(history) :][: len(batch)]:
            history.add(item)
        for index in removed:
            with suppress(IndexError):
                history.remove(list(history)[index].item_id)
        before = history.num_left_out
        whole = history.messages(TEXT.system, news)
        read = chosen.read(TEXT, news)
        parts, everything = parts_of(read[1:]), parts_of(whole[1:])
        assert read[0] == whole[0], "system messages are kept"
        assert parts == everything[len(everything) - len(parts) :], "the end, in its order"
        assert parts[-1] == news[0]
        assert [message.role for message in read[1:]] == [m.role for m in whole[len(whole) - len(read) + 1 :]]
        assert history.num_left_out >= before
        assert history.messages(TEXT.system, news) == read, "it stays left out"
        assert chosen.read(TEXT, news) == read
        newest = history.messages(TEXT.system, news, remembers=False)
        num_positions = Counted().num_positions
        room = longest - min(int(longest * REPLY_SHARE), 4) - num_positions(read[:1])
        taken = num_positions(read) - num_positions(read[:1])
        if parts == everything:
            assert taken <= room or read == newest
        else:
            assert read[1].role == "user"
            assert taken <= ratio * room or read == newest


def test_what_is_in_no_need_of_room() -> None:
    """Replies that are begun ahead change nothing, a turn that begins is left room, and None leaves out
    nothing."""
    history = History()
    for item in items_of([("speech", 20), ("assistant", 10)] * 6):
        history.add(item)
    news, growing = (Units((999,) * 5),), (Units(()),)
    longest = 220
    chosen = retention(history, longest)
    whole = history.messages("S", news)
    assert longest - 4 - int(longest * TURN_SHARE) < Counted().num_positions(whole) <= longest - 4
    assert chosen.read(TEXT, news) == whole
    assert chosen.read(TEXT, growing, is_growing=True, is_kept=False)[1:] != whole[1:]
    assert history.num_left_out == 0
    chosen.read(TEXT, growing, is_growing=True)
    assert history.num_left_out > 0
    assert history.num_left_out % 2 == 0, "it begins with a turn of the user"
    read = chosen.read(TEXT, news)
    assert len(read) < len(whole)
    chosen.settings = replace(chosen.settings, retention_ratio=None)
    history.num_left_out = 0
    assert retention(history, 20, None).read(TEXT, news) == whole
    chosen.settings = replace(chosen.settings, history=False, retention_ratio=0.5)
    assert chosen.read(TEXT, news) == [whole[0], Message("user", news)]


def test_items_that_come_and_go() -> None:
    history = History()
    items = items_of([("speech", 9), ("assistant", 9)] * 4)
    for item in items:
        history.add(item)
    history.num_left_out = 4
    read = history.messages()
    history.remove(items[1].item_id)
    history.add(Item("user", ("before",)), "root")
    assert history.messages() == read
    history.remove(items[4].item_id)
    assert history.messages()[0].content == items[6].parts, "nor is the reply to what is gone"
    for item in items[5:]:
        history.remove(item.item_id)
    assert history.messages() == []
    history.add(Item("user", ("after",)))
    assert [message.content for message in history.messages()] == [("after",)]


@pytest.mark.parametrize(("limits", "most"), [({"max_images": 3}, 3), ({"max_messages": 6}, 5)])
def test_a_request_may_hold_too_many_of_other_things(limits: dict[str, int], most: int) -> None:
    history = History()
    for item in items_of([("picture", 1), ("assistant", 1)] * 8):
        history.add(item)
    read = retention(history, 10_000, 1.0, **limits).read(TEXT, (Units((1,)),))
    pictures = [part for part in parts_of(read[1:]) if isinstance(part, Image)]
    assert len(pictures if "max_images" in limits else read[1:]) == most


@pytest.mark.parametrize("wrong", [0, -0.1, 1.01, float("nan"), "0.8", [], True])
def test_what_is_not_a_share(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match="retention_ratio: expected a number > 0 and <= 1"):
        ConversationSettings(retention_ratio=wrong)
    with pytest.raises(InvalidRequest, match="reply_timeout_s: expected a number > 0"):
        ConversationSettings(reply_timeout_s=-1)


# --- how long a prompt is -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speaking() -> Iterator[Engine]:
    engine = load_speaking()
    yield engine
    engine.close()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CONTENT = st.lists(TEXTS | st.builds(lambda n: Units((3,) * n), st.integers(1, 9)), min_size=1, max_size=4)


@given(system=st.none() | TEXTS, contents=st.lists(CONTENT, min_size=1, max_size=4))
def test_positions_are_those_of_the_prompt(speaking: Engine, system: str | None, contents: list[Any]) -> None:
    pixels = np.zeros((40, 90, 3), np.uint8)
    messages = [] if system is None else [Message("system", system)]
    messages += [Message("user", (*content, "x", Image(pixels))) for content in contents]
    counted = speaking.inputs.num_positions(messages)
    assert counted == speaking.inputs.process(Request(messages=messages)).num_text_positions


def test_pictures_are_not_read(speaking: Engine, tmp_path: Path) -> None:
    pixels = np.zeros((40, 90, 3), np.uint8)
    file = io.BytesIO()
    PilImage.fromarray(pixels).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    tensor_like = pixels[:, :, 0]
    exact = speaking.inputs.process(Request((Image(pixels), "x"))).images[0].num_positions
    assert speaking.inputs.num_image_positions(Image(pixels)) == exact
    sources: list[Any] = [tensor_like, file, file.getvalue(), url, PilImage.fromarray(pixels)]
    for source in sources:
        assert speaking.inputs.num_image_positions(Image(source)) >= exact
    most = speaking.inputs.num_image_positions(Image(tmp_path / "nothing.png"))
    wrong: Any
    for wrong in ("data:,", b"no picture", "https://example.org/a.png", None, np.zeros(3), np.zeros((0, 9))):
        assert speaking.inputs.num_image_positions(Image(wrong)) == most >= exact


# --- with a model ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[AsyncEngine]:
    """The packaged one, with room for about four turns."""
    served = AsyncEngine(device="cpu", max_model_len=LONGEST)
    yield served
    run(asyncio.wait_for(idle(served), 30))
    assert_nothing_held(served.engine)
    served.close()


TALK = ConversationSettings(
    ReplyOptions(("text",)), turn_detection=None, activity="energy", retention_ratio=0.6
)
ASKED = {4: "Zero plus zero is zero.", 6: "I see no picture.", 5: "I don't know that."}
"""Of the recorded questions, some that are about no picture."""


async def ask(talk: Conversation, reader: Reader, number: int) -> ReplyEnded:
    samples, rate_hz = soundfile.read(QUESTIONS / f"{number:02}.flac", dtype="float32")
    await talk.push_audio(samples, rate_hz)
    await talk.commit()
    await talk.respond()
    return await reader.next(ReplyEnded)


@pytest.mark.slow
def test_a_conversation_goes_on(engine: AsyncEngine) -> None:
    """Nine turns, where there is room for four: all are answered as they should be, the last as it is in a
    conversation with what is left. Prompts that follow each other mostly begin alike."""

    async def main() -> None:
        async with conversing(engine, TALK, all_told=True) as (talk, reader):
            cuts, cached, replies = [], [], []
            for number in [4, 6, 5] * 3:
                before = talk.history.num_left_out
                ended = await ask(talk, reader, number)
                done = completion(talk, ended.item_id)
                replies.append(done)
                assert done.text == ASKED[number], (number, ended)
                cuts.append(talk.history.num_left_out > before)
                cached.append(done.metrics.num_cached_tokens / done.metrics.num_prompt_tokens)
                assert done.metrics.num_prompt_tokens < LONGEST
            assert 2 <= sum(cuts) <= 4, cuts
            assert not any(first and second for first, second in pairwise(cuts))
            assert all(share > 0.6 for share, cut in zip(cached[1:], cuts[1:], strict=True) if not cut), (
                cached
            )
            items = list(talk.history)
            assert len(items) == 18, "they are still there"
            await talk.remove_item(items[0].item_id)
            read = list(talk.history)[talk.history.num_left_out : -1]
            assert read[0].role == "user"
        async with conversing(engine, TALK) as (other, reader):
            for item in read:
                await other.add_item(replace(item))
            await other.respond()
            again = completion(other, (await reader.next(ReplyEnded)).item_id)
            last = replies[-1]
            assert again.text_ids == last.text_ids
            assert again.metrics.num_prompt_tokens == last.metrics.num_prompt_tokens

    run(main())


@pytest.mark.slow
def test_it_does_not_depend_on_what_is_begun_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of all lengths, in which the user pauses: replies are the same, and each that was begun at the
    end of a turn is the one that is wanted."""
    monkeypatch.setattr(listening, "voice_activity", lambda kind: Told())
    served = AsyncEngine.from_engine(load_speaking(max_model_len=LONGEST))

    async def main(*, ahead: bool) -> tuple[list[Any], list[int], Any]:
        told, left_out = [], []
        async with conversing(served, replace(SETTINGS, speculate=ahead)) as (talk, reader):
            for turn, seconds in enumerate([1.0, 0.5, 3.0, 0.6, 2.5, 1.0, 3.5, 0.5]):
                sound = speech(seconds, seed=turn), silence(0.2), speech(0.3, seed=turn), silence(0.2)
                await push(talk, silence(0.4), *sound)
                await settled(talk)
                await push(talk, silence(0.5))
                ended = await reader.next(ReplyEnded)
                await talk.played(ended.item_id, 100)
                done = completion(talk, ended.item_id)
                told.append((done.text_ids, done.unit_ids, done.metrics.num_prompt_tokens))
                left_out.append(talk.history.num_left_out)
            return told, left_out, talk.speculation

    ahead, left_out, speculation = run(main(ahead=True))
    alone, left_out_alone, _ = run(main(ahead=False))
    assert left_out == left_out_alone
    assert left_out[-1] > 4
    assert [each[2] for each in ahead] == [each[2] for each in alone]
    assert [each[0] for each in ahead] == [each[0] for each in alone]
    assert speculation.num_confirmed == 8
    served.close()


@pytest.mark.slow
def test_a_turn_that_there_was_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said again, it is heard: turns may be long in this conversation."""
    monkeypatch.setattr(listening, "voice_activity", lambda kind: Told())

    async def main() -> None:
        served = AsyncEngine.from_engine(load_speaking(max_model_len=LONGEST))
        async with served, conversing(served, SETTINGS) as (talk, reader):
            await talk.add_item(Item("user", ("x" * 200,)))
            await talk.add_item(Item("assistant", ("y",)))
            for kind in (NotHeard, Heard):
                await push(talk, silence(0.4), speech(6), silence(0.7))
                await reader.next(kind)
            assert talk.history.num_left_out == 2
            await idle(served)

    run(main())


@pytest.mark.slow
def test_nothing_is_left_out_if_so_wanted(engine: AsyncEngine) -> None:
    """What is too long fails, and the conversation goes on when the client has made room."""

    async def main() -> None:
        async with conversing(engine, replace(TALK, retention_ratio=None)) as (talk, reader):
            await talk.add_item(Item("user", ("one " * 600,)))
            await talk.add_item(Item("assistant", ("Fine.",)))
            await talk.add_item(Item("user", ("How much is two plus three?",)))
            await talk.respond()
            ended = await reader.next(ReplyEnded)
            assert ended.status == "failed"
            assert ended.error is not None and f"(max_model_len) is {LONGEST}" in ended.error
            samples, rate_hz = soundfile.read(QUESTIONS / "06.flac", dtype="float32")
            await talk.push_audio(samples, rate_hz)
            with pytest.raises(InvalidRequest, match="max_model_len"):
                await talk.commit()
            await talk.remove_item(next(iter(talk.history)).item_id)
            ended = await ask(talk, reader, 6)
            assert completion(talk, ended.item_id).text == ASKED[6]
            await talk.add_item(Item("user", ("one " * 600,)), "root")
            await talk.update(TALK)
            ended = await ask(talk, reader, 4)
            assert completion(talk, ended.item_id).text == ASKED[4]
            assert not reader.of(NotHeard)
            assert [event.text for event in reader.of(Heard)][-1].startswith("Tell me what zero")

    run(main())


def test_a_reply_that_takes_too_long() -> None:
    async def main() -> None:
        served = AsyncEngine.from_engine(load_speaking())
        settings = replace(BY_HAND, reply=ReplyOptions(), reply_timeout_s=0.1)
        params = SamplingParams(max_tokens=2000, max_units=1500, ignore_eos=True)
        async with served, conversing(served, settings) as (talk, reader):
            await talk.add_item(Item("user", ("Go on.",)))
            await talk.respond(ReplyOptions(sampling_params=params))
            ended = await reader.next(ReplyEnded)
            assert (ended.status, ended.error) == ("failed", "the reply was not made within 0.1 s")
            assert (await talk.find_item(ended.item_id)).status == "incomplete"
            await talk.update(replace(settings, reply_timeout_s=60))
            await talk.add_item(Item("user", ("And?",)))
            await talk.respond(ReplyOptions(("text",), sampling_params=SamplingParams(max_tokens=4)))
            assert (await reader.next(ReplyEnded)).status != "failed"
            await idle(served)

    run(main())
