"""Speech of all sets as units: what the language model says, by the unit encoder, and what it hears, by the
ears, which are in the tokenizer file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stages import Run

from antiphon.codec.logmel import log_mel, slaney_filters
from speech import augment
from speech.ears import Ears
from speech.processes import process_per_core
from speech.shards import read_sets
from speech.train_ears import load_ears
from speech.train_units import load_trained
from speech.unit_encoder import UnitEncoder, unit_numbers

__all__ = ["encode_heard", "encode_spoken", "read_units"]

PASSES = {"heart": 1, "disguised": 1, "slt": 2, "rms": 2, "awb": 2, "slt_hts": 2, "kal16": 1, "kal": 1,
          "kal_diphone": 1, "espeak": 1}  # fmt: skip
"""How often each set is heard in new surroundings, besides the speaking voice as it is."""
SPEAKING = "heart"
SAID = ("heart", "test_heart")
PIECE = 250
"""Utterances that a process takes at a time."""
TESTS = ("test_heart", "test_slt", "test_rms", "test_ked", "test_joe")


def read_units(work: Path, name: str) -> list[dict[str, Any]]:
    """Rows {text, voice, units} of a set; `heart` in order and undisturbed, `NAME_heard` in surroundings."""
    return [json.loads(line) for line in (work / "units" / f"{name}.jsonl").read_text().splitlines()]


@dataclass(frozen=True)
class Clips:
    """A set of utterances, as they are said or as they are heard once."""

    name: str
    number: int | None
    """Of the pass through rooms and noise; None as they are said."""

    @property
    def file(self) -> str:
        return self.name if self.number is None else f"{self.name}_heard"


def _units(encoder: UnitEncoder | Ears, samples: np.ndarray) -> list[int]:
    features = log_mel(torch.from_numpy(samples))[None]
    return unit_numbers(encoder(features, torch.tensor([features.shape[2]])))[0].tolist()


def encode_spoken(arguments: Run) -> None:
    """What the language model says."""
    _encode(arguments, [Clips(name, None) for name in SAID])


def encode_heard(arguments: Run) -> None:
    """What it learns to hear, and what it is examined with, which is undisturbed."""
    passes = {**dict.fromkeys(TESTS, 1), **PASSES}
    _encode(arguments, [Clips(name, number) for name, count in passes.items() for number in range(count)])


def _encode(arguments: Run, all_clips: list[Clips]) -> None:
    """Writes what is missing, a process for each core."""
    with process_per_core() as pool:
        for file, group in groupby(all_clips, lambda clips: clips.file):
            path = arguments.folder("units") / f"{file}.jsonl"
            if path.is_file():
                continue
            pieces = [
                pool.submit(_rows, arguments.work, clips, start, arguments.seed)
                for clips in group
                for start in range(0, len(read_sets(arguments.work / "speech", [clips.name])), PIECE)
            ]
            lines = [json.dumps(row) for piece in pieces for row in piece.result()]
            unfinished = path.with_suffix(".part")
            unfinished.write_text("\n".join(lines) + "\n")
            unfinished.rename(path)
            print(f"{path.stem}: {len(lines)} utterances", flush=True)


@torch.inference_mode()
def _rows(work: Path, clips: Clips, start: int, seed: int) -> list[dict[str, Any]]:
    """Of `PIECE` utterances from `start` on: what was said, and its units."""
    # What is said are the unit encoder's units, what is heard are those that the tokenizer file finds.
    encoder: UnitEncoder | Ears = _unit_encoder(work) if clips.number is None else _ears(work)
    filters = slaney_filters(16000, 400, 128)
    utterances = read_sets(work / "speech", [clips.name])
    rows = []
    for i in range(start, min(start + PIECE, len(utterances))):
        samples = utterances[i].samples()
        # Half of the time the speaking voice is heard as it is.
        if clips.number is None or clips.name in TESTS or (clips.name == SPEAKING and i % 2):
            units = _units(encoder, samples)
        else:
            rng = np.random.default_rng([seed, clips.number, i])
            clip, _ = augment.moved_in_time(augment.Clip(samples, None), None, rng)
            others = [utterances[rng.integers(len(utterances))].samples()]
            heard = augment.through_a_room(clip.samples, others, rng)
            features = torch.from_numpy(augment.log_mel(heard, filters, rng))[None]
            units = unit_numbers(encoder(features, torch.tensor([features.shape[2]])))[0].tolist()
        info = utterances[i].info
        rows.append({"text": info["text"], "voice": info["voice"], "units": units})
    return rows


@cache
def _unit_encoder(work: Path) -> UnitEncoder:
    return load_trained(work / "units").encoder


@cache
def _ears(work: Path) -> Ears:
    return load_ears(work).eval()
