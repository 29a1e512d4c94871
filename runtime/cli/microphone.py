"""The microphone: sound as it is recorded."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from antiphon.cli.sound_card import find_device, open_stream, start_stream

if TYPE_CHECKING:
    from antiphon.sound.arrays import AudioArray

__all__ = ["Microphone"]

RATE_HZ = 16000
"""What the codec hears at; a device that does not have it records at its own rate."""


class Microphone:
    """One input device, open from construction until `close`. Raises ConfigError if there is none."""

    def __init__(self, wanted: str | None = None) -> None:
        """wanted: number or name of the device; None: the default."""
        self._take: Callable[[AudioArray], None] = lambda samples: None
        self._stream = open_stream("input", find_device("input", wanted), RATE_HZ, self._record)
        self.rate_hz = int(self._stream.samplerate)
        self._is_closed = False

    def __enter__(self) -> Microphone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """False before `start`, and once the device is gone."""
        return bool(self._stream.active)

    def start(self, take: Callable[[AudioArray], None]) -> None:
        """Record; take: gets mono float32 (n,), in a thread of PortAudio's. Raises ConfigError."""
        self._take = take
        start_stream(self._stream)

    def close(self) -> None:
        if not self._is_closed:  # PortAudio frees the stream
            self._is_closed = True
            self._stream.close()

    def _record(self, samples: Any, num_frames: int, time: Any, status: Any) -> None:
        self._take(samples.mean(axis=1))  # a copy: PortAudio fills the same memory again
