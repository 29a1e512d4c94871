"""How the exported model does when it is spoken to, and how it speaks: asked through the runtime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stages import Run
from world.samples import draw_samples
from world.words import words_of

from antiphon import Completion, Engine, Image, Message, Request, SamplingParams, Units
from omni.evaluation import PICTURE_SIZE, request_of
from omni.hearing_training import word_errors
from omni.listening_training import SpokenSample, spoken_tests

__all__ = ["evaluate_spoken"]

NUM_REPLIES = 200
PARAMS = SamplingParams(max_tokens=40, max_units=375)
AUDIO = ("text", "audio")


def evaluate_spoken(run: Run, folder: Path, report: Path) -> None:
    """Spoken questions in the voices of the tests; replies to typed ones, whether they end, and with a codec
    folder what Whisper understands of them."""
    codec = run.work / "codec"
    found: dict[str, Any] = {}
    with Engine(folder, codec=codec if codec.is_dir() else None) as engine:
        for name, spoken in spoken_tests(run, NUM_REPLIES).items():
            found[name] = _spoken_to(engine, spoken)
            print(name, found[name], flush=True)
        samples = draw_samples(NUM_REPLIES, "held_out", run.seed + 200, pictures=0.5)
        requests = [request_of(sample, AUDIO) for sample in samples]
        found["replies"] = _replies(engine.generate(requests, PARAMS))
        print("replies", found["replies"], flush=True)
    report.write_text(json.dumps(found, indent=1))


def _spoken_to(engine: Engine, spoken: Sequence[SpokenSample]) -> dict[str, float]:
    from world.picture import draw_picture

    requests = []
    for one in spoken:
        scene = one.sample.scene
        picture = [] if scene is None else [Image(draw_picture(scene, PICTURE_SIZE))]
        requests.append(Request(messages=[Message("user", [*picture, Units(one.questions[0].units)])]))
    done = engine.generate(requests, PARAMS)
    said = [one.questions[0].text for one in spoken]
    right = {True: [0, 0], False: [0, 0]}
    for one, completion in zip(spoken, done, strict=True):
        counts = right[one.sample.scene is not None]
        counts[0] += words_of(completion.text) == words_of(one.sample.answer)
        counts[1] += 1
    return {
        "transcript word error %": word_errors(said, [completion.transcript for completion in done]),
        "right about pictures %": 100 * right[True][0] / max(1, right[True][1]),
        "right otherwise %": 100 * right[False][0] / max(1, right[False][1]),
        "asked": len(spoken),
    }


def _replies(done: Sequence[Completion]) -> dict[str, float]:
    shown: dict[str, float] = {
        "spoken": len(done),
        "unfinished": sum(completion.finish_reason != "stop" for completion in done),
        "units a word": float(np.mean([len(c.units) / max(1, len(words_of(c.text))) for c in done])),
    }
    heard = [_transcribed(completion) for completion in done if completion.audio is not None]
    if heard:
        shown["word error % of Whisper"] = 100 * sum(e for e, _, _ in heard) / sum(n for _, n, _ in heard)
        shown["dnsmos"] = float(np.mean([score for _, _, score in heard]))
    return shown


def _transcribed(completion: Completion) -> tuple[int, int, float]:
    import soxr
    from speech.judge import dnsmos, hear
    from speech.judge import word_errors as judged_errors

    samples = soxr.resample(completion.audio, completion.sample_rate_hz, 16000).astype(np.float32)
    return (*judged_errors(completion.text, hear(samples)), dnsmos(samples))
