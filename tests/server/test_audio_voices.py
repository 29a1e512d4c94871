"""`/v1/audio/voices`: listing, cloning and forgetting."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from http_server import Served
from openai_client import DEMO, client

from antiphon.codec import encode_audio
from antiphon.server.openai import audio_voices

MODEL = "stream_omni"
CLIP = (DEMO / "question.wav").read_bytes()


@pytest.fixture(autouse=True)
def forget(cloning: Served) -> Iterator[None]:
    """The voices that a test has left."""
    yield
    for name in names(cloning)[1:]:
        client(cloning).audio.voices.delete(name)


def create(served: Served, name: str, clip: bytes = CLIP, **options: Any) -> Any:
    sample = ("clip.wav", io.BytesIO(clip))
    return client(served).audio.voices.create(name=name, audio_sample=sample, consent="cons_1", **options)


def names(served: Served) -> list[str]:
    return [voice["name"] for voice in served.http.get("/v1/audio/voices").json()["data"]]


@pytest.mark.slow
def test_a_voice_comes_speaks_and_goes(cloning: Served) -> None:
    assert names(cloning) == ["hibari"]
    voice = create(cloning, "anna")
    assert (voice.id, voice.name, voice.object, voice.type) == ("anna", "anna", "audio.voice", "audio_sample")
    assert names(cloning) == ["hibari", "anna"]
    say: Any = {"model": MODEL, "input": "There are three shapes.", "response_format": "pcm"}
    by_id: Any = {"id": voice.id}
    sounds = [
        client(cloning).audio.speech.create(voice=name, **say).content for name in ("anna", by_id, "hibari")
    ]
    assert sounds[0] == sounds[1] != sounds[2]
    with pytest.raises(openai.BadRequestError, match="expected a new name, got 'anna'"):
        create(cloning, "anna")
    gone = client(cloning).audio.voices.delete("anna")
    assert (gone.id, gone.deleted, gone.object) == ("anna", True, "audio.voice.deleted")
    assert names(cloning) == ["hibari"]
    with pytest.raises(openai.BadRequestError, match="voice: expected one of hibari"):
        client(cloning).audio.speech.create(voice="anna", **say)
    with pytest.raises(openai.NotFoundError):
        client(cloning).audio.voices.delete("anna")


def test_the_codecs_own_voices_stay(cloning: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="expected a cloned one"):
        client(cloning).audio.voices.delete("hibari")


@pytest.mark.parametrize(
    ("clip", "told"),
    [
        (b"", "got nothing"),
        (b"some text", "expected wav"),
        (encode_audio(np.zeros(16000, np.float32) + 0.1, 32000), "a clip of 1 to 30 s"),
        (encode_audio(np.zeros(16000 * 31, np.float32), 16000), "at most 30 s"),
        (encode_audio(np.zeros(16000 * 2, np.float32), 16000), "silence"),
        (bytes((10 << 20) + 1), "at most 10485760 bytes"),
    ],
    ids=["empty", "text", "short", "long", "silent", "large"],
)
def test_clips_that_are_none(cloning: Served, clip: bytes, told: str) -> None:
    with pytest.raises(openai.BadRequestError, match=told) as caught:
        create(cloning, "bert", clip)
    assert caught.value.param == "audio_sample"
    assert names(cloning) == ["hibari"]


@pytest.mark.parametrize("name", ["", "alloy", "a b", "../x", "x" * 65])
def test_names_that_are_none(cloning: Served, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(cloning, name)
    assert caught.value.param == "name"


@pytest.mark.slow
def test_there_is_an_end_of_them(cloning: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_voices, "MAX_CLONED", 2)
    for name in ("one", "two"):
        create(cloning, name)
    with pytest.raises(openai.BadRequestError, match="there are 2 cloned voices already"):
        create(cloning, "three")


def test_a_codec_that_cannot_clone_says_why(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match=r"no campplus\.onnx, so no voice can be cloned"):
        create(served, "carl")
    assert names(served) == ["hibari"]


def test_voices_are_not_made_of_words(served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client(served).audio.voices.create(name="dora", type="prompt", prompt="An old sailor.")
    assert caught.value.param in ("audio_sample", "type", "prompt")
