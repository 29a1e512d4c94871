"""Whatever a client of /v1/realtime sends, its events come in order, and none comes after the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from event_order import EventOrder
from http_server import Served, serving_http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from realtime_client import PICTURE, bare, question, spoken_pieces
from serving import run
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.slow

SPEECH = spoken_pieces(question())
PIECES: dict[str, list[str]] = {
    "a question": SPEECH,
    "half of it": SPEECH[: len(SPEECH) // 2],
    "silence": spoken_pieces(question()[:1] * 0) * 5 + SPEECH[-7:],
}
IDS = ("one", "two", "root", "nowhere")
VADS: tuple[Any, ...] = (
    None,
    {"type": "server_vad"},
    {"type": "server_vad", "silence_duration_ms": 200, "interrupt_response": False},
    {"type": "server_vad", "create_response": False, "idle_timeout_ms": 300},
    {"type": "semantic_vad", "eagerness": "high"},
)


def item(text: str, role: str, item_id: str | None) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    named = {} if item_id is None else {"id": item_id}
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **named}


items = st.builds(
    item,
    st.sampled_from(["Hello", "How much is two plus three?", ""]),
    st.sampled_from(["user", "assistant", "system"]),
    st.sampled_from(["one", "two", None]),
) | st.just({**PICTURE, "id": "one"})
responses = st.fixed_dictionaries(
    {},
    optional={
        "conversation": st.sampled_from(["auto", "none"]),
        "output_modalities": st.sampled_from([["text"], ["audio"], ["sight"]]),
        "input": st.lists(items | st.just({"type": "item_reference", "id": "one"}), max_size=2),
        "max_output_tokens": st.sampled_from([1, 3, "inf", 0]),
        "metadata": st.just({"a": "b"}),
    },
)
sessions = st.fixed_dictionaries(
    {"type": st.just("realtime")},
    optional={
        "output_modalities": st.sampled_from([["text"], ["audio"]]),
        "audio": st.builds(lambda vad: {"input": {"turn_detection": vad}}, st.sampled_from(VADS)),
        "antiphon_events": st.booleans(),
        "instructions": st.sampled_from(["", "Answer."]),
    },
)


def event(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields})


ids = st.sampled_from(IDS)
events = st.one_of(
    event("speak", what=st.sampled_from(sorted(PIECES))),
    event("wait", seconds=st.sampled_from([0.0, 0.02, 0.2])),
    event("input_audio_buffer.commit"),
    event("input_audio_buffer.clear"),
    event("conversation.item.create", item=items),
    event("conversation.item.create", item=items, previous_item_id=ids),
    event("conversation.item.delete", item_id=ids | st.just("last")),
    event("conversation.item.retrieve", item_id=ids | st.just("last")),
    event(
        "conversation.item.truncate",
        item_id=ids | st.just("last"),
        content_index=st.just(0),
        audio_end_ms=st.sampled_from([0, 400, 5000]),
    ),
    event("antiphon.output_audio.played", item_id=st.just("last"), audio_end_ms=st.sampled_from([0, 700])),
    event("response.create", response=responses),
    event("response.create"),
    event("response.cancel"),
    event("session.update", session=sessions),
    event("cut"),
    event("session.explode"),
)


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Served]:
    with serving_http(realtime_resume_s=5) as running:
        yield running


@given(st.lists(events, min_size=1, max_size=14))
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_events_come_in_order(fuzzed: Served, sent: list[dict[str, Any]]) -> None:
    run(_fuzz(fuzzed, sent))


async def _fuzz(served: Served, sent: list[dict[str, Any]]) -> None:
    order, last, number, token = EventOrder(), "nowhere", -1, ""

    async def read(talk: Any) -> None:
        nonlocal last, number, token
        try:
            while True:
                told = await talk.read()
                number = told["sequence_number"]
                if told["type"] == "session.created":
                    token = told["session"]["resume_token"]
                if told["type"] == "response.output_item.added":
                    last = told["item"]["id"]
        except (ConnectionClosed, asyncio.TimeoutError):
            return

    todo = list(sent)
    query = ""
    while True:
        async with bare(served, query, order=order) as talk:
            reading = asyncio.create_task(read(talk))
            while not token:
                await asyncio.sleep(0.005)
            is_cut = await _send(talk, todo, lambda: last)
            if is_cut:
                talk.connection.transport.abort()
                await reading
                query = f"resume={token}&after={number}"
                continue
            await talk.send("conversation.item.delete", item_id="nowhere", event_id="all is read")
            while not any(_is_answer(told) for told in talk.events):
                assert not reading.done(), talk.connection.close_code
                await asyncio.sleep(0.005)
            session = served.talks.find(token)
            assert session is not None
            await served.do(session.end())
            await reading
            assert talk.connection.close_code == 1000
            order.end()
            return


def _is_answer(told: dict[str, Any]) -> bool:
    return bool(told["type"] == "error" and told["error"]["event_id"] == "all is read")


async def _send(talk: Any, todo: list[dict[str, Any]], last: Any) -> bool:
    while todo:
        fields = todo.pop(0)
        if fields["type"] == "cut":
            return True
        if fields["type"] == "wait":
            await asyncio.sleep(fields["seconds"])
        elif fields["type"] == "speak":
            for piece in PIECES[fields["what"]]:
                await talk.send("input_audio_buffer.append", audio=piece)
        else:
            if fields.get("item_id") == "last":
                fields = {**fields, "item_id": last()}
            await talk.connection.send(json.dumps(fields))
    return False
