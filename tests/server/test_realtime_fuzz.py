"""Whatever a client sends that talks with the server, its events come in order, and none comes after the end.
In each dialect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from event_order import BetaOrder, EventOrder, LiveOrder
from http_server import Served, serving_http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from realtime_client import PICTURE, bare, question, spoken_pieces, url
from serving import run
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.slow

SPEECH = spoken_pieces(question())
REALTIME = ("input_audio_buffer.append", "conversation.item.create")
LIVE_NAMES = ("session.input_audio.append", "response.item.create")
"""Types of the events that bring sound and items."""
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


def items(output_text: str = "output_text") -> st.SearchStrategy[dict[str, Any]]:
    """output_text: the type of what replies say in text."""

    def item(text: str, role: str, item_id: str | None) -> dict[str, Any]:
        kind = output_text if role == "assistant" else "input_text"
        named = {} if item_id is None else {"id": item_id}
        return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **named}

    made = st.builds(
        item,
        st.sampled_from(["Hello", "How much is two plus three?", ""]),
        st.sampled_from(["user", "assistant", "system"]),
        st.sampled_from(["one", "two", None]),
    )
    return made | st.just({**PICTURE, "id": "one"})


def event(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields})


HANDLING = (
    event("speak", what=st.just("a question")),
    event("speak", what=st.sampled_from(sorted(PIECES))),
    event("ask", rests=st.booleans()),
    event("wait", seconds=st.sampled_from([0.0, 0.02, 0.2])),
    event("rest"),
)
"""What is done beside sending an event. After a rest, replies have come to their end."""
ASKED: dict[str, Any] = {
    "type": "message",
    "role": "user",
    "content": [{"type": "input_text", "text": "How much is two plus three?"}],
}


def realtime_events(
    items: st.SearchStrategy[Any], response: dict[str, Any], session: dict[str, Any]
) -> st.SearchStrategy[dict[str, Any]]:
    """Of the Realtime API. response, session: fields in the dialect's form, each of which may be missing."""
    shared = {
        "conversation": st.sampled_from(["auto", "none"]),
        "input": st.lists(items | st.just({"type": "item_reference", "id": "one"}), max_size=2),
        "metadata": st.just({"a": "b"}),
    }
    responses = st.fixed_dictionaries({}, optional={**shared, **response})
    common = {"antiphon_events": st.booleans(), "instructions": st.sampled_from(["", "Answer."])}
    sessions = st.fixed_dictionaries({}, optional={**common, **session})
    ids = st.sampled_from(IDS)
    return st.one_of(
        *HANDLING,
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
        event(
            "antiphon.output_audio.played", item_id=st.just("last"), audio_end_ms=st.sampled_from([0, 700])
        ),
        event("response.create", response=responses),
        event("response.create"),
        event("response.cancel"),
        event("session.update", session=sessions),
        event("cut"),
        event("session.explode"),
    )


GENERAL = realtime_events(
    items(),
    {
        "output_modalities": st.sampled_from([["text"], ["audio"], ["sight"]]),
        "max_output_tokens": st.sampled_from([1, 3, "inf", 0]),
    },
    {
        "type": st.just("realtime"),
        "output_modalities": st.sampled_from([["text"], ["audio"]]),
        "audio": st.builds(lambda vad: {"input": {"turn_detection": vad}}, st.sampled_from(VADS)),
    },
)
BETA = realtime_events(
    items("text"),
    {
        "modalities": st.sampled_from([["text"], ["audio", "text"], ["sight"]]),
        "max_response_output_tokens": st.sampled_from([1, 3, "inf", 0]),
        "output_audio_format": st.sampled_from(["pcm16", "g711_alaw", "mp3"]),
    },
    {
        "modalities": st.sampled_from([["text"], ["text", "audio"]]),
        "turn_detection": st.sampled_from(VADS),
        "output_audio_format": st.sampled_from(["pcm16", "g711_ulaw"]),
        "input_audio_transcription": st.sampled_from([None, {"model": "whisper-1"}]),
        "temperature": st.sampled_from([0.0, 0.8, 9.0]),
    },
)
LIVE = st.one_of(
    *HANDLING,
    event("session.input_audio.mute"),
    event("session.input_audio.unmute"),
    event("session.update", session=st.sampled_from([{}, {"triggers": []}, {"delegation": {"type": "x"}}])),
    event("session.instructions.append", content=st.sampled_from(["Answer.", "", 7])),
    event("response.item.create", item=items()),
    event("response.create"),
    event("session.start", session=st.just({})),
    event("session.thinking.append", content=st.just("Hm.")),
    event("session.explode"),
)


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Served]:
    with serving_http(realtime_resume_s=5) as running:
        yield running


