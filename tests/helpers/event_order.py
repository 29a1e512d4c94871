"""The order in which a session's events must come, in each dialect, checked as they come."""

from __future__ import annotations

import base64
from typing import Any

__all__ = ["BetaOrder", "EventOrder", "LiveOrder"]

STAGES = {
    name: stage
    for stage, names in enumerate(
        [
            ("response.created",),
            ("response.output_item.added",),
            ("conversation.item.added",),
            ("response.content_part.added",),
            (
                "response.output_audio_transcript.delta",
                "response.output_audio.delta",
                "response.output_text.delta",
                "antiphon.output_audio.spoken",
            ),
            ("response.output_audio.done",),
            ("response.output_audio_transcript.done", "response.output_text.done"),
            ("response.content_part.done",),
            ("response.output_item.done",),
            ("conversation.item.done",),
            ("response.done",),
        ]
    )
    for name in names
}
DELTAS = STAGES["response.output_text.delta"]
TRANSCRIPTION = "conversation.item.input_audio_transcription."
SAMPLE_BYTES = {"audio/pcm": 2, "audio/pcmu": 1, "audio/pcma": 1}
BETA = {
    "response.audio.delta": "response.output_audio.delta",
    "response.audio.done": "response.output_audio.done",
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.audio_transcript.done": "response.output_audio_transcript.done",
    "response.text.delta": "response.output_text.delta",
    "response.text.done": "response.output_text.done",
    "conversation.item.created": "conversation.item.added",
}
"""What became of events of the beta."""
BETA_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}

LIVE_TRACKS = ("input_transcript", "output_transcript", "output_audio")
LIVE_ANSWERS = {
    "session.start": "session.started",
    "session.update": "session.updated",
    "session.input_audio.mute": "session.input_audio.muted",
    "session.input_audio.unmute": "session.input_audio.unmuted",
    "session.instructions.append": "session.instructions.appended",
}
"""To each event that has one if it is right."""


