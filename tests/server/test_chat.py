"""`/v1/chat/completions` as the openai package uses it: what is answered."""

from __future__ import annotations

import asyncio
import base64
import io
import time
import wave
from typing import Any

import numpy as np
import openai
import pytest
from http_server import Served, serving_http
from openai_client import PICTURE, QUESTION, async_client, client, heard_again, user, words
from serving import run

from antiphon.codec import encode_audio, read_audio

pytestmark = pytest.mark.slow

SPOKEN: Any = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
WRITTEN: Any = {"modalities": ["text"]}
SEEN = {"blue", "heart", "red", "star", "black", "circle"}
"""Words of a right answer to the demo's question."""
MODEL = "stream_omni"
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def spoken(audio_format: str) -> Any:
    return {"modalities": ["text", "audio"], "audio": {"voice": "hibari", "format": audio_format}}


def pcm_as_wav(data: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(24_000)
        out.writeframes(data)
    return file.getvalue()


def assert_says(served: Served, data: bytes, text: str) -> None:
    """The sound is about as long as it takes to say the text, and most of the text can be heard in it."""
    samples, rate_hz = read_audio(data)
    assert len(samples) / rate_hz > 0.15 * len(text.split())
    assert np.sqrt(np.mean(samples**2)) > 0.01
    heard = words(run(heard_again(served, data)))
    assert len(heard & words(text)) >= 0.6 * len(words(text)), heard


# --- whole ------------------------------------------------------------------------------------------


def test_a_spoken_question_about_a_picture_gets_a_spoken_answer(served: Served) -> None:
    done = client(served).chat.completions.create(model=MODEL, messages=[user(PICTURE, QUESTION)], **SPOKEN)
    [choice] = done.choices
    assert choice.message.content is None and choice.message.audio is not None
    assert words(choice.message.audio.transcript) >= SEEN
    assert choice.finish_reason == "stop"
    assert 3500 < choice.message.audio.expires_at - time.time() < 3700
    assert_says(served, base64.b64decode(choice.message.audio.data), choice.message.audio.transcript)
    usage = done.usage
    assert usage is not None and usage.prompt_tokens_details and usage.completion_tokens_details
    given, made = usage.prompt_tokens_details, usage.completion_tokens_details
    assert (given.audio_tokens, given.image_tokens) == (43, 36)
    assert given.text_tokens == usage.prompt_tokens - 43 - 36 > 0
    assert made.audio_tokens and made.text_tokens and made.reasoning_tokens == 0
    assert made.audio_tokens + made.text_tokens == usage.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (("What is three plus four?",), "seven"),
        ((PICTURE, "What is in the picture?"), "heart"),
        (("What is in the picture?", PICTURE), "star"),
        ((PICTURE, QUESTION), "circle"),
    ],
)
def test_text_comes_as_text(served: Served, content: tuple[Any, ...], expected: str) -> None:
    done = client(served).chat.completions.create(model=MODEL, messages=[user(*content)])
    assert expected in words(done.choices[0].message.content or "")
    assert done.choices[0].message.audio is None
    assert done.model == MODEL and done.id.startswith("chatcmpl-")


def test_speech_may_come_in_other_formats_than_it_says(served: Served) -> None:
    samples, rate_hz = read_audio(base64.b64decode(QUESTION["input_audio"]["data"]))
    for audio_format in ("flac", "ogg"):
        data = base64.b64encode(encode_audio(samples, rate_hz, audio_format)).decode()
        part = {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}}
        done = client(served).chat.completions.create(model=MODEL, messages=[user(PICTURE, part)])
        assert words(done.choices[0].message.content or "") >= SEEN


