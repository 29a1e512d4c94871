"""How the embedded model learns to read units: which paths of CTC count, and what comes into one batch."""

from __future__ import annotations

import math
import random
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from antiphon_tiny.omni import hearing_training as hearing
from antiphon_tiny.omni import spoken

BLANK = 0


def read(path: tuple[int, ...]) -> list[int]:
    return hearing.collapse(path, BLANK)


@pytest.mark.parametrize("held", [0, 2, 4, 9])
def test_the_paths_that_count_are_blank_at_first(held: int) -> None:
    """Against all paths, one by one; an utterance that is short is held less."""
    torch.manual_seed(held)
    logits = torch.randn(2, 9, 4)
    said = [spoken.Utterance("", [0] * 6, [2, 2]), spoken.Utterance("", [0] * 3, [1, 3])]
    spans = [(0, 1, said[0]), (1, 4, said[1])]
    model: Any = SimpleNamespace(
        omni=SimpleNamespace(audio_to_text_proj=lambda x: x), config=SimpleNamespace(blank_token_id=BLANK)
    )
    found = hearing.Hearing.reading(model, logits, spans, held)
    expected = 0.0
    for row, start, utterance in spans:
        length = len(utterance.units)
        chances = logits[row, start : start + length].softmax(-1)
        silent = min(held, length - spoken.frames_needed(utterance))
        likely = sum(
            math.prod(float(chances[t, label]) for t, label in enumerate(path))
            for path in product(range(4), repeat=length)
            if read(path) == utterance.text_ids and not any(path[:silent])
        )
        expected -= math.log(likely)
    assert float(found) == pytest.approx(expected / 4, rel=1e-4)


def test_batches_of_like_length_leave_nothing_out() -> None:
    rows = [bytes(random.Random(i).randrange(50)) for i in range(8 * spoken.POOL)]
    seen: dict[int, list[bytes]] = {}
    for seed in range(40):
        part = spoken.of_like_length(random.Random(seed), rows, len)
        assert len(part) == 8
        seen[min(map(len, part))] = part
    assert sorted(len(row) for part in seen.values() for row in part) == sorted(map(len, rows))
    lengths = sorted((min(map(len, part)), max(map(len, part))) for part in seen.values())
    assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(lengths))
