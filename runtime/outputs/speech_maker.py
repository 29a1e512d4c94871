"""Where speech is made: in the thread that asks for it, or in processes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from antiphon.codec.batches import Ladder
from antiphon.codec.stream import Stream, advance
from antiphon.config import StreamSchedule
from antiphon.sound.arrays import AudioArray

if TYPE_CHECKING:
    from antiphon.codec import Codec
    from antiphon.codec.voices import Voice

__all__ = ["InThread", "Lane", "Maker", "MakerApart"]


class Lane(Protocol):
    """What one thread at a time makes speech with. Its methods raise Stopped where nobody wants the speech
    any more, and VocoderDied if it takes its end; nothing is lost then."""

    def advance(self, streams: Sequence[Any]) -> list[AudioArray]:
        """One chunk of each of these streams, as one batch."""
        ...

    def decode(
        self, units: Sequence[Sequence[int]], voices: Sequence[Voice], seeds: Sequence[int]
    ) -> list[AudioArray]:
        """The whole speech of each of these utterances."""
        ...


class Maker(Protocol):
    """All of the lanes."""

    @property
    def num_lanes(self) -> int:
        """How many there are."""
        ...

    @property
    def ladder(self) -> Ladder | None:
        """The sizes that batches of streams have; None: any."""
        ...

    @property
    def max_batch_frames(self) -> int:
        """Mel frames in a batch."""
        ...

    @property
    def failure(self) -> str | None:
        """Why there will be no lane; None while there may be one."""
        ...

    def stream(self, voice: Voice, seed: int, schedule: StreamSchedule) -> Stream:
        """An utterance that is spoken while its units come."""
        ...

    def lane(self) -> Any:
        """A lane, until `release`; None: none is free."""
        ...

    def release(self, lane: Any) -> None:
        """Others may have it now."""
        ...

    def stop(self) -> None:
        """Let go of the lanes. Takes no lock, and waits for nothing."""
        ...

    def close(self) -> None:
        """`stop`, and wait for it."""
        ...


class MakerApart(Maker, Protocol):
    """Lanes in processes that start, and may end, by themselves."""

    @property
    def num_rows(self) -> Sequence[int | None]:
        """Of each: the requests whose speech it is making; None while it is being loaded."""
        ...

    @property
    def num_restarts(self) -> int:
        """Processes that were started in place of others."""
        ...

    def wait_ready(self) -> None:
        """Wait until all are loaded. If one cannot be, closes all and raises CheckpointError, ConfigError or
        EngineDead."""
        ...


class InThread:
    """The codec itself, in the threads that ask for speech."""

    failure = None

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.num_lanes = codec.num_workers

    @property
    def ladder(self) -> Ladder | None:
        return self.codec.decoder.ladder

    @property
    def max_batch_frames(self) -> int:
        return self.codec.max_batch_frames

    def stream(self, voice: Voice, seed: int, schedule: StreamSchedule) -> Stream:
        return self.codec.stream(voice, seed, schedule)

    def lane(self) -> InThread:
        return self

    def release(self, lane: InThread) -> None:
        """Any number of threads may have it."""

    def advance(self, streams: Sequence[Any]) -> list[AudioArray]:
        return advance(streams)

    def decode(
        self, units: Sequence[Sequence[int]], voices: Sequence[Voice], seeds: Sequence[int]
    ) -> list[AudioArray]:
        return self.codec.decode(units, voices, seeds)

    def stop(self) -> None:
        """Its threads are not its own."""

    def close(self) -> None:
        """It has nothing of its own."""
