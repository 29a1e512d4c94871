"""Cuts a text into pieces that can be spoken one after the other: sentences, or parts of very long ones."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["MAX_PIECE_CHARS", "SENTENCE_PAUSE_S", "spoken_pieces"]

MAX_PIECE_CHARS = 300
"""Some 20 s of speech; longer sentences are cut at a comma, or else between two words."""
SENTENCE_PAUSE_S = 0.25
"""Silence between two sentences that were spoken one by one."""

_END = re.compile(r"""[.!?…]+["'”’)\]]*\s+|[。！？]+["”’」』]*\s*|\n+\s*""")
"""Where a sentence may end, with the white space after it."""
_COMMA = re.compile(r"[,;:–—]+\s+|[，、；：]+")
_SPACE = re.compile(r"\s+")
_ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|etc|e\.g|i\.e|cf|approx|No|Fig|a\.m|p\.m)\.\s+$"
)


def spoken_pieces(text: str) -> list[str]:
    """The pieces, without white space around them; none is empty, none longer than `MAX_PIECE_CHARS`. Only
    white space is left out. A single word is not a piece while more of the text follows on its line."""
    pieces: list[str] = []
    for sentence in _sentences(text):
        while len(sentence) > MAX_PIECE_CHARS:
            end = _last_cut(sentence)
            pieces.append(sentence[:end].strip())
            sentence = sentence[end:].strip()
        pieces.append(sentence)
    return [piece for piece in pieces if piece]


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for match in _END.finditer(text):
        before = text[start : match.end()]
        if "\n" not in match[0] and _goes_on(before, text[match.end() : match.end() + 1]):
            continue
        yield before.strip()
        start = match.end()
    yield text[start:].strip()


def _goes_on(before: str, following: str) -> bool:
    """Whether a sentence goes on after what looks like its end, or is too short to stand alone."""
    is_word = before.isascii() and len(before.split()) == 1
    return following.islower() or is_word or _ABBREVIATION.search(before) is not None


def _last_cut(sentence: str) -> int:
    """Where a sentence that is too long is cut: in its second half if that can be."""
    head = sentence[:MAX_PIECE_CHARS]
    for kind, least in ((_COMMA, MAX_PIECE_CHARS // 2), (_SPACE, 1)):
        ends = [match.end() for match in kind.finditer(head) if match.end() >= least]
        if ends:
            return ends[-1]
    return MAX_PIECE_CHARS
