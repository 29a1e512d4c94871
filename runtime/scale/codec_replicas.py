"""The codec's replicas, as an engine sees them: places where speech is made."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from antiphon.codec import Codec
from antiphon.codec.apart import Asking, StreamApart, VocoderDied
from antiphon.codec.batches import Ladder
from antiphon.codec.stopping import stop_point
from antiphon.codec.voices import Voice
from antiphon.config import StreamSchedule
from antiphon.errors import EngineDead
from antiphon.plain import told

__all__ = ["CodecReplicas"]

LOOK_UP_S = 0.05
"""How often whoever waits for an answer checks whether it is still wanted."""
READY_S = 600.0
"""How long the first replica may take to load."""


class _Call(Asking):
    """A place in which one batch at a time is made, by whichever replica Serve chooses."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.is_taken = False
        self.num_rows = 0
        """Requests whose speech is being made."""

    def ask(self, what: str, rows: Sequence[tuple[dict[str, Any], bytes]]) -> tuple[dict[str, Any], bytes]:
        self.num_rows = len(rows)
        try:
            data = b"".join(own for _, own in rows)
            answer, made = self._await(self._handle.answer.remote({what: [row for row, _ in rows]}, data))
        finally:
            self.num_rows = 0
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        return answer, made

    def _await(self, response: Any) -> tuple[dict[str, Any], bytes]:
        from ray.exceptions import RayActorError

        while True:
            try:
                answer, made = response.result(timeout_s=LOOK_UP_S)
            except TimeoutError:
                try:
                    stop_point()
                except BaseException:
                    response.cancel()
                    raise
            except RayActorError as error:
                raise VocoderDied(f"its replica has ended: {told(error)}") from error
            else:
                return answer, made


class CodecReplicas:
    """Lanes to the replicas of a codec's deployment. Serve starts them, and others in place of those that
    end; a request waits while there is none."""

    failure = None
    num_restarts = 0
    """Those are Serve's."""

    def __init__(self, codec: Codec, handle: Any, num_lanes: int) -> None:
        """codec: the same in this process, without networks. handle: of the deployment. num_lanes: batches
        that are under way at a time."""
        self._codec = codec
        self._handle = handle
        self._calls = [_Call(handle) for _ in range(num_lanes)]
        self._lock = threading.Lock()
        self.ladder: Ladder | None = None
        self.max_batch_frames = 0

    @property
    def num_lanes(self) -> int:
        return len(self._calls)

    @property
    def num_rows(self) -> list[int]:
        return [call.num_rows for call in self._calls]

    def wait_ready(self) -> None:
        """Wait until a replica is loaded. Raises EngineDead if none can be."""
        try:
            about = self._handle.about.remote().result(timeout_s=READY_S)
        except Exception as error:  # whatever Serve raises
            raise EngineDead(f"the codec's replicas cannot be started: {told(error)}") from error
        self.max_batch_frames = about["max_batch_frames"]
        if (ladder := about["ladder"]) is not None:
            self.ladder = Ladder(tuple(ladder["rows"]), tuple(ladder["frames"]))

    def stream(self, voice: Voice, seed: int, schedule: StreamSchedule) -> StreamApart:
        """An utterance that they will speak."""
        return StreamApart(self._codec.params.flow, voice, seed, schedule)

    def lane(self) -> _Call | None:
        """A place, until `release`; None: all are taken."""
        with self._lock:
            for call in self._calls:
                if not call.is_taken:
                    call.is_taken = True
                    return call
        return None

    def release(self, lane: _Call) -> None:
        """Others may have it now."""
        lane.is_taken = False

    def stop(self) -> None:
        """The replicas are Serve's."""

    def close(self) -> None:
        """It has nothing of its own."""
