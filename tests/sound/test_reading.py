from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.sound.reading import mono_samples, read_audio

RATE_HZ = 16000


def tone(seconds: float = 0.5, rate_hz: int = RATE_HZ) -> np.ndarray[Any, Any]:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def encoded(
    samples: np.ndarray[Any, Any], kind: str, subtype: str | None = None, rate_hz: int = RATE_HZ
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "FLOAT", 0),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", None),
        ("OGG", "OPUS", None),
        ("MP3", "MPEG_LAYER_III", None),
    ],
)
def test_every_format_from_bytes_and_path(
    tmp_path: Path, kind: str, subtype: str, tolerance: float | None
) -> None:
    data = encoded(tone(), kind, subtype)
    path = tmp_path / f"tone.{kind.lower()}"
    path.write_bytes(data)
    for source in (data, bytearray(data), memoryview(data), path, str(path)):
        samples, rate_hz = read_audio(source)
        assert (rate_hz, samples.dtype.name, samples.ndim) == (RATE_HZ, "float32", 1)
        if tolerance is not None:
            np.testing.assert_allclose(samples, tone(), rtol=0, atol=tolerance)
        else:
            spectrum = abs(np.fft.rfft(samples[: RATE_HZ // 4] * np.hanning(RATE_HZ // 4)))
            assert abs(int(spectrum.argmax()) * 4 - 440) <= 4
            assert abs(len(samples) - RATE_HZ / 2) < 2500


def test_stereo_is_averaged() -> None:
    stereo = np.stack([tone(), -0.5 * tone()], axis=1)
    np.testing.assert_allclose(read_audio(encoded(stereo, "WAV", "FLOAT"))[0], tone() / 4, atol=1e-7)
    np.testing.assert_allclose(read_audio((stereo, 8000))[0], tone() / 4, atol=1e-7)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0.5, -1.0], np.float64), [0.5, -1]),
        (np.array([0.5, -1.0], np.float16), [0.5, -1]),
        (np.array([16384, -32768], np.int16), [0.5, -1]),
        (np.array([2**30, -(2**31)], np.int32), [0.5, -1]),
        (np.array([192, 0, 128], np.uint8), [0.5, -1, 0]),
        (np.array([[16384, 0], [-32768, 0]], np.int16), [0.25, -0.5]),
        (torch.tensor([0.5, -1.0]), [0.5, -1]),
        ([0.5, -1.0], [0.5, -1]),
    ],
)
def test_arrays(samples: Any, expected: list[float]) -> None:
    found, rate_hz = read_audio((samples, 22050))
    assert (rate_hz, found.dtype.name) == (22050, "float32")
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "message"),
    [
        (np.zeros(0, np.float32), 16000, "at least one sample"),
        (np.zeros((0, 2), np.float32), 16000, "at least one sample"),
        (np.zeros((5, 0), np.float32), 16000, r"got \(5, 0\)"),
        (np.zeros((33, 16000), np.float32), 16000, r"got \(33, 16000\)"),
        (np.zeros((1, 2, 3), np.float32), 16000, r"got \(1, 2, 3\)"),
        (np.float32(0), 16000, r"got \(\)"),
        (np.zeros(5, np.int64), 16000, "got int64"),
        (np.zeros(5, bool), 16000, "got bool"),
        (np.zeros(5, complex), 16000, "got complex128"),
        (["a", "b"], 16000, "got <U1"),
        ([[1.0], [1.0, 2.0]], 16000, "expected an array, got list"),
        (np.array([0, np.nan], np.float32), 16000, "NaN or infinity"),
        (np.array([0, np.inf], np.float32), 16000, "NaN or infinity"),
        (np.array([1e300]), 16000, "NaN or infinity"),
        (np.zeros(5, np.float32), 0, "1 to 192000 Hz as an integer, got 0"),
        (np.zeros(5, np.float32), -8000, "got -8000"),
        (np.zeros(5, np.float32), 16000.5, "got 16000.5"),
        (np.zeros(5, np.float32), True, "got True"),
        (np.zeros(5, np.float32), "16000", "got '16000'"),
        (np.zeros(5, np.float32), 10**9, "got 1000000000"),
    ],
)
def test_bad_arrays_are_refused(samples: Any, rate_hz: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_audio((samples, rate_hz))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "got nothing"),
        (b"RIFF", "expected wav, flac, ogg or mp3"),
        (b"\x00" * 4096, "expected wav, flac, ogg or mp3"),
        (np.random.default_rng(0).bytes(5000), "expected wav, flac, ogg or mp3"),
        ("no/such/file.wav", "no such file: no/such/file.wav"),
        ("bad\0name.wav", "no such file"),
        (".", "no such file"),
        (None, "got NoneType"),
        (5, "got int"),
        ((np.zeros(5),), "a tuple of 1"),
        (np.zeros(5), "got ndarray"),
    ],
)
def test_bad_sources_are_refused(source: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_audio(source)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_file_without_samples_is_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest):
        read_audio(encoded(np.zeros(0, np.float32), kind))


def test_nan_in_a_file_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="NaN or infinity"):
        read_audio(encoded(np.array([0, np.nan], np.float32), "WAV", "FLOAT"))


def test_flac_that_breaks_off_is_refused_or_short() -> None:
    data = encoded(np.random.default_rng(0).normal(0, 0.1, 40000), "FLAC")
    try:
        samples, _ = read_audio(data[: len(data) // 2])
    except InvalidRequest:
        return
    assert 0 < len(samples) < 40000


def test_limits(tmp_path: Path) -> None:
    data = encoded(tone(2.0), "WAV", "PCM_16")
    path = tmp_path / "tone.wav"
    path.write_bytes(data)
    limits = InputLimits(max_audio_s=1.5)
    for source in (data, path, (tone(2.0), RATE_HZ)):
        with pytest.raises(InvalidRequest, match=r"at most 1\.5 s, got 2\.0 s"):
            read_audio(source, limits)
        assert len(read_audio(source, InputLimits(max_audio_s=2.0))[0]) == 2 * RATE_HZ
    for source in (data, path):
        with pytest.raises(InvalidRequest, match="at most 1000 bytes, got 64044"):
            read_audio(source, InputLimits(max_audio_bytes=1000))


def test_length_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may decode to very much: silence packs well."""
    data = encoded(np.zeros(RATE_HZ * 100, np.float32), "FLAC")
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **kwargs: pytest.fail("was decoded"))
    with pytest.raises(InvalidRequest, match=r"got 100\.0 s"):
        read_audio(data, InputLimits(max_audio_s=50))


def test_length_in_the_header_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    true_frames, claims = soundfile.SoundFile.frames.__get__, iter([1])
    monkeypatch.setattr(
        soundfile.SoundFile, "frames", property(lambda file: next(claims, 0) or true_frames(file))
    )
    with pytest.raises(InvalidRequest, match="at most 1 s"):
        read_audio(encoded(tone(20.0), "WAV"), InputLimits(max_audio_s=1))


def test_rate_in_the_header_is_checked() -> None:
    data = bytearray(encoded(tone(0.01), "WAV", "PCM_16"))
    data[24:28] = struct.pack("<I", 2**31 - 1)
    with pytest.raises(InvalidRequest, match="rate of 1 to 192000 Hz"):
        read_audio(bytes(data))


def test_mono_float32_is_not_copied() -> None:
    samples = tone()
    assert np.shares_memory(mono_samples(samples), samples)
