"""Decodes whole sound files to mono float32: wav, flac, ogg, mp3 and the like by libsndfile, others by PyAV.

What a header says about the length is not trusted: parts of a file are counted and given headers that say
what is there (`chunk_sizes`, `flac_frames`, `mpeg_frames`, `ogg_links`), since libsndfile stops where a
header tells it to. Then they are decoded block by block, and refused once they pass the limit.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import NamedTuple

import numpy as np

from antiphon.config import InputLimits
from antiphon.errors import InvalidRequest
from antiphon.sound import ffmpeg
from antiphon.sound.arrays import AudioArray
from antiphon.sound.chunk_sizes import LAYOUTS, with_true_sizes
from antiphon.sound.flac_frames import flac_parts
from antiphon.sound.mpeg_frames import is_mpeg, mpeg_parts
from antiphon.sound.ogg_links import ogg_parts
from antiphon.sound.parts import Part, skip_tag
from antiphon.sound.resample import resample
from antiphon.sound.samples import MAX_CHANNELS, check_rate, to_unit

__all__ = ["FORMATS", "check_duration", "decode"]

FORMATS = "wav, flac, ogg or mp3; webm, mp4, m4a, aac, amr and others with antiphon[audio]"
BLOCK_FRAMES = 2**16
LEAD_BYTES = 2**16
"""How far mp3 frames are searched for: some players' files begin with zeros or the rest of a tag."""
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
# From what a file begins with to the name of ffmpeg's demuxer, for sound and for films with sound.
ONLY_FFMPEG = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"#!AMR": "amr",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"wvpk": "wv",
    b"TTA1": "tta",
    b"MAC ": "ape",
    b"\x0b\x77": "ac3",
}
ALSO_FFMPEG = {
    b"RIFF": "wav",
    b"RIFX": "wav",
    b"RF64": "wav",
    b"BW64": "wav",
    b"FORM": "aiff",
    b"riff": "w64",
    b"caff": "caf",
    b".snd": "au",
    b"fLaC": "flac",
    b"OggS": "ogg",
}


class Sound(NamedTuple):
    samples: AudioArray
    rate_hz: int


def decode(data: bytes, name: str, limits: InputLimits, before_s: float = 0.0) -> Sound:
    """A file's samples, float32 (frames,), frames > 0, channels averaged, and its rate.

    Recordings that were joined come one after the other, at the rate of the first. name: the file's, for
    errors. Raises InvalidRequest if the file cannot be decoded to its end, or exceeds the limits.
    """
    if not data:
        raise InvalidRequest(f"audio: {name}: expected {FORMATS}, got nothing")
    begin = 0
    while (behind := skip_tag(data, begin)) > begin and data[begin : begin + 3] == b"ID3":
        begin = behind
    data = data[begin:] if begin else data
    try:
        demuxer, parts = _parts(data)
        sounds: list[Sound] = []
        seconds = before_s
        for part in parts:
            if part.num_frames is not None:
                _check_seconds(seconds, part.num_frames - part.shortfall, part.rate_hz, limits)
            sound = _decode_part(part, demuxer, seconds, limits)
            if len(sound.samples):
                sounds.append(sound)
                seconds += len(sound.samples) / sound.rate_hz
    except InvalidRequest as error:
        raise InvalidRequest(f"audio: {name}: {str(error).removeprefix('audio: ')}") from error
    if not sounds:
        raise InvalidRequest(f"audio: {name}: expected at least one sample, got none")
    rate_hz = sounds[0].rate_hz
    joined = [resample(sound.samples, sound.rate_hz, rate_hz) for sound in sounds]
    mono = joined[0] if len(joined) == 1 else np.concatenate(joined)
    if not np.isfinite(mono).all():
        raise InvalidRequest(f"audio: {name}: expected finite samples, got NaN or infinity")
    return Sound(to_unit(mono), rate_hz)


def check_duration(frames: int, rate_hz: int, limits: InputLimits, before_s: float = 0.0) -> None:
    """Raises InvalidRequest if this audio and the seconds before it are more than the limits allow."""
    _check_seconds(before_s, frames, rate_hz, limits)


def _parts(data: bytes) -> tuple[str | None, list[Part]]:
    """The name of ffmpeg's demuxer (None if ffmpeg must not be used), and the parts to decode one by one."""
    magic = data[:4]
    if magic == b"fLaC":
        return "flac", flac_parts(data)
    if magic == b"OggS":
        return "ogg", ogg_parts(data)
    if magic in LAYOUTS or magic == b".snd":
        return ALSO_FFMPEG[magic], [Part(with_true_sizes(data))]
    for begin, demuxer in ONLY_FFMPEG.items():
        if data.startswith(begin):
            return demuxer, [Part(data)]
    if data[4:8] in MP4_BOXES:
        return "mov", [Part(data)]
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return "aac", [Part(data)]
    lead = 0
    while 0 <= lead < LEAD_BYTES:
        if is_mpeg(data, lead):
            return "mp3", mpeg_parts(data)
        lead = data.find(b"\xff", lead + 1)
    return None, [Part(data)]


