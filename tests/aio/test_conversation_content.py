"""Conversations with the packaged model, judged by what is said: recorded questions, spoken answers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conversations import conversing, idle
from serving import assert_nothing_held, run

import antiphon
from antiphon import AsyncEngine, Image, SamplingParams
from antiphon.conversation import (
    Conversation,
    ConversationSettings,
    Heard,
    HeardUpdate,
    Item,
    ReplyAudio,
    ReplyEnded,
    ReplyOptions,
    ReplySpoken,
    SpeechStopped,
    TurnDetection,
)
from antiphon.sound.arrays import AudioArray

pytestmark = pytest.mark.slow

QUESTIONS = Path(__file__).parents[1] / "golden" / "spoken_questions"
DEMO = Path(antiphon.__file__).parent / "assets" / "demo"
DEMO_PICTURE, DEMO_QUESTION = DEMO / "shapes.png", DEMO / "question.wav"
PARAMS = SamplingParams(max_tokens=40, max_units=375)
OPTIONS = ReplyOptions(sampling_params=PARAMS)
SETTINGS = ConversationSettings(OPTIONS, activity="energy")


@pytest.fixture(scope="module")
def engine() -> Iterator[AsyncEngine]:
    served = AsyncEngine(device="cpu")
    yield served
    run(asyncio.wait_for(idle(served), 30))
    assert_nothing_held(served.engine)
    served.close()


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((QUESTIONS / "questions.json").read_text())
    return found


def recorded(path: Path) -> tuple[AudioArray, int]:
    import soundfile

    samples, rate_hz = soundfile.read(path, dtype="float32")
    return np.asarray(samples, np.float32), rate_hz


def hush(seconds: float, rate_hz: int) -> AudioArray:
    """A quiet room."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * rate_hz))
    return (1e-4 * noise).astype(np.float32)


