"""Counts the length of MPEG audio (mp3) from its frames, instead of guessing it from size and first bitrate.

libsndfile reads the number of samples that the first frame's tag promises or, without a tag, a number that it
guesses. So each part gets a tag that promises what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from antiphon.errors import InvalidRequest
from antiphon.sound.parts import Part, check_num_parts, skip_tag

__all__ = ["is_mpeg", "mpeg_parts"]

# By version (0: MPEG 2.5, 2: MPEG 2, 3: MPEG 1) and layer (3: I, 2: II, 1: III), as the header codes them.
RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
KBPS = {
    (1, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
LAYER_III = 1
MONO = 3
MAX_FRAMES = 2**20
MAX_DOUBTS = 2**18
"""Bytes outside frames that may look like the beginning of one: bounds the search."""
MAX_DELAY = 2 * 4095
"""Samples that an encoder's tag may have left out."""
TAGGED_DELAY = 529
"""Samples of its own delay that libmpg123 leaves out if there is a tag."""
VBRI_AT = 36
XING_BYTES = 120
"""Size of such a tag with all its fields."""
NUM_IN_DOUBT = 3
"""Number of consecutive frames that it takes to believe that the first is one."""


class _Header(NamedTuple):
    version: int
    layer: int
    rate_hz: int
    is_mono: bool
    size: int

    @property
    def kind(self) -> tuple[int, int, int, bool]:
        """What all frames of a recording have in common."""
        return self[:4]

    @property
    def num_samples(self) -> int:
        if self.layer == 3:
            return 384
        return 576 if self.layer == LAYER_III and self.version != 3 else 1152

    @property
    def side_info_bytes(self) -> int:
        if self.version == 3:
            return 17 if self.is_mono else 32
        return 9 if self.is_mono else 17


@dataclass
class _Run:
    """Frames of one recording."""

    header: _Header
    spans: list[tuple[int, int]]
    """Ranges of bytes that hold only frames."""
    num: int = 0

    def add(self, begin: int, end: int) -> None:
        if self.spans and self.spans[-1][1] == begin:
            begin = self.spans.pop()[0]
        self.spans.append((begin, end))
        self.num += 1


def is_mpeg(data: bytes, position: int = 0) -> bool:
    """Whether frames begin here."""
    return _begins(data, position)


def mpeg_parts(data: bytes) -> list[Part]:
    """The recordings that are joined in these frames, with tags before, between and after them.

    A part begins where the rate, the layer or mono changes, and at each tag of an encoder (Xing, Info, VBRI).
    Raises InvalidRequest if there is too much to search.
    """
    runs: list[_Run] = []
    for total, (position, header) in enumerate(_frames(data), start=1):
        if total > MAX_FRAMES:
            raise InvalidRequest(f"expected at most {MAX_FRAMES} frames of MPEG audio, got more")
        if not runs or header.kind != runs[-1].header.kind or _tag_at(data, position, header):
            runs.append(_Run(header, []))
            check_num_parts(len(runs))
        runs[-1].add(position, position + header.size)
    return [_promising(b"".join(data[begin:end] for begin, end in run.spans), run) for run in runs] or [
        Part(data)
    ]


def _frames(data: bytes) -> Iterator[tuple[int, _Header]]:
    position, kind, doubts = 0, None, 0
    while position < len(data):
        header = _header(data, position)
        if header is not None and (header.kind == kind or _begins(data, position)):
            if position + header.size > len(data):
                return  # cut off
            kind = header.kind
            yield position, header
            position += header.size
        elif (behind := skip_tag(data, position)) > position:
            position = behind
        else:
            position = data.find(b"\xff", position + 1)
            doubts += 1
            if position < 0:
                return
            if doubts > MAX_DOUBTS:
                raise InvalidRequest("expected frames of MPEG audio, got too much else between them")


def _begins(data: bytes, position: int) -> bool:
    """Whether a few similar frames, or fewer up to the end or a tag, follow each other from here."""
    kind = None
    for _ in range(NUM_IN_DOUBT):
        header = _header(data, position)
        if header is None or kind not in (None, header.kind):
            return False
        kind = header.kind
        position += header.size
        if position >= len(data) or skip_tag(data, position) > position:
            return True
    return True


def _header(data: bytes, position: int) -> _Header | None:
    head = data[position : position + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 0 or bitrate in (0, 15) or rate == 3:
        return None
    kbps = KBPS[1 if version == 3 else 2, layer][bitrate - 1]
    rate_hz = RATES_HZ[version][rate]
    if layer == 3:
        size = (12_000 * kbps // rate_hz + padding) * 4
    else:
        size = (144_000 if layer == 2 or version == 3 else 72_000) * kbps // rate_hz + padding
    return _Header(version, layer, rate_hz, head[3] >> 6 == MONO, size)


def _tag_at(data: bytes, position: int, header: _Header) -> int:
    """Where a tag in this frame has the number of frames; 0 if there is no tag."""
    if header.layer != LAYER_III:
        return 0
    at = position + 4 + header.side_info_bytes
    if data[at : at + 4] in (b"Xing", b"Info"):
        return at + 8
    at = position + VBRI_AT
    return at + 14 if data[at : at + 4] == b"VBRI" else 0


def _promising(data: bytes, run: _Run) -> Part:
    """The part with a tag that promises its number of frames, or more, which does no harm.

    If there is no tag, libsndfile's guess may be right. If it is not, a tag is put in front (`otherwise`).
    """
    header = run.header
    count_at = _tag_at(data, 0, header)
    num = run.num - bool(count_at)
    num_samples = num * header.num_samples
    shortfall = min(MAX_DELAY + 2 * header.num_samples, num_samples)
    is_vbri = data[count_at - 14 : count_at - 10] == b"VBRI"
    is_counted = count_at and (is_vbri or data[count_at - 1] & 1)
    if header.layer != LAYER_III:
        return Part(data, num_samples, header.rate_hz)
    count = num.to_bytes(4, "big")
    if is_counted:
        if int.from_bytes(data[count_at : count_at + 4], "big") < num:
            data = data[:count_at] + count + data[count_at + 4 :]
        return Part(data, num_samples, header.rate_hz, shortfall)
    bare = data[header.size :] if count_at else data
    tagged = Part(_tag(bare, header, count) + bare, num_samples, header.rate_hz, num_lead_frames=TAGGED_DELAY)
    return Part(bare, num_samples, header.rate_hz, otherwise=tagged)


def _tag(data: bytes, header: _Header, count: bytes) -> bytes:
    """A silent frame like the first one, with a tag that says how many follow."""
    head = bytearray(data[:4])
    head[1] |= 1  # no checksum
    while header.size < 4 + header.side_info_bytes + XING_BYTES:
        head[2] += 0x10
        larger = _header(bytes(head), 0)
        assert larger is not None, "the largest bitrates hold a tag"
        header = larger
    frame = bytes(head) + bytes(header.side_info_bytes) + b"Info\x00\x00\x00\x01" + count
    return frame.ljust(header.size, b"\x00")
