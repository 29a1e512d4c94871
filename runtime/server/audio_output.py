"""Speech as clients want it: samples in, the bytes of an audio file or of raw samples out, whole or as they
come.

wav and pcm are written here; flac, mp3, opus and aac by ffmpeg, which PyAV brings. All of it computes: where
there is more than a chunk of speech, call it in a thread.
"""

from __future__ import annotations

import io
import struct
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from antiphon.server.errors import ApiError
from antiphon.sound.arrays import AudioArray
from antiphon.sound.resample import StreamingResampler

__all__ = ["FORMATS", "PCM_RATE_HZ", "AudioEncoder", "Blocks", "check_format", "encode_speech", "media_type"]

PCM_RATE_HZ = 24_000
"""What OpenAI's raw samples have: 16 bits, little-endian, mono."""
UNKNOWN_SIZE = 0xFFFFFFFF
"""The sizes in the header of a wav file whose end is still to come."""


@dataclass(frozen=True)
class _Format:
    media_type: str
    container: str = ""
    """ffmpeg's name of it; empty: written here."""
    codec: str = ""
    rates_hz: tuple[int, ...] = ()
    """The sample rates that it holds; others become PCM_RATE_HZ. Empty: every rate."""
    bit_rate: int | None = None
    options: tuple[tuple[str, str], ...] = ()


_RATES_HZ = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

_FORMATS = {
    "wav": _Format("audio/wav"),
    "pcm16": _Format("audio/pcm", rates_hz=(PCM_RATE_HZ,)),
    "pcm": _Format("audio/pcm", rates_hz=(PCM_RATE_HZ,)),
    "flac": _Format("audio/flac", "flac", "flac"),
    "mp3": _Format(
        "audio/mpeg", "mp3", "libmp3lame", (16_000, 22_050, 24_000, 32_000, 44_100, 48_000), 64_000
    ),
    # A page for every fifth of a second: a player need not wait for a whole one of a second.
    "opus": _Format("audio/ogg", "ogg", "libopus", (24_000, 48_000), 48_000, (("page_duration", "200000"),)),
    "aac": _Format("audio/aac", "adts", "aac", _RATES_HZ, 64_000),
}
FORMATS = tuple(_FORMATS)
"""The names that OpenAI has for them."""


def check_format(audio_format: str, param: str = "format") -> None:
    """ApiError 400 for a format that cannot be made. param: the field that names it."""
    if audio_format not in _FORMATS:
        raise ApiError(
            400,
            f"{param}: expected one of {', '.join(FORMATS)}, got {audio_format[:100]!a}",
            param=param,
            code="invalid_value",
        )
    if _FORMATS[audio_format].container and not _has_ffmpeg():
        raise ApiError(
            400,
            f"{param}: {audio_format} needs PyAV on the server: pip install 'antiphon[audio]'",
            param=param,
            code="unsupported_value",
        )


def media_type(audio_format: str) -> str:
    """The Content-Type of a format of `FORMATS`."""
    return _FORMATS[audio_format].media_type


class AudioEncoder:
    """Turns speech that comes in pieces into one audio file: what `push` and `finish` return, joined.

    A file that is streamed does not know its length: a wav header then holds sizes of 0xFFFFFFFF. Of one that
    is not, all bytes come from `finish`, and every header is exact.
    """

    def __init__(
        self, audio_format: str, rate_hz: int, *, is_streamed: bool = True, param: str = "format"
    ) -> None:
        """rate_hz: of the samples that will be pushed. Raises what `check_format` raises."""
        check_format(audio_format, param)
        form = _FORMATS[audio_format]
        is_held = not form.rates_hz or rate_hz in form.rates_hz
        self.rate_hz = rate_hz if is_held else PCM_RATE_HZ
        """Of the file."""
        self._resampler = StreamingResampler(rate_hz, self.rate_hz)
        self._writer: _Wav | _Raw | _Ffmpeg
        if form.container:
            self._writer = _Ffmpeg(form, self.rate_hz, is_streamed=is_streamed)
        elif audio_format == "wav":
            self._writer = _Wav(self.rate_hz, is_streamed=is_streamed)
        else:
            self._writer = _Raw(is_streamed=is_streamed)

    def push(self, samples: AudioArray) -> bytes:
        """Takes float32 (n,), clipped to [-1, 1], and returns the bytes that are ready."""
        return self._writer.push(self._resampler.push(samples))

    def finish(self) -> bytes:
        """The remaining bytes. Nothing may be pushed after this."""
        rest = self._writer.push(self._resampler.finish())
        return rest + self._writer.finish()


