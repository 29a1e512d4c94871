"""Talking over /v1/realtime: turns, pictures, interruptions, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import numpy as np
import pytest
from event_order import EventOrder
from http_server import Served, serving_http
from openai_client import heard_again, words
from realtime_client import PICTURE, PIECE_S, Bare, bare, client, joined, question, sound_file, spoken_pieces
from serving import run

from antiphon.server.realtime import g711
from antiphon.sound.resample import resample

pytestmark = pytest.mark.slow

TEXT: dict[str, Any] = {"type": "realtime", "output_modalities": ["text"]}


def text_item(text: str, role: str = "user") -> Any:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


async def reply(talk: Bare) -> list[dict[str, Any]]:
    """The events of the next response."""
    begun = len(talk.events)
    await talk.until("response.done")
    return talk.events[begun:]


@pytest.mark.parametrize("dialect", ["general", "beta"])
def test_openais_client_talks(served: Served, dialect: str) -> None:
    """Three turns: by voice about a picture, by text, and by voice again."""
    kinds = {"general": "response.output_audio", "beta": "response.audio"}
    audio, transcript = f"{kinds[dialect]}.delta", f"{kinds[dialect]}_transcript.delta"

    async def main() -> None:
        api = client(served)
        connecting = api.realtime if dialect == "general" else api.beta.realtime
        async with connecting.connect(model=served.service.model_name) as connection:
            events: list[dict[str, Any]] = []

            async def reply() -> list[dict[str, Any]]:
                begun = len(events)
                async for event in connection:
                    events.append(event.to_dict(mode="json"))
                    assert event.type != "error", event
                    if event.type == "response.done":
                        return events[begun:]
                raise AssertionError("the connection has ended")

            await connection.conversation.item.create(item=PICTURE)
            for piece in spoken_pieces(question()):
                await connection.input_audio_buffer.append(audio=piece)
            first = await reply()
            assert {"blue", "heart", "red", "star", "black", "circle"} <= words(joined(first, transcript))
            assert {"heart", "star", "circle"} <= words(await heard_again(served, sound_file(first, audio)))
            heard = "conversation.item.input_audio_transcription"
            assert joined(first, f"{heard}.delta") == "What is in the picture?"
            whole = [event for event in first if event["type"] == f"{heard}.completed"]
            assert [event["transcript"] for event in whole] == ["What is in the picture?"]
            starts = [event["audio_start_ms"] for event in first if "audio_start_ms" in event]
            assert len(starts) == 1 and 200 < starts[0] < 400

            await connection.conversation.item.create(item=text_item("Which shape is black?"))
            await connection.response.create()
            second = await reply()
            assert {"circle", "black"} <= words(joined(second, transcript))
            usage = second[-1]["response"]["usage"]
            assert usage["input_token_details"]["image_tokens"] > 0
            assert usage["input_token_details"]["cached_tokens"] > usage["input_tokens"] / 2

            for piece in spoken_pieces(question()):
                await connection.input_audio_buffer.append(audio=piece)
            assert {"heart", "star", "circle"} <= words(joined(await reply(), transcript))

    run(main())


def test_the_order_of_a_spoken_turn(served: Served) -> None:
    async def main() -> None:
        order = EventOrder()
        async with bare(served, "antiphon=1", order=order) as talk:
            await talk.send("conversation.item.create", item=PICTURE)
            await talk.say(question())
            done = await talk.until("response.done")
            assert done["response"]["status"] == "completed"
            await talk.until("rate_limits.updated")
            kinds = [event["type"] for event in talk.events]
            turn = [
                "input_audio_buffer.speech_started",
                "input_audio_buffer.speech_stopped",
                "input_audio_buffer.committed",
                "conversation.item.added",
                "conversation.item.done",
                "response.created",
            ]
            begun = kinds.index("input_audio_buffer.speech_started")
            assert [kind for kind in kinds[begun:] if kind in turn][: len(turn)] == turn
            spoken = [event for event in talk.events if event["type"] == "antiphon.output_audio.spoken"]
            said = joined(talk.events, "response.output_audio_transcript.delta")
            assert [event["num_chars"] for event in spoken] == sorted({each["num_chars"] for each in spoken})
            assert spoken[-1]["num_chars"] == len(said)
            await talk.connection.close()
        order.end()

    run(main())


def test_speech_interrupts_a_reply_that_is_playing(served: Served) -> None:
    """The history then holds what was heard, and the new question is answered."""

    async def main() -> None:
        order = EventOrder()
        async with bare(served, order=order) as talk:
            await talk.send("conversation.item.create", item=PICTURE)
            await talk.say(question())
            done = await talk.until("response.done")
            item = done["response"]["output"][0]
            whole = item["content"][0]["transcript"]
            await talk.send("antiphon.output_audio.played", item_id=item["id"], audio_end_ms=1100)
            await talk.say(question())
            cut = await talk.until("conversation.item.truncated")
            assert (cut["item_id"], cut["audio_end_ms"]) == (item["id"], 1100)
            again = (await reply(talk))[-1]["response"]
            assert {"heart", "star", "circle"} <= words(again["output"][0]["content"][0]["transcript"])
            await talk.send("conversation.item.retrieve", item_id=item["id"])
            held = (await talk.until("conversation.item.retrieved"))["item"]["content"][0]["transcript"]
            assert 0 < len(held) < len(whole) and whole.startswith(held)

    run(main())


def test_a_client_truncates_what_was_not_heard(served: Served) -> None:
    async def main() -> None:
        async with bare(served, order=EventOrder()) as talk:
            await talk.send("conversation.item.create", item=PICTURE)
            await talk.say(question())
            item_id = (await talk.until("response.done"))["response"]["output"][0]["id"]
            for end_ms in (640, 0):
                await talk.send(
                    "conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=end_ms
                )
                assert (await talk.until("conversation.item.truncated"))["audio_end_ms"] == end_ms
                await talk.send("conversation.item.retrieve", item_id=item_id)
                content = (await talk.until("conversation.item.retrieved"))["item"]["content"]
                assert content[0]["transcript"] == ("I see a" if end_ms else "")
            await talk.send(
                "conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=60_000
            )
            assert (await talk.until("error"))["error"]["param"] == "audio_end_ms"

    run(main())


def test_a_response_is_cancelled(served: Served) -> None:
    async def main() -> None:
        async with bare(served, order=EventOrder()) as talk:
            await talk.send("conversation.item.create", item=text_item("Hello"))
            await talk.send("response.create")
            begun = await talk.until("response.created")
            await talk.send("response.cancel", response_id=begun["response"]["id"])
            told = (await talk.until("response.done"))["response"]
            assert told["status"] == "cancelled"
            assert told["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
            await talk.send("response.cancel", event_id="mine")
            error = (await talk.until("error"))["error"]
            assert error["event_id"] == "mine" and "response" in error["message"]

    run(main())


def test_a_response_of_its_own(served: Served) -> None:
    """Outside of the conversation, in text, with instructions, items and metadata of its own."""

    async def main() -> None:
        async with bare(served, order=EventOrder()) as talk:
            await talk.send("conversation.item.create", item={**PICTURE, "id": "picture"})
            response: dict[str, Any] = {
                "conversation": "none",
                "output_modalities": ["text"],
                "metadata": {"topic": "sums"},
                "input": [text_item("How much is two plus three?")],
            }
            await talk.send("response.create", response=response)
            told = (await talk.until("response.done"))["response"]
            assert told["metadata"] == {"topic": "sums"} and told["conversation_id"] is None
            assert told["output_modalities"] == ["text"]
            assert "five" in words(told["output"][0]["content"][0]["text"])
            response["input"] = [
                {"type": "item_reference", "id": "picture"},
                text_item("What is in the picture?"),
            ]
            await talk.send("response.create", response=response)
            told = (await talk.until("response.done"))["response"]
            assert {"heart", "star"} <= words(told["output"][0]["content"][0]["text"])
            await talk.send(
                "response.create", response={"max_output_tokens": 2, "input": [text_item("Hello")]}
            )
            told = (await talk.until("response.done"))["response"]
            assert told["status"] == "incomplete" and told["max_output_tokens"] == 2
            assert told["status_details"]["reason"] == "max_output_tokens"

    run(main())


def test_turns_that_the_client_commits(served: Served) -> None:
    async def main() -> None:
        async with bare(served, order=EventOrder()) as talk:
            session = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
            await talk.send("session.update", session=session)
            told = (await talk.until("session.updated"))["session"]
            assert told["audio"]["input"]["turn_detection"] is None
            assert told["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
            await talk.send("conversation.item.create", item=PICTURE)
            await talk.say(question())
            await talk.send("input_audio_buffer.clear")
            await talk.until("input_audio_buffer.cleared")
            await talk.send("input_audio_buffer.commit", event_id="too early")
            assert (await talk.until("error"))["error"]["event_id"] == "too early"
            await talk.say(question())
            await talk.send("input_audio_buffer.commit")
            await talk.send("response.create")
            told = (await talk.until("response.done"))["response"]
            assert {"heart", "star"} <= words(told["output"][0]["content"][0]["transcript"])
            kinds = {event["type"] for event in talk.events}
            assert "input_audio_buffer.speech_started" not in kinds

    run(main())


@pytest.mark.parametrize("law", ["ulaw", "alaw"])
def test_sound_of_telephones(served: Served, law: g711.Law) -> None:
    async def main() -> None:
        form = {"type": "audio/pcmu" if law == "ulaw" else "audio/pcma"}
        async with bare(served, order=EventOrder()) as talk:
            audio = {"input": {"format": form}, "output": {"format": form}}
            await talk.send("session.update", session={"type": "realtime", "audio": audio})
            await talk.send("conversation.item.create", item=PICTURE)
            whole = (question(8000) * 32767).astype(np.int16)
            for start in range(0, len(whole), 800):
                data = g711.encode(whole[start : start + 800], law).tobytes()
                await talk.send("input_audio_buffer.append", audio=base64.b64encode(data).decode())
            events = await reply(talk)
            assert {"heart", "star"} <= words(joined(events, "response.output_audio_transcript.delta"))
            data = b"".join(
                base64.b64decode(event["delta"])
                for event in events
                if event["type"] == "response.output_audio.delta"
            )
            samples = g711.decode(np.frombuffer(data, np.uint8), law).astype(np.float32) / np.float32(32768)
            wide = resample(samples, 8000, 24_000)
            deltas = [{"type": "wide", "delta": piece} for piece in spoken_pieces(wide)]
            assert (
                len(
                    words(await heard_again(served, sound_file(deltas, "wide")))
                    & {"heart", "star", "circle", "see"}
                )
                >= 2
            )

    run(main())


@pytest.mark.parametrize("beta", [False, True])
def test_a_session_that_only_writes_down(served: Served, beta: bool) -> None:
    async def main() -> None:
        headers = {"OpenAI-Beta": "realtime=v1"} if beta else {}
        async with bare(served, "intent=transcription", additional_headers=headers) as talk:
            begun = await talk.read()
            assert begun["type"] == ("transcription_session.created" if beta else "session.created")
            if beta:
                await talk.send(
                    "transcription_session.update", session={"turn_detection": {"type": "semantic_vad"}}
                )
                await talk.until("transcription_session.updated")
            for _ in range(2):
                await talk.say(question())
                heard = await talk.until("conversation.item.input_audio_transcription.completed")
                assert heard["transcript"] == "What is in the picture?"
                assert heard["usage"]["type"] == "duration" and 1 < heard["usage"]["seconds"] < 2.5
            await talk.send("response.create", event_id="no")
            assert (await talk.until("error"))["error"]["event_id"] == "no"
            assert not any(event["type"].startswith("response.") for event in talk.events)

    run(main())


@pytest.mark.parametrize("beta", [False, True], ids=["general", "beta"])
def test_what_becomes_of_long_conversations(served: Served, beta: bool) -> None:
    """Old turns are left out, unless the client asks for an error instead."""
    headers = {"OpenAI-Beta": "realtime=v1"} if beta else {}

    async def main() -> None:
        async with bare(served, additional_headers=headers) as talk:
            assert (await talk.read())["session"]["truncation"] == "auto"
            half = {"type": "retention_ratio", "retention_ratio": 0.5}
            text = {"modalities": ["text"]} if beta else TEXT
            for truncation in (half, "disabled"):
                await talk.send("session.update", session={**text, "truncation": truncation})
                assert (await talk.until("session.updated"))["session"]["truncation"] == truncation
            long = text_item("one " * 5000)
            for each in (long, text_item("Fine.", "assistant"), text_item("How much is two plus three?")):
                await talk.send("conversation.item.create", item=each)
            await talk.send("response.create")
            failed = (await talk.until("response.done"))["response"]
            assert failed["status"] == "failed"
            assert "(max_model_len)" in failed["status_details"]["error"]["message"]
            await talk.send("session.update", session={"truncation": None})
            assert (await talk.until("session.updated"))["session"]["truncation"] == "auto"
            await talk.send("response.create")
            told = (await talk.until("response.done"))["response"]
            assert "five" in words(told["output"][0]["content"][0]["text"])
            assert told["usage"]["input_tokens"] < 200

    run(main())


def test_a_response_that_takes_too_long() -> None:
    with serving_http(request_timeout_s=0.05) as served:

        async def main() -> None:
            async with bare(served, order=EventOrder()) as talk:
                await talk.send("conversation.item.create", item=PICTURE)
                await talk.say(question())
                told = (await talk.until("response.done"))["response"]
                assert told["status"] == "failed"
                error = told["status_details"]["error"]
                assert error["message"] == "the reply was not made within 0.05 s"
                await talk.send("session.update", session={**TEXT, "instructions": ""})
                await talk.until("session.updated")

        run(main())


WRONG: list[tuple[dict[str, Any], str | None]] = [
    ({"type": "session.explode"}, "type"),
    ({}, "type"),
    ({"type": "output_audio_buffer.clear"}, "type"),
    ({"type": "input_audio_buffer.append", "audio": "§"}, "audio"),
    ({"type": "input_audio_buffer.append"}, "audio"),
    ({"type": "input_audio_buffer.commit", "item": 1}, "item"),
    ({"type": "session.update", "session": {"tools": [{"type": "function", "name": "f"}]}}, "session.tools"),
    ({"type": "session.update", "session": {"type": "transcription"}}, "session.type"),
    (
        {"type": "session.update", "session": {"audio": {"output": {"voice": "nobody"}}}},
        "session.audio.output.voice",
    ),
    (
        {"type": "session.update", "session": {"audio": {"output": {"speed": 2}}}},
        "session.audio.output.speed",
    ),
    ({"type": "session.update", "session": {"model": "gpt-realtime"}}, "model"),
    ({"type": "session.update", "session": {"truncation": "never"}}, "session.truncation"),
    ({"type": "session.update", "session": {"truncation": 0.8}}, "session.truncation"),
    *(
        (
            {
                "type": "session.update",
                "session": {"truncation": {"type": "retention_ratio", "retention_ratio": ratio}},
            },
            "session.truncation.retention_ratio",
        )
        for ratio in (0, 2, "x", None, float("nan"))
    ),
    (
        {
            "type": "session.update",
            "session": {
                "truncation": {
                    "type": "retention_ratio",
                    "retention_ratio": 0.8,
                    "token_limits": {"post_instructions": 1000},
                }
            },
        },
        "session.truncation.token_limits",
    ),
    (
        {
            "type": "session.update",
            "session": {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 7}}}},
        },
        "threshold",
    ),
    (
        {
            "type": "session.update",
            "session": {"audio": {"input": {"noise_reduction": {"type": "near_field"}}}},
        },
        "session.audio.input.noise_reduction",
    ),
    ({"type": "response.create", "response": {"tools": [{"type": "mcp"}]}}, "response.tools"),
    ({"type": "response.create", "response": {"metadata": {"a": 1}}}, "response.metadata.a"),
    (
        {"type": "response.create", "response": {"output_modalities": ["smell"]}},
        "response.output_modalities[0]",
    ),
    ({"type": "conversation.item.create", "item": {"type": "function_call_output"}}, "item.type"),
    (
        {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": []}},
        "item.content",
    ),
    (
        {
            "type": "conversation.item.create",
            "item": {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_image", "image_url": "/etc/passwd"}],
            },
        },
        "item.content[0].image_url",
    ),
    (
        {
            "type": "conversation.item.create",
            "item": {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}],
            },
        },
        "item.content[0].image_url",
    ),
    ({"type": "conversation.item.delete", "item_id": "nothing"}, "item_id"),
    (
        {"type": "conversation.item.truncate", "item_id": "nothing", "audio_end_ms": 1, "content_index": 1},
        "content_index",
    ),
]


def test_what_is_wrong_is_told_by_name_and_the_session_goes_on(served: Served) -> None:
    async def main() -> None:
        async with bare(served, order=EventOrder()) as talk:
            for number, (event, param) in enumerate(WRONG):
                await talk.connection.send(json.dumps({**event, "event_id": f"e{number}"}))
                error = (await talk.until("error"))["error"]
                assert (error["param"], error["event_id"]) == (param, f"e{number}"), error
            for text in ("{", "[]", "7", b"\x00"):
                await talk.connection.send(text)
                assert (await talk.until("error"))["error"]["code"] == "invalid_json"
            await talk.send("session.update", session={**TEXT, "instructions": "Answer."})
            await talk.until("session.updated")
            await talk.send("conversation.item.create", item=text_item("How much is two plus three?"))
            await talk.send("response.create")
            told = (await talk.until("response.done"))["response"]
            assert "five" in words(told["output"][0]["content"][0]["text"])

    run(main())


def test_errors_have_the_codes_that_clients_go_by(served: Served) -> None:
    async def main() -> None:
        async with bare(served, order=EventOrder()) as talk:
            await talk.send("conversation.item.create", item={**text_item("Hello"), "id": "one"})

            async def code(kind: str, **fields: Any) -> str:
                await talk.send(kind, **fields)
                return str((await talk.until("error"))["error"]["code"])

            assert await code("response.cancel") == "response_cancel_not_active"
            assert talk.events[-1]["error"]["message"].startswith("Cancellation failed")
            assert await code("input_audio_buffer.commit") == "input_audio_buffer_commit_empty"
            again = {**text_item("Hello"), "id": "one"}
            assert await code("conversation.item.create", item=again) == "item_create_duplicate_item_id"
            for what, more in (("delete", {}), ("retrieve", {}), ("truncate", {"audio_end_ms": 1})):
                kind = f"conversation.item.{what}"
                assert await code(kind, item_id="no", **more) == f"item_{what}_invalid_item_id"
            await talk.send("response.create")
            assert await code("response.create") == "conversation_already_has_active_response"
            await talk.until("response.done")
            assert await code("response.create") == "invalid_value"

    run(main())


def test_turn_detection_is_switched_off_with_false_too(served: Served) -> None:
    """By clients that cannot send null. What is not set is not told: some clients do not know all fields."""

    async def main() -> None:
        async with bare(served, order=EventOrder()) as talk:
            told = (await talk.until("session.created"))["session"]["audio"]["input"]
            assert told["transcription"] == {} and told["noise_reduction"] is None
            heard = {"turn_detection": False, "transcription": None}
            await talk.send("session.update", session={"audio": {"input": heard}})
            told = (await talk.until("session.updated"))["session"]["audio"]["input"]
            assert told["turn_detection"] is None and told["transcription"] is None

    run(main())


def test_the_beta_is_told_its_own_names(served: Served) -> None:
    async def main() -> None:
        async with bare(served, additional_headers={"OpenAI-Beta": "realtime=v1"}) as talk:
            told = (await talk.read())["session"]
            assert told["input_audio_format"] == "pcm16" and told["modalities"] == ["text", "audio"]
            wrong = {
                "voice": "nobody",
                "speed": 2,
                "input_audio_format": "mp3",
                "turn_detection": {"type": "guess"},
                "max_response_output_tokens": 0,
                "modalities": ["sight"],
                "client_secret": {},
            }
            for name, value in wrong.items():
                await talk.send("session.update", session={name: value})
                error = (await talk.until("error"))["error"]
                assert error["param"].startswith(f"session.{name}"), error
            await talk.send("session.update", session={"modalities": ["text"], "temperature": 0.8})
            told = (await talk.until("session.updated"))["session"]
            assert told["modalities"] == ["text"] and told["temperature"] == 0.8

    run(main())


def test_events_of_ours_come_only_to_those_who_ask(served: Served) -> None:
    async def main() -> None:
        async with bare(served) as talk:
            await talk.send("conversation.item.create", item=text_item("Hello"))
            await talk.send("response.create")
            await talk.until("response.done")
            assert not any(event["type"].startswith("antiphon.") for event in talk.events)
            await talk.send("session.update", session={"antiphon_events": True})
            await talk.send("conversation.item.create", item=text_item("Hello"))
            await talk.send("response.create")
            await talk.until("response.done")
            assert any(event["type"].startswith("antiphon.") for event in talk.events)

    run(main())


def test_items_hold_sound_and_can_be_deleted(served: Served) -> None:
    async def main() -> None:
        async with bare(served, order=EventOrder()) as talk:
            await talk.send("session.update", session=TEXT)
            data = base64.b64encode(
                (question(before_s=0.1, after_s=0.1) * 32767).astype("<i2").tobytes()
            ).decode()
            asked = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": data}]}
            await talk.send("conversation.item.create", item={**text_item("Hello"), "id": "greeting"})
            await talk.send("conversation.item.create", item=PICTURE, previous_item_id="root")
            await talk.send("conversation.item.delete", item_id="greeting")
            assert (await talk.until("conversation.item.deleted"))["item_id"] == "greeting"
            await talk.send("conversation.item.create", item=asked)
            await talk.send("response.create")
            told = (await talk.until("response.done"))["response"]
            assert {"heart", "star"} <= words(told["output"][0]["content"][0]["text"])
            assert told["usage"]["input_token_details"]["audio_tokens"] > 25

    run(main())


def test_conversations_are_counted(served: Served) -> None:
    async def main() -> None:
        async with bare(served) as talk:
            await talk.read()
            assert "realtime_vad_active_sessions 1.0" in served.service.metrics.text().decode()
            before = served.service.metrics.text().decode()
            confirmed = 'speculative_replies_total{outcome="confirmed"}'
            for num_turns in range(1, 11):  # on a busy machine a turn may end before its reply is begun
                await talk.say(question(), pause_s=PIECE_S / 2)
                await talk.until("response.done")
                after = served.service.metrics.text().decode()
                name = "realtime_vad_endpoint_delay_s_count"
                assert _value(after, name) == _value(before, name) + num_turns
                if _value(after, confirmed) == _value(before, confirmed) + 1:
                    break
            else:
                raise AssertionError("no reply that was begun ahead was confirmed")
        for _ in range(100):
            if "realtime_vad_active_sessions 0.0" in served.service.metrics.text().decode():
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the conversation has not ended")

    run(main())


def _value(text: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"antiphon:{name} "))
