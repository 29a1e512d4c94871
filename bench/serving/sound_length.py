"""How long the speech in a stream of base64 pieces is."""

from __future__ import annotations

import binascii

__all__ = ["SoundLength"]

PCM16_RATE_HZ = 24_000
"""Of OpenAI's pcm16, which is mono."""
SAMPLE_BYTES = 2
WAV_HEADER_BYTES = 44


class SoundLength:
    """Counts pcm16, or wav: pieces of one file, or a file in each piece."""

    def __init__(self) -> None:
        self._rest = ""
        self._head = b""
        self._bytes_per_s = PCM16_RATE_HZ * SAMPLE_BYTES

    def add(self, data: str) -> float:
        """The seconds in one more piece. Raises ValueError for what is not base64."""
        text = self._rest + data
        whole = len(text) // 4 * 4
        text, self._rest = text[:whole], text[whole:]
        content = self._head + binascii.a2b_base64(text.encode("ascii"))
        self._head = b""
        if b"RIFF".startswith(content[:4]) or content.startswith(b"RIFF"):
            if len(content) < WAV_HEADER_BYTES:
                self._head = content
                return 0.0
            self._bytes_per_s = max(1, int.from_bytes(content[28:32], "little"))
            content = content[WAV_HEADER_BYTES:]
        return len(content) / self._bytes_per_s
