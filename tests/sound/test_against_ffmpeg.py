"""What is read of a file, whatever its container, codec and header, is as long as ffmpeg finds it, or is
refused.

Where decoders may differ: by the frame that is broken off at the end of a cut file, which one decodes in part
and the other leaves out; by an encoder's delay, which ffmpeg does not always leave out of mp3 (1105 samples
and what fills its last frame); and by a millisecond, since ffmpeg resamples for us.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_files import by_ffmpeg, by_libsndfile, judged_seconds

from antiphon.codec import read_audio
from antiphon.errors import InvalidRequest
from antiphon.sound.arrays import AudioArray

RESAMPLING_S = 0.002


class Kind(NamedTuple):
    name: str
    subtype: str
    frame: int = 1
    """Samples that stand or fall together."""
    delay: int = 0
    """Samples that one decoder may leave out, and another not."""


NATIVE = [
    Kind("WAV", "PCM_16"),
    Kind("WAV", "PCM_24"),
    Kind("WAV", "FLOAT"),
    Kind("WAV", "ULAW"),
    Kind("WAV", "IMA_ADPCM", frame=2048),
    Kind("WAVEX", "PCM_16"),
    Kind("RF64", "PCM_16"),
    Kind("W64", "PCM_16"),
    Kind("AIFF", "PCM_16"),
    Kind("AU", "PCM_16"),
    Kind("CAF", "PCM_16"),
    Kind("FLAC", "PCM_16", frame=4608),
    Kind("OGG", "VORBIS", frame=1024),
    Kind("OGG", "OPUS", frame=1024),
    Kind("MP3", "MPEG_LAYER_III", frame=1152, delay=1105 + 1152),
]
BY_FFMPEG = [
    Kind("-c:a libopus -f webm", "webm", frame=1024, delay=400),
    Kind("-c:a libvorbis -f webm", "webm", frame=2048),
    Kind("-c:a aac -f adts", "aac", frame=1024, delay=1024),
    Kind("-c:a aac -movflags +faststart -f ipod", "m4a", frame=1024, delay=1024),
    Kind("-c:a aac -movflags frag_keyframe+empty_moov -f mp4", "mp4", frame=1024, delay=1024),
    Kind("-c:a alac -f ipod", "alac", frame=4096),
    Kind("-c:a pcm_s16le -f mov", "mov", frame=1024),
    Kind("-c:a wmav2 -f asf", "wma", frame=2048),
    Kind("-c:a libmp3lame -q:a 5 -write_xing 0 -f mp3", "vbr", frame=1152, delay=1105),
    Kind("-c:a flac -f ogg", "oggflac", frame=8192),
    Kind("-c:a mp2 -f mp2", "mp2", frame=1152),
]
SIZES = st.sampled_from(
    [0, 2, 1000, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**63 - 1, 2**64 - 1]
) | st.integers(0, 2**20)


def with_size(kind: Kind, data: bytes, size: int) -> bytes:
    """With this where the header says how long the sound is, and how long the file, cut to the bits that it
    has."""
    patched = bytearray(data)

    def put(at: int, form: str) -> None:
        struct.pack_into(form, patched, at, size % 256 ** struct.calcsize(form))

    if kind.name in ("WAV", "WAVEX"):
        put(data.index(b"data") + 4, "<I")
        put(4, "<I")
    elif kind.name == "RF64":
        put(data.index(b"ds64") + 8, "<Q")
        put(data.index(b"ds64") + 16, "<Q")
    elif kind.name == "W64":
        put(data.index(b"data") + 16, "<Q")
        put(16, "<Q")
    elif kind.name == "AIFF":
        put(data.index(b"SSND") + 4, ">I")
        put(4, ">I")
    elif kind.name == "AU":
        put(8, ">I")
    elif kind.name == "CAF":
        put(data.index(b"data") + 4, ">Q")
    elif kind.name == "FLAC":
        total = size % 2**36
        patched[21] = patched[21] & 0xF0 | total >> 32
        put(22, ">I")
    elif kind.name == "MP3" and (tag := max(data.find(b"Xing"), data.find(b"Info"))) >= 0:
        put(tag + 8, ">I")
    return bytes(patched)


def read_or_reason(data: bytes) -> tuple[AudioArray, int] | str:
    try:
        return read_audio(data)
    except InvalidRequest as error:
        return str(error)


def check(kind: Kind, data: bytes, rate_hz: int, true_s: float) -> None:
    read = read_or_reason(data)
    if isinstance(read, str):
        assert read.startswith("audio: ")
        assert "\n" not in read
        return
    samples, found_hz = read
    judged = judged_seconds(data)
    tolerance = RESAMPLING_S + (kind.frame + kind.delay) / rate_hz
    if judged:
        assert abs(len(samples) / found_hz - judged) <= tolerance
    else:
        assert len(samples) / found_hz <= true_s + tolerance


@pytest.mark.slow
@pytest.mark.long
@settings(max_examples=50)
@given(
    kind=st.sampled_from(NATIVE),
    rate_hz=st.sampled_from([8000, 16000, 24000, 48000]),
    channels=st.integers(1, 2),
    num_frames=st.integers(3000, 30000),
    size=st.none() | SIZES,
    cut=st.none() | st.floats(0.1, 0.99),
)
def test_what_libsndfile_decodes(
    kind: Kind, rate_hz: int, channels: int, num_frames: int, size: int | None, cut: float | None
) -> None:
    data = by_libsndfile(kind.name, kind.subtype, rate_hz, channels, num_frames)
    data = data if size is None else with_size(kind, data, size)
    data = data if cut is None else data[: int(cut * len(data))]
    check(kind, data, rate_hz, num_frames / rate_hz)


@pytest.mark.slow
@pytest.mark.long
@settings(max_examples=12)
@given(
    kind=st.sampled_from(BY_FFMPEG),
    rate_hz=st.sampled_from([16000, 44100]),
    channels=st.integers(1, 2),
    num_frames=st.integers(8000, 30000),
    cut=st.none() | st.floats(0.3, 0.99),
)
def test_what_ffmpeg_makes(
    kind: Kind, rate_hz: int, channels: int, num_frames: int, cut: float | None
) -> None:
    data = by_ffmpeg(kind.name, rate_hz, channels, num_frames)
    data = data if cut is None else data[: int(cut * len(data))]
    check(kind, data, rate_hz, num_frames / rate_hz)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "kind", [*NATIVE, *BY_FFMPEG], ids=lambda kind: f"{kind.name[:4].strip()} {kind.subtype}"
)
def test_whole_files_are_read(kind: Kind) -> None:
    """So that not all is refused."""
    make = by_libsndfile if kind in NATIVE else None
    data = make(kind.name, kind.subtype) if make else by_ffmpeg(kind.name)
    samples, rate_hz = read_audio(data)
    assert (
        abs(len(samples) / rate_hz - judged_seconds(data)) <= RESAMPLING_S + (kind.frame + kind.delay) / 16000
    )