async def ask(talk: Conversation, path: Path, pace_s: float = 0) -> None:
    """pace_s: how long each tenth of a second takes."""
    samples, rate_hz = recorded(path)
    sound = np.concatenate([hush(0.5, rate_hz), samples, hush(1.6, rate_hz)])
    for begin in range(0, len(sound), rate_hz // 10):
        await talk.push_audio(sound[begin : begin + rate_hz // 10], rate_hz)
        await asyncio.sleep(pace_s)


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


@pytest.mark.parametrize(
    "detection",
    [TurnDetection(), TurnDetection(kind="semantic_vad"), None],
    ids=["server_vad", "semantic_vad", "by_hand"],
)
def test_the_demo_says_what_it_should(engine: AsyncEngine, detection: TurnDetection | None) -> None:
    shapes = {"heart": "blue", "star": "red", "circle": "black"}

    async def main() -> None:
        settings = replace(SETTINGS, turn_detection=detection)
        async with conversing(engine, settings, all_told=True) as (talk, reader):
            await talk.add_item(Item("user", (Image(DEMO_PICTURE),)))
            await ask(talk, DEMO_QUESTION)
            if detection is None:
                await talk.commit()
                await talk.respond()
            ended = await reader.next(ReplyEnded)
            assert words(reader.of(Heard)[0].text) == words("What is in the picture?")
            assert ended.status == "completed"
            said = (await talk.find_item(ended.item_id)).text
            assert all(f"{colour} {shape}" in said for shape, colour in shapes.items()), said
            assert reader.of(ReplySpoken)[-1].num_chars == len(said)
            sound = np.concatenate([event.samples for event in reader.of(ReplyAudio)])
            rate_hz = reader.of(ReplyAudio)[0].sample_rate_hz
            assert len(sound) / rate_hz == ended.metrics.audio_s

    run(main())


def test_several_turns_about_one_picture(engine: AsyncEngine, questions: list[dict[str, Any]]) -> None:
    """Each is heard, answered, and heard again by the model in its own units."""

    async def main() -> None:
        async with conversing(engine, SETTINGS, all_told=True) as (talk, reader):
            await talk.add_item(Item("user", (Image(QUESTIONS / "00.png"),)))
            for question in questions[:3]:
                await ask(talk, QUESTIONS / question["sound"], pace_s=0.05)
                ended = await reader.next(ReplyEnded)
                await talk.played(ended.item_id, 100)
                assert ended.status == "completed"
            heard = [words(event.text) for event in reader.of(Heard)]
            assert heard == [words(question["question"]) for question in questions[:3]]
            updates = reader.of(HeardUpdate)
            assert len({event.item_id for event in updates}) == 3
            first = next(item for item in talk.history if item.role == "assistant")
            assert words(first.text) == words(questions[0]["answer"])
            assert talk.speculation.num_confirmed == 3
            assert all(0.3 < event.delay_s < 0.7 for event in reader.of(SpeechStopped))

    run(main())


def test_interrupted_after_a_few_words(engine: AsyncEngine) -> None:
    """The history has the words that had been begun, and the next question is heard by itself."""

    async def main() -> None:
        async with conversing(engine, SETTINGS, all_told=True) as (talk, reader):
            await talk.add_item(Item("user", (Image(DEMO_PICTURE),)))
            await ask(talk, DEMO_QUESTION)
            ended = await reader.next(ReplyEnded)
            spoken = [event for event in reader.of(ReplySpoken) if event.num_chars >= len("I see a blue")]
            await talk.played(ended.item_id, spoken[0].end_s)
            await ask(talk, DEMO_QUESTION)
            await reader.next(ReplyEnded)
            item = await talk.find_item(ended.item_id)
            assert item.heard_s == spoken[0].end_s
            assert item.text.startswith(item.heard_text)
            assert item.heard_text.startswith("I see a blue")
            assert len(item.heard_text) < len(item.text) - 5
            assert not item.text[len(item.heard_text)].isalpha(), "it ends with a word"
            heard = [words(event.text) for event in reader.of(Heard)]
            assert heard == 2 * [words("What is in the picture?")]

    run(main())


def test_two_turns_in_one_message(engine: AsyncEngine, questions: list[dict[str, Any]]) -> None:
    """The client ends both before it asks for a reply: each has a transcript of its own."""

    async def main() -> None:
        settings = replace(SETTINGS, turn_detection=TurnDetection(create_response=False))
        async with conversing(engine, settings, all_told=True) as (talk, reader):
            for question in questions[:2]:
                await ask(talk, QUESTIONS / question["sound"], pace_s=0.04)
                heard = await reader.next(Heard)
                assert words(heard.text) == words(question["question"])
            second = reader.of(Heard)[1].item_id
            updates = [event.text for event in reader.of(HeardUpdate) if event.item_id == second]
            assert words(updates[-1])[-1] == "picture"
            assert "many" not in " ".join(updates), "that was said in the turn before"

    run(main())


@pytest.mark.long
def test_eight_at_once(engine: AsyncEngine, questions: list[dict[str, Any]]) -> None:
    """Each gets the answer that it gets alone."""

    async def talk_about(question: dict[str, Any]) -> tuple[list[str], list[int]]:
        async with conversing(engine, SETTINGS, all_told=True) as (talk, reader):
            if question["picture"] is not None:
                await talk.add_item(Item("user", (Image(QUESTIONS / question["picture"]),)))
            await ask(talk, QUESTIONS / question["sound"])
            ended = await reader.next(ReplyEnded)
            done = talk._replying._past[ended.item_id].completion
            assert done is not None
            return words(reader.of(Heard)[0].text), done.unit_ids

    async def main() -> None:
        together = await asyncio.gather(*(talk_about(question) for question in questions[:8]))
        for question, found in zip(questions[:8], together, strict=True):
            assert found[0] == words(question["question"])
            assert found == await talk_about(question)

    run(main())
