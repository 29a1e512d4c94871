"""A part of a sound file that one decoder run can read, and what all kinds of files share."""

from __future__ import annotations

from dataclasses import dataclass

from antiphon.errors import InvalidRequest

__all__ = ["MAX_PARTS", "Part", "check_num_parts", "skip_tag"]

MAX_PARTS = 256
"""Limit on the parts of a file: each needs a decoder."""
ID3_HEADER_BYTES = 10
ID3V1_BYTES = 128
APE_HEADER_BYTES = 32


@dataclass(frozen=True)
class Part:
    """Bytes that form a file of their own: the whole file, or one of those that were joined in it."""

    data: bytes
    num_frames: int | None = None
    """Counted, not what a header says; None: not known before it is decoded."""
    rate_hz: int = 0
    """The rate of num_frames."""
    shortfall: int = 0
    """How many frames may be missing: a decoder leaves out what an encoder has added around the sound."""
    num_lead_frames: int = 0
    """Frames of silence to put in front, in place of those that the decoder leaves out."""
    otherwise: Part | None = None
    """What to try if it cannot be decoded to its end."""


def check_num_parts(count: int) -> None:
    if count > MAX_PARTS:
        raise InvalidRequest(f"expected at most {MAX_PARTS} recordings joined in one file, got more")


def skip_tag(data: bytes | memoryview, position: int) -> int:
    """Where a tag (ID3, APE) that begins here ends; `position` if no tag begins here."""
    head = bytes(data[position : position + APE_HEADER_BYTES])
    if head[:3] == b"ID3" and len(head) >= ID3_HEADER_BYTES and not any(byte & 0x80 for byte in head[6:10]):
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        footer = ID3_HEADER_BYTES if head[5] & 0x10 else 0
        return position + ID3_HEADER_BYTES + size + footer
    if head[:3] == b"TAG" and len(data) - position >= ID3V1_BYTES:
        return position + ID3V1_BYTES
    if head[:8] == b"APETAGEX" and len(head) == APE_HEADER_BYTES:
        is_header = head[23] & 0x20
        return position + APE_HEADER_BYTES + (int.from_bytes(head[12:16], "little") if is_header else 0)
    return position
