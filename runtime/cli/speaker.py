"""The loudspeaker: plays replies while they are made, and knows how much of them has been heard."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from antiphon.cli.sound_card import find_device, open_stream, start_stream
from antiphon.errors import AntiphonError

if TYPE_CHECKING:
    from antiphon.sound.arrays import AudioArray
    from antiphon.sound.resample import StreamingResampler

__all__ = ["GONE", "Speaker"]

GONE = "the loudspeaker is gone"
LOOK_S = 0.02


class Speaker:
    """One output device, open from construction until `close`. It plays one reply at a time, at the device's
    own rate. Raises ConfigError if there is none.

    The methods may be called from any thread.
    """

    def __init__(self, wanted: str | None = None) -> None:
        """wanted: number or name of the device; None: the default."""
        self._lock = threading.Lock()
        self._is_closed = False
        self._resampler: StreamingResampler | None = None
        self._pieces: deque[AudioArray] = deque()
        self._num_given = 0
        """Samples of the reply that the device has taken."""
        self._heard_at_s = 0.0
        """When the last of them will have been heard, on the clock of `time.monotonic`."""
        device = find_device("output", wanted)
        self._stream = open_stream("output", device, device.rate_hz, self._fill)
        self._rate_hz = int(self._stream.samplerate)
        start_stream(self._stream)  # now, with silence: some devices take a second until they sound

    def __enter__(self) -> Speaker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if not self._is_closed:  # PortAudio frees the stream
            self._is_closed = True
            self._stream.close()

    @property
    def is_gone(self) -> bool:
        """Whether the device has stopped by itself."""
        return not self._stream.active

    @property
    def is_playing(self) -> bool:
        return not self.is_silent(0.0)

    def is_silent(self, since_s: float) -> bool:
        """Whether it has been silent for this long."""
        with self._lock:
            return not self._pieces and time.monotonic() >= self._heard_at_s + since_s

    @property
    def heard_s(self) -> float:
        """How much of the reply has been heard."""
        with self._lock:
            ahead_s = max(0.0, self._heard_at_s - time.monotonic())
            return max(0.0, self._num_given / self._rate_hz - ahead_s)

    def begin(self) -> None:
        """Another reply follows, in place of what is left of the one before."""
        self.stop()
        with self._lock:
            self._num_given = 0

    def play(self, samples: AudioArray, rate_hz: int) -> None:
        """More of the reply: mono float32 (n,)."""
        from antiphon.sound.resample import StreamingResampler

        if self._resampler is None:
            self._resampler = StreamingResampler(rate_hz, self._rate_hz)
        self._add(self._resampler.push(samples))

    def finish(self) -> None:
        """That was all of the reply."""
        resampler, self._resampler = self._resampler, None
        if resampler is not None:
            self._add(resampler.finish())

    def stop(self) -> float:
        """Drop what has not been played. Returns how much of the reply has been heard, in seconds."""
        self._resampler = None
        with self._lock:
            self._pieces.clear()
        return self.heard_s

    def wait(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Return when all has been heard; stop when it is over. Raises AntiphonError if the device goes."""
        while self.is_playing:
            if is_over():
                self.stop()
                return
            if self.is_gone:
                raise AntiphonError(GONE)
            time.sleep(LOOK_S)

    def _add(self, samples: AudioArray) -> None:
        if len(samples):
            with self._lock:
                self._pieces.append(samples)

    def _fill(self, out: Any, num_frames: int, timing: Any, status: Any) -> None:
        """Called by PortAudio in a thread of its own. out: float32 (frames, channels), to be filled."""
        filled = 0
        with self._lock:
            while self._pieces and filled < num_frames:
                piece = self._pieces.popleft()
                taken = piece[: num_frames - filled]
                out[filled : filled + len(taken)] = taken[:, None]
                filled += len(taken)
                if len(taken) < len(piece):
                    self._pieces.appendleft(piece[len(taken) :])
            out[filled:] = 0.0
            if filled:
                self._num_given += filled
                self._heard_at_s = time.monotonic() + self._stream.latency + filled / self._rate_hz
