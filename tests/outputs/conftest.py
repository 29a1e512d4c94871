"""A codec and a speech worker of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from checkpoints import RANDOM_CODEC

from antiphon.codec import Codec
from antiphon.outputs.speech_worker import SpeechWorker


@pytest.fixture
def codec() -> Codec:
    """One of its own for each test: some break it."""
    return Codec.from_pretrained(RANDOM_CODEC, device="cpu")


@pytest.fixture
def worker(codec: Codec) -> Iterator[SpeechWorker]:
    worker = SpeechWorker(codec)
    yield worker
    worker.close()
