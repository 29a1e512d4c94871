"""What browsers and phones record, decoded in a process of its own; and what its bytes may not do there."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from sound_files import by_ffmpeg, by_libsndfile, judged_seconds

from antiphon.codec import read_audio
from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.sound import ffmpeg

AMR = b"#!AMR\n" + b"".join(b"\x3c" + np.random.default_rng(i).bytes(31) for i in range(100))
PICTURES = "-f lavfi -i testsrc=s=320x240:d=1 -map 0:a -map 1:v -c:v mpeg4"


@pytest.mark.parametrize(
    "arguments",
    [
        "-c:a libopus -f webm",
        "-c:a libvorbis -f matroska",
        "-c:a aac -f ipod",
        "-c:a aac -f adts",
        "-c:a alac -f mov",
        "-c:a libspeex -f ogg",
        f"{PICTURES} -c:a aac -f mp4",
    ],
)
def test_sound_of_all_kinds(arguments: str) -> None:
    data = by_ffmpeg(arguments, 16000, 1, 16000)
    samples, rate_hz = read_audio(data)
    assert 0.05 < samples.std() < 0.12
    # Of aac a decoder may keep or drop what fills the last frame.
    tolerance = 1024 / rate_hz if "aac" in arguments else 0.01
    assert abs(len(samples) / rate_hz - judged_seconds(data)) < tolerance


def test_amr() -> None:
    """Debian's ffmpeg cannot write it; any bits are speech to its decoder."""
    samples, rate_hz = read_audio(AMR)
    assert (len(samples), rate_hz) == (100 * 160, 8000)
    assert samples.any()


def test_lossless_sound_is_exact() -> None:
    expected, _ = read_audio(by_ffmpeg("-c:a pcm_s16le -f wav"))
    for arguments in ("-c:a alac -sample_fmt s16p -f ipod", "-c:a wavpack -sample_fmt s16p -f wv"):
        np.testing.assert_array_equal(read_audio(by_ffmpeg(arguments))[0], expected)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for data, kind in (
        (AMR, "amr"),
        (by_ffmpeg("-c:a libopus -f webm"), "matroska"),
        (b"\0\0\0\x14ftypM4A ", "mov"),
    ):
        with pytest.raises(
            InvalidRequest, match=rf"this {kind} file needs PyAV .* pip install 'antiphon\[audio\]'$"
        ):
            read_audio(data)
    assert len(read_audio(by_libsndfile("OGG", "OPUS"))[0]) == 16000
    cut = by_libsndfile("WAV", "MS_ADPCM")[:60]
    with pytest.raises(InvalidRequest, match="wav, flac, ogg or mp3"):
        read_audio(cut)


def test_pictures_alone_are_no_sound() -> None:
    data = by_ffmpeg(f"{PICTURES} -an -f mp4".replace("-map 0:a ", ""))
    with pytest.raises(InvalidRequest, match="expected a stream of sound, found video"):
        read_audio(data)


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        b"\x1a\x45\xdf\xa3" + bytes(5000),
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(5000),
        b"\0\0\0\x08moov" * 50_000,
        b"\xff\xf1" + bytes(3000),
    ],
    ids=["playlist", "concat", "sdp", "matroska", "asf", "boxes", "aac"],
)
def test_what_is_no_sound_is_refused(data: bytes) -> None:
    with pytest.raises(
        InvalidRequest, match=r"audio: these bytes: expected (wav, flac, ogg or mp3|at least one sample)"
    ):
        read_audio(data)


def test_a_table_that_claims_billions_of_samples_is_bounded() -> None:
    data = bytearray(by_ffmpeg("-c:a aac -f ipod"))
    sizes, chunks = data.rindex(b"stsz"), data.rindex(b"stsc")
    struct.pack_into(">II", data, sizes + 8, 1, 0x0FFFFFFF)
    struct.pack_into(">I", data, chunks + 16, 0x0FFFFFFF)
    with pytest.raises(InvalidRequest):
        read_audio(bytes(data))


def test_a_decoder_that_breaks_down_or_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "MAX_MEMORY_BYTES", 2**20)
    with pytest.raises(InvalidRequest, match="its decoder crashed"):
        read_audio(AMR)
    monkeypatch.undo()
    monkeypatch.setattr(ffmpeg, "MAX_S", 0)
    with pytest.raises(InvalidRequest, match="takes more than 0 s to decode"):
        read_audio(AMR)


def test_it_ends_at_the_limit() -> None:
    data = by_ffmpeg("-c:a libopus -b:a 6k -f webm", 8000, 1, 8000 * 60)
    with pytest.raises(InvalidRequest, match=r"at most 2 s, got 2\.0 s and \d+ samples or more"):
        read_audio(data, InputLimits(max_audio_s=2))