def encode_speech(samples: AudioArray, rate_hz: int, audio_format: str, param: str = "format") -> bytes:
    """float32 (n,) as a whole file. Raises what `check_format` raises."""
    encoder = AudioEncoder(audio_format, rate_hz, is_streamed=False, param=param)
    return encoder.push(samples) + encoder.finish()


class Blocks:
    """Cuts bytes that come in pieces into pieces of a multiple of `size` bytes, but for the last.

    Base64 of such pieces with a size of 3 can be joined as text.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._rest = b""

    def push(self, data: bytes) -> bytes:
        """As many of the bytes as fill blocks."""
        data = self._rest + data
        end = len(data) // self._size * self._size
        self._rest = data[end:]
        return data[:end]

    def finish(self) -> bytes:
        """What is left over."""
        rest, self._rest = self._rest, b""
        return rest


# --- writers ----------------------------------------------------------------------------------------


class _Raw:
    """16-bit samples, little-endian."""

    def __init__(self, *, is_streamed: bool) -> None:
        self._is_streamed = is_streamed
        self._held = bytearray()

    def push(self, samples: AudioArray) -> bytes:
        data = _int16(samples).astype("<i2").tobytes()
        if self._is_streamed:
            return data
        self._held += data
        return b""

    def finish(self) -> bytes:
        return bytes(self._held)


class _Wav(_Raw):
    """A RIFF file of 16-bit samples."""

    def __init__(self, rate_hz: int, *, is_streamed: bool) -> None:
        super().__init__(is_streamed=is_streamed)
        self._rate_hz = rate_hz
        self._has_begun = False

    def push(self, samples: AudioArray) -> bytes:
        return self._header_once() + super().push(samples)

    def finish(self) -> bytes:
        if self._is_streamed:
            return self._header_once()
        data = super().finish()
        return _wav_header(self._rate_hz, len(data)) + data

    def _header_once(self) -> bytes:
        if self._has_begun or not self._is_streamed:
            return b""
        self._has_begun = True
        return _wav_header(self._rate_hz, None)


def _wav_header(rate_hz: int, num_bytes: int | None) -> bytes:
    """num_bytes: of the samples; None: not known."""
    riff, data = (UNKNOWN_SIZE, UNKNOWN_SIZE) if num_bytes is None else (36 + num_bytes, num_bytes)
    layout = struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    return b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + layout + b"data" + struct.pack("<I", data)


class _Pipe:
    """Where ffmpeg writes a file whose beginning has been sent: it cannot go back."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


class _Ffmpeg:
    def __init__(self, form: _Format, rate_hz: int, *, is_streamed: bool) -> None:
        import av

        self._rate_hz = rate_hz
        self._num_samples = 0
        self._pipe = _Pipe() if is_streamed else None
        self._whole = io.BytesIO()
        options = dict(form.options)
        if is_streamed:
            options |= {"flush_packets": "1"}
            if form.container == "mp3":
                options["write_xing"] = "0"  # a frame at the beginning that tells the length
        sink: Any = self._pipe or self._whole
        self._container = av.open(sink, "w", format=form.container, options=options)
        self._stream = cast(Any, self._container.add_stream(form.codec, rate=rate_hz, layout="mono"))
        if form.bit_rate is not None:
            self._stream.bit_rate = form.bit_rate

    def push(self, samples: AudioArray) -> bytes:
        import av

        if len(samples):
            frame = av.AudioFrame.from_ndarray(_int16(samples)[None], format="s16", layout="mono")
            frame.sample_rate = self._rate_hz
            frame.pts = self._num_samples
            self._num_samples += len(samples)
            self._container.mux(self._stream.encode(frame))
        return b"" if self._pipe is None else self._pipe.take()

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._whole.getvalue() if self._pipe is None else self._pipe.take()


def _int16(samples: AudioArray) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)


def _has_ffmpeg() -> bool:
    from antiphon.sound.ffmpeg import is_there

    return is_there()
