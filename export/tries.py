"""Inputs that the ranges of a network are measured on before an engine is made of it: loud ones, as long as
the engine will take them, then shorter ones with padding, and silence. One row each.

Each function is given the largest shape of each input, and how many ids there are for inputs of ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from antiphon.codec.analysis.logmel import NUM_BANDS
from antiphon.codec.checkpoint.hyperparams import HOP, MEL_BANDS, SAMPLE_RATE_HZ

__all__ = ["encoder_tries", "flow_tries", "hift_tries", "listening_tries", "tokenizer_tries", "vision_tries"]

Shapes = Mapping[str, tuple[int, ...]]
Ids = Mapping[str, int]
Tries = Iterator[Mapping[str, Tensor]]

CEILING, FLOOR = 4.0, -11.5129
"""Log-mel (natural logarithm) of more than full scale, and of silence."""
LOUD, SILENT = 2.0, -1.5
"""The same of Whisper's log-mel, which is of tens and moved."""
HIGH_HZ = 1000.0
SHORT = 256
"""Frames, units or tokens of the shorter inputs."""
GARBAGE = 10.0
"""On padding."""


def _padded(size: int) -> int:
    """How much of a shorter input is padding."""
    return size // 2


def _mask(size: int, num_padded: int) -> Tensor:
    """(size,): 1, and 0 on padding"""
    return (torch.arange(size) < max(1, size - num_padded)).float()


def flow_tries(shapes: Shapes, num_ids: Ids) -> Tries:
    generator = torch.Generator().manual_seed(0)
    frames = next(iter(shapes.values()))[-1]
    noise = torch.randn(MEL_BANDS, frames, generator=generator)
    level = (CEILING - FLOOR) * torch.rand(MEL_BANDS, frames, generator=generator) + FLOOR
    short = min(frames, SHORT)
    quiet = torch.full((MEL_BANDS, short), FLOOR)
    for state, mel, t, num_padded in (
        (4 * noise, torch.full_like(level, CEILING), 0.0, 0),
        (4 * noise, 2 * level, 0.5, 0),
        (noise[:, :short], level[:, :short], 0.3, _padded(short)),
        (quiet, quiet, 0.99, 1),
    ):
        mask = _mask(mel.shape[1], num_padded)
        speaker = 4 * torch.randn(1, MEL_BANDS, generator=generator)
        x, mu = (torch.where(mask > 0, each, GARBAGE)[None] for each in (state, mel))
        known = {"x": x, "noise": x, "mask": mask[None, None], "mu": mu, "t": torch.tensor([t])}
        yield known | {"speaker": speaker, "spks": speaker, "prompt": mu, "cond": mu}


def encoder_tries(shapes: Shapes, num_ids: Ids) -> Tries:
    generator = torch.Generator().manual_seed(0)
    most_units, most_frames = shapes["units"][1], shapes["left"][1]
    for units, frames, scale, is_padded in (
        (most_units, most_frames, 4.0, False),
        (min(most_units, SHORT), min(most_frames, SHORT), 1.0, True),
    ):
        ids = torch.randint(num_ids["units"], (1, units), generator=generator)
        unit_mask = _mask(units, _padded(units) if is_padded else 0)
        mask = _mask(frames, _padded(frames) if is_padded else 0)
        valid = int(unit_mask.sum())
        yield {
            "units": ids,
            "unit_mask": unit_mask[None, None],
            "left": (torch.arange(frames) * valid // frames)[None],
            "weight": torch.rand(1, frames, generator=generator),
            "mask": mask[None, None],
            "embedding": scale * torch.randn(shapes["embedding"], generator=generator),
        }


def hift_tries(shapes: Shapes, num_ids: Ids) -> Tries:
    generator = torch.Generator().manual_seed(0)
    _, frames, _, waves = shapes["noise"]
    level = (CEILING - FLOOR) * torch.rand(MEL_BANDS, frames, generator=generator) + FLOOR
    short = min(frames, SHORT)
    for mel, scale, pitch_hz, num_padded in (
        (torch.full_like(level, CEILING), 4.0, HIGH_HZ, 0),
        (2 * level, 4.0, HIGH_HZ / 10, 0),
        (level[:, :short], 1.0, HIGH_HZ / 10, _padded(short)),
        (torch.full((MEL_BANDS, short), FLOOR), 1.0, 0.0, 1),
    ):
        own = mel.shape[1]
        mask = _mask(own, num_padded)
        step = torch.full((own,), pitch_hz / SAMPLE_RATE_HZ)
        yield {
            "mel": torch.where(mask > 0, mel, GARBAGE)[None],
            "mask": mask[None, None],
            "noise": scale * torch.randn(1, own, HOP, waves, generator=generator),
            "phase": 6 * torch.rand(1, waves, generator=generator) - 3,
            "steps": torch.stack([torch.zeros(own), step], dim=1)[None],
            "begins": torch.rand(1, own, waves, generator=generator),
            "voiced": (step > 0).float()[None],
        }


def tokenizer_tries(shapes: Shapes, num_ids: Ids) -> Tries:
    generator = torch.Generator().manual_seed(0)
    frames = shapes["feats"][2]
    level = (LOUD - SILENT) * torch.rand(NUM_BANDS, frames, generator=generator) + SILENT
    short = min(frames, SHORT)
    for feats, num_padded in (
        (torch.full_like(level, LOUD), 0),
        (level, 0),
        (level[:, :short], _padded(short)),
        (torch.full((NUM_BANDS, short), SILENT), 1),
    ):
        mask = _mask(feats.shape[1], num_padded)
        length = mask.sum(dim=0, dtype=torch.int32)[None]
        yield {"feats": torch.where(mask > 0, feats, GARBAGE)[None], "feats_length": length}


def listening_tries(shapes: Shapes, num_ids: Ids) -> Tries:
    generator = torch.Generator().manual_seed(0)
    _, tokens = shapes["ids"]
    ids = torch.randint(num_ids["ids"], (1, tokens), generator=generator)
    short = min(tokens, SHORT)
    yield {"ids": ids, "mask": _mask(tokens, 0)[None]}
    yield {"ids": ids[:, :short], "mask": _mask(short, _padded(short))[None]}
    yield {"ids": torch.zeros_like(ids[:, :short]), "mask": _mask(short, 0)[None]}


def vision_tries(shapes: Shapes, num_ids: Ids) -> Tries:
    generator = torch.Generator().manual_seed(0)
    shape = shapes["pixels"]
    noise = 2 * torch.rand(shape, generator=generator) - 1
    for pixels in (noise, noise.sign(), torch.ones(shape), -torch.ones(shape)):
        yield {"pixels": pixels}
