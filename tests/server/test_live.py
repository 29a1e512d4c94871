"""/v1/live/sessions: the Live API, by openai's client and bare."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from http_server import Served
from openai_client import heard_again, words
from realtime_client import PICTURE, client, joined, question, sound_file, spoken_pieces, url
from serving import run
from websockets.asyncio.client import connect

pytestmark = pytest.mark.slow


def test_openais_client_talks(served: Served) -> None:
    """About a picture, twice; the tracks have times on one clock."""

    async def main() -> None:
        events: list[dict[str, Any]] = []
        async with client(served).live.connect() as connection:

            async def until(kind: str) -> dict[str, Any]:
                while True:
                    event = (await asyncio.wait_for(connection.recv(), 60)).to_dict(mode="json")
                    events.append(event)
                    assert kind == "error" or event["type"] != "error", event
                    if event["type"] == kind:
                        return event

            voice: Any = {"output": {"voice": "alloy"}, "format": {"type": "audio/pcm", "rate": 24000}}
            await connection.session.start(
                session={"model": served.service.model_name, "audio": voice},
                event_id="first",
            )
            started = await until("session.started")
            assert started["client_event_id"] == "first" and started["session"]["status"] == "active"
            await connection.response.item.create(item=PICTURE)
            for _ in range(2):
                begun = len(events)
                for piece in spoken_pieces(question()):
                    await connection.session.input_audio.append(audio=piece)
                usage = await until("session.usage.updated")
                assert usage["usage"]["seconds"] > 0 and 0 < usage["context_window"]["usage_ratio"] < 1
                turn = events[begun:]
                assert joined(turn, "session.input_transcript.delta") == "What is in the picture?"
                said = joined(turn, "session.output_transcript.delta")
                assert {"heart", "star", "circle"} <= words(said)
                sound = sound_file(turn, "session.output_audio.delta")
                assert {"heart", "star", "circle"} <= words(await heard_again(served, sound))
            for kind in ("input_transcript", "output_transcript", "output_audio"):
                track = [each for each in events if each["type"] == f"session.{kind}.delta"]
                times = [(each["start_ms"], each["end_ms"]) for each in track]
                assert all(start <= end for start, end in times), kind
                assert all(one[1] <= other[0] + 1 for one, other in pairwise(times)), kind
            await connection.session.input_audio.mute()
            await until("session.input_audio.muted")
            await connection.session.input_audio.unmute()
            await until("session.input_audio.unmuted")
            await connection.session.instructions.append(content="Be brief.", delegation_id=None)
            await until("session.instructions.appended")
            await connection.session.thinking.append(content="Hm.", delegation_id=None, event_id="think")
            error = await until("error")
            assert error["client_event_id"] == error["error"]["client_event_id"] == "think"
            await connection.session.close()
            closed = await until("session.closed")
            assert closed["reason"] == "close_requested" and closed["usage"]["seconds"] > 0

    run(main())


def test_a_session_is_started_before_all_else(served: Served) -> None:
    async def main() -> None:
        async with connect(url(served, path="/v1/live/sessions")) as connection:
            wrong: list[Any] = [
                {"type": "session.close"},
                {"type": "session.start", "session": {"model": "gpt-live-1"}},
                {"type": "session.start", "session": {"delegation": {"type": "client"}}},
                {"type": "session.start", "session": {"audio": {"output": {"voice": "nobody"}}}},
                {"type": "session.start"},
                {"type": "session.fly"},
                [],
            ]
            for event in wrong:
                await connection.send(json.dumps(event))
                assert json.loads(await connection.recv())["type"] == "error", event
            history = [{"role": "user", "content": [{"text": "How much is two plus three?"}]}]
            await connection.send(json.dumps({"type": "session.start", "session": {"input": history}}))
            assert json.loads(await connection.recv())["type"] == "session.started"
            await connection.send(json.dumps({"type": "response.create"}))
            events: list[dict[str, Any]] = []
            while not events or events[-1]["type"] != "session.usage.updated":
                events.append(json.loads(await asyncio.wait_for(connection.recv(), 60)))
            assert "five" in words(joined(events, "session.output_transcript.delta"))

    run(main())
