"""Bodies with errors in them: each is refused with OpenAI's error object, or answered rightly; no body hangs
or fails the server, and none spoils the answers of others.

ANTIPHON_FUZZ=10000 tries that number of bodies.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from http_server import Served
from mutated_bodies import ROUTES, Body, mutated, right
from openai_client import DEMO, PICTURE, QUESTION, client, user, words

from antiphon.codec import read_audio

pytestmark = pytest.mark.slow

NUM_BODIES = int(os.environ.get("ANTIPHON_FUZZ", "500"))
BETWEEN = 50
"""Bodies from one right request to the next."""
NUM_CLIENTS = 4
PATIENCE_S = 120
MODEL = "stream_omni"


def ask(http: httpx2.Client, body: Body) -> httpx2.Response:
    headers = {"Content-Type": body.content_type} if body.content_type else {}
    return http.post(body.route, content=body.content, headers=headers)


def assert_answered(body: Body, answer: httpx2.Response) -> None:
    assert 200 <= answer.status_code < 500, answer.text
    if answer.status_code == 200:
        _READERS[body.route](answer)
    else:
        assert_error(answer.json())


def assert_error(found: Any) -> None:
    error = found["error"]
    assert set(found) == {"error"} and set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] == "invalid_request_error"


def events(answer: httpx2.Response) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def assert_chat(answer: httpx2.Response) -> None:
    if answer.headers["content-type"] == "application/json":
        [choice] = answer.json()["choices"]
        assert choice["finish_reason"] in ("stop", "length")
    else:
        assert answer.text.endswith("data: [DONE]\n\n")
        found = events(answer)
        if "error" in found[-1]:
            assert_error(found[-1])
        else:
            [choice] = [c for each in found for c in each["choices"] if c["finish_reason"]]


def assert_response(answer: httpx2.Response) -> None:
    if answer.headers["content-type"] == "application/json":
        ended = answer.json()
    else:
        ended = events(answer)[-1]["response"]
    assert ended["status"] in ("completed", "incomplete")
    assert ended["output"][0]["content"][0]["type"] == "output_text"


def assert_sound(answer: httpx2.Response) -> None:
    kind = answer.headers["content-type"]
    if kind.startswith("text/event-stream"):
        assert events(answer)[-1]["type"] == "speech.audio.done"
    elif kind == "audio/pcm":
        assert len(answer.content) % 2 == 0 and answer.content
    else:
        samples, rate_hz = read_audio(io.BytesIO(answer.content).read())
        assert len(samples) > 0.1 * rate_hz


def assert_transcript(answer: httpx2.Response) -> None:
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == "application/json":
        assert isinstance(answer.json()["text"], str)
    elif kind == "text/event-stream":
        found = events(answer)
        assert found[-1]["type"] == "transcript.text.done"
    else:
        assert kind in ("text/plain", "text/vtt")
        assert not kind.endswith("vtt") or answer.text.startswith("WEBVTT\n")


def assert_voice(answer: httpx2.Response) -> None:
    assert answer.json()["object"] == "audio.voice"


_READERS = {
    "/v1/chat/completions": assert_chat,
    "/v1/responses": assert_response,
    "/v1/audio/speech": assert_sound,
    "/v1/audio/transcriptions": assert_transcript,
    "/v1/audio/voices": assert_voice,
}


def assert_right(served: Served, number: int) -> None:
    """The demo's question, asked in turn by chat, by transcription and as a sum."""
    match number % 3:
        case 0:
            done = client(served).chat.completions.create(model=MODEL, messages=[user(PICTURE, QUESTION)])
            assert {"blue", "heart", "red", "star"} <= words(done.choices[0].message.content or "")
        case 1:
            file = (DEMO / "question.wav").read_bytes()
            heard = client(served).audio.transcriptions.create(model=MODEL, file=("question.wav", file))
            assert heard.text == "What is in the picture?"
        case _:
            said = client(served).responses.create(model=MODEL, input="How much is two plus three?")
            assert "five" in said.output_text.lower()


def forget_voices(served: Served) -> None:
    for voice in served.http.get("/v1/audio/voices").json()["data"][1:]:
        assert served.http.delete(f"/v1/audio/voices/{voice['id']}").status_code == 200


@pytest.mark.long
def test_a_wrong_body_is_refused_and_harms_nobody(
    cloning: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: Counter[str] = Counter()
    failed: list[str] = []
    longest = (0.0, "none")

    def one(number: int) -> None:
        nonlocal longest
        body = mutated(number)
        begun_s = time.monotonic()
        try:
            answer = ask(cloning.http, body)
            counts[f"{body.route} {answer.status_code}"] += 1
            assert_answered(body, answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this body
            failed.append(f"{number}: {body.route} {body.changes}: {error!r}"[:1500])
        longest = max(longest, (time.monotonic() - begun_s, f"{number}: {body.changes}"))

    cloning.http.timeout = PATIENCE_S
    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        for start in range(0, NUM_BODIES, BETWEEN):
            list(clients.map(one, range(start, min(start + BETWEEN, NUM_BODIES))))
            assert_right(cloning, start // BETWEEN)
            forget_voices(cloning)
    assert cloning.service.num_running == 0
    cloning.engine.engine.check_integrity()
    if "ANTIPHON_FUZZ" in os.environ:
        shown = json.dumps(dict(sorted(counts.items())), indent=1)
        with capsys.disabled():
            sys.stdout.write(f"\n{shown}\nthe longest took {longest[0]:.1f} s: {longest[1]}\n")
    assert not failed, f"{len(failed)} of {NUM_BODIES}:\n" + "\n".join(failed[:20])
    assert sum(count for name, count in counts.items() if name.endswith(" 200")) > NUM_BODIES // 20


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("route", ROUTES)
def test_what_is_mutated_was_right(cloning: Served, route: str) -> None:
    for number in range(8):
        body = right(route, number)
        answer = ask(cloning.http, body)
        assert answer.status_code == 200, answer.text
        assert_answered(body, answer)
