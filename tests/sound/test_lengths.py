"""How long a file is shows in its sound, not in its header: neither is a guess a reason to refuse nor to
stop."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sound_files import by_ffmpeg, by_libsndfile

from antiphon.codec import read_audio
from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest

RATE_HZ = 16000
ID3_BYTES = 3_000_000
ID3 = b"ID3\x03\0\0" + bytes(ID3_BYTES >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(ID3_BYTES)
ID3V1 = b"TAG" + b"title".ljust(125)
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 40, 1, 0) + bytes(8) + bytes(8)
NOISE = np.random.default_rng(1).bytes(5000)
VBR = "-c:a libmp3lame -q:a 4 -id3v2_version 0 -f mp3"
NO_XING = f"-write_xing 0 {VBR}"


def length(data: bytes) -> int:
    samples, rate_hz = read_audio(data)
    assert samples.any()
    return round(len(samples) * RATE_HZ / rate_hz)


def flac(total: int | None, num_frames: int = 32000) -> bytes:
    """A FLAC that claims this many samples; None: as it is."""
    data = bytearray(by_libsndfile("FLAC", "PCM_16", RATE_HZ, 1, num_frames))
    if total is not None:
        data[21] = data[21] & 0xF0 | total >> 32
        struct.pack_into(">I", data, 22, total & 0xFFFFFFFF)
    return bytes(data)


@pytest.mark.parametrize("total", [0, 1, 31999, 32001, 2**32, 2**36 - 1])
def test_flac_is_counted(total: int) -> None:
    """Writers to pipes leave the number of samples 0, which is legal (RFC 9639, 8.2)."""
    whole, _ = read_audio(flac(None))
    for data in (flac(total), ID3[: 10 + ID3_BYTES] + flac(total), flac(total) + ID3V1, flac(total) + NOISE):
        np.testing.assert_array_equal(read_audio(data)[0], whole)


def test_flac_written_to_a_pipe_joined_and_cut() -> None:
    piped = by_ffmpeg("-f flac", RATE_HZ, 1, 32000, to_pipe=True)
    assert length(piped) == 32000
    assert length(piped + flac(0)) == 64000
    cut = length(piped[: len(piped) // 2])
    assert 10000 < cut < 16500
    np.testing.assert_array_equal(read_audio(piped[: len(piped) // 2])[0], read_audio(piped)[0][:cut])
    in_ogg = by_ffmpeg("-c:a flac -f ogg", RATE_HZ, 1, 32000, to_pipe=True)
    np.testing.assert_array_equal(read_audio(in_ogg)[0], read_audio(piped)[0])


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_flac_of_blocks_of_any_size(channels: int) -> None:
    data = by_ffmpeg("-c:a flac -frame_size 1000 -f flac", 44100, channels, 30500, to_pipe=True)
    assert len(read_audio(data)[0]) == 30500


def test_flac_that_lacks_its_middle_is_refused() -> None:
    data = flac(None, 64000)
    third = len(data) // 3
    with pytest.raises(InvalidRequest, match=r"it is damaged: frame [0-9]+ follows where"):
        read_audio(data[:third] + data[2 * third :])


SIZE_AT: dict[str, tuple[bytes, int, str]] = {
    "WAV": (b"data", 4, "<I"),
    "WAVEX": (b"data", 4, "<I"),
    "RF64": (b"ds64", 16, "<Q"),
    "W64": (b"data", 16, "<Q"),
    "AIFF": (b"SSND", 4, ">I"),
    "AU": (b".snd", 8, ">I"),
    "CAF": (b"data", 4, ">Q"),
}


def sized(kind: str, size: int) -> bytes:
    data = bytearray(by_libsndfile(kind, "PCM_16", RATE_HZ, 1, 32000))
    name, behind, form = SIZE_AT[kind]
    struct.pack_into(form, data, data.index(name) + behind, size % 256 ** struct.calcsize(form))
    return bytes(data)


@pytest.mark.parametrize("size", [0, 2**31 - 4096, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 70000])
@pytest.mark.parametrize("kind", SIZE_AT)
def test_sizes_of_chunks_are_those_of_the_file(kind: str, size: int) -> None:
    """Streaming writers leave 0 or the largest number, those that are stopped what they meant to write."""
    whole, _ = read_audio(by_libsndfile(kind, "PCM_16", RATE_HZ, 1, 32000))
    found, _ = read_audio(sized(kind, size))
    assert len(whole) == 32000
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("kind", SIZE_AT)
def test_sound_behind_what_is_counted_is_not_dropped(kind: str) -> None:
    """A header that was written early, and sound that was appended, or another file."""
    data = by_libsndfile(kind, "PCM_16", RATE_HZ, 1, 32000)
    for wrong in (sized(kind, 10000), data + NOISE, data + data):
        with pytest.raises(InvalidRequest, match=r"ends the sound at byte \d+, but data that is"):
            read_audio(wrong)


def test_what_usually_follows_sound_is_no_sound() -> None:
    data = by_libsndfile("WAV", "PCM_16", RATE_HZ, 1, 32000)
    chunk = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"
    for behind in (chunk, b"id3 \x04\0\0\0abcd", bytes(4096), ID3V1, b"\0" + chunk[:20]):
        assert length(data + behind) == 32000
    assert length(by_ffmpeg("-f wav", RATE_HZ, 1, 32000, to_pipe=True)) == 32000


def test_a_wav_without_sound_is_refused() -> None:
    data = by_libsndfile("WAV", "PCM_16", RATE_HZ, 1, 0)
    for empty in (data, data + b"LIST\x04\0\0\0INFO"):
        with pytest.raises(InvalidRequest, match="expected at least one sample, got none"):
            read_audio(empty)


@pytest.mark.parametrize("arguments", [VBR, NO_XING, f"-b:a 32k {NO_XING}".replace("-q:a 4 ", "")])
@pytest.mark.parametrize(("rate_hz", "channels"), [(44100, 1), (16000, 2), (8000, 1)])
def test_mp3_is_counted(arguments: str, rate_hz: int, channels: int) -> None:
    """libsndfile guesses the length from the size of the file and the first bitrate, refused by it, or
    stopped there without a word; a tag of an encoder may say anything."""
    num = 2 * rate_hz
    data = by_ffmpeg(arguments, rate_hz, channels, num)
    samples, found_hz = read_audio(data)
    assert found_hz == rate_hz
    assert num <= len(samples) <= num + 3 * 1152
    for same in (ID3 + data, data + ID3V1, data + APE + ID3V1, ID3[:10] + bytes(ID3_BYTES) + data + NOISE):
        np.testing.assert_array_equal(read_audio(same)[0], samples)
    mended = bytearray(data)
    if (tag := data.find(b"Xing") + 1) > 0:
        struct.pack_into(">I", mended, tag + 7, 5)
        assert len(read_audio(bytes(mended))[0]) >= len(samples) - 2 * 1152
    cut, _ = read_audio(data[: len(data) // 2])
    assert 0.3 * num < len(cut) < 0.7 * num


def test_joined_mp3_is_read_to_its_end() -> None:
    """Each keeps the tag that it had; rates, channels and bitrates may be different."""
    one = by_ffmpeg(VBR, 44100, 2, 88200)
    other = by_ffmpeg(VBR, 16000, 1, 32000)
    third = by_ffmpeg(NO_XING, 16000, 2, 32000, seed=1)
    each = [length(data) for data in (one, other, third)]
    assert all(31990 < num < 36000 for num in each)
    for joined in (one + other + third, one + ID3V1 + ID3[:10] + bytes(ID3_BYTES) + other + third + ID3V1):
        samples, rate_hz = read_audio(joined)
        assert rate_hz == 44100
        assert abs(len(samples) / rate_hz - sum(each) / RATE_HZ) < 0.01
    assert abs(length(third + third) - 2 * each[2]) < 10


def test_mp3_finds_itself_again_behind_damage() -> None:
    data = by_ffmpeg(NO_XING, RATE_HZ, 1, 32000)
    half = len(data) // 2
    assert length(data[:half] + bytes(700) + data[half:]) > 31000
    assert length(bytes(1000) + data) == length(data)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_is_read_to_its_end(subtype: str) -> None:
    """RFC 3533, 4: what internet radio and `cat` make."""
    links = [by_libsndfile("OGG", subtype, rate, 1, rate) for rate in (16000, 16000, 48000)]
    first, rate_hz = read_audio(links[0])
    samples, found_hz = read_audio(b"".join(links))
    assert found_hz == rate_hz
    assert len(samples) == 3 * len(first)
    np.testing.assert_array_equal(samples[: 2 * len(first)], np.concatenate([first, first]))
    other = by_libsndfile("OGG", "VORBIS" if subtype == "OPUS" else "OPUS", RATE_HZ, 1, RATE_HZ)
    assert abs(length(links[0] + other) - 2 * RATE_HZ) < 10
    assert length(links[0] + NOISE) == RATE_HZ


@pytest.mark.parametrize(
    "make",
    [
        lambda: flac(0, 48000),
        lambda: by_ffmpeg(NO_XING, RATE_HZ, 1, 48000),
        lambda: by_libsndfile("OGG", "VORBIS", RATE_HZ, 1, 16000) * 3,
        lambda: sized("WAV", 2**32 - 1) + bytes(32000),
        lambda: by_ffmpeg("-c:a libopus -f webm", RATE_HZ, 1, 48000),
    ],
    ids=["flac", "mp3", "ogg", "wav", "webm"],
)
def test_what_is_too_long_is_refused_where_it_is(make: Callable[[], bytes]) -> None:
    with pytest.raises(InvalidRequest, match=r"expected at most 2\.5 s, got (2\.[5-9]|3\.\d) s"):
        read_audio(make(), InputLimits(max_audio_s=2.5))
    assert len(read_audio(make(), InputLimits(max_audio_s=3.2))[0]) > 0


@pytest.mark.parametrize("num", [257, 2000])
def test_joined_without_end_is_refused(num: int) -> None:
    one = by_libsndfile("OGG", "OPUS", RATE_HZ, 1, 1)
    with pytest.raises(InvalidRequest, match="at most 256 recordings joined in one file"):
        read_audio(one * num)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (flac(None) + b"\xff\xf8" * 10**7, "expected frames of FLAC, got too much else"),
        (by_libsndfile("OGG", "OPUS") + b"OggS\0\0" * 10**7, "at most 65536 pages of Ogg"),
        (b"\xff" * 10**7, "Format not recognised"),
        (by_libsndfile("MP3", "MPEG_LAYER_III") + b"\xff" * 10**7, "got too much else between"),
        (b"RIFF\xff\xff\xff\xffWAVE" + b"LIST\0\0\0\0" * 10**6, "fewer than 1024 chunks"),
    ],
    ids=["flac", "ogg", "sync", "mp3", "wav"],
)
def test_the_search_for_frames_is_bounded(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_audio(data)


def test_pipes_descriptors_and_open_files(tmp_path: Path) -> None:
    data = by_libsndfile("WAV", "PCM_16", RATE_HZ, 1, 32000)
    whole, _ = read_audio(data)
    path = tmp_path / "sound"
    path.write_bytes(data)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(data,))
    writer.start()
    np.testing.assert_array_equal(read_audio(fifo)[0], whole)
    writer.join()
    with path.open("rb") as file, path.open("rb", buffering=0) as raw, path.open("rb") as again:
        for source in (file, raw, f"/dev/fd/{again.fileno()}"):
            np.testing.assert_array_equal(read_audio(source)[0], whole)
        file.seek(0)
        with pytest.raises(InvalidRequest, match="at most 1000 bytes, got more"):
            read_audio(file, InputLimits(max_audio_bytes=1000))
    with (
        path.open(encoding="latin-1") as text,
        pytest.raises(InvalidRequest, match="open for reading bytes, got one of str"),
    ):
        read_audio(text)
    with pytest.raises(InvalidRequest, match=r"this file cannot be read: .*closed"):
        read_audio(text)


class BytesPath:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return os.fsencode(self.path)


def test_odd_paths(tmp_path: Path) -> None:
    path = tmp_path / "sound"
    path.write_bytes(by_libsndfile("WAV", "PCM_16"))
    assert read_audio(BytesPath(path))[1] == RATE_HZ
    for odd in ("nowhere\0.wav", "nowhere\udcff.wav", "nowhere" * 100, "\ud800"):
        with pytest.raises(InvalidRequest) as caught:
            read_audio(odd)
        assert len(str(caught.value).encode()) < 500, "it can be printed"
    with pytest.raises(InvalidRequest, match="a device"):
        read_audio("/dev/zero")