class EventOrder:
    """Raises AssertionError for an event that comes out of order, and in `end` for what is missing."""

    def __init__(self) -> None:
        self.num_events = 0
        self._ids: set[str] = set()
        self._speaking: str | None = None
        self._stopped: str | None = None
        self._committed: str | None = None
        self._added: set[str] = set()
        self._done: set[str] = set()
        self._deltas: dict[str, str] = {}
        self._heard: set[str] = set()
        self._responses: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()
        self._is_limited = True
        self._is_closed = False

    def see(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert not self._is_closed, f"{kind} after the end"
        assert event["sequence_number"] == self.num_events, event
        assert (kind == "session.created") == (self.num_events == 0), kind
        self.num_events += 1
        assert event["event_id"] not in self._ids
        self._ids.add(event["event_id"])
        assert self._is_limited or kind == "rate_limits.updated", f"{kind} right after response.done"
        self._is_limited = kind != "response.done"
        if kind.startswith("input_audio_buffer."):
            self._see_input(kind.removeprefix("input_audio_buffer."), event)
        elif kind.startswith(TRANSCRIPTION):
            self._see_transcript(kind.removeprefix(TRANSCRIPTION), event)
        elif kind.startswith("conversation.item."):
            self._see_item(kind, event)
        elif kind in STAGES:
            self._see_response(kind, event)

    def end(self) -> None:
        """There are no more events."""
        assert not self._responses, f"responses that have not ended: {list(self._responses)}"
        assert self._added == self._done, "items without their last event"
        assert self._committed is None and self._is_limited
        self._is_closed = True

    def _see_input(self, what: str, event: dict[str, Any]) -> None:
        item_id = event.get("item_id")
        if what == "speech_started":
            assert self._speaking is None and item_id not in self._added
            self._speaking = item_id
        elif what == "speech_stopped":
            assert self._speaking == item_id
            self._speaking, self._stopped = None, item_id
        elif what == "committed":
            assert self._stopped in (None, item_id) and self._speaking is None
            assert event["previous_item_id"] is None or event["previous_item_id"] in self._added
            assert self._committed is None
            self._stopped, self._committed = None, item_id
        elif what == "cleared":
            self._speaking = None

    def _see_transcript(self, what: str, event: dict[str, Any]) -> None:
        item_id = event["item_id"]
        assert item_id not in self._heard, "after the whole transcript"
        if what == "delta":
            assert event["delta"]
            self._deltas[item_id] = self._deltas.get(item_id, "") + event["delta"]
            return
        self._heard.add(item_id)
        self._stopped = None if self._stopped == item_id else self._stopped
        if what == "completed" and event["transcript"].startswith(self._deltas.get(item_id, "")):
            assert self._deltas.get(item_id, "") == event["transcript"]

    def _see_item(self, kind: str, event: dict[str, Any]) -> None:
        item = event.get("item", {})
        item_id = item.get("id", event.get("item_id"))
        if kind == "conversation.item.added":
            assert item_id not in self._added
            assert event["previous_item_id"] is None or event["previous_item_id"] in self._added
            assert self._committed in (None, item_id), "between committed and added"
            self._committed = None
            self._added.add(item_id)
        else:
            assert item_id in self._added, kind
        if kind == "conversation.item.deleted":  # its id may be used again
            self._added.discard(item_id)
            self._done.discard(item_id)
        elif kind == "conversation.item.done":
            assert item_id not in self._done
            self._done.add(item_id)
        for response in self._responses.values():
            if response["item_id"] == item_id and kind in STAGES:
                self._step(response, kind)

    def _see_response(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "response.created":
            told = event["response"]
            assert told["id"] not in {*self._responses, *self._ended} and told["status"] == "in_progress"
            if told["conversation_id"] is not None:
                assert all(each["aside"] for each in self._responses.values()), "two for the conversation"
            self._responses[told["id"]] = {
                "stage": 0,
                "item_id": None,
                "aside": told["conversation_id"] is None,
                "form": told.get("audio", {}).get("output", {}).get("format"),
                "text": "",
                "bytes": 0,
            }
            return
        response_id = event["response"]["id"] if kind == "response.done" else event["response_id"]
        assert response_id not in self._ended, f"{kind} after response.done"
        response = self._responses[response_id]
        self._step(response, kind)
        if kind == "response.output_item.added":
            response["item_id"] = event["item"]["id"]
        elif "item_id" in event:
            assert event["item_id"] == response["item_id"]
        if kind.endswith(("transcript.delta", "text.delta")):
            response["text"] += event["delta"]
        elif kind == "response.output_audio.delta":
            form = response["form"]
            rate = SAMPLE_BYTES[form["type"]] * form.get("rate", 8000)
            assert event["start_ms"] == round(1000 * response["bytes"] / rate)
            response["bytes"] += len(base64.b64decode(event["delta"], validate=True))
        elif kind.endswith(("transcript.done", "text.done")):
            assert event.get("transcript", event.get("text")) == response["text"]
        elif kind == "response.done":
            assert event["response"]["status"] in ("completed", "cancelled", "failed", "incomplete")
            assert [item["id"] for item in event["response"]["output"]] == [response["item_id"]]
            del self._responses[response_id]
            self._ended.add(response_id)

    def _step(self, response: dict[str, Any], kind: str) -> None:
        stage, before = STAGES[kind], response["stage"]
        response["stage"] = stage
        if kind == "antiphon.output_audio.spoken" and before < DELTAS:
            response["stage"] = before  # it may be known before there is sound or text to send
            return
        assert stage > before or stage == before == DELTAS, f"{kind} in stage {before}"
        if before >= STAGES["response.content_part.added"]:
            assert stage - before <= 2, f"{kind} in stage {before}: something is missing"


class BetaOrder(EventOrder):
    """Of the beta, which has no event for the end of an item."""

    def see(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert kind not in BETA.values() and kind != "conversation.item.done", f"{kind} is not of the beta"
        event = {**event, "type": BETA.get(kind, kind)}
        if kind in ("response.created", "response.done"):
            told = event["response"]
            assert told["modalities"] in (["text"], ["text", "audio"])
            if "output_audio_format" in told:
                form: dict[str, Any] = {"type": BETA_FORMATS[told["output_audio_format"]]}
                if form["type"] == "audio/pcm":
                    form["rate"] = 24_000
                event["response"] = {**told, "audio": {"output": {"format": form}}}
        super().see(event)

    def end(self) -> None:
        self._done = set(self._added)
        super().end()


class LiveOrder:
    """Of the Live API: tracks on one clock, and an answer to each event that asks for one."""

    def __init__(self) -> None:
        self.has_spoken = False
        """Whether the user may have interrupted a reply, whose sound then ends before what was sent of it."""
        self._asked: dict[str, str] = {}
        self._ids: set[str] = set()
        self._ends: dict[str, int] = dict.fromkeys(LIVE_TRACKS, 0)
        self._seconds = 0.0
        self._has_begun = False
        self._is_closed = False

    def sent(self, event: dict[str, Any]) -> None:
        """What the client sends, in order; the ids of events are different."""
        if event["type"] in LIVE_ANSWERS:
            self._asked[event["event_id"]] = event["type"]

    def see(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert not self._is_closed, f"{kind} after the end"
        if not self._has_begun:
            assert kind in ("error", "session.started"), kind
            self._has_begun = kind == "session.started"
        else:
            assert kind != "session.started"
            assert event["event_id"] not in self._ids
            self._ids.add(event["event_id"])
        track = kind.removeprefix("session.").removesuffix(".delta")
        if track in self._ends:
            self._see_track(track, event)
        elif kind == "error":
            assert event.get("client_event_id") == event["error"]["client_event_id"]
            self._asked.pop(event["error"]["client_event_id"] or "", None)
        elif kind in LIVE_ANSWERS.values():
            asked = next(iter(self._asked))
            assert event["client_event_id"] == asked and LIVE_ANSWERS[self._asked.pop(asked)] == kind
        else:
            assert kind in ("session.usage.updated", "session.closed"), kind
            assert event["usage"]["seconds"] >= self._seconds
            self._seconds = event["usage"]["seconds"]
            self._is_closed = kind == "session.closed"

    def end(self) -> None:
        """There are no more events."""
        assert self._is_closed and not self._asked, f"without an answer: {self._asked}"

    def _see_track(self, track: str, event: dict[str, Any]) -> None:
        start_ms, end_ms = event["start_ms"], event["end_ms"]
        assert event["delta"] and 0 <= start_ms <= end_ms
        if track == "input_transcript" or not self.has_spoken:
            assert start_ms >= self._ends[track] - 1, f"{track} goes back to {start_ms} ms"
        self._ends[track] = end_ms
        if track == "output_audio":
            num_bytes = len(base64.b64decode(event["delta"], validate=True))
            assert abs(num_bytes / 48 - (end_ms - start_ms)) <= 1