def test_what_was_heard_is_told(served: Served) -> None:
    chat: Any = client(served).chat.completions
    silence = base64.b64encode(encode_audio(np.zeros(16_000, np.float32), 16_000, "wav")).decode()
    nothing = {"type": "input_audio", "input_audio": {"data": silence, "format": "wav"}}
    heard = run(heard_again(served, base64.b64decode(QUESTION["input_audio"]["data"]))).strip()
    assert words(heard) == {"what", "is", "in", "the", "picture"}
    asked = [user(PICTURE, QUESTION)]
    for messages, expected in (
        (asked, heard),
        ([*asked, {"role": "assistant", "content": "Shapes."}, user("Which?")], heard),
        ([user(nothing)], ""),
        ([user("Hello")], None),
    ):
        for form in (WRITTEN, SPOKEN):
            given = {"model": MODEL, "messages": messages, "max_completion_tokens": 5, **form}
            assert chat.create(**given).input_transcript == expected
            chunks = list(chat.create(**given, stream=True, stream_options={"include_usage": True}))
            found = [chunk.input_transcript for chunk in chunks if "input_transcript" in chunk.to_dict()]
            assert found == ([] if expected is None else [expected])
            with chat.stream(**given) as stream:
                *_, last = [each.chunk for each in stream if each.type == "chunk"]
            assert last.choices[0].finish_reason
            assert getattr(last, "input_transcript", None) == expected


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("audio_format", ["wav", "mp3", "flac", "opus", "aac", "pcm16"])
def test_replies_are_spoken_in_every_format(served: Served, audio_format: str) -> None:
    for is_streamed in (False, True):
        question = [user("What is three plus four?")]
        if is_streamed:
            given: Any = {"model": MODEL, "messages": question, **spoken(audio_format)}
            with client(served).chat.completions.stream(**given) as stream:
                message: Any = stream.get_final_completion().choices[0].message
        else:
            done = client(served).chat.completions.create(
                model=MODEL, messages=question, **spoken(audio_format)
            )
            message = done.choices[0].message
        data = base64.b64decode(message.audio.data, validate=True)
        assert "seven" in words(message.audio.transcript)
        assert_says(served, pcm_as_wav(data) if audio_format == "pcm16" else data, message.audio.transcript)


def test_an_answer_is_a_later_turns_history(served: Served) -> None:
    chat = client(served).chat.completions
    turns: list[Any] = [user("My name is Tom.")]
    first = chat.create(model=MODEL, messages=turns, **SPOKEN).choices[0].message
    assert first.audio is not None
    answers: list[Any] = [
        first,
        {"role": "assistant", "audio": {"id": first.audio.id}},
        {"role": "assistant", "content": first.audio.transcript},
    ]
    turns = [[*turns, answer, user("What is my name?")] for answer in answers]
    followed = [chat.create(model=MODEL, messages=each) for each in turns]
    assert "tom" in words(followed[0].choices[0].message.content or "")
    assert len({each.choices[0].message.content for each in followed}) == 1
    assert len({each.usage.prompt_tokens for each in followed if each.usage is not None}) == 1


def test_system_messages_are_read(served: Served) -> None:
    chat = client(served).chat.completions
    systems: list[Any] = [
        {"role": "system", "content": "You are a cat."},
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
    ]
    plain = chat.create(model=MODEL, messages=[{"role": "system", "content": ""}, user("Hello")])
    told = chat.create(model=MODEL, messages=[*systems, user("Hello")])
    joined: Any = {"role": "system", "content": "You are a cat.\n\nBe brief."}
    same = chat.create(model=MODEL, messages=[joined, user("Hello")])
    assert plain.usage is not None and told.usage is not None and same.usage is not None
    assert told.usage.prompt_tokens == same.usage.prompt_tokens > plain.usage.prompt_tokens


