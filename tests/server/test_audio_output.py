"""Speech to the bytes of files, read back as a client would."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from antiphon.codec import read_audio
from antiphon.server import audio_output
from antiphon.server.audio_output import FORMATS, AudioEncoder, Blocks, encode_speech, media_type
from antiphon.server.errors import ApiError
from antiphon.sound.resample import resample

RATE_HZ = 22_050
LOSSLESS = ("wav", "flac", "pcm16", "pcm")
MAX_PADDING_S = 0.15
"""What the frames of a compressed format may add."""


def tune(seconds: float = 2.0, rate_hz: int = RATE_HZ) -> Any:
    """A gliding tone, like a voice: no part of it resembles another."""
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    swell = 0.3 + 0.2 * np.sin(2 * np.pi * 1.3 * time)
    return (swell * np.sin(2 * np.pi * (200 * time + 150 * time**2))).astype(np.float32)


def streamed(samples: Any, audio_format: str, rate_hz: int = RATE_HZ, piece: int = 4410) -> list[bytes]:
    encoder = AudioEncoder(audio_format, rate_hz)
    pieces = [encoder.push(samples[start : start + piece]) for start in range(0, len(samples), piece)]
    return [*pieces, encoder.finish()]


def decoded(data: bytes, audio_format: str) -> tuple[Any, int]:
    if audio_format.startswith("pcm"):
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768, 24_000
    return read_audio(data)


def likeness(heard: Any, meant: Any) -> float:
    """The highest correlation of the two at any shift."""
    length = len(heard) + len(meant)
    spectrum = np.fft.rfft(heard, length) * np.conj(np.fft.rfft(meant, length))
    return float(np.fft.irfft(spectrum, length).max() / np.linalg.norm(heard) / np.linalg.norm(meant))


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("audio_format", FORMATS)
def test_what_was_said_is_in_the_file(audio_format: str, is_streamed: bool) -> None:
    samples = tune()
    if is_streamed:
        data = b"".join(streamed(samples, audio_format))
    else:
        data = encode_speech(samples, RATE_HZ, audio_format)
    heard, rate_hz = decoded(data, audio_format)
    meant = resample(samples, RATE_HZ, rate_hz)
    assert likeness(heard, meant) > (0.9999 if audio_format in LOSSLESS else 0.98)
    if audio_format in LOSSLESS:
        assert len(heard) == len(meant)
        np.testing.assert_allclose(heard, meant, atol=1e-4)
    else:
        assert 0 <= len(heard) / rate_hz - 2.0 < MAX_PADDING_S
    assert media_type(audio_format).startswith("audio/")


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_player_does_not_wait_for_the_end(audio_format: str) -> None:
    """Three quarters of the bytes are there when three quarters of the speech are, give or take half a
    second, and something is there after the first half second."""
    pieces = streamed(tune(4.0), audio_format, piece=RATE_HZ // 2)
    early = sum(map(len, pieces[:6]))
    assert early >= 0.6 * sum(map(len, pieces))
    assert pieces[0]


@pytest.mark.parametrize("audio_format", LOSSLESS)
def test_the_pieces_do_not_matter(audio_format: str) -> None:
    samples = tune(0.5)
    expected = decoded(b"".join(streamed(samples, audio_format, piece=len(samples))), audio_format)[0]
    for piece in (1000, 4097):
        heard, _ = decoded(b"".join(streamed(samples, audio_format, piece=piece)), audio_format)
        np.testing.assert_array_equal(heard, expected)


def test_the_header_of_a_wav_file_tells_its_size_if_it_is_known() -> None:
    samples = tune(0.1)
    whole = encode_speech(samples, RATE_HZ, "wav")
    assert struct.unpack_from("<I", whole, 4)[0] == len(whole) - 8
    assert struct.unpack_from("<I", whole, 40)[0] == len(whole) - 44 == 2 * len(samples)
    pieces = streamed(samples, "wav", piece=1000)
    assert pieces[0][:4] == b"RIFF" and b"RIFF" not in b"".join(pieces[1:])
    assert pieces[0][4:8] == pieces[0][40:44] == b"\xff\xff\xff\xff"
    assert b"".join(pieces)[44:] == whole[44:]


@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 44_100, 12_345])
@pytest.mark.parametrize("audio_format", FORMATS)
def test_every_rate_is_taken(audio_format: str, rate_hz: int) -> None:
    encoder = AudioEncoder(audio_format, rate_hz)
    samples = tune(1.0, rate_hz)
    heard, heard_hz = decoded(encoder.push(samples) + encoder.finish(), audio_format)
    assert abs(len(heard) / heard_hz - 1.0) < MAX_PADDING_S
    assert likeness(heard, resample(samples, rate_hz, heard_hz)) > 0.95
    if audio_format != "opus":  # is always read at 48 kHz
        assert heard_hz == encoder.rate_hz


@pytest.mark.parametrize("audio_format", FORMATS)
def test_silence_loudness_and_nothing(audio_format: str) -> None:
    for samples in (np.zeros(8000, np.float32), np.full(8000, 3.0, np.float32)):
        heard, _ = decoded(encode_speech(samples, RATE_HZ, audio_format), audio_format)
        assert len(heard) >= 8000 and np.isfinite(heard).all()
    empty = np.zeros(0, np.float32)
    for data in (encode_speech(empty, RATE_HZ, audio_format), b"".join(streamed(empty, audio_format))):
        assert len(data) < 10_000  # a FLAC file has padding for tags


@pytest.mark.parametrize("size", [3, 6])
def test_blocks_join_to_what_went_in(size: int) -> None:
    data = bytes(range(256))
    for step in (1, 2, 5, 100, 300):
        blocks = Blocks(size)
        pieces = [blocks.push(data[start : start + step]) for start in range(0, len(data), step)]
        assert all(len(piece) % size == 0 for piece in pieces)
        assert b"".join([*pieces, blocks.finish()]) == data
        assert blocks.finish() == b""


def test_other_formats_are_refused_by_the_fields_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ApiError, match=r"audio\.format: expected one of wav, .*, got 'midi'") as refused:
        AudioEncoder("midi", RATE_HZ, param="audio.format")
    assert (refused.value.status, refused.value.param) == (400, "audio.format")
    monkeypatch.setattr(audio_output, "_has_ffmpeg", lambda: False)
    with pytest.raises(ApiError, match=r"mp3 needs PyAV on the server: pip install 'antiphon\[audio\]'"):
        encode_speech(tune(0.1), RATE_HZ, "mp3")
    for audio_format in ("wav", "pcm16", "pcm"):
        assert encode_speech(tune(0.1), RATE_HZ, audio_format)