def _decode_part(part: Part, demuxer: str | None, seconds: float, limits: InputLimits) -> Sound:
    """seconds: length of the parts before it. Channels are averaged block by block, so they are not kept."""
    if demuxer in ONLY_FFMPEG.values() or demuxer in ("mov", "aac"):
        return _by_ffmpeg(part, demuxer, seconds, limits, None)
    import soundfile

    try:
        sound = _by_libsndfile(part, seconds, limits)
        missing = 0 if part.num_frames is None else part.num_frames - part.shortfall - len(sound.samples)
        if missing <= 0:
            return sound
        reason = f"{missing} samples of it cannot be decoded"
    except (soundfile.SoundFileError, OverflowError) as error:
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    if part.otherwise is not None:
        return _decode_part(part.otherwise, demuxer, seconds, limits)
    return _by_ffmpeg(part, demuxer, seconds, limits, reason)


def _by_libsndfile(part: Part, seconds: float, limits: InputLimits) -> Sound:
    import soundfile

    with soundfile.SoundFile(_File(part.data)) as file:
        rate_hz = check_rate(file.samplerate)
        if file.channels > MAX_CHANNELS:
            raise InvalidRequest(f"audio: expected up to {MAX_CHANNELS} channels, got {file.channels}")
        blocks: list[AudioArray] = []
        frames = part.num_lead_frames
        if frames:
            blocks.append(np.zeros(frames, np.float32))
        while len(block := np.asarray(file.read(BLOCK_FRAMES, dtype="float32", always_2d=True), np.float32)):
            frames += len(block)
            _check_seconds(seconds, frames, rate_hz, limits, " or more")
            blocks.append(block[:, 0] if block.shape[1] == 1 else _mean(block))
    return Sound(np.concatenate(blocks) if blocks else np.zeros(0, np.float32), rate_hz)


class _File(BytesIO):
    """Never seeks outside the file: positions that libsndfile computes from a header may lie anywhere, and
    python-soundfile writes what is raised in its callbacks to standard error."""

    def seek(self, offset: int, whence: int = 0) -> int:
        begin = {0: 0, 1: self.tell(), 2: len(self.getbuffer())}[whence]
        return super().seek(min(max(0, begin + offset), len(self.getbuffer())))


def _mean(block: AudioArray) -> AudioArray:
    with np.errstate(over="ignore", invalid="ignore"):
        mono: AudioArray = block.mean(axis=1, dtype=np.float64).astype(np.float32)
    return mono


def _by_ffmpeg(
    part: Part, demuxer: str | None, seconds: float, limits: InputLimits, reason: str | None
) -> Sound:
    """reason: why libsndfile did not decode it; None if it does not know the format."""
    if demuxer is None or not ffmpeg.is_there():
        if demuxer is None:
            raise InvalidRequest(f"audio: expected {FORMATS}: {reason}")
        why = f"this {demuxer} file" if reason is None else f"this {demuxer} file ({reason.rstrip('.')})"
        raise InvalidRequest(
            f"audio: expected {FORMATS}: {why} needs PyAV to decode it, which is not installed: "
            "pip install 'antiphon[audio]'"
        )
    try:
        runs = ffmpeg.decode(part.data, demuxer, limits.max_audio_s - seconds)
    except InvalidRequest as error:
        before = "" if reason is None else f"{reason.rstrip('.')}; "
        raise InvalidRequest(f"audio: expected {FORMATS}: {before}{error}") from error
    total = seconds
    for samples, rate_hz in runs:
        _check_seconds(total, len(samples), check_rate(rate_hz), limits, " or more")
        total += len(samples) / rate_hz
    if not runs:
        return Sound(np.zeros(0, np.float32), 1)
    rate_hz = runs[0][1]
    return Sound(np.concatenate([resample(samples, rate, rate_hz) for samples, rate in runs]), rate_hz)


def _check_seconds(before_s: float, frames: int, rate_hz: int, limits: InputLimits, more: str = "") -> None:
    """Raises InvalidRequest if `frames` frames after `before_s` seconds are more than the limits allow."""
    allowed = limits.max_audio_s
    if frames <= (allowed - before_s) * rate_hz:
        return
    got = f"{before_s + frames / rate_hz:.1f}"
    over = math.ceil((before_s - float(got)) * rate_hz + frames)
    beyond = f" and {over} sample{'s' if over > 1 else ''}" if float(got) <= allowed else ""
    raise InvalidRequest(f"audio: expected at most {allowed:g} s, got {got} s{beyond}{more}")