fuzzing = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@given(st.lists(GENERAL, min_size=1, max_size=14))
@fuzzing
def test_events_come_in_order(fuzzed: Served, sent: list[dict[str, Any]]) -> None:
    run(_fuzz(fuzzed, sent, EventOrder()))


@given(st.lists(BETA, min_size=1, max_size=14))
@fuzzing
def test_events_of_the_beta_come_in_order(fuzzed: Served, sent: list[dict[str, Any]]) -> None:
    run(_fuzz(fuzzed, sent, BetaOrder(), additional_headers={"OpenAI-Beta": "realtime=v1"}))


@pytest.mark.slow
@pytest.mark.long
@given(st.lists(LIVE, max_size=3), st.lists(LIVE, min_size=1, max_size=14))
@fuzzing
def test_events_of_the_live_api_come_in_order(
    fuzzed: Served, early: list[dict[str, Any]], sent: list[dict[str, Any]]
) -> None:
    run(_fuzz_live(fuzzed, early, sent))


async def _fuzz(served: Served, sent: list[dict[str, Any]], order: EventOrder, **options: Any) -> None:
    """Of the Realtime API. options: of the connection."""
    last, number, token = "nowhere", -1, ""

    async def read(talk: Any) -> None:
        nonlocal last, number, token
        try:
            while True:
                told = await talk.read()
                _check_error(told)
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
        async with bare(served, query, order=order, **options) as talk:
            reading = asyncio.create_task(read(talk))
            while not token:
                assert not reading.done()
                await asyncio.sleep(0.005)
            is_cut = await _send(served, talk.connection, todo, REALTIME, lambda: last)
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


async def _fuzz_live(served: Served, early: list[dict[str, Any]], sent: list[dict[str, Any]]) -> None:
    """early: what is sent before the session is started."""
    order, numbers = LiveOrder(), count()

    def noted(fields: dict[str, Any]) -> dict[str, Any]:
        fields = {**fields, "event_id": f"e{next(numbers)}"}
        order.sent(fields)
        order.has_spoken = order.has_spoken or fields["type"] == "session.input_audio.append"
        return fields

    async def read(connection: Any) -> None:
        with suppress(ConnectionClosed):
            while True:
                told = json.loads(await asyncio.wait_for(connection.recv(), 20))
                _check_error(told)
                order.see(told)

    async with connect(url(served, path="/v1/live/sessions"), max_size=None) as connection:
        reading = asyncio.create_task(read(connection))
        begin = {"type": "session.start", "session": {}}
        end = {"type": "session.close"}
        todo = [*early, begin, *sent, end]
        await _send(served, connection, todo, LIVE_NAMES, noted=noted)
        await reading
        assert connection.close_code == 1000
        order.end()


def _check_error(told: dict[str, Any]) -> None:
    assert told["type"] != "error" or told["error"]["type"] == "invalid_request_error", told


def _is_answer(told: dict[str, Any]) -> bool:
    return bool(told["type"] == "error" and told["error"]["event_id"] == "all is read")


async def _send(
    served: Served,
    connection: ClientConnection,
    todo: list[dict[str, Any]],
    names: tuple[str, str],
    last: Callable[[], str] = str,
    noted: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> bool:
    """Do what there is to do, until the connection is to be cut: whether it is.

    names: types of the events that bring sound and items. last: gives the id of the last reply's item. noted:
    called with an event before it is sent, returns what is sent.
    """
    append, create = names
    while todo:
        fields = todo.pop(0)
        if fields["type"] == "cut":
            return True
        if fields["type"] == "ask":
            asking: list[dict[str, Any]] = [{"type": create, "item": ASKED}, {"type": "response.create"}]
            todo[:0] = [*asking, {"type": "rest"}] if fields["rests"] else asking
        elif fields["type"] == "wait":
            await asyncio.sleep(fields["seconds"])
        elif fields["type"] == "rest":
            await asyncio.sleep(0.3)
            while any(talk.num_replies for talk in served.talks._talks.values()):
                await asyncio.sleep(0.02)
        elif fields["type"] == "speak":
            for piece in PIECES[fields["what"]]:
                await connection.send(json.dumps(noted({"type": append, "audio": piece})))
        else:
            if fields.get("item_id") == "last":
                fields = {**fields, "item_id": last()}
            await connection.send(json.dumps(noted(fields)))
    return False
