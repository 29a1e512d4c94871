"""Counts the length of FLAC from its frames (RFC 9639): a header that was written to a pipe does not know
it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from antiphon.errors import InvalidRequest
from antiphon.sound.parts import Part, check_num_parts

__all__ = ["flac_parts"]

MARKER = b"fLaC"
STREAMINFO_AT = 8
STREAMINFO_BYTES = 34
TOTAL_AT = STREAMINFO_AT + 13
"""The byte whose lower half begins the 36 bits of the number of samples."""
MAX_HEADER_BYTES = 16
MAX_FRAMES = 2**20
MAX_DOUBTS = 2**16
"""Places that look like the beginning of a frame but are not: bounds the search. By chance there are about a
thousand in 64 MB."""
CRC8_POLYNOMIAL = 0x07


class _Frame(NamedTuple):
    number: int
    """The number of the frame, or of its first sample."""
    num_samples: int


def flac_parts(data: bytes) -> list[Part]:
    """The FLAC files that are joined in `data`, which begins with one; each states its true length.

    Raises InvalidRequest if frames are missing in between.
    """
    parts: list[Part] = []
    begin = 0
    while begin >= 0:
        first_frame = _skip_metadata(data, begin)
        if first_frame is None:
            break
        part, begin = _counted(data, begin, first_frame)
        parts.append(part)
        check_num_parts(len(parts))
    # Without a frame or a header there is nothing to mend; the decoder says what is wrong.
    return parts or [Part(data)]


def _skip_metadata(data: bytes, begin: int) -> int | None:
    """Where the frames of a file begin; None if it is not a FLAC file, or has no STREAMINFO."""
    position = begin + len(MARKER)
    has_info = data[position : position + 4] in (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")
    if data[begin:position] != MARKER or not has_info:
        return None
    is_last = False
    while not is_last:
        if position + 4 > len(data):
            return None
        is_last = bool(data[position] & 0x80)
        position += 4 + int.from_bytes(data[position + 1 : position + 4], "big")
    return position


def _counted(data: bytes, begin: int, first_frame: int) -> tuple[Part, int]:
    """The part that begins here, and where the next one begins, or -1 if there is no other."""
    info = data[begin + STREAMINFO_AT : begin + STREAMINFO_AT + STREAMINFO_BYTES]
    rate_hz = int.from_bytes(info[10:13], "big") >> 4
    positions: list[int] = []
    num_samples = last_samples = 0
    following = -1
    for position, frame in _frames(data, first_frame):
        if frame is None:
            following = position
            break
        expected = num_samples if data[position + 1] & 1 else len(positions)
        if frame.number != expected:
            raise InvalidRequest(f"it is damaged: frame {frame.number} follows where {expected} should")
        positions.append(position)
        if len(positions) > MAX_FRAMES:
            raise InvalidRequest(f"expected at most {MAX_FRAMES} frames of FLAC, got more")
        last_samples = frame.num_samples
        num_samples += last_samples
    end = following if following >= 0 else len(data)
    part = _saying(data[begin:end], num_samples, rate_hz)
    if len(positions) > 1:
        shorter = data[begin : positions[-1]]
        # The last frame may be cut off.
        part = replace(part, otherwise=_saying(shorter, num_samples - last_samples, rate_hz))
    return part, following


def _saying(data: bytes, num_samples: int, rate_hz: int) -> Part:
    """The part with this number of samples in its header; unchanged if the header says so already."""
    total = num_samples.to_bytes(5, "big")
    info = bytes([data[TOTAL_AT] & 0xF0 | total[0] & 0x0F]) + total[1:]
    if data[TOTAL_AT : TOTAL_AT + 5] != info:
        data = data[:TOTAL_AT] + info + data[TOTAL_AT + 5 :]
    return Part(data, num_samples, rate_hz)


def _frames(data: bytes, first: int) -> Iterator[tuple[int, _Frame | None]]:
    """The frames and where they begin. Where another file begins, its position comes last, with None.

    A frame does not say how long it is, so headers are searched for. A header is recognized by 14 bits of
    sync, a checksum, and the same rate, channels and size of samples as in the first one.
    """
    if _header(data, first) is None:
        return
    sync, alike = data[first : first + 2], (data[first + 2] & 0x0F, data[first + 3])
    position, doubts = first, 0
    marker = data.find(MARKER, first)
    while position >= 0:
        if 0 <= marker < position:
            if _skip_metadata(data, marker) is not None:
                yield marker, None
                return
            marker = data.find(MARKER, marker + 1)
            continue
        head = data[position + 2 : position + 4]
        if len(head) == 2 and _is_alike((head[0] & 0x0F, head[1]), alike):
            frame = _header(data, position)
            if frame is not None:
                doubts -= 1
                yield position, frame
        doubts += 1
        if doubts > MAX_DOUBTS:
            raise InvalidRequest("expected frames of FLAC, got too much else between them")
        position = data.find(sync, position + 2)
        if position < 0 <= marker:
            position = len(data)


def _is_alike(head: tuple[int, int], first: tuple[int, int]) -> bool:
    """Whether two headers have the same rate, size of samples and number of channels; two channels may be
    coded in four ways."""
    if head[0] != first[0] or head[1] & 0x0F != first[1] & 0x0F:
        return False
    channels, first_channels = head[1] >> 4, first[1] >> 4
    stereo = (1, 8, 9, 10)
    return channels == first_channels or (channels in stereo and first_channels in stereo)


def _header(data: bytes, position: int) -> _Frame | None:
    head = data[position : position + MAX_HEADER_BYTES]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 0x0F
    if size_code == 0 or rate_code == 15 or head[3] >> 4 > 10:
        return None
    number, at = _coded_number(head)
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    end = at + size_bytes + rate_bytes
    if number < 0 or end >= len(head) or _crc8(head[:end]) != head[end]:
        return None
    if size_bytes:
        num_samples = int.from_bytes(head[at : at + size_bytes], "big") + 1
    elif size_code == 1:
        num_samples = 192
    else:
        num_samples = 576 << (size_code - 2) if size_code < 6 else 256 << (size_code - 8)
    return _Frame(number, num_samples)


def _coded_number(head: bytes) -> tuple[int, int]:
    """A number of up to 36 bits, coded like a character in UTF-8, and where it ends; -1 if it is invalid."""
    first = head[4]
    if first < 0x80:
        return first, 5
    num_more = 0
    while num_more < 7 and first & (0x40 >> num_more):
        num_more += 1
    more = head[5 : 5 + num_more]
    if not 1 <= num_more <= 6 or len(more) < num_more or any(byte & 0xC0 != 0x80 for byte in more):
        return -1, 5
    number = first & (0x3F >> num_more)
    for byte in more:
        number = number << 6 | byte & 0x3F
    return number, 5 + num_more


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = CRC8[crc ^ byte]
    return crc


def _crc8_of(byte: int) -> int:
    for _ in range(8):
        byte = byte << 1 ^ (CRC8_POLYNOMIAL if byte & 0x80 else 0)
    return byte & 0xFF


CRC8 = [_crc8_of(byte) for byte in range(256)]
