"""What the stage "wider" hears and says: in many wordings and in words of all kinds, as units.

Each shard is spoken and encoded at once, from its own seed: an interrupted run goes on where it stopped, and
no sound is kept. A row has the text, the voice, the units that the ears find in some surroundings, and what
is asked and answered; those of the speaking voice also have the units that the model is to say. What is not
in good surroundings has two rows, since to hear a sound once more takes less than to speak another.
"""

from __future__ import annotations

import json
import random
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from antiphon.codec.analysis.logmel import INPUT_RATE_HZ, N_FFT, NUM_BANDS, log_mel, slaney_filters
from antiphon_tiny.omni.wider_speech import PLAIN
from antiphon_tiny.speech import augment
from antiphon_tiny.speech.build_data import SETS
from antiphon_tiny.speech.ears import Ears
from antiphon_tiny.speech.processes import process_per_core
from antiphon_tiny.speech.shards import to_int16
from antiphon_tiny.speech.train_ears import load_ears
from antiphon_tiny.speech.train_units import load_trained
from antiphon_tiny.speech.unit_encoder import UnitEncoder, unit_numbers
from antiphon_tiny.speech.wider_sentences import draw_of_the_world, draw_wider
from antiphon_tiny.stages import Run

__all__ = ["build_wider"]

COUNTS = {
    "heart": 6800, "disguised": 4900, "slt": 900, "rms": 900, "awb": 900, "kal16": 500, "kal": 400,
    "slt_hts": 500, "kal_diphone": 500, "espeak": 1400,
}  # fmt: skip
"""Utterances of each of the sets of "speech-data", by their voices."""
PLAIN_COUNTS = {
    "heart": 2800, "disguised": 2800, "slt": 400, "rms": 400, "awb": 400, "slt_hts": 200, "espeak": 600,
}  # fmt: skip
"""Those in good surroundings; half of their sentences are the grammar's own."""
PLAIN_SNR_DB, PLAIN_SILENCE_S = (18.0, 45.0), 0.4
SPEAKING = "heart"
SHARD = 100
NUM_LONG = 4
"""Of each shard, recordings of several of its utterances."""
LONG_S = 28.0
GAPS_S = (0.1, 1.0)
SAID_SHARE = 0.3
"""The part of the speaking voice's utterances that are answers; of the others', a third of that."""


def build_wider(arguments: Run) -> None:
    """Writes what is missing, with a process for each core; of all sets some first."""
    folder = arguments.folder("wider-data")
    counts = COUNTS | {PLAIN + name: count for name, count in PLAIN_COUNTS.items()}
    missing = sorted(
        (index * SHARD / count, name, index)
        for name, count in counts.items()
        for index in range(-(-count // SHARD))
    )
    with process_per_core() as pool:
        begun = [
            pool.submit(_write, arguments.work, name, index, arguments.seed)
            for _, name, index in missing
            if not _path(folder, name, index).is_file()
        ]
        for number, one in enumerate(as_completed(begun), 1):
            print(f"{one.result()}; {number} of {len(begun)} shards", flush=True)


def _path(folder: Path, name: str, index: int) -> Path:
    return folder / f"{name}-{index:04d}.jsonl"


@torch.inference_mode()
def _write(work: Path, name: str, index: int, seed: int) -> str:
    chance = random.Random(f"wider {seed} {name} {index}")
    rng = np.random.default_rng([seed, 7, sum(name.encode()), index])
    is_plain, voice = name.startswith(PLAIN), name.removeprefix(PLAIN)
    said_share = SAID_SHARE if voice == SPEAKING else SAID_SHARE / 3
    drawn = [
        draw_of_the_world(chance) if is_plain and i % 2 else draw_wider(chance, said_share)
        for i in range(SHARD)
    ]
    spoken = SETS[voice].say([row["text"] for row in drawn], rng)
    sounds = [tracks["heard"].astype(np.float32) / 32767 for _, tracks in spoken]
    ears, encoder = load_ears(work).eval(), load_trained(work / "units").encoder.eval()
    rows: list[dict[str, Any]] = []
    for i, (row, (info, _), sound) in enumerate(zip(drawn, spoken, sounds, strict=True)):
        if is_plain:
            units = _units(ears, _nearby(sound, rng))
        else:
            # Half of the time the speaking voice is heard as it is.
            as_it_is = name == SPEAKING and i % 2
            units = _units(ears, sound) if as_it_is else _heard(ears, sound, sounds, rng)
            rows.append({**row, "voice": info["voice"], "units": _heard(ears, sound, sounds, rng)})
        rows.append({**row, "voice": info["voice"], "units": units})
        if voice == SPEAKING:
            rows[-1]["said"] = _units(encoder, sound)
    for _ in range(0 if is_plain else NUM_LONG):
        chosen = _together(sounds, chance)
        parts = [np.pad(sounds[i], (0, int(chance.uniform(*GAPS_S) * INPUT_RATE_HZ))) for i in chosen]
        units = _heard(ears, np.concatenate(parts), sounds, rng)
        text = " ".join(drawn[i]["text"] for i in chosen)
        rows.append({"text": text, "voice": spoken[0][0]["voice"], "units": units, "long": True})
    path = _path(work / "wider-data", name, index)
    unfinished = path.with_suffix(".part")
    unfinished.write_text("\n".join(map(json.dumps, rows)) + "\n")
    unfinished.rename(path)
    return f"{name}: {len(rows)} recordings"


def _together(sounds: list[np.ndarray], chance: random.Random) -> list[int]:
    """Utterances that make a recording of up to `LONG_S`."""
    left = chance.uniform(8, LONG_S)
    chosen: list[int] = []
    for i in chance.sample(range(len(sounds)), len(sounds)):
        left -= len(sounds[i]) / INPUT_RATE_HZ + GAPS_S[1]
        if left < 0 and len(chosen) > 1:
            break
        chosen.append(i)
    return chosen


def _units(encoder: UnitEncoder | Ears, sound: np.ndarray) -> list[int]:
    features = log_mel(torch.from_numpy(to_int16(sound).astype(np.float32) / 32767))[None]
    found: list[int] = unit_numbers(encoder(features, torch.tensor([features.shape[2]])))[0].tolist()
    return found


def _nearby(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In a quiet room, near the microphone."""
    before, after = (int(rng.uniform(0, PLAIN_SILENCE_S) * INPUT_RATE_HZ) for _ in range(2))
    padded = np.pad(sound, (before, after))
    noise = rng.normal(0, 1, len(padded) + 1)
    noise = noise[1:] + rng.uniform(0, 0.95) * noise[:-1]
    ratio = np.square(sound).mean() / np.square(noise).mean()
    level = np.sqrt(ratio) * 10 ** (-rng.uniform(*PLAIN_SNR_DB) / 20)
    out: np.ndarray = (rng.uniform(0.2, 1.0) * (padded + level * noise)).astype(np.float32)
    return out


def _heard(ears: Ears, sound: np.ndarray, others: list[np.ndarray], rng: np.random.Generator) -> list[int]:
    """In surroundings of its own."""
    filters = slaney_filters(INPUT_RATE_HZ, N_FFT, NUM_BANDS)
    clip, _ = augment.moved_in_time(augment.Clip(sound, None), None, rng)
    heard = augment.through_a_room(clip.samples, [others[rng.integers(len(others))]], rng)
    features = torch.from_numpy(augment.log_mel(heard, filters, rng))[None]
    found: list[int] = unit_numbers(ears(features, torch.tensor([features.shape[2]])))[0].tolist()
    return found
