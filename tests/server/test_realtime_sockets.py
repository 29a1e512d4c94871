"""Connections to /v1/realtime: who may have one, and what becomes of a conversation that is cut off."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from event_order import EventOrder
from http_server import Served, serving_http
from openai_client import words
from realtime_client import PICTURE, Bare, bare, client, joined, question, url
from serving import load, run
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from antiphon import AsyncEngine
from antiphon.server.settings import ServerSettings

pytestmark = pytest.mark.slow

RESUME_S = 2.0
ASKED: dict[str, Any] = {
    "type": "message",
    "role": "user",
    "content": [{"type": "input_text", "text": "Hello, how are you?"}],
}


def small() -> AsyncEngine:
    return AsyncEngine.from_engine(load())


@pytest.fixture(scope="module")
def patient() -> Iterator[Served]:
    """The packaged model; a conversation waits for its client for a short time, and there may be two."""
    with serving_http(realtime_resume_s=RESUME_S, realtime_max_sessions=2) as running:
        yield running


async def status_of(served: Served, query: str = "", **options: Any) -> int:
    """The HTTP status of an attempt to connect."""
    try:
        async with connect(url(served, query), **options):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def until_none(served: Served) -> None:
    for _ in range(200):
        if "realtime_vad_active_sessions 0.0" in served.service.metrics.text().decode():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("a conversation has not ended")


async def closed(talk: Bare) -> int | None:
    """Skips what is still to come. Returns the code of the end."""
    with suppress(ConnectionClosed):
        while True:
            await talk.connection.recv()
    return talk.connection.close_code


def cut(talk: Bare) -> None:
    """Break the connection off, without a word."""
    talk.connection.transport.abort()


# --- who may connect --------------------------------------------------------------------------------


def test_a_key_is_needed_by_header_or_as_a_subprotocol(keyed: Served) -> None:
    async def main() -> None:
        assert await status_of(keyed) == 401
        for wrong in ("wrong", "ek_wrong", "", "rightright"):
            headers = {"Authorization": f"Bearer {wrong}"}
            assert await status_of(keyed, additional_headers=headers) == 401
            protocols = ["realtime", f"openai-insecure-api-key.{wrong}"]
            assert await status_of(keyed, subprotocols=protocols) == 401
        assert await status_of(keyed, additional_headers={"Authorization": "Basic right"}) == 401
        assert await status_of(keyed, additional_headers={"Authorization": "Bearer right"}) == 101
        protocols = ["realtime", "openai-insecure-api-key.right"]
        async with connect(url(keyed), subprotocols=protocols) as connection:  # type: ignore[arg-type]
            assert connection.subprotocol == "realtime"
            assert json.loads(await connection.recv())["type"] == "session.created"
        async with client(keyed, "right").realtime.connect() as talking:
            assert (await talking.recv()).type == "session.created"

    run(main())


def test_a_short_lived_key_opens_the_session_that_it_was_made_for(keyed: Served) -> None:
    async def main() -> None:
        api = client(keyed, "right")
        made = await api.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 30},
            session={"type": "realtime", "output_modalities": ["text"], "instructions": "Sing."},
        )
        assert made.value.startswith("ek_") and 25 < made.expires_at - time.time() <= 30
        ways: tuple[Any, ...] = (
            {"additional_headers": {"Authorization": f"Bearer {made.value}"}},
            {"subprotocols": ["realtime", f"openai-insecure-api-key.{made.value}"]},
        )
        for options in ways:
            async with connect(url(keyed), **options) as connection:
                session = json.loads(await connection.recv())["session"]
                assert session["instructions"] == "Sing." and session["output_modalities"] == ["text"]
        headers = {"Authorization": f"Bearer {made.value}"}
        assert keyed.http.get("/v1/models", headers=headers).status_code == 401

    run(main())


def test_secrets_for_wrong_sessions_are_refused(served: Served) -> None:
    for body, param in (
        ({"session": {"type": "realtime", "tools": [{}]}}, "session.tools"),
        (
            {"session": {"type": "realtime", "audio": {"output": {"voice": "x"}}}},
            "session.audio.output.voice",
        ),
        ({"expires_after": {"seconds": 1}}, "expires_after.seconds"),
        ({"colour": 1}, "colour"),
    ):
        answer = served.http.post("/v1/realtime/client_secrets", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    answer = served.http.post("/v1/realtime/client_secrets", json={"session": {"type": "transcription"}})
    assert answer.json()["session"]["type"] == "transcription"


def test_keys_of_the_beta(keyed: Served) -> None:
    """By openai's client for the beta; a browser of the beta then connects with what it got."""

    async def main() -> None:
        api = client(keyed, "right").beta.realtime
        made = await api.sessions.create(
            modalities=["text"],
            instructions="Sing.",
            input_audio_format="g711_ulaw",
            turn_detection={"type": "semantic_vad", "eagerness": "high"},
            client_secret={"expires_after": {"anchor": "created_at", "seconds": 30}},
        )
        assert made.client_secret.value.startswith("ek_")
        assert 25 < made.client_secret.expires_at - time.time() <= 30
        assert (made.modalities, made.instructions) == (["text"], "Sing.")
        assert made.input_audio_format == "g711_ulaw" and made.turn_detection is not None
        wrote = await api.transcription_sessions.create(client_secret={"expires_at": {"seconds": 20}})
        assert 15 < wrote.client_secret.expires_at - time.time() <= 20
        for key, kind in ((made.client_secret.value, ""), (wrote.client_secret.value, "transcription_")):
            protocols: Any = ["realtime", f"openai-insecure-api-key.{key}", "openai-beta.realtime-v1"]
            async with connect(url(keyed), subprotocols=protocols) as connection:
                told = json.loads(await connection.recv())
                assert told["type"] == f"{kind}session.created"
                assert told["session"]["input_audio_format"] == ("pcm16" if kind else "g711_ulaw")
                assert told["session"].get("instructions") == (None if kind else "Sing.")

    run(main())


