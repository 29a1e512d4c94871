"""The program that `ffmpeg.py` runs: decodes a file on standard input to samples on standard output.

It is a process of its own, imports none of our code, and limits itself before it looks at the file.
"""

from __future__ import annotations

import json
import resource
import sys
from io import BytesIO
from typing import Any

MAX_STREAMS = 64
MAX_PROBE_BYTES = 2**22
MAX_PROBE_US = 5_000_000
BLOCK_SAMPLES = 2**16
DECODERS = (
    "aac,aac_fixed,aac_latm,ac3,eac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,alac,amrnb,amrwb,libopencore_amrnb,"
    "libopencore_amrwb,ape,flac,gsm,gsm_ms,mp1,mp1float,mp2,mp2float,mp3,mp3float,opus,libopus,pcm_alaw,"
    "pcm_mulaw,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_s16be,pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,"
    "pcm_s32le,pcm_s8,pcm_u8,qcelp,speex,libspeex,tta,vorbis,libvorbis,wavpack,wmav1,wmav2,wmapro,wmalossless"
)
"""Decoders of sound only: ffmpeg opens no decoder of pictures, not even to probe a file."""
OPTIONS = {
    "codec_whitelist": DECODERS,
    "protocol_whitelist": "none",
    "max_streams": str(MAX_STREAMS),
    "probesize": str(MAX_PROBE_BYTES),
    "analyzeduration": str(MAX_PROBE_US),
}


class Refused(Exception):
    """What is wrong with the file."""


def main() -> None:
    settings = json.loads(sys.argv[1])
    _limit(resource.RLIMIT_AS, settings["max_memory_bytes"])
    _limit(resource.RLIMIT_CPU, settings["max_s"])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    sys.path[:] = settings["path"]
    data = sys.stdin.buffer.read()
    try:
        decode(data, settings)
        say({"end": True})
    except Refused as error:
        say({"error": str(error)})
    except MemoryError:
        say({"error": "it takes too much memory to decode"})
    sys.stdout.buffer.flush()


def say(line: dict[str, Any], content: bytes = b"") -> None:
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\n" + content)


def decode(data: bytes, settings: dict[str, Any]) -> None:
    """Writes the sound of the first audio stream, until it is longer than allowed."""
    import av
    from av.error import FFmpegError
    from av.logging import set_level

    set_level(None)
    try:
        with av.open(BytesIO(data), format=settings["demuxer"], options=OPTIONS) as container:
            streams = [stream for stream in container.streams if stream.type == "audio"]
            if not streams:
                raise Refused(f"expected a stream of sound, found {_kinds(container)}")
            _decode_stream(container, streams[0], settings)
    except (FFmpegError, ValueError) as error:
        raise Refused(f"{getattr(error, 'strerror', None) or error}") from error


def _decode_stream(container: Any, stream: Any, settings: dict[str, Any]) -> None:
    from av.error import EOFError as EndOfFile
    from av.error import FFmpegError

    if stream.codec_context is None:
        raise Refused("its sound is of a kind that has no decoder here")
    seconds, failed_at = 0.0, None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except EndOfFile:
            break
        except FFmpegError as error:
            # The last packet may be cut off; sound after it shows that some is missing.
            failed_at = failed_at or f"{getattr(error, 'strerror', None) or error}"
            continue
        is_flush = packet.size == 0  # returns what the decoder had kept, even from before an error
        for frame in frames:
            if failed_at is not None and seconds > 0 and not is_flush:
                raise Refused(f"it is damaged after {seconds:.2f} s: {failed_at}")
            failed_at = None
            seconds += _write(frame, settings)
            if seconds > settings["max_audio_s"]:
                return
    if failed_at is not None and not seconds:
        raise Refused(failed_at)


def _write(frame: Any, settings: dict[str, Any]) -> float:
    """Writes the mean of a frame's channels; returns its length in seconds."""
    import numpy as np

    rate_hz, channels = frame.sample_rate, frame.layout.nb_channels
    if not 0 < rate_hz <= settings["max_rate_hz"]:
        raise Refused(f"expected a rate of 1 to {settings['max_rate_hz']} Hz, found {rate_hz}")
    if not 0 < channels <= settings["max_channels"]:
        raise Refused(f"expected up to {settings['max_channels']} channels, found {channels}")
    samples = frame.to_ndarray()
    samples = samples if frame.format.is_planar else samples.reshape(-1, channels).T
    if samples.dtype.kind in "iu":
        half = 2.0 ** (8 * samples.dtype.itemsize - 1)
        samples = (samples.astype(np.float64) - (half if samples.dtype.kind == "u" else 0.0)) / half
    mono = np.ascontiguousarray(
        samples.mean(axis=0, dtype=np.float64) if channels > 1 else samples[0], np.float32
    )
    if len(mono):
        say({"num_samples": len(mono), "rate_hz": rate_hz}, mono.tobytes())
    return len(mono) / float(rate_hz)


def _kinds(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _limit(which: int, value: int) -> None:
    """Sets a limit; if the system allows less already, that stays."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, hard))


if __name__ == "__main__":
    main()