def test_sampling_is_the_engines(served: Served) -> None:
    chat = client(served).chat.completions
    given: Any = {"model": MODEL, "messages": [user("Tell me a story about the moon.")]}
    hot: Any = {**given, "temperature": 2.0, "max_completion_tokens": 12, "extra_body": {"ignore_eos": True}}
    texts = [chat.create(**hot, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    cold = chat.create(**given)
    kept = chat.create(**{**given, "temperature": 2.0, "extra_body": {"top_k": 1}})
    assert kept.choices[0].message == cold.choices[0].message
    narrow = chat.create(**given, temperature=2.0, top_p=1e-6)
    assert narrow.choices[0].message == cold.choices[0].message
    limited = chat.create(**given, max_tokens=2)
    assert limited.choices[0].finish_reason == "length"
    assert limited.usage is not None and limited.usage.completion_tokens == 2


def test_stop_strings_and_limits(served: Served) -> None:
    chat = client(served).chat.completions
    stopped = chat.create(model=MODEL, messages=[user("What is three plus four?")], stop=["four", "x"])
    assert (stopped.choices[0].message.content or "").strip() == "Three plus"
    assert stopped.choices[0].finish_reason == "stop"
    short = chat.create(
        model=MODEL, messages=[user("What is three plus four?")], **SPOKEN, extra_body={"max_units": 10}
    )
    assert short.choices[0].finish_reason == "length"
    assert short.choices[0].message.audio is not None
    samples, rate_hz = read_audio(base64.b64decode(short.choices[0].message.audio.data))
    assert len(samples) / rate_hz == pytest.approx(0.4, abs=0.02)


# --- as it comes ------------------------------------------------------------------------------------


def test_chunks_of_text_join_to_the_whole(served: Served) -> None:
    given: Any = {"model": MODEL, "messages": [user(PICTURE, "What is in the picture?")]}
    whole = client(served).chat.completions.create(**given)
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client(served).chat.completions.create(**given, **options))
    *replies, last, usage = chunks
    assert len(replies) > 5, "the text comes in pieces"
    assert replies[0].choices[0].delta.role == "assistant"
    joined = "".join(chunk.choices[0].delta.content or "" for chunk in replies)
    assert joined == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in (*replies, last)] == [None] * len(replies) + ["stop"]
    assert usage.choices == [] and usage.usage is not None and whole.usage is not None
    assert usage.usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1
    without = list(client(served).chat.completions.create(**given, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in without)


@pytest.mark.parametrize(("audio_format", "block"), [("wav", 3), ("pcm16", 6), ("mp3", 3)])
def test_chunks_of_speech_follow_the_clients_rules(served: Served, audio_format: str, block: int) -> None:
    given: Any = {"model": MODEL, "messages": [user(PICTURE, QUESTION)], **spoken(audio_format)}
    deltas: list[dict[str, Any]] = []
    times = []
    for chunk in client(served).chat.completions.create(**given, stream=True):
        assert chunk.choices[0].delta.content is None
        extra: Any = chunk.choices[0].delta.to_dict().get("audio")
        if extra is not None:
            deltas.append(extra)
            times.append(time.perf_counter())
    for name in ("id", "expires_at"):
        assert sum(name in delta for delta in deltas) == 1
    assert "id" in deltas[0] and deltas[0]["id"].startswith("audio_")
    data = [delta["data"] for delta in deltas if "data" in delta]
    assert len(data) > 2, "the sound comes in pieces"
    assert all(len(base64.b64decode(each, validate=True)) % block == 0 for each in data[:-1])
    joined = base64.b64decode("".join(data), validate=True)
    text = "".join(delta.get("transcript", "") for delta in deltas)
    assert words(text) >= SEEN
    assert_says(served, pcm_as_wav(joined) if audio_format == "pcm16" else joined, text)
    if audio_format == "wav":
        assert joined[:4] == b"RIFF" and joined[40:44] == b"\xff\xff\xff\xff"


def test_a_streamed_answer_can_be_referred_to(served: Served) -> None:
    chat = client(served).chat.completions
    with chat.stream(model=MODEL, messages=[user("My name is Tom.")], **SPOKEN) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.audio is not None
    answer: Any = {"role": "assistant", "audio": {"id": message.audio.id}}
    turns: list[Any] = [user("My name is Tom."), answer, user("What is my name?")]
    assert "tom" in words(chat.create(model=MODEL, messages=turns).choices[0].message.content or "")


# --- many, and those who leave ----------------------------------------------------------------------


def test_sixteen_at_a_time_get_their_own_answers(served: Served) -> None:
    async def ask(asked: openai.AsyncOpenAI, first: int, second: int, *, is_streamed: bool) -> str:
        question = [user(f"What is {NUMBERS[first]} plus {NUMBERS[second]}?")]
        if is_streamed:
            chunks = await asked.chat.completions.create(model=MODEL, messages=question, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        options: Any = spoken("mp3") if second == 3 else {}
        done = await asked.chat.completions.create(model=MODEL, messages=question, **options)
        message = done.choices[0].message
        return message.audio.transcript if message.audio is not None else message.content or ""

    async def ask_all() -> list[str]:
        async with async_client(served) as asked:
            pairs = [(first, second) for first in range(2, 6) for second in range(2, 6)]
            asking = [ask(asked, *pair, is_streamed=pair[0] % 2 == 0) for pair in pairs]
            return await asyncio.gather(*asking)

    answers = run(ask_all())
    expected = [NUMBERS[first + second] for first in range(2, 6) for second in range(2, 6)]
    right = [number in words(answer) for number, answer in zip(expected, answers, strict=True)]
    assert sum(right) >= 15, answers  # the model may get one wrong, the server none
    assert served.service.num_running == 0


def wait_until_idle(served: Served) -> None:
    deadline_s = time.monotonic() + 10
    while served.service.num_running or served.engine.health().num_running:
        assert time.monotonic() < deadline_s, "the request of a client that left goes on"
        time.sleep(0.02)


LONG: Any = {"model": MODEL, "messages": [user("Hello")], "extra_body": {"ignore_eos": True}}
LONG_SPOKEN: Any = {**LONG, **SPOKEN, "extra_body": {"ignore_eos": True, "max_units": 1400}}


@pytest.mark.parametrize("given", [LONG, LONG_SPOKEN])
def test_a_client_that_leaves_a_stream_ends_its_request(served: Served, given: Any) -> None:
    stream = client(served).chat.completions.create(**given, stream=True)
    for index, _ in enumerate(stream):
        assert served.service.num_running == 1
        if index == 3:
            break
    stream.close()
    wait_until_idle(served)


def test_a_reply_that_was_cut_short_by_its_listener_can_be_referred_to(served: Served) -> None:
    """What the listener has heard of it is history."""
    chat = client(served).chat.completions
    audio_id, text = "", ""
    stream = chat.create(**LONG_SPOKEN, stream=True)
    for chunk in stream:
        audio: Any = chunk.choices[0].delta.to_dict().get("audio", {})
        audio_id, text = audio.get("id", audio_id), text + audio.get("transcript", "")
        if "data" in audio:
            break
    stream.close()
    wait_until_idle(served)
    kept = served.service.kept_audio.transcript(audio_id)
    assert kept is not None and kept.startswith(text) and text
    answer: Any = {"role": "assistant", "audio": {"id": audio_id}}
    done = chat.create(model=MODEL, messages=[user("Hello"), answer, user("What is three plus four?")])
    assert "seven" in words(done.choices[0].message.content or "")


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_client_that_leaves_early_ends_its_request(served: Served, is_streamed: bool) -> None:
    async def leave() -> None:
        async with async_client(served) as asked:
            asking = asyncio.create_task(asked.chat.completions.create(**LONG_SPOKEN, stream=is_streamed))
            while not served.service.num_running:
                await asyncio.sleep(0.005)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    run(leave())
    wait_until_idle(served)


def test_a_request_that_takes_too_long_is_answered_with_what_there_is() -> None:
    with serving_http(request_timeout_s=1.0) as served:
        done = client(served).chat.completions.create(**LONG_SPOKEN)
        [choice] = done.choices
        assert choice.finish_reason == "length"
        assert choice.message.audio is not None and choice.message.audio.transcript
        *_, last = client(served).chat.completions.create(**LONG_SPOKEN, stream=True)
        assert last.choices[0].finish_reason == "length"
