"""`/v1/audio/transcriptions` as the openai package uses it."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from http_server import Served, serving_http
from openai_client import DEMO, client
from serving import load

from antiphon import AsyncEngine
from antiphon.codec import encode_audio, read_audio
from antiphon.outputs.transcription import Segment, Transcription
from antiphon.server.openai.transcription_answer import srt, vtt

SPOKEN = Path(__file__).parents[1] / "golden" / "spoken_questions"
QUESTIONS = [entry["question"] for entry in json.loads((SPOKEN / "questions.json").read_text())]
MODEL = "stream_omni"
RATE_HZ = 16000


def talk(*numbers: int, pause_s: float = 1.0) -> bytes:
    """Spoken questions with pauses between them, as a flac file."""
    pause = np.zeros(int(pause_s * RATE_HZ), np.float32)
    sounds = [read_audio(SPOKEN / f"{number:02}.flac")[0] for number in numbers]
    return encode_audio(
        np.concatenate([part for sound in sounds for part in (sound, pause)]), RATE_HZ, "flac"
    )


def asked(served: Served, data: bytes, name: str = "talk.flac", **options: Any) -> Any:
    return client(served).audio.transcriptions.create(model=MODEL, file=(name, io.BytesIO(data)), **options)


@pytest.mark.slow
def test_the_demo_and_the_golden_questions(served: Served) -> None:
    said = asked(served, (DEMO / "question.wav").read_bytes(), "question.wav")
    assert said.text == "What is in the picture?"
    for number in (0, 5, 6):
        said = asked(served, (SPOKEN / f"{number:02}.flac").read_bytes())
        assert said.text == QUESTIONS[number]
        usage = said.usage
        assert usage.type == "tokens" and usage.output_tokens > 2
        assert 20 < usage.input_token_details.audio_tokens < usage.input_tokens
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens


@pytest.mark.slow
@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "wav", "flac"])
def test_files_that_phones_and_browsers_make(served: Served, audio_format: str) -> None:
    from antiphon.server.audio_output import encode_speech

    samples, rate_hz = read_audio(SPOKEN / "06.flac")
    said = asked(served, encode_speech(samples, rate_hz, audio_format), f"a.{audio_format}")
    assert said.text == QUESTIONS[6]


@pytest.mark.slow
def test_every_form(served: Served) -> None:
    data, texts = talk(0, 4, 6), [QUESTIONS[number] for number in (0, 4, 6)]
    text = " ".join(texts)
    assert asked(served, data).text == text
    assert asked(served, data, response_format="text") == text + "\n"
    whole = asked(served, data, response_format="verbose_json")
    assert (whole.text, whole.task, whole.language) == (text, "transcribe", "english")
    assert [segment.text for segment in whole.segments] == texts
    assert [segment.id for segment in whole.segments] == [0, 1, 2]
    assert [segment.start for segment in whole.segments] == pytest.approx([0.1, 2.74, 5.8], abs=0.1)
    assert whole.words is None and whole.usage.seconds == whole.duration
    both = asked(
        served,
        data,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="en",
    )
    assert " ".join(word.word for word in both.words) == text and both.segments == whole.segments
    only = asked(served, data, response_format="verbose_json", timestamp_granularities=["word"])
    assert only.words == both.words and only.segments is None
    cues = re.findall(
        r"(\d)\n00:00:0(\S+) --> 00:00:0(\S+)\n(.+)\n\n", asked(served, data, response_format="srt")
    )
    assert [cue[3] for cue in cues] == texts and [cue[0] for cue in cues] == ["1", "2", "3"]
    shown = asked(served, data, response_format="vtt")
    assert shown.startswith("WEBVTT\n\n00:00:00.080 --> ")
    for segment, cue in zip(whole.segments, cues, strict=True):
        assert float(cue[1].replace(",", ".")) == pytest.approx(segment.start)
        assert float(cue[2].replace(",", ".")) == pytest.approx(segment.end)


@pytest.mark.slow
def test_a_stream_tells_one_sentence_after_the_other(served: Served) -> None:
    numbers = [0, 4, 6, 7, 3, 4, 2, 1, 0, 4, 6]
    events = list(asked(served, talk(*numbers), stream=True))
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert [" ".join(event.delta.split()) for event in deltas] == [QUESTIONS[number] for number in numbers]
    assert done.type == "transcript.text.done"
    assert done.text == "".join(event.delta for event in deltas)
    assert done.usage.output_tokens > 30
    assert asked(served, talk(*numbers)).usage.model_dump() == done.usage.model_dump()


@pytest.mark.slow
def test_silence_is_empty(served: Served) -> None:
    data = encode_audio(np.zeros(5 * RATE_HZ, np.float32), RATE_HZ, "flac")
    assert asked(served, data).text == ""
    assert asked(served, data, response_format="srt") == ""
    assert asked(served, data, response_format="vtt") == "WEBVTT\n\n"
    whole = asked(served, data, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert (whole.segments, whole.words, whole.duration) == ([], [], 5.0)
    [done] = asked(served, data, stream=True)
    assert (done.type, done.text, done.usage.total_tokens) == ("transcript.text.done", "", 0)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "xml"}, "response_format"),
        ({"prompt": "shapes"}, "prompt"),
        ({"language": "de"}, "language"),
        ({"temperature": 0.5}, "temperature"),
        ({"include": ["logprobs"]}, "include[]"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"timestamp_granularities": ["letter"], "response_format": "verbose_json"}, None),
        ({"chunking_strategy": {"type": "server_vad"}}, "chunking_strategy[type]"),
        ({"extra_body": {"keywords": ["a"]}}, "keywords[]"),
        ({"extra_body": {"known_speaker_names": ["a"]}}, "known_speaker_names[]"),
        ({"stream": True, "response_format": "srt"}, "stream"),
        ({"extra_body": {"nonsense": "1"}}, "nonsense"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    served: Served, options: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        asked(served, b"RIFF", **options)
    assert caught.value.param == param or param is None, caught.value
    assert caught.value.param is not None and str(caught.value.param) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"", "got nothing"), (b"Dear sir, " * 100, "expected wav"), (b"RIFF\0\0\0\0WAVEfmt ", "expected wav")],
    ids=["empty", "text", "cut off"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_no_sound(served: Served, data: bytes, told: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match=told) as caught:
        asked(served, data, stream=stream)
    assert caught.value.param == "file" and caught.value.message.count("file: ")


def test_forms_that_are_none(served: Served) -> None:
    post = served.http.post
    path = "/v1/audio/transcriptions"
    assert post(path).status_code == 400
    assert post(path, json={"model": MODEL}).status_code == 400
    assert post(path, data={"model": MODEL, "file": "a string"}).status_code == 400
    broken = post(
        path, content=b"--x\r\nnothing", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert broken.status_code == 400 and broken.json()["error"]["message"]
    sound = (DEMO / "question.wav").read_bytes()
    assert post(path, files={"file": sound}).json()["error"]["param"] == "model"
    other = post(path, data={"model": "whisper-1"}, files={"file": sound})
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.filterwarnings("ignore:deprecated")
def test_nothing_is_translated(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="use /v1/audio/transcriptions"):
        client(served).audio.translations.create(model=MODEL, file=("a.wav", b"RIFF"))


def test_without_a_codec_nothing_is_heard() -> None:
    with serving_http(lambda: AsyncEngine.from_engine(load())) as bare:
        model = bare.service.model_name
        with pytest.raises(openai.BadRequestError, match="no codec is loaded"):
            client(bare).audio.transcriptions.create(model=model, file=DEMO / "question.wav")


@pytest.mark.slow
def test_a_client_that_leaves_ends_its_pieces(served: Served) -> None:
    data = talk(*[0, 4, 6] * 20, pause_s=0.6)

    def leave() -> None:
        with (
            pytest.raises(httpx2.TimeoutException),
            httpx2.Client(base_url=served.address, timeout=1.0) as http,
        ):
            http.post("/v1/audio/transcriptions", data={"model": MODEL}, files={"file": data})

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    until = time.monotonic() + 3
    while served.service.num_running and time.monotonic() < until:
        time.sleep(0.02)
    assert served.service.num_running == 0


@pytest.mark.slow
def test_a_late_one_is_told() -> None:
    with serving_http(request_timeout_s=0.02) as hurried:
        with pytest.raises(openai.InternalServerError, match="took too long"):
            asked(hurried, talk(0, 1, 2, 3, 4))
        with pytest.raises(openai.InternalServerError, match="took too long"):
            list(asked(hurried, talk(0, 1, 2, 3, 4), stream=True))


def test_times_of_subtitles() -> None:
    said = Transcription((Segment("a < b", 3599.9996, 36000.5),), 40000.0)
    assert srt(said) == "1\n01:00:00,000 --> 10:00:00,500\na < b\n\n"
    assert vtt(said) == "WEBVTT\n\n01:00:00.000 --> 10:00:00.500\na &lt; b\n\n"
