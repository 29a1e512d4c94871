"""`/v1/responses` as the openai package uses it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from http_server import Served
from openai_client import PICTURE, async_client, client, words
from serving import run

from antiphon import Event, TextDelta
from antiphon.errors import EngineDead

MODEL = "stream_omni"
SHAPES: Any = {"type": "input_image", "image_url": PICTURE["image_url"]["url"], "detail": "auto"}


def text(said: str) -> Any:
    return {"type": "input_text", "text": said}


def user(*content: Any) -> Any:
    return {"role": "user", "content": list(content)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("What is three plus four?", "seven"),
        ([{"role": "user", "content": "What is three plus four?"}], "seven"),
        ([user(SHAPES, text("What is in the picture?"))], "heart"),
        (
            [
                {"type": "message", **user(text("My name is Tom."))},
                {"role": "assistant", "content": "Hello Tom."},
                user(text("What is my name?")),
            ],
            "tom",
        ),
    ],
)
def test_answers(served: Served, given: Any, expected: str) -> None:
    done = client(served).responses.create(model=MODEL, input=given)
    assert expected in words(done.output_text)
    assert done.status == "completed" and done.error is None and done.incomplete_details is None
    assert done.id.startswith("resp_") and done.output[0].id.startswith("msg_")  # type: ignore[union-attr]
    usage = done.usage
    assert usage is not None and usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens > usage.output_tokens > 0


def test_an_answers_output_goes_into_the_next_input(served: Served) -> None:
    asked = client(served).responses
    turns: list[Any] = [user(text("My name is Tom."))]
    turns += asked.create(model=MODEL, input=turns).output
    done = asked.create(model=MODEL, input=[*turns, user(text("What is my name?"))])
    assert "tom" in words(done.output_text)


@pytest.mark.slow
def test_instructions_are_a_system_message(served: Served) -> None:
    asked = client(served)
    told = asked.responses.create(
        model=MODEL, input="Hello", instructions="You are a cat.", metadata={"a": "b"}
    )
    chat = asked.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "You are a cat."}, {"role": "user", "content": "Hello"}],
    )
    assert told.output_text == chat.choices[0].message.content
    assert told.usage is not None and chat.usage is not None
    assert told.usage.input_tokens == chat.usage.prompt_tokens
    assert (told.instructions, told.metadata) == ("You are a cat.", {"a": "b"})
    systems: list[Any] = [{"role": "developer", "content": [text("Be brief.")]}, user(text("Hello"))]
    more = asked.responses.create(model=MODEL, input=systems, instructions="You are a cat.")
    assert more.usage is not None and more.usage.input_tokens > told.usage.input_tokens


def test_a_limit_leaves_it_incomplete(served: Served) -> None:
    given: Any = {"model": MODEL, "input": "What is three plus four?", "max_output_tokens": 2}
    done = client(served).responses.create(**given)
    assert done.status == "incomplete" and done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"
    *_, last = client(served).responses.create(**given, stream=True)
    assert last.type == "response.incomplete" and last.response.usage is not None
    assert last.response.usage.output_tokens == 2


def test_sampling(served: Served) -> None:
    asked = client(served).responses
    given: Any = {"model": MODEL, "input": "Tell me a story.", "max_output_tokens": 12}
    hot: Any = {**given, "temperature": 2.0}
    texts = [
        asked.create(**hot, extra_body={"seed": seed, "ignore_eos": True}).output_text for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    cold = asked.create(**given)
    assert asked.create(**hot, extra_body={"top_k": 1}).output_text == cold.output_text
    assert cold.temperature == 0.0


@pytest.mark.slow
def test_events_come_in_the_order_that_the_client_expects(served: Served) -> None:
    asked = client(served)
    given: Any = {"model": MODEL, "input": [user(SHAPES, text("What is in the picture?"))]}
    events = list(asked.responses.create(**given, stream=True))
    names = [event.type for event in events]
    num_deltas = names.count("response.output_text.delta")
    assert num_deltas > 5
    assert names == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * num_deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    with asked.responses.stream(**given) as stream:
        deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    whole = asked.responses.create(**given)
    assert deltas == final.output_text == whole.output_text
    assert final.usage == whole.usage or (final.usage is not None and final.usage.input_tokens > 0)


@pytest.mark.slow
def test_with_asyncio(served: Served) -> None:
    async def main() -> None:
        async with async_client(served) as asked:
            done = await asked.responses.create(model=MODEL, input="What is three plus four?")
            async with asked.responses.stream(model=MODEL, input="What is three plus four?") as stream:
                assert (await stream.get_final_response()).output_text == done.output_text

    run(main())


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"tools": [{"type": "web_search"}]}, "tools"),
    ({"reasoning": {"effort": "low"}}, "reasoning"),
    ({"truncation": "auto"}, "truncation"),
    ({"include": ["reasoning.encrypted_content"]}, "include"),
    ({"text": {"format": {"type": "json_object"}}}, "text.format.type"),
    ({"max_tool_calls": 1}, "max_tool_calls"),
    ({"extra_body": {"stop": "x"}}, "stop"),
    ({"temperature": 3}, "temperature"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"input": []}, "input"),
    ({"input": ""}, "input"),
    ({"input": [{"role": "user", "content": ""}]}, "input[0].content"),
    ({"instructions": "x", "input": [{"role": "user", "content": ""}]}, "input[0].content"),
    ({"input": [{"role": "assistant", "content": "x"}]}, "input[0].role"),
    ({"input": [user(text("x")), {"role": "developer", "content": "x"}]}, "input[1].role"),
    ({"input": [{"type": "function_call_output", "call_id": "x", "output": "x"}]}, "input[0].type"),
    ({"input": [user({"type": "input_file", "file_id": "x"})]}, "input[0].content[0]"),
    ({"input": [user({"type": "input_image", "file_id": "x"})]}, "input[0].content[0].image_url"),
    ({"input": [user({**SHAPES, "image_url": "http://127.0.0.1/"})]}, "input[0].content[0].image_url"),
    ({"input": [user({**SHAPES, "image_url": "data:image/png;base64,AA"})]}, "input[0].content[0]"),
    ({"input": [{"role": "system", "content": [SHAPES]}, user(text("x"))]}, "input[0].content[0]"),
]


@pytest.mark.parametrize(("given", "param"), REFUSED, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_refused_by_name(served: Served, given: dict[str, Any], param: str, is_streamed: bool) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client(served).responses.create(**{"model": MODEL, "input": "Hello", "stream": is_streamed, **given})
    assert refused.value.param == param
    assert str(refused.value.body["message"]).startswith(f"{param}: ")  # type: ignore[index]


def test_what_comes_back_must_be_text(served: Served) -> None:
    headers = {"content-type": "application/json"}
    for field in ('"user": "\\ud800"', '"metadata": {"a": "\\ud800"}', '"instructions": "\\ud800"'):
        body = f'{{"input": "Hello", {field}}}'
        answer = served.http.post("/v1/responses", content=body, headers=headers)
        assert answer.status_code == 400 and "surrogate" in answer.json()["error"]["message"]


def test_failures_within_a_stream(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: Any, **options: Any) -> AsyncGenerator[Event, None]:
        yield TextDelta("id", "Hello")
        raise EngineDead("the engine has failed")

    monkeypatch.setattr(served.service, "stream", failing)
    with pytest.raises(openai.APIError, match="the engine has failed"):
        list(client(served).responses.create(model=MODEL, input="Hello", stream=True))
    body = {"model": MODEL, "input": "Hello", "stream": True}
    lines = served.http.post("/v1/responses", json=body).text.strip().split("\n\n")
    name, data = lines[-2].split("\n")
    assert name == "event: response.failed"
    failed = json.loads(data.removeprefix("data: "))["response"]
    assert (failed["status"], failed["error"]["message"]) == ("failed", "the engine has failed")
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_dead"


def test_a_client_that_leaves_ends_its_request(served: Served) -> None:
    body: Any = {"model": MODEL, "input": "Hello", "extra_body": {"ignore_eos": True}}
    stream = client(served).responses.create(**body, stream=True)
    for _ in range(6):
        next(stream)
    assert served.service.num_running == 1
    stream.close()
    deadline_s = time.monotonic() + 10
    while served.service.num_running:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
