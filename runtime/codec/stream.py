"""Speech while its units are still coming: units in, samples out, chunk by chunk.

Samples never change once they are out, and do not depend on how the units were pushed. There are 256 for each
mel frame of the utterance, the same number as if it were decoded whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from antiphon.codec.decoder import Decoder
from antiphon.codec.flow.stream import FlowStream
from antiphon.codec.voices import Voice
from antiphon.config import StreamSchedule
from antiphon.errors import InvalidRequest
from antiphon.process.at_exit import awaited_at_exit
from antiphon.process.ownership import OfOneProcess
from antiphon.sound.arrays import AudioArray

__all__ = ["SpeechStream", "Stream", "advance", "all_or_nothing"]


class SpeechStream(OfOneProcess):
    """One utterance being spoken; made by `Codec.stream`. Memory does not grow with its length.

    `push` decodes all chunks that are ready. To serve many streams, call `add` on each, and `advance` on
    those that are `ready`.
    """

    def __init__(self, decoder: Decoder, voice: Voice, seed: int, schedule: StreamSchedule) -> None:
        self.decoder = decoder
        self.flow = FlowStream(decoder.params.flow, voice, seed, schedule)
        self.hift = decoder.hift_stream(seed)

    def push(self, units: Any = (), final: bool = False) -> AudioArray:
        """Takes more units, as numbers from 0; returns the samples float32 (n,) that are now final, n >= 0.

        final: these are the last units, so the rest of the samples is returned. Raises InvalidRequest for
        units out of range and for any after the last; the stream goes on as if they had not been pushed.
        """
        self.add(units, final=final)
        pieces = []
        while self.ready:
            pieces += advance([self])
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def add(self, units: Any = (), *, final: bool = False) -> None:
        """`push` without decoding."""
        self.decoder.check_process()
        if self.flow.is_complete:
            raise InvalidRequest("units: the stream has ended; its last units were pushed with final=True")
        new = [] if len(units) == 0 else self.decoder.unit_array("units", units).tolist()
        self.flow.add(new, complete=final)

    @property
    def ready(self) -> bool:
        """Whether `advance` has something to do."""
        return self.flow.ready_units() > 0 or (self.flow.is_done and not self.hift.is_complete)

    @property
    def ready_frames(self) -> int:
        """How many mel frames the next chunk computes, those of its context and its voice included."""
        return self.flow.ready_frames()

    @property
    def is_done(self) -> bool:
        """Whether every sample is out."""
        return self.hift.is_complete and self.hift.num_emitted == self.hift.num_frames

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state, for `restore`: the flow's and the vocoder's."""
        return self.flow.state(), self.hift.state()

    def restore(self, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
        """Return to the state that `state` gave."""
        self.flow.restore(state[0])
        self.hift.restore(state[1])


class Stream(Protocol):
    """An utterance that is spoken while its units come, wherever its chunks are computed."""

    flow: FlowStream
    """Which units have come, and which chunks are left."""

    def add(self, units: Any = (), *, final: bool = False) -> None:
        """Take more units."""
        ...

    @property
    def ready(self) -> bool:
        """Whether there is something to compute."""
        ...

    @property
    def ready_frames(self) -> int:
        """How many mel frames the next chunk computes."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether every sample is out."""
        ...

    def state(self) -> Any:
        """The state, for `restore`."""
        ...

    def restore(self, state: Any) -> None:
        """Return to the state that `state` gave."""
        ...


@contextmanager
def all_or_nothing(streams: Sequence[Stream]) -> Iterator[None]:
    """If the block raises anything, these streams are restored to what they were before it."""
    before = [stream.state() for stream in streams]
    try:
        yield
    except BaseException:
        for stream, state in zip(streams, before, strict=True):
            stream.restore(state)
        raise


@awaited_at_exit
@torch.inference_mode()
def advance(streams: Sequence[SpeechStream]) -> list[AudioArray]:
    """One chunk of each of these streams of one codec, as one batch; samples float32 (n_i,), n_i >= 0.

    If it raises, no stream has lost anything, and each may be tried again by itself.
    """
    decoder = streams[0].decoder
    with all_or_nothing(streams), decoder.computing():
        chunked = [stream for stream in streams if stream.flow.ready_units()]
        chunks = decoder.chunks([stream.flow for stream in chunked])
        mels = decoder.flow.generate(chunks) if chunks else []
        for stream, mel in zip(chunked, mels, strict=True):
            stream.hift.add(stream.flow.take(mel))
        for stream in streams:
            stream.hift.is_complete = stream.flow.is_done
        return decoder.vocode_streams([stream.hift for stream in streams])
