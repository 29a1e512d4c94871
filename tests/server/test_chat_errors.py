"""What `/v1/chat/completions` refuses, and how failures reach the openai package."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from http_server import Served, serving_http
from openai_client import PICTURE, client, user
from serving import load

from antiphon import AsyncEngine, Event, TextDelta
from antiphon.errors import EngineDead, EngineOverloaded

MODEL = "stream_omni"
HELLO = [user("Hello")]
SPOKEN: Any = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}


def audio(data: bytes | str) -> Any:
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    return {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}


def picture(url: str) -> Any:
    return {"type": "image_url", "image_url": {"url": url}}


def extra(**fields: Any) -> Any:
    return {"extra_body": fields}


def assistant(**fields: Any) -> Any:
    return [user("Hello"), {"role": "assistant", **fields}, user("And?")]


SYSTEM: Any = {"role": "system", "content": "Sing."}

REFUSED: list[tuple[dict[str, Any], str]] = [
    # not supported, by name
    ({"n": 2}, "n"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ({"logprobs": True}, "logprobs"),
    ({"logit_bias": {"1": 2}}, "logit_bias"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"presence_penalty": -1}, "presence_penalty"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"web_search_options": {}}, "web_search_options"),
    (extra(best_of=2), "best_of"),
    ({"messages": [user({"type": "file", "file": {"file_id": "x"}})]}, "messages[0].content[0]"),
    ({"messages": [user("x"), {"role": "tool", "tool_call_id": "1", "content": "x"}]}, "messages[1]"),
    ({"messages": [{"role": "user", "content": "x", "name": "Tom"}]}, "messages[0].name"),
    ({"messages": assistant(content="x", tool_calls=[{}])}, "messages[1].tool_calls"),
    # out of bounds, or of another kind
    ({"temperature": 2.5}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["x"] * 33}, "stop"),
    (extra(top_k=-2), "top_k"),
    (extra(max_units=10), "max_units"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"modalities": ["text", "audio"]}, "audio"),
    ({"audio": SPOKEN["audio"]}, "audio"),
    ({**SPOKEN, "stop": "x"}, "stop"),
    ({**SPOKEN, "audio": {"voice": "nobody", "format": "wav"}}, "audio.voice"),
    ({**SPOKEN, "audio": {"voice": {"id": "alloy"}, "format": "wav"}}, "audio.voice"),
    ({**SPOKEN, "audio": {"voice": "alloy", "format": "midi"}}, "audio.format"),
    # messages
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [user("")]}, "messages[0].content"),
    ({"messages": [SYSTEM, SYSTEM, user("")]}, "messages[2].content"),
    ({"messages": [user("x"), SYSTEM, user("x")]}, "messages[1].role"),
    ({"messages": [user("x"), {"role": "assistant", "content": "x"}]}, "messages[1].role"),
    ({"messages": assistant(content=None)}, "messages[1].content"),
    ({"messages": assistant(content="x", audio={"id": "audio_1"})}, "messages[1].content"),
    # media
    ({"messages": [user(picture("https://example.com/a.png"))]}, "messages[0].content[0].image_url.url"),
    ({"messages": [user(picture("/etc/passwd"))]}, "messages[0].content[0].image_url.url"),
    ({"messages": [user(picture("file:///etc/passwd"))]}, "messages[0].content[0].image_url.url"),
    ({"messages": [user("x", picture("data:image/png;base64,AAAA"))]}, "messages[0].content[1]"),
    ({"messages": [user("x", picture("data:image/png,x"))]}, "messages[0].content[1]"),
    ({"messages": [user(audio("?"))]}, "messages[0].content[0].input_audio.data"),
    ({"messages": [user(audio(""))]}, "messages[0].content[0].input_audio.data"),
    ({"messages": [SYSTEM, SYSTEM, user("x", audio(b"no sound"))]}, "messages[2].content[1]"),
]


@pytest.mark.parametrize(("given", "param"), REFUSED, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_refused_by_name(served: Served, given: dict[str, Any], param: str, is_streamed: bool) -> None:
    """Before a stream begins, too: as an HTTP status."""
    if is_streamed and param == "stream_options":
        return
    arguments = {"model": MODEL, "messages": HELLO, "stream": is_streamed, **given}
    with pytest.raises(openai.BadRequestError) as refused:
        client(served).chat.completions.create(**arguments)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error" and refused.value.code
    assert str(refused.value.body["message"]).startswith(f"{param}: ")  # type: ignore[index]
    assert served.service.num_running == 0


def test_nothing_and_no_effect_are_accepted(served: Served) -> None:
    empty: Any = {
        "n": 1,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logprobs": False,
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logit_bias": {},
        "stop": None,
        "temperature": None,
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "x",
    }
    done = client(served).chat.completions.create(model=MODEL, messages=HELLO, **empty)
    assert done.choices[0].message.content


def test_another_model_and_an_unknown_reply_are_not_found(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client(served).chat.completions.create(model="gpt-x", messages=HELLO)
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")
    for audio_id in ("audio_1", "", "x" * 500):
        with pytest.raises(openai.NotFoundError) as refused:
            client(served).chat.completions.create(model=MODEL, messages=assistant(audio={"id": audio_id}))
        assert (refused.value.param, refused.value.code) == ("messages[1].audio.id", "audio_not_found")


@pytest.mark.slow
def test_a_reply_that_has_expired_is_not_found() -> None:
    with serving_http(audio_expiry_s=0.001) as served:
        chat = client(served).chat.completions
        message = chat.create(model=MODEL, messages=HELLO, **SPOKEN).choices[0].message
        assert message.audio is not None
        with pytest.raises(openai.NotFoundError):
            chat.create(model=MODEL, messages=assistant(audio={"id": message.audio.id}))


@pytest.mark.slow
def test_a_server_without_a_codec_does_not_speak() -> None:
    with serving_http(lambda: AsyncEngine.from_engine(load())) as served:
        name = served.service.model_name
        with pytest.raises(openai.BadRequestError, match="no codec") as refused:
            client(served).chat.completions.create(model=name, messages=HELLO, **SPOKEN)
        assert refused.value.param == "audio.voice"
        done = client(served).chat.completions.create(model=name, messages=HELLO, max_tokens=3)
        assert done.usage is not None and done.usage.completion_tokens == 3


def test_a_body_that_is_no_json_or_no_object(served: Served) -> None:
    headers = {"content-type": "application/json"}
    for body in (b"{", b"[]", b"3", b"null", b'{"messages": [{}]}', b"\xff"):
        answer = served.http.post("/v1/chat/completions", content=body, headers=headers)
        assert answer.status_code == 400, body
        assert answer.json()["error"]["message"]


def test_odd_text_is_quoted_as_can_be_sent(served: Served) -> None:
    headers = {"content-type": "application/json"}
    for body in (
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "\\ud800", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "service_tier": 3}',
        b'{"messages": [{"role": "user", "content": "x", "\\ud800": 1}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "seed": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
    ):
        answer = served.http.post("/v1/chat/completions", content=body, headers=headers)
        assert answer.status_code == 400 and answer.json()["error"]["message"], body
    plain = served.http.post("/v1/chat/completions", content=b'{"messages": []}')
    assert "Content-Type" in plain.json()["error"]["message"]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (EngineDead("the engine has failed"), openai.InternalServerError, "engine_dead"),
        (EngineOverloaded("too many"), openai.RateLimitError, "overloaded"),
        (RuntimeError("secret"), openai.InternalServerError, "internal"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_failures_before_the_stream_are_statuses(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[openai.APIStatusError],
    code: str,
    is_streamed: bool,
) -> None:
    async def failing(*_: Any, **__: Any) -> AsyncGenerator[Event, None]:
        raise error
        yield  # type: ignore[unreachable]

    monkeypatch.setattr(served.service, "stream", failing)
    with pytest.raises(kind) as failed:
        client(served).chat.completions.create(model=MODEL, messages=HELLO, stream=is_streamed)
    assert failed.value.code == code
    assert "secret" not in str(failed.value)


def test_failures_within_a_stream_are_its_last_event(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: Any, **__: Any) -> AsyncGenerator[Event, None]:
        yield TextDelta("id", "Hello")
        raise EngineDead("the engine has failed")

    monkeypatch.setattr(served.service, "stream", failing)
    chunks = client(served).chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "Hello"]
    with pytest.raises(openai.APIError, match="the engine has failed") as failed:
        next(chunks)
    assert failed.value.code == "engine_dead"
    body = {"model": MODEL, "messages": HELLO, "stream": True}
    lines = served.http.post("/v1/chat/completions", json=body).text.strip().split("\n\n")
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "engine_dead"
    assert lines[-1] == "data: [DONE]"


def test_pictures_need_a_data_url_in_any_case(served: Served) -> None:
    url = PICTURE["image_url"]["url"].replace("data:", "DATA:")
    done = client(served).chat.completions.create(
        model=MODEL, messages=[user(picture(url), "What is in the picture?")]
    )
    assert "heart" in (done.choices[0].message.content or "")
