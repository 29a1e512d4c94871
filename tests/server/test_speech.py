"""`/v1/audio/speech` as the openai package uses it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from http_server import Served, serving_http
from openai_client import client, heard_again, words
from serving import load, run

from antiphon import AsyncEngine
from antiphon.codec import read_audio
from antiphon.server.tempo import Tempo

MODEL = "stream_omni"
SENTENCES = ["Rose sleeps in the garden.", "Zero plus zero is zero.", "There are three shapes."]
MAGIC = {
    "mp3": (b"\xff\xf3", b"\xff\xfb", b"ID3"),
    "opus": (b"OggS",),
    "aac": (b"\xff\xf1",),
    "flac": (b"fLaC",),
}
TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


def spoken(served: Served, text: str, **options: Any) -> bytes:
    options = {"voice": "alloy", **options}
    return client(served).audio.speech.create(model=MODEL, input=text, **options).content


def heard(served: Served, data: bytes) -> str:
    return run(heard_again(served, data))


def seconds(data: bytes) -> float:
    samples, rate_hz = read_audio(data)
    return len(samples) / rate_hz


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "flac", "wav"])
def test_every_format_says_the_sentence(served: Served, audio_format: str) -> None:
    data = spoken(served, SENTENCES[0], response_format=audio_format)
    assert data.startswith(MAGIC.get(audio_format, (b"RIFF",)))
    assert heard(served, data) == SENTENCES[0]
    assert 1.3 < seconds(data) < 2.0


@pytest.mark.slow
def test_pcm_is_24_khz_and_what_the_wav_holds(served: Served) -> None:
    data = np.frombuffer(spoken(served, SENTENCES[1], response_format="pcm"), "<i2")
    samples, rate_hz = read_audio(spoken(served, SENTENCES[1], response_format="wav"))
    assert len(data) / 24_000 == pytest.approx(len(samples) / rate_hz, abs=0.01)
    from antiphon.codec import encode_audio

    assert heard(served, encode_audio(data / 32768, 24_000)) == SENTENCES[1]


@pytest.mark.slow
@pytest.mark.long
def test_sentences_are_heard_in_their_order(served: Served) -> None:
    texts = [SENTENCES[number] for number in (0, 1, 2, 0, 2)]
    data = spoken(served, " ".join(texts), response_format="wav")
    said = client(served).audio.transcriptions.create(
        model=MODEL, file=("a.wav", data), response_format="verbose_json"
    )
    expected, got = " ".join(texts).lower().split(), said.text.lower().split()
    right = sum(a == b for a, b in zip(expected, got, strict=False))
    assert right >= 0.8 * len(expected), said.text
    alone = sum(seconds(spoken(served, text, response_format="wav")) for text in texts)
    assert seconds(data) == pytest.approx(alone + 4 * 0.25, abs=0.1)


@pytest.mark.slow
def test_the_first_sound_comes_before_the_last_is_made(served: Served) -> None:
    begun_s = time.perf_counter()
    with client(served).audio.speech.with_streaming_response.create(
        model=MODEL, input=" ".join(SENTENCES * 3), voice="hibari", response_format="pcm"
    ) as answer:
        assert answer.headers["content-type"] == TYPES["pcm"]
        arrivals = [(time.perf_counter() - begun_s, len(data)) for data in answer.iter_bytes()]
    assert len(arrivals) > 5
    assert arrivals[0][0] < 0.6 * arrivals[-1][0]


@pytest.mark.slow
def test_events_bear_the_same_file(served: Served) -> None:
    body = {"model": MODEL, "input": SENTENCES[2], "response_format": "wav", "stream_format": "sse"}
    events = []
    with served.http.stream("POST", "/v1/audio/speech", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    data = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert data == spoken(served, SENTENCES[2], response_format="wav")
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["output_tokens"] > 20 and usage["input_tokens"] >= 5
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 2.0])
def test_speed_changes_the_length_but_not_the_words(served: Served, speed: float) -> None:
    usual = seconds(spoken(served, SENTENCES[0], response_format="wav"))
    data = spoken(served, SENTENCES[0], response_format="wav", speed=speed)
    assert seconds(data) == pytest.approx(usual / speed, rel=0.1)
    if 0.8 <= speed <= 1.25:
        assert len(words(heard(served, data)) & words(SENTENCES[0])) >= 4


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.5, 1.0, 1.5, 4.0])
def test_the_pitch_stays(speed: float) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(66150) / 22050).astype(np.float32)
    tempo = Tempo(speed, 22050)
    made = np.concatenate([*(tempo.push(part) for part in np.array_split(tone, 7)), tempo.finish()])
    assert len(made) == pytest.approx(66150 / speed, rel=0.02)
    spectrum = np.abs(np.fft.rfft(made * np.hanning(len(made))))
    assert spectrum.argmax() * 22050 / len(made) == pytest.approx(440, abs=2)


@pytest.mark.slow
def test_voices_by_every_name(served: Served) -> None:
    usual = spoken(served, SENTENCES[2], response_format="pcm")
    for voice in ("hibari", {"id": "hibari"}, "marin"):
        assert spoken(served, SENTENCES[2], response_format="pcm", voice=voice) == usual
    body = {"model": MODEL, "input": SENTENCES[2], "response_format": "pcm"}
    assert served.http.post("/v1/audio/speech", json=body).content == usual


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": " \n ... "}, "input"),
        ({"input": "word " * 2000}, "input"),
        ({"input": "Yes there is. It is <Audio_3>."}, "input"),  # which only its second sentence shows
        ({"voice": "nobody"}, "voice"),
        ({"voice": {"id": "alloy"}}, "voice"),
        ({"response_format": "wma"}, "response_format"),
        ({"speed": 5}, "speed"),
        ({"speed": 0.1}, "speed"),
        ({"speed": "nan"}, "speed"),
        ({"instructions": "Whisper."}, "instructions"),
        ({"stream_format": "xml"}, "stream_format"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_cannot_be_said(served: Served, options: dict[str, Any], param: str) -> None:
    body = {"model": MODEL, "input": "Yes there is.", "voice": "alloy", **options}
    answer = served.http.post("/v1/audio/speech", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"].split(".")[0] == param and param in error["message"]


def test_another_model_and_no_json(served: Served) -> None:
    with pytest.raises(openai.NotFoundError):
        client(served).audio.speech.create(model="tts-1", input="Yes.", voice="alloy")
    broken = served.http.post("/v1/audio/speech", content=b"{", headers={"content-type": "application/json"})
    assert broken.json()["error"]["code"] == "invalid_json"


def test_without_a_codec_nothing_is_said() -> None:
    with serving_http(lambda: AsyncEngine.from_engine(load())) as bare:
        with pytest.raises(openai.BadRequestError, match="no codec"):
            client(bare).audio.speech.create(model=bare.service.model_name, input="Yes.", voice="alloy")
        assert bare.http.get("/v1/audio/voices").json() == {"object": "list", "data": []}


@pytest.mark.slow
@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_a_client_that_leaves_ends_its_sentences(served: Served, stream_format: str) -> None:
    body = {"model": MODEL, "input": " ".join(SENTENCES * 20), "stream_format": stream_format}
    with (
        httpx2.Client(base_url=served.address, timeout=30) as http,
        http.stream("POST", "/v1/audio/speech", json=body) as answer,
    ):
        next(answer.iter_bytes())
    time.sleep(1.0)  # twenty sentences and more take longer
    for _ in range(20):
        assert served.service.num_running == 0
        time.sleep(0.02)


@pytest.mark.slow
def test_a_late_one_is_told() -> None:
    with (
        serving_http(request_timeout_s=0.02) as hurried,
        pytest.raises(openai.InternalServerError, match="took too long"),
    ):
        spoken(hurried, SENTENCES[0])


@pytest.mark.slow
@pytest.mark.long
def test_a_server_that_drains_lets_all_sentences_end() -> None:
    """Those that have not begun when it is told to end, too."""
    texts = SENTENCES * 4
    with serving_http(drain_timeout_s=60.0) as ending:
        body = {"model": MODEL, "input": " ".join(texts), "response_format": "pcm"}
        num_bytes = 0
        with ending.http.stream("POST", "/v1/audio/speech", json=body) as answer:
            pieces = answer.iter_bytes()
            num_bytes += len(next(pieces))
            loop = ending.server._loop
            assert loop is not None
            drained = asyncio.run_coroutine_threadsafe(ending.service.drain(), loop)
            num_bytes += sum(map(len, pieces))
        drained.result(timeout=5)
        assert num_bytes / 48_000 > len(texts) * 1.2
        refused = ending.http.post("/v1/audio/speech", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
