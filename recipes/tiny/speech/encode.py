"""Speech of all sets as units, by the trained encoder: what the language model hears and says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stages import Run

from antiphon.codec.logmel import log_mel, slaney_filters
from speech import augment
from speech.shards import read_sets
from speech.train_units import load_trained
from speech.unit_encoder import UnitEncoder, unit_numbers

__all__ = ["Reciter", "encode_heard", "encode_spoken", "read_units"]

PASSES = {"heart": 1, "disguised": 1, "slt": 2, "rms": 2, "awb": 2, "slt_hts": 2, "kal16": 1, "kal": 1,
          "kal_diphone": 1, "espeak": 1}  # fmt: skip
"""How often each set is heard in new surroundings, besides the speaking voice as it is."""
TESTS = ("test_heart", "test_slt", "test_rms", "test_ked", "test_joe")


def read_units(work: Path, name: str) -> list[dict[str, Any]]:
    """Rows {text, voice, units} of a set; `heart` in order and undisturbed, `NAME_heard` in surroundings."""
    return [json.loads(line) for line in (work / "units" / f"{name}.jsonl").read_text().splitlines()]


class Reciter:
    """Units of any text in the speaking voice."""

    def __init__(self, work: Path) -> None:
        from speech.speaking_voice import Voicebox

        self._voicebox = Voicebox()
        self._encoder = load_trained(work / "units").encoder

    def units(self, text: str, seed: int = 0) -> list[int]:
        from speech.build_data import trimmed
        from speech.speaking_voice import resampled
        from speech.synthesizers import Speech

        own = self._voicebox.think(text, 1.0)
        sound = resampled(own.say(np.random.default_rng(seed)), 16000)
        return _units(self._encoder, trimmed(Speech(sound, None, None))[0].samples)


def _units(encoder: UnitEncoder, samples: np.ndarray) -> list[int]:
    features = log_mel(torch.from_numpy(samples))[None]
    return unit_numbers(encoder(features, torch.tensor([features.shape[2]])))[0].tolist()


def encode_spoken(arguments: Run) -> None:
    """What the language model says, and what it is examined with."""
    folder = arguments.folder("units")
    encoder = load_trained(folder).encoder
    with torch.inference_mode():
        for name in (*TESTS, "heart"):
            _write(folder / f"{name}.jsonl", _as_it_is(arguments.work, name, encoder))


def encode_heard(arguments: Run) -> None:
    """What it learns to hear."""
    folder = arguments.folder("units")
    encoder = load_trained(folder).encoder
    with torch.inference_mode():
        for name, count in PASSES.items():
            path = folder / f"{name}_heard.jsonl"
            _write(path, _heard(arguments.work, name, count, encoder, arguments.seed))


def _write(path: Path, rows: Any) -> None:
    if path.is_file():
        return
    lines = [json.dumps(row) for row in rows]
    unfinished = path.with_suffix(".part")
    unfinished.write_text("\n".join(lines) + "\n")
    unfinished.rename(path)
    print(f"{path.stem}: {len(lines)} utterances", flush=True)


def _as_it_is(work: Path, name: str, encoder: UnitEncoder) -> Any:
    for utterance in read_sets(work / "speech", [name]):
        yield {**_said(utterance.info), "units": _units(encoder, utterance.samples())}


def _heard(work: Path, name: str, passes: int, encoder: UnitEncoder, seed: int) -> Any:
    filters = slaney_filters(16000, 400, 128)
    utterances = read_sets(work / "speech", [name])
    for number in range(passes):
        for i, utterance in enumerate(utterances):
            rng = np.random.default_rng([seed, number, i])
            clip, _ = augment.moved_in_time(augment.Clip(utterance.samples(), None), None, rng)
            others = [utterances[rng.integers(len(utterances))].samples()]
            samples = augment.through_a_room(clip.samples, others, rng)
            features = torch.from_numpy(augment.log_mel(samples, filters, rng))[None]
            points = encoder(features, torch.tensor([features.shape[2]]))
            yield {**_said(utterance.info), "units": unit_numbers(points)[0].tolist()}


def _said(info: dict[str, Any]) -> dict[str, Any]:
    return {"text": info["text"], "voice": info["voice"]}
