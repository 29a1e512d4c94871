"""How many held-out questions the exported model answers right, asked through the runtime as a user would."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antiphon import Engine, Image, Message, Request, SamplingParams
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.picture import draw_picture
from antiphon_tiny.world.samples import draw_samples
from antiphon_tiny.world.words import words_of

__all__ = ["PICTURE_SIZE", "evaluate_typed", "request_of"]

MAX_TOKENS = 40
PICTURE_SIZE = 320


def evaluate_typed(
    engine: Engine, report: Path, *, num_samples: int = 500, seed: int = 100
) -> dict[str, float]:
    """Right answers to typed questions, in per cent: `num_samples` about "pictures", and the same number of
    other "talk". Writes what was asked, expected and said to `report`, mistakes first."""
    shares = {}
    rows = []
    for name, pictures in (("pictures", 1.0), ("talk", 0.0)):
        samples = draw_samples(num_samples, "held_out", seed, pictures=pictures)
        said = _answers(engine, samples)
        right = [words_of(text) == words_of(s.answer) for text, s in zip(said, samples, strict=True)]
        shares[name] = 100 * sum(right) / len(samples)
        for ok, text, sample in zip(right, said, samples, strict=True):
            rows.append(_row(ok, text, sample))
    rows.sort(key=lambda row: row["right"])
    by_topic: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        by_topic[row["topic"]].append(row["right"])
    topics = {topic: f"{sum(right)}/{len(right)}" for topic, right in sorted(by_topic.items())}
    report.write_text(json.dumps({"right_percent": shares, "by_topic": topics, "asked": rows}, indent=1))
    print(json.dumps({"right_percent": shares, "by_topic": topics}, indent=1))
    return shares


def request_of(sample: Sample, modalities: tuple[str, ...] = ("text",)) -> Request:
    messages = [Message(role, text) for role, text in sample.messages]
    if sample.scene is not None:
        messages[0] = Message(
            "user", [Image(draw_picture(sample.scene, PICTURE_SIZE)), sample.messages[0][1]]
        )
    return Request(messages=messages, modalities=modalities)


def _answers(engine: Engine, samples: Sequence[Sample]) -> list[str]:
    done = engine.generate([request_of(s) for s in samples], SamplingParams(max_tokens=MAX_TOKENS))
    return [completion.text if completion.finish_reason == "stop" else "(unfinished)" for completion in done]


def _row(right: bool, said: str, sample: Sample) -> dict[str, Any]:
    return {
        "right": right,
        "topic": sample.topic,
        "picture": sample.scene.key if sample.scene else None,
        "conversation": [text for _, text in sample.messages],
        "expected": sample.answer,
        "said": said,
    }
