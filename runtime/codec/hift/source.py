"""The excitation of HiFT (arXiv 2309.09493): harmonics of f0 over noise, after the neural source-filter
model (arXiv 1904.12088)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import HOP, SAMPLE_RATE_HZ, HiftParams
from antiphon.codec.noise import EXCITATION, PHASE, normal_rows, uniform_rows

__all__ = ["Draws", "draw", "harmonics"]


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of a source."""

    phase: Tensor
    """(waves,) float32 in [-pi, pi), 0 for the fundamental; one draw for the whole utterance"""
    noise: Tensor
    """(samples, waves) float32, standard normal"""


def draw(params: HiftParams, seed: int, first_frame: int, num_frames: int, device: torch.device) -> Draws:
    """The draws of frames `first_frame` .. `first_frame + num_frames - 1` of the utterance of this seed."""
    waves = params.num_waves
    phase = (2 * uniform_rows(seed, PHASE, 0, 1, waves)[0] - 1) * math.pi
    phase[0] = 0
    noise = normal_rows(seed, EXCITATION, first_frame, num_frames, HOP * waves).reshape(-1, waves)
    return Draws(torch.from_numpy(phase).float().to(device), torch.from_numpy(noise).to(device))


def harmonics(
    f0: Tensor,
    draws: Draws,
    params: HiftParams,
    start: Tensor | None = None,
    phase_dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """The waves that the source is mixed from, and the phases that they end at.

    y_h = alpha sin(2 pi (cumsum(h f0 / rate) mod 1) + phase_h) voiced + a N(0, 1), with a = sigma where the
    frame is voiced (f0 above the threshold) and alpha / 3 elsewhere.

    f0: (frames,) Hz. start: (waves,) cycles to begin at, as returned for the frames before; None: zero.
    Returns (256 * frames, waves) float32 and (waves,) cycles in [0, 1).

    Phases add up in `phase_dtype`. float64 continues from chunk to chunk without a trace; float32 rounds as
    the reference does, and after some seconds differs from float64 by a thousandth of the amplitude.
    """
    order = torch.arange(1, params.num_waves + 1, dtype=phase_dtype, device=f0.device)
    frequency = f0.repeat_interleave(HOP)
    cycles = (frequency.to(phase_dtype)[:, None] * order / SAMPLE_RATE_HZ).cumsum(dim=0)
    if start is not None:
        cycles = cycles + start
    cycles = cycles % 1
    angle = (2 * math.pi * cycles).float() + draws.phase
    voiced = (frequency > params.nsf_voiced_threshold).float()[:, None]
    noise_amplitude = voiced * params.nsf_sigma + (1 - voiced) * params.nsf_alpha / 3
    waves = params.nsf_alpha * torch.sin(angle) * voiced + noise_amplitude * draws.noise
    return waves, cycles[-1]
