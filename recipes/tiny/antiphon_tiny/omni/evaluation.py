"""How many held-out questions the exported model answers right, asked through the runtime as a user would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from antiphon import Engine, Image, Message, Request
from antiphon.evaluation.cases import Case, Turn
from antiphon_tiny.evaluating import Media, right_per_cent, run_task
from antiphon_tiny.world.exchange import Sample
from antiphon_tiny.world.picture import draw_picture
from antiphon_tiny.world.samples import draw_samples

__all__ = ["PICTURE_SIZE", "evaluate_typed", "request_of", "typed_cases"]

PICTURE_SIZE = 320


def evaluate_typed(
    engine: Engine, folder: Path, *, num_samples: int = 500, seed: int = 100
) -> dict[str, float]:
    """Right answers to typed questions, in per cent: `num_samples` about "pictures", and the same number of
    other "talk". The runs are left in `folder`, and their figures by topic are printed."""
    shares, topics = {}, dict[str, str]()
    for name, pictures in (("pictures", 1.0), ("talk", 0.0)):
        samples = draw_samples(num_samples, "held_out", seed, pictures=pictures)
        cases = typed_cases(samples, Media(folder / "media"))
        report = run_task(engine, folder / f"typed-{name}", "vqa", cases)
        shares[name] = right_per_cent(report)
        for topic in sorted({case.group for case in cases}):
            own = [case.case_id for case in cases if case.group == topic]
            topics[topic] = f"{right_per_cent(report, own):.0f} % of {len(own)}"
    print(json.dumps({"right_percent": shares, "by_topic": topics}, indent=1))
    return shares


def typed_cases(samples: Sequence[Sample], media: Media) -> list[Case]:
    """Grouped by topic. In a dialogue, earlier answers are the right ones."""
    cases = []
    for number, sample in enumerate(samples):
        picture = None
        if sample.scene is not None:
            picture = media.picture(draw_picture(sample.scene, PICTURE_SIZE))
        before = [Turn(text=turn.question, reply=turn.answer) for turn in sample.turns[:-1]]
        if before:
            before[0] = Turn(image=picture, text=before[0].text, reply=before[0].reply)
        cases.append(
            Case(
                str(number),
                sample.topic,
                image=None if before else picture,
                text=sample.turns[-1].question,
                references=(sample.answer,),
                rule="exact",
                turns=tuple(before),
            )
        )
    return cases


def request_of(sample: Sample) -> Request:
    messages = [Message(role, text) for role, text in sample.messages]
    if sample.scene is not None:
        messages[0] = Message(
            "user", [Image(draw_picture(sample.scene, PICTURE_SIZE)), sample.messages[0][1]]
        )
    return Request(messages=messages)
