from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from antiphon.codec import encode_audio, read_audio, write_audio
from antiphon.errors import InvalidRequest

TONE = (0.5 * np.sin(2 * np.pi * 440 / 22050 * np.arange(22050 * 3))).astype(np.float32)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "WAV"])
def test_what_is_written_can_be_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"speech.{ending}"
    write_audio(path, TONE, 22050)
    samples, rate_hz = read_audio(path)
    assert (rate_hz, samples.shape) == (22050, TONE.shape)
    assert abs(samples - TONE).max() < (0.03 if ending == "ogg" else 2 / 2**15)
    assert np.array_equal(read_audio(encode_audio(TONE, 22050, ending.lower()))[0], samples)


@pytest.mark.parametrize("audio_format", ["wav", "flac", "ogg"])
def test_nothing_and_too_loud(audio_format: str) -> None:
    with pytest.raises(InvalidRequest, match="at least one sample"):
        encode_audio(np.zeros(0, np.float32), 22050, audio_format)
    loud, _ = read_audio(encode_audio(4 * TONE, 22050, audio_format))
    assert abs(loud).max() < 1.2, "clipped, not wrapped around"
    assert np.corrcoef(loud, TONE)[0, 1] > 0.9


def test_a_minute_of_ogg() -> None:
    samples, _ = read_audio(encode_audio(np.tile(TONE, 20), 22050, "ogg"))
    assert len(samples) == 20 * len(TONE)


def test_other_formats_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"ends with .wav, .flac, .ogg, got 'speech.mp3'"):
        write_audio(tmp_path / "speech.mp3", TONE, 22050)
    with pytest.raises(InvalidRequest, match="among wav, flac, ogg, got 'aac'"):
        encode_audio(TONE, 22050, "aac")
    with pytest.raises(OSError, match="nowhere"):
        write_audio(tmp_path / "nowhere" / "speech.wav", TONE, 22050)
