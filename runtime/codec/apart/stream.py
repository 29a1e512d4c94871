"""An utterance whose chunks are computed in other processes.

Everything about it is here: its units, and as bytes what the next chunk continues. So any process can compute
any chunk, and one that dies takes nothing along: the chunk is computed again, from the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from antiphon.codec.apart.packing import Packer
from antiphon.codec.arrays import unit_array
from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.flow.stream import FlowStream
from antiphon.codec.voices import Voice
from antiphon.config import StreamSchedule
from antiphon.errors import InvalidRequest

__all__ = ["NOT_SENT", "StreamApart", "packed_voice"]

NOT_SENT = frozenset({"params", "voice", "seed", "schedule", "hift", "vocoder", "phase"})
"""Of the state of a `FlowStream` and a vocoder's stream: what the other end has, or makes, itself."""
CPU = torch.device("cpu")


class StreamApart:
    """As `SpeechStream`, but `VocoderProcess.advance` computes it."""

    def __init__(self, params: FlowParams, voice: Voice, seed: int, schedule: StreamSchedule) -> None:
        self.flow = FlowStream(params, voice, seed, schedule)
        """In place of its tensors are their places in `_data`."""
        self._hift: dict[str, Any] | None = None
        self._data = b""
        self._voice, self._voice_data = packed_voice(voice)
        self._is_last_made = False
        self.is_done = False
        """Whether every sample is out."""

    def add(self, units: Any = (), *, final: bool = False) -> None:
        """More units; see `SpeechStream.push`."""
        if self.flow.is_complete:
            raise InvalidRequest("units: the stream has ended; its last units were pushed with final=True")
        vocab_size = self.flow.params.vocab_size
        new = [] if len(units) == 0 else unit_array("units", units, vocab_size).tolist()
        self.flow.add(new, complete=final)

    @property
    def ready(self) -> bool:
        """Whether there is something to compute."""
        return self.flow.ready_units() > 0 or (self.flow.is_done and not self._is_last_made)

    @property
    def ready_frames(self) -> int:
        """How many mel frames the next chunk computes."""
        return self.flow.ready_frames()

    def row(self) -> tuple[dict[str, Any], bytes]:
        """What its next chunk is computed from."""
        flow = {name: value for name, value in self.flow.state().items() if name not in NOT_SENT}
        row = {
            "seed": self.flow.seed,
            "schedule": asdict(self.flow.schedule),
            "voice": self._voice,
            "voice_bytes": len(self._voice_data),
            "flow": flow,
            "hift": self._hift,
            "state_bytes": len(self._data),
        }
        return row, self._voice_data + self._data

    def take(self, row: dict[str, Any], data: bytes) -> None:
        """A chunk has been computed, and this is what the next one continues."""
        self.flow.restore(row["flow"])
        self._hift, self._data = row["hift"], data
        self._is_last_made, self.is_done = row["is_last_made"], row["is_done"]

    def state(self) -> dict[str, Any]:
        """The state, for `restore`."""
        return {**self.__dict__, "flow": self.flow.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Return to the state that `state` gave."""
        flow = self.flow
        self.__dict__.update(state)
        self.flow = flow
        flow.restore(state["flow"])


def packed_voice(voice: Voice) -> tuple[dict[str, Any], bytes]:
    """A voice as JSON and bytes."""
    packer = Packer()
    own = voice.to(CPU)
    parts = packer.put(
        {"embedding": own.embedding, "prompt_units": own.prompt_units, "prompt_mel": own.prompt_mel}
    )
    return parts, packer.data()