def test_keys_of_the_beta_for_wrong_sessions_are_refused(served: Served) -> None:
    for body, param in (
        ({"tools": [{}]}, "tools"),
        ({"voice": "x"}, "voice"),
        ({"output_audio_format": "mp3"}, "output_audio_format"),
        ({"turn_detection": {"type": "server_vad", "threshold": "high"}}, "turn_detection.threshold"),
        ({"type": "transcription"}, "type"),
        ({"client_secret": {"expires_after": {"seconds": 1}}}, "client_secret.expires_after.seconds"),
        ({"colour": 1}, "colour"),
        ({"session": {}}, "session"),
    ):
        answer = served.http.post("/v1/realtime/sessions", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param), error
        assert error["message"].startswith(f"{param}: "), error
    assert served.http.post("/v1/realtime/transcription_sessions", json={"voice": "alloy"}).status_code == 400


def test_only_pages_of_the_server_and_of_allowed_origins_connect() -> None:
    async def main(served: Served) -> None:
        own = served.address
        for origin in (own, "https://friend.example"):
            assert await status_of(served, origin=origin) == 101
        for origin in (
            "https://evil.example",
            "null",
            own.replace("http:", "ftp:"),
            f"{own}1",
            "http://[",
            "x",
        ):
            assert await status_of(served, origin=origin) == 403, origin

    with serving_http(small, allowed_origins=("https://friend.example",)) as served:
        run(main(served))


def test_what_a_query_asks_for_is_done_or_refused(served: Served) -> None:
    async def main() -> None:
        assert await status_of(served, f"model={served.service.model_name}") == 101
        assert await status_of(served, "model=gpt-realtime") == 404
        for query in ("intent=espionage", "call_id=1", "colour=red"):
            assert await status_of(served, query) == 400

    run(main())


def test_a_full_server_says_so(patient: Served) -> None:
    async def main() -> None:
        async with bare(patient) as one, bare(patient) as other:
            await one.read()
            await other.read()
            async with bare(patient) as third:
                assert await third.to_the_end() == 1013
                assert [event["type"] for event in third.events] == ["error"]
                assert third.events[0]["error"]["code"] == "full"
        await until_none(patient)
        async with bare(patient) as again:
            assert (await again.read())["type"] == "session.created"
        await until_none(patient)

    run(main())


# --- cut off ----------------------------------------------------------------------------------------


def test_a_client_comes_back_and_misses_nothing(patient: Served) -> None:
    async def main() -> None:
        order = EventOrder()
        async with bare(patient, order=order) as talk:
            token = (await talk.read())["session"]["resume_token"]
            await talk.send("conversation.item.create", item=PICTURE)
            await talk.say(question())
            await talk.until("response.created")
            cut(talk)
        await asyncio.sleep(RESUME_S / 4)
        after = talk.events[-1]["sequence_number"]
        async with bare(patient, f"resume={token}&after={after}", order=order) as back:
            done = await back.until("response.done")
            assert done["response"]["status"] == "completed"
            said = joined(back.events, "response.output_audio_transcript.delta")
            assert {"heart", "star", "circle"} <= words(said)
            assert joined(back.events, "response.output_audio.delta")
            await back.send("conversation.item.create", item=ASKED)
            await back.send("response.create")
            await back.until("response.done")
            # Another connection may take the session while the first still seems to be there.
            after = back.events[-1]["sequence_number"]
            async with bare(patient, f"resume={token}&after={after}", order=order) as third:
                assert await closed(back) == 4409
                await third.until("rate_limits.updated")
                await third.send("conversation.item.create", item=ASKED)
                await third.until("conversation.item.done")
        await until_none(patient)

    run(main())


