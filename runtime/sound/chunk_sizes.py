"""Corrects sizes in the headers of WAV, RF64, AIFF, W64, CAF and AU files.

A program that writes to a pipe, or is stopped, leaves 0, the largest number or an early value where the size
of the sound should be.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from antiphon.errors import InvalidRequest
from antiphon.sound.parts import skip_tag

__all__ = ["with_true_sizes"]

GUID_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
MAX_CHUNKS = 1024
FEW_BYTES = 64
"""Bytes after the sound that may be anything: less than a hundredth of a second in most formats."""


class _Layout(NamedTuple):
    """The layout of a format made of chunks: id, size, body."""

    first: int
    """Where the first chunk begins."""
    size_at: int
    """Where a chunk's size is, counted from its start; also the number of bytes in its id."""
    size_bytes: int
    order: Literal["little", "big"]
    align: int
    sound: bytes
    """The id of the chunk that holds the sound."""
    lead: int = 0
    """Bytes before the sound in its chunk."""
    counts_head: bool = False
    """Whether a size includes the id and the size itself."""
    total_at: int = 0
    """Where the size of the file is; 0 if it is not stored."""

    @property
    def head_bytes(self) -> int:
        return self.size_at + self.size_bytes


WAV = _Layout(12, 4, 4, "little", 2, b"data", total_at=4)
AIFF = _Layout(12, 4, 4, "big", 2, b"SSND", lead=8, total_at=4)
CAF = _Layout(8, 4, 8, "big", 1, b"data", lead=4)
LAYOUTS = {
    b"RIFF": WAV,
    b"RIFX": WAV._replace(order="big"),
    b"RF64": WAV,
    b"BW64": WAV,
    b"FORM": AIFF,
    b"caff": CAF,
    b"riff": _Layout(40, 16, 8, "little", 8, b"data" + GUID_TAIL, counts_head=True, total_at=16),
}


class _Chunk(NamedTuple):
    begin: int
    body: int
    size: int
    """The size of the body, according to the chunk."""


def with_true_sizes(data: bytes) -> bytes:
    """The file with correct sizes; the same bytes if they are correct already.

    Raises InvalidRequest if the sound is followed by something that is not a chunk: it may be more sound.
    """
    if data[:4] == b".snd":
        return _au(data)
    layout = LAYOUTS[data[:4]]
    found = _find(data, layout)
    if found is None:
        return data  # the decoder says what is wrong
    size, long_size = found.size, None
    if data[:4] in (b"RF64", b"BW64") and size == 0xFFFFFFFF:
        long_size = _long_size_at(data)
        size = int.from_bytes(data[long_size : long_size + 8], "little")
    rest = len(data) - found.body
    if layout.lead < size <= rest:
        end = found.body + size
        _check_behind(data, end, layout)
        # What follows is kept from the decoder unless it may describe the sound (pakt and kuki of CAF, COMM
        # of AIFF).
        return data[:end] if layout is not CAF and layout is not AIFF else data
    if rest <= layout.lead or (size <= layout.lead and _are_chunks(data, found.body + size, layout)):
        return data  # it holds no sound
    mended = bytearray(data)
    if long_size is not None:
        _put(mended, long_size - 8, len(data) - 8, 8, "little")
        _put(mended, long_size, rest, 8, "little")
        return bytes(mended)
    says = rest + (layout.head_bytes if layout.counts_head else 0)
    _put(mended, found.begin + layout.size_at, says, layout.size_bytes, layout.order)
    if layout.total_at:
        total = len(data) - (0 if layout.counts_head else 8)
        _put(mended, layout.total_at, total, layout.size_bytes, layout.order)
    return bytes(mended)


def _au(data: bytes) -> bytes:
    if len(data) < 12:
        return data
    begin, size = int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big")
    rest = len(data) - begin
    if rest <= 0 or size == 0xFFFFFFFF:
        return data
    if 0 < size <= rest:
        _check_behind(data, begin + size, None)
        return data[: begin + size]
    return data[:8] + rest.to_bytes(4, "big") + data[12:]


def _find(data: bytes, layout: _Layout) -> _Chunk | None:
    """The chunk that holds the sound."""
    position = layout.first
    for _ in range(MAX_CHUNKS):
        if (chunk := _chunk(data, position, layout)) is None:
            return None
        if data[chunk.begin : chunk.begin + layout.size_at] == layout.sound:
            return chunk
        position = _behind(chunk, layout)
    raise InvalidRequest(f"expected its sound after fewer than {MAX_CHUNKS} chunks, found more")


def _chunk(data: bytes, begin: int, layout: _Layout) -> _Chunk | None:
    body = begin + layout.head_bytes
    if body > len(data):
        return None
    size = int.from_bytes(data[begin + layout.size_at : body], layout.order)
    return _Chunk(begin, body, max(0, size - layout.head_bytes) if layout.counts_head else size)


def _behind(chunk: _Chunk, layout: _Layout) -> int:
    end = chunk.body + chunk.size
    return end + -end % layout.align


def _are_chunks(data: bytes, position: int, layout: _Layout) -> bool:
    """Whether only chunks follow, at least one, up to the end. The beginning of another file is no chunk."""
    for num in range(MAX_CHUNKS):
        if position + layout.head_bytes > len(data):
            return num > 0
        chunk = _chunk(data, position, layout)
        name = data[position : position + 4]
        if chunk is None or chunk.body + chunk.size > len(data) or not all(32 <= byte < 127 for byte in name):
            return False
        if name in LAYOUTS:
            return False
        position = _behind(chunk, layout)
    return False


def _check_behind(data: bytes, end: int, layout: _Layout | None) -> None:
    """Chunks, tags, zeros and a few bytes may follow; anything else may be sound that was not counted."""
    aligned = end if layout is None else end + -end % layout.align
    for position in (end, aligned):
        behind = position
        while (after := skip_tag(data, behind)) > behind:
            behind = after
        rest = data[behind:]
        if len(rest) <= FEW_BYTES or not rest.strip(b"\x00"):
            return
        if layout is not None and _are_chunks(data, behind, layout):
            return
    raise InvalidRequest(
        f"its header ends the sound at byte {end}, but data that is not a chunk follows, to byte {len(data)}"
    )


def _long_size_at(data: bytes) -> int:
    """Where the size of the sound is in the `ds64` chunk, which comes first."""
    return WAV.first + WAV.head_bytes + 8


def _put(data: bytearray, at: int, value: int, size: int, order: Literal["little", "big"]) -> None:
    data[at : at + size] = min(value, 256**size - 1).to_bytes(size, order)
