"""Batches for the flow: pieces of the speaking voice, as the runtime's streaming asks for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from antiphon.codec.analysis.prompt_mel import PADDING
from antiphon.codec.flow.length_regulator import interpolate_span
from antiphon.codec.layers.padding import frame_mask, pad_rows
from antiphon_tiny.speech.codec_params import FLOW
from antiphon_tiny.speech.shards import Utterance
from antiphon_tiny.speech.vocoder_batches import log_mel

__all__ = ["FlowBatch", "FlowBatches", "Piece", "mel_of", "stretched"]

PIECE_UNITS = {15: 0.2, 27: 0.2, 45: 0.3, 78: 0.3}
"""Longest piece of a batch, and how often; those of the streaming schedule, and whole utterances."""
BATCH_FRAMES = 3600
POOL = 4
"""Batches that are drawn at once, so that each can have pieces of similar length."""
MAX_CONTEXT = 25


@dataclass
class Piece:
    """Units `first` .. `first + len(units) - 1` of an utterance, the mel of the first `num_context` known."""

    units: Tensor
    first: int
    num_context: int
    mel: Tensor
    """(80, frames)"""

    @property
    def context_frames(self) -> int:
        return FLOW.mel_frames(self.first + self.num_context) - FLOW.mel_frames(self.first)


@dataclass
class FlowBatch:
    pieces: list[Piece]
    mel: Tensor
    """(batch, 80, frames)"""
    prompt: Tensor
    """(batch, 80, frames) the mel of the context, zeros after it"""
    mask: Tensor
    """(batch, 1, frames) 1 on valid frames"""
    wanted: Tensor
    """(batch, 1, frames) 1 on frames that are to be made"""


class FlowBatches:
    def __init__(self, utterances: list[Utterance], units: list[list[int]]) -> None:
        """units: of each utterance, by the trained encoder."""
        self._units = [torch.tensor(row) for row in units]
        self._utterances = utterances
        self._mels: dict[int, np.ndarray] = {}

    def draw(self, rng: random.Random) -> FlowBatch:
        longest = rng.choices(tuple(PIECE_UNITS), tuple(PIECE_UNITS.values()))[0]
        pieces: list[Piece] = []
        frames = 0
        while frames < POOL * BATCH_FRAMES:
            pieces.append(self._piece(rng.randrange(len(self._units)), longest, rng))
            frames += pieces[-1].mel.shape[1]
        # Pieces of similar length, so that little is padding; each part is as likely as the others.
        pieces.sort(key=lambda piece: piece.mel.shape[1])
        begin = rng.randrange(POOL) * BATCH_FRAMES
        ends = accumulate(piece.mel.shape[1] for piece in pieces)
        part = [piece for piece, end in zip(pieces, ends, strict=True) if begin < end <= begin + BATCH_FRAMES]
        return collate(part)

    def whole(self, indices: Sequence[int]) -> FlowBatch:
        """Whole utterances, of which only the units are known."""
        return collate(
            [Piece(self._units[i], 0, 0, torch.from_numpy(self._mel(i).astype(np.float32))) for i in indices]
        )

    def _mel(self, index: int) -> np.ndarray:
        if index not in self._mels:
            self._mels[index] = mel_of(self._utterances[index], len(self._units[index]))
        return self._mels[index]

    def _piece(self, index: int, longest: int, rng: random.Random) -> Piece:
        units = self._units[index]
        room = len(units) - longest
        first = rng.randint(0, room) if room > 0 and rng.random() < 0.6 else 0
        length = min(longest, len(units) - first)
        context = 0
        if first or rng.random() < 0.3:
            context = min(rng.randint(6, MAX_CONTEXT), length - 6)
        begin, end = FLOW.mel_frames(first), FLOW.mel_frames(first + length)
        mel = torch.from_numpy(self._mel(index)[:, begin:end].astype(np.float32))
        return Piece(units[first : first + length], first, max(0, context), mel)


def mel_of(utterance: Utterance, num_units: int) -> np.ndarray:
    """float16 (80, frames), with the number of frames that the units have."""
    padded = np.pad(utterance.samples("spoken"), PADDING, mode="reflect")
    mel = log_mel(torch.from_numpy(padded)[None])[0].numpy()
    frames = FLOW.mel_frames(num_units)
    missing = max(0, frames - mel.shape[1])
    # The last unit may reach beyond the last sample.
    return np.pad(mel, ((0, 0), (0, missing)), mode="edge")[:, :frames].astype(np.float16)


def collate(pieces: list[Piece]) -> FlowBatch:
    lengths = [piece.mel.shape[1] for piece in pieces]
    mel = pad_rows([piece.mel for piece in pieces])
    mask = frame_mask(lengths, mel.device)
    if mask is None:
        mask = torch.ones(len(pieces), 1, mel.shape[2])
    wanted, prompt = mask.clone(), torch.zeros_like(mel)
    for i, piece in enumerate(pieces):
        wanted[i, :, : piece.context_frames] = 0
        prompt[i, :, : piece.context_frames] = piece.mel[:, : piece.context_frames]
    return FlowBatch(pieces, mel, prompt, mask, wanted)


def stretched(hidden: Tensor, pieces: list[Piece]) -> Tensor:
    """Encoder rows (batch, units, 80) to frames (batch, 80, frames), as a stream of units is stretched."""
    return pad_rows(
        [
            interpolate_span(rows[: len(piece.units)], piece.first, FLOW)
            for rows, piece in zip(hidden, pieces, strict=True)
        ]
    )
