"""Batches for the unit encoder: utterances of about one length out of all voices, each heard in a new way."""

from __future__ import annotations

import random
from bisect import bisect
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from antiphon.codec.analysis.logmel import INPUT_RATE_HZ, N_FFT, NUM_BANDS, slaney_filters
from antiphon_tiny.speech.augment import Clip, log_mel, moved_in_time, through_a_room
from antiphon_tiny.speech.shards import Utterance

__all__ = ["SHARES", "UnitBatch", "UnitBatches"]

SHARES = {
    "heart": 0.22, "disguised": 0.3, "slt": 0.08, "rms": 0.08, "awb": 0.08, "slt_hts": 0.07,
    "kal16": 0.03, "kal": 0.02, "kal_diphone": 0.02, "espeak": 0.1,
}  # fmt: skip
"""How much of a batch comes from which set."""
BATCH_SECONDS = 56.0
MAX_PAIRS = 10
"""The most clips of a batch that are compared with the undisturbed one."""
QUIET_SHARE = 0.3
"""The share of utterances without room and noise, though by another throat and microphone."""
NEAR = 0.05
"""How far, as a part of a set ordered by length, a draw may lie from the length that is wanted."""
SUBFRAMES_PER_SECOND = 50
FRAMES_PER_SUBFRAME = 2


@dataclass
class UnitBatch:
    features: Tensor
    """(batch, 128, frames)"""
    lengths: Tensor
    """(batch,) frames"""
    phones: Tensor
    """(sum of phones,) what is said, silence left out, one utterance after the other"""
    num_phones: Tensor
    """(batch,)"""
    frame_phones: Tensor
    """(batch, 2 * units) the sound at each moment, -100 where it is not known"""
    plain: Tensor
    """(pairs, 128, frames) the same in the speaking voice, undisturbed"""
    pairs: list[int]
    """Rows of `features` that have one"""


class UnitBatches:
    def __init__(self, utterances: list[Utterance]) -> None:
        self._sets: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            self._sets.setdefault(utterance.set_name, []).append(utterance)
        for members in self._sets.values():
            members.sort(key=lambda utterance: len(utterance.tracks["heard"]))
        self._lengths = {
            name: [len(member.tracks["heard"]) for member in members] for name, members in self._sets.items()
        }
        self._names = [name for name in SHARES if name in self._sets]
        self._filters = slaney_filters(INPUT_RATE_HZ, N_FFT, NUM_BANDS)

    def draw(self, rng: random.Random) -> UnitBatch:
        wanted = rng.choice(self._lengths[rng.choices(self._names, [SHARES[n] for n in self._names])[0]])
        count = max(4, min(64, int(BATCH_SECONDS / (wanted / INPUT_RATE_HZ + 0.4))))
        chosen = [self._near(wanted, rng) for _ in range(count)]
        numbers = np.random.default_rng(rng.getrandbits(63))
        others = [utterance.samples() for utterance in chosen[:3]]
        heard, plain, ends = [], [], []
        pairs: list[int] = []
        for row, utterance in enumerate(chosen):
            known = utterance.info["ends_s"]
            clip = Clip(utterance.samples(), None if known is None else np.array(known))
            is_own = utterance.set_name == "heart"
            own = (
                utterance.samples("plain")
                if "plain" in utterance.tracks
                else clip.samples
                if is_own
                else None
            )
            # A third of the speaking voice is heard as it is: that is how it will be read most.
            if is_own and numbers.random() < 0.33:
                heard.append(log_mel(clip.samples, self._filters))
                ends.append(clip.ends_s)
                if len(pairs) < MAX_PAIRS:
                    plain.append(heard[-1])
                    pairs.append(row)
                continue
            if len(pairs) == MAX_PAIRS:
                own = None
            clip, own = moved_in_time(clip, own, numbers)
            is_quiet = numbers.random() < QUIET_SHARE
            samples = clip.samples if is_quiet else through_a_room(clip.samples, others, numbers)
            heard.append(log_mel(samples, self._filters, numbers))
            ends.append(clip.ends_s)
            if own is not None:
                plain.append(log_mel(own, self._filters))
                pairs.append(row)
        lengths = [features.shape[1] for features in heard]
        frames = max(lengths)
        phones = [[phone for phone in utterance.info["phones"] if phone] for utterance in chosen]
        return UnitBatch(
            torch.from_numpy(_padded(heard, frames)),
            torch.tensor(lengths),
            torch.tensor([phone for row in phones for phone in row]),
            torch.tensor([len(row) for row in phones]),
            torch.from_numpy(
                np.stack([
                    _frame_phones(utterance.info["phones"], end, length, frames)
                    for utterance, end, length in zip(chosen, ends, lengths, strict=True)
                ])
            ),
            torch.from_numpy(_padded(plain, frames)) if plain else torch.zeros(0, NUM_BANDS, frames),
            pairs,
        )  # fmt: skip

    def _near(self, length: int, rng: random.Random) -> Utterance:
        name = rng.choices(self._names, [SHARES[name] for name in self._names])[0]
        members, lengths = self._sets[name], self._lengths[name]
        reach = max(2, int(NEAR * len(members)))
        place = bisect(lengths, length) + rng.randint(-reach, reach)
        return members[min(max(place, 0), len(members) - 1)]


def _padded(rows: list[np.ndarray], frames: int) -> np.ndarray:
    padded = np.zeros((len(rows), NUM_BANDS, frames), np.float32)
    for i, row in enumerate(rows):
        padded[i, :, : min(frames, row.shape[1])] = row[:, :frames]
    return padded


def _frame_phones(phones: list[int], ends_s: np.ndarray | None, length: int, frames: int) -> np.ndarray:
    """At 50 a second, for two places of each unit."""
    row = np.full(2 * -(-frames // 4), -100, np.int64)
    if ends_s is not None:
        count = min(len(row), -(-length // FRAMES_PER_SUBFRAME))
        middles = (np.arange(count) + 0.5) / SUBFRAMES_PER_SECOND
        row[:count] = np.array([*phones, 0])[np.searchsorted(ends_s, middles)]
        row[:count][middles < ends_s[0] - 0.3] = 0
    return row
