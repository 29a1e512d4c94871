"""When a server of the realtime protocol says that turns end in a recording."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from antiphon.bench.turns import PIECE_S
from antiphon.errors import AntiphonError
from antiphon.evaluation.answer import Answer
from antiphon.evaluation.cases import Case
from antiphon.evaluation.extras import needed
from antiphon.evaluation.options import Options
from antiphon.sound.reading import read_audio
from antiphon.sound.resample import resample

__all__ = ["turns_over"]

RATES_HZ = (16000, 24000)
"""That the protocol takes; the last is its own."""
SCALE = 32768
TIMEOUT_S = 60.0
QUERY = "intent=transcription&antiphon=1"
"""Nobody replies, and `speech_stopped` says when a turn was taken to be over."""


def turns_over(base_url: str, api_key: str | None, case: Case, options: Options) -> Answer:
    """A case of "duplex", in a session of its own. base_url: with its /v1.

    For "server_vad", ends are counted in audio time, so the recording is sent as fast as it is heard. For
    "semantic_vad", a turn ends when the model has read enough of it: it is sent as it would be spoken.
    """
    client: Any = needed("websockets.sync.client", "duplex --server")
    broken: type[Exception] = needed("websockets.exceptions", "duplex --server").WebSocketException
    address = urlunsplit(urlsplit(f"{base_url}/realtime?{QUERY}")._replace(scheme=_scheme(base_url)))
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    samples, rate_hz = read_audio(case.audio)
    if rate_hz not in RATES_HZ:
        samples, rate_hz = resample(samples, rate_hz, RATES_HZ[-1]), RATES_HZ[-1]
    try:
        with client.connect(address, additional_headers=headers, max_size=None) as connection:
            session = _Session(connection, case)
            session.begin(options, rate_hz)
            session.hear(np.asarray(samples), rate_hz, keeps_pace=options.detection == "semantic_vad")
    except broken as error:
        raise AntiphonError(f"{type(error).__name__}: {error}") from error
    return Answer(ends_s=tuple(session.ends_s))


def _scheme(base_url: str) -> str:
    return "wss" if base_url.startswith("https:") else "ws"


class _Session:
    def __init__(self, connection: Any, case: Case) -> None:
        self.ends_s: list[float] = []
        self._connection = connection
        self._case = case

    def begin(self, options: Options, rate_hz: int) -> None:
        detection: dict[str, Any] = {"type": options.detection}
        if options.detection == "server_vad":
            detection["silence_duration_ms"] = options.silence_ms
        sound = {"format": {"type": "audio/pcm", "rate": rate_hz}, "turn_detection": detection}
        self._send("session.update", session={"type": "transcription", "audio": {"input": sound}})
        self._until("session.updated")

    def hear(self, samples: np.ndarray[Any, Any], rate_hz: int, *, keeps_pace: bool) -> None:
        """Up to the first turn that ends after the last word."""
        data = np.clip(np.round(samples * SCALE), -SCALE, SCALE - 1).astype("<i2")
        piece, begun = round(PIECE_S * rate_hz), time.monotonic()
        for start in range(0, len(data), piece):
            sound = base64.b64encode(data[start : start + piece].tobytes()).decode("ascii")
            self._send("input_audio_buffer.append", audio=sound)
            due = begun + (start + piece) / rate_hz if keeps_pace else 0.0
            if self._read_until(due):
                return
        # What is told of the sound comes before the answer to this.
        self._send("input_audio_buffer.clear")
        self._until("input_audio_buffer.cleared")

    @property
    def _is_over(self) -> bool:
        assert self._case.speech_end_s is not None
        return bool(self.ends_s) and self.ends_s[-1] >= self._case.speech_end_s

    def _send(self, kind: str, **fields: Any) -> None:
        self._connection.send(json.dumps({"type": kind, **fields}))

    def _read_until(self, due: float) -> bool:
        """All that has come, and what comes until then. Returns whether the turn is over."""
        while not self._is_over:
            try:
                self._take(self._connection.recv(timeout=max(0.0, due - time.monotonic())))
            except TimeoutError:
                return False
        return True

    def _until(self, kind: str) -> None:
        while not self._is_over and self._take(self._connection.recv(timeout=TIMEOUT_S)) != kind:
            pass

    def _take(self, text: str) -> str:
        """An event's type."""
        event = json.loads(text)
        kind = str(event["type"])
        if kind == "error":
            raise AntiphonError(str(event["error"]["message"]))
        if kind == "input_audio_buffer.speech_stopped":
            if "delay_ms" not in event:
                raise AntiphonError(f"expected delay_ms in {kind}, as `antiphon serve` tells it, found none")
            self.ends_s.append((event["audio_end_ms"] + event["delay_ms"]) / 1000)
        return kind
