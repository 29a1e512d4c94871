"""What training never sees: every tenth sentence and every tenth combination of shapes, by their digests."""

from __future__ import annotations

import hashlib

from antiphon_tiny.world.words import words_of

__all__ = ["ONE_IN", "SPLITS", "is_held_out", "scene_is_held_out"]

SPLITS = ("train", "held_out")
ONE_IN = 10


def is_held_out(text: str) -> bool:
    """Whether a sentence is kept from training; letters' case and marks do not count."""
    return _falls(" ".join(words_of(text)))


def scene_is_held_out(key: str) -> bool:
    return _falls("scene: " + key)


def _falls(key: str) -> bool:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % ONE_IN == 0
