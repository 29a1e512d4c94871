"""A client's sound as samples, and samples as a client's sound."""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass
from typing import Literal

import numpy as np

from antiphon.inputs.base64_text import decode_base64
from antiphon.server.audio_output import PCM_RATE_HZ
from antiphon.server.errors import ApiError
from antiphon.server.realtime import g711
from antiphon.sound.arrays import AudioArray
from antiphon.sound.resample import StreamingResampler

__all__ = ["SoundFormat", "SoundReader", "SoundWriter", "read_base64"]

LARGE_CHARS = 64 << 10
"""Base64 from this length on is decoded in a thread."""
LARGE_SAMPLES = 12_000
"""Sound from this length on is encoded in a thread."""


@dataclass(frozen=True)
class SoundFormat:
    """How a client's sound is written."""

    kind: Literal["pcm", "ulaw", "alaw"] = "pcm"
    rate_hz: int = PCM_RATE_HZ

    @property
    def sample_bytes(self) -> int:
        return 2 if self.kind == "pcm" else 1


class SoundReader:
    """Makes samples of a stream of bytes, whose pieces may end inside a sample."""

    def __init__(self, form: SoundFormat) -> None:
        self.form = form
        self._rest = b""

    def push(self, data: bytes) -> AudioArray:
        """float32 (n,) in [-1, 1]."""
        data = self._rest + data
        end = len(data) // self.form.sample_bytes * self.form.sample_bytes
        self._rest = data[end:]
        if self.form.kind == "pcm":
            samples = np.frombuffer(data[:end], "<i2").astype(np.int16)
        else:
            samples = g711.decode(np.frombuffer(data, np.uint8), self.form.kind)
        return samples.astype(np.float32) / 32768.0


class SoundWriter:
    """Makes base64 of samples that come in pieces."""

    def __init__(self, form: SoundFormat, rate_hz: int) -> None:
        """rate_hz: of the samples."""
        self._form = form
        self._resampler = StreamingResampler(rate_hz, form.rate_hz)
        self._num_samples = 0

    @property
    def end_ms(self) -> int:
        """How long the sound is so far."""
        return round(1000 * self._num_samples / self._form.rate_hz)

    async def push(self, samples: AudioArray) -> str:
        """Takes float32 (n,). Returns the base64 of what is ready."""
        if len(samples) < LARGE_SAMPLES:
            return self._encoded(self._resampler.push(samples))
        return await asyncio.to_thread(lambda: self._encoded(self._resampler.push(samples)))

    def finish(self) -> str:
        """The rest. Nothing may be pushed after this."""
        return self._encoded(self._resampler.finish())

    def _encoded(self, samples: AudioArray) -> str:
        self._num_samples += len(samples)
        whole = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
        if self._form.kind == "pcm":
            data = whole.astype("<i2").tobytes()
        else:
            data = g711.encode(whole, self._form.kind).tobytes()
        return base64.b64encode(data).decode()


async def read_base64(text: str, place: str) -> bytes:
    """What a field holds. ApiError, naming its place, for what is not base64."""
    try:
        if len(text) < LARGE_CHARS:
            return base64.b64decode(text, validate=True)
        return await asyncio.to_thread(decode_base64, text)
    except (binascii.Error, ValueError) as error:
        message = f"{place}: expected sound in base64, got something else"
        raise ApiError(400, message, param=place, code="invalid_value") from error
