"""How well speech survives its way through units: what Whisper understands of it, and how DNSMOS rates it.

Each column goes one step further: the synthesizer's own sound, its mel through the vocoder, its units through
the flow and the vocoder, and the same as a stream.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import soxr

from antiphon.codec.analysis.logmel import INPUT_RATE_HZ
from antiphon.codec.analysis.prompt_mel import prompt_mel
from antiphon.codec.checkpoint.hyperparams import SAMPLE_RATE_HZ
from antiphon.codec.codec import Codec
from antiphon.evaluation.sound_quality import dnsmos
from antiphon.evaluation.word_errors import errors as word_errors
from antiphon.export.judge import hear
from antiphon_tiny.speech.codec_folder import load_codec
from antiphon_tiny.speech.shards import Utterance, read_sets
from antiphon_tiny.speech.train_units import TESTS, load_trained, phone_errors
from antiphon_tiny.stages import Run

__all__ = ["evaluate"]

NUM_SENTENCES = 100


def evaluate(arguments: Run) -> None:
    codec = load_codec(arguments.work)
    utterances = read_sets(arguments.work / "speech", ["test_heart"])[: arguments.num_steps or NUM_SENTENCES]
    columns: dict[str, Callable[[Utterance], np.ndarray]] = {
        "own sound": lambda utterance: utterance.samples("spoken"),
        "true mel": lambda utterance: codec.vocode(prompt_mel(utterance.samples("spoken"))),
        "units": lambda utterance: codec.decode([_units(codec, utterance)])[0],
        "streamed": lambda utterance: _streamed(codec, _units(codec, utterance)),
    }
    report: dict[str, dict[str, float]] = {}
    for name, make in columns.items():
        errors = words = 0
        scores, seconds, length = [], 0.0, 0.0
        for utterance in utterances:
            begun = time.perf_counter()
            samples = make(utterance)
            seconds += time.perf_counter() - begun
            length += len(samples) / SAMPLE_RATE_HZ
            heard = soxr.resample(samples, SAMPLE_RATE_HZ, INPUT_RATE_HZ).astype(np.float32)
            wrong, said = word_errors(utterance.info["text"], hear(heard), "en")
            errors, words = errors + wrong, words + said
            scores.append(dnsmos(heard, INPUT_RATE_HZ))
        report[name] = {
            "word error %": 100 * errors / words,
            "dnsmos": float(np.mean(scores)),
            "seconds per second": seconds / length,
        }
        print(name, {key: round(value, 3) for key, value in report[name].items()}, flush=True)
    module = load_trained(arguments.work / "units")
    report["phones"] = {
        name: 100 * phone_errors(module, read_sets(arguments.work / "speech", [name])[:100]) for name in TESTS
    }
    print("sounds misread from units, %", report["phones"], flush=True)
    (arguments.folder("reports") / "speech.json").write_text(json.dumps(report, indent=1))


def _units(codec: Codec, utterance: Utterance) -> list[int]:
    return codec.tokenize(utterance.samples(), INPUT_RATE_HZ)


def _streamed(codec: Codec, units: list[int]) -> np.ndarray:
    stream = codec.stream()
    pieces = [stream.push([unit]) for unit in units]
    return np.concatenate([*pieces, stream.push(final=True)])