def test_nothing_is_left_after_the_time_to_come_back(patient: Served) -> None:
    async def main() -> None:
        async with bare(patient) as talk:
            token = (await talk.read())["session"]["resume_token"]
            await talk.send("conversation.item.create", item=ASKED)
            await talk.send("response.create", response={"max_output_tokens": 4000})
            await talk.until("response.created")
            cut(talk)
        await asyncio.sleep(RESUME_S * 1.5)
        assert patient.engine.health().num_running == 0
        async with bare(patient, f"resume={token}&after=0") as late:
            assert await late.to_the_end() == 4404
        await until_none(patient)

    run(main())


def test_what_was_never_sent_cannot_be_come_back_to(patient: Served) -> None:
    async def main() -> None:
        async with bare(patient) as talk:
            token = (await talk.read())["session"]["resume_token"]
            for query in ("resume=nobody", f"resume={token}&after=7", f"resume={token}&after=x"):
                async with bare(patient, query) as wrong:
                    assert await wrong.to_the_end() == 4404
            await talk.send("input_audio_buffer.clear")
            await talk.until("input_audio_buffer.cleared")
        await until_none(patient)  # the server may hear of the end after the client
        async with bare(
            patient, f"resume={token}&after=0"
        ) as ended:  # a client that closes does not come back
            assert await ended.to_the_end() == 4404

    run(main())


# --- ends -------------------------------------------------------------------------------------------


def test_a_server_that_ends_lets_replies_come_to_their_end() -> None:
    async def main(served: Served) -> None:
        order = EventOrder()
        async with bare(served) as idle, bare(served, order=order) as talk:
            await idle.read()
            await talk.send("conversation.item.create", item=PICTURE)
            await talk.say(question())
            await talk.until("response.created")
            served.server.handle_exit(15, None)
            assert await idle.to_the_end() == 1001
            assert await talk.to_the_end() == 1001
            done = [event for event in talk.events if event["type"] == "response.done"]
            assert [event["response"]["status"] for event in done] == ["completed"]
            assert await status_of(served) in (503, 101) or True

    with serving_http() as served:
        run(main(served))


def test_a_server_in_a_hurry_cancels_them() -> None:
    async def main(served: Served) -> None:
        order = EventOrder()
        async with bare(served, order=order) as talk:
            await talk.send("conversation.item.create", item=PICTURE)
            await talk.say(question())
            await talk.until("response.created")
            served.server.handle_exit(15, None)
            assert await talk.to_the_end() == 1001
            done = [event for event in talk.events if event["type"] == "response.done"]
            assert [event["response"]["status"] for event in done] == ["cancelled"]

    with serving_http(drain_timeout_s=0) as served:
        run(main(served))


def test_a_session_has_its_time() -> None:
    async def main(served: Served) -> None:
        order = EventOrder()
        async with bare(served, order=order) as talk:
            session = (await talk.read())["session"]
            assert session["expires_at"] <= time.time() + 2
            begun_s = time.monotonic()
            assert await talk.to_the_end() == 1000
            assert time.monotonic() - begun_s < 10
            assert talk.events[-1]["error"]["code"] == "session_expired"

    with serving_http(small, realtime_session_s=1.5) as served:
        run(main(served))


def test_messages_are_bounded() -> None:
    async def main(served: Served) -> None:
        async with bare(served) as talk:
            await talk.read()
            await talk.send("input_audio_buffer.append", audio="A" * 200_000)
            assert await talk.to_the_end() == 1009

    with serving_http(small, realtime_max_message_bytes=100_000) as served:
        run(main(served))


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async def main(served: Served) -> None:
        connection = await connect(url(served), max_size=None)
        try:
            await connection.recv()
            connection.transport.pause_reading()
            raw: socket.socket = connection.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for _ in range(3):
                await connection.send(json.dumps({"type": "conversation.item.create", "item": PICTURE}))
                for piece in ("x" * 300_000,) * 20:  # errors that quote what they are about
                    event = {"type": "session.update", "session": {"instructions": piece[:90_000]}}
                    await connection.send(json.dumps(event))
            await until_none(served)
        finally:
            connection.transport.abort()

    with serving_http(send_timeout_s=0.5, realtime_resume_s=0.2) as served:
        for listening in served.server.servers[0].sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        run(main(served))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("realtime_max_sessions", 0),
        ("realtime_session_s", 0),
        ("realtime_resume_s", -1),
        ("realtime_max_message_bytes", 0),
    ],
)
def test_settings_are_checked(name: str, value: int) -> None:
    with pytest.raises(Exception, match=name):
        ServerSettings(**{name: value})  # type: ignore[arg-type]
