"""Speech of all sets as units: what the language model says, by the unit encoder, and what it hears, by the
ears, which are in the tokenizer file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from antiphon.codec.analysis.logmel import INPUT_RATE_HZ, N_FFT, NUM_BANDS, log_mel, slaney_filters
from antiphon_tiny.speech import augment
from antiphon_tiny.speech.ears import Ears
from antiphon_tiny.speech.processes import process_per_core
from antiphon_tiny.speech.shards import read_sets
from antiphon_tiny.speech.train_ears import load_ears
from antiphon_tiny.speech.train_units import load_trained
from antiphon_tiny.speech.unit_encoder import UnitEncoder, unit_numbers
from antiphon_tiny.stages import Run

__all__ = ["encode_heard", "encode_spoken", "read_units"]

VOICES = ("heart", "disguised", "slt", "rms", "awb", "slt_hts", "kal16", "kal", "kal_diphone", "espeak")
"""Sets that are heard, each utterance once, in surroundings of its own."""
PASS = 0
"""Another number gives other surroundings."""
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
    """A set of utterances, as they are said or as they are heard."""

    name: str
    is_heard: bool

    @property
    def file(self) -> str:
        return f"{self.name}_heard" if self.is_heard else self.name


def _units(encoder: UnitEncoder | Ears, samples: np.ndarray) -> list[int]:
    features = log_mel(torch.from_numpy(samples))[None]
    return unit_numbers(encoder(features, torch.tensor([features.shape[2]])))[0].tolist()


def encode_spoken(arguments: Run) -> None:
    """What the language model says."""
    _encode(arguments, [Clips(name, is_heard=False) for name in SAID])


def encode_heard(arguments: Run) -> None:
    """What it learns to hear, and what it is examined with, which is undisturbed."""
    _encode(arguments, [Clips(name, is_heard=True) for name in (*TESTS, *VOICES)])


def _encode(arguments: Run, all_clips: list[Clips]) -> None:
    """Writes what is missing, a process for each core."""
    with process_per_core() as pool:
        for clips in all_clips:
            path = arguments.folder("units") / f"{clips.file}.jsonl"
            if path.is_file():
                continue
            num_utterances = len(read_sets(arguments.work / "speech", [clips.name]))
            pieces = [
                pool.submit(_rows, arguments.work, clips, start, arguments.seed)
                for start in range(0, num_utterances, PIECE)
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
    encoder: UnitEncoder | Ears = _ears(work) if clips.is_heard else _unit_encoder(work)
    filters = slaney_filters(INPUT_RATE_HZ, N_FFT, NUM_BANDS)
    utterances = read_sets(work / "speech", [clips.name])
    rows = []
    for i in range(start, min(start + PIECE, len(utterances))):
        samples = utterances[i].samples()
        # Half of the time the speaking voice is heard as it is.
        if not clips.is_heard or clips.name in TESTS or (clips.name == SPEAKING and i % 2):
            units = _units(encoder, samples)
        else:
            rng = np.random.default_rng([seed, PASS, i])
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
