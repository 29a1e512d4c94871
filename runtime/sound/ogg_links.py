"""Splits chained Ogg (RFC 3533): recordings joined one after the other, of which libsndfile reads only the
first."""

from __future__ import annotations

from dataclasses import dataclass, field

from antiphon.errors import InvalidRequest
from antiphon.sound.flac_frames import flac_parts
from antiphon.sound.parts import Part, check_num_parts

__all__ = ["ogg_parts"]

CAPTURE = b"OggS"
HEADER_BYTES = 27
FIRST_PAGE = 0x02
MAX_PAGES = 2**16
"""libogg adds up whatever looks like a page, up to 64 KB each time."""
FLAC = b"\x7fFLAC"
FLAC_LEAD_BYTES = 9
"""Bytes before the marker that every FLAC file begins with."""


@dataclass
class _Link:
    """The pages from those that begin its streams, one after the other, up to those of the next link."""

    begin: int
    num_streams: int = 0
    bodies: list[tuple[int, int]] = field(default_factory=list)
    """Where the contents of its pages are."""


def ogg_parts(data: bytes) -> list[Part]:
    """The links of a chain, each a file of its own; of FLAC, without the Ogg around it."""
    links: list[_Link] = []
    was_first = False
    position = data.find(CAPTURE)
    if data.count(CAPTURE) > MAX_PAGES:
        raise InvalidRequest(f"expected at most {MAX_PAGES} pages of Ogg, got more")
    while position >= 0 and position + HEADER_BYTES <= len(data):
        num_segments = data[position + HEADER_BYTES - 1]
        segments = data[position + HEADER_BYTES : position + HEADER_BYTES + num_segments]
        is_first = bool(data[position + 5] & FIRST_PAGE)
        if (is_first and not was_first) or not links:
            links.append(_Link(position))
            check_num_parts(len(links))
        was_first = is_first
        links[-1].num_streams += is_first
        body = position + HEADER_BYTES + num_segments
        links[-1].bodies.append((body, body + sum(segments)))
        position = data.find(CAPTURE, body + sum(segments))
    parts: list[Part] = []
    for number, link in enumerate(links):
        end = links[number + 1].begin if number + 1 < len(links) else len(data)
        body = link.bodies[0][0]
        if link.num_streams == 1 and data[body : body + len(FLAC)] == FLAC:
            parts += flac_parts(b"".join(data[b:e] for b, e in link.bodies)[FLAC_LEAD_BYTES:])
        else:
            parts.append(Part(data[link.begin : end]))
    return parts or [Part(data)]
