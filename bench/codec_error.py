"""How far a codec in some precision is from the plain one in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from antiphon.bench.plain_codec import PlainCodec

__all__ = ["CodecError", "codec_error"]


@dataclass(frozen=True)
class CodecError:
    """Of one utterance from the same noise and, for the waveform, the same source."""

    mel_max: float
    """Largest difference of the log-mel (natural logarithm)"""
    mel_mean: float
    """Mean absolute difference"""
    wav_snr_db: float
    """Signal to error of the waveform, mel and vocoder both in the codec's precision"""


def codec_error(plain: PlainCodec, units: list[int], seed: int = 0) -> CodecError:
    codec = plain.codec
    expected = plain.mel(codec.decoder.flow_input(units, codec.voice(None), seed=seed))
    source = plain.source(expected, seed)
    wave = plain.waveform(expected, source)
    mel = codec.mel(units, seed=seed)
    difference = np.abs(mel - expected.numpy())
    error = torch.from_numpy(codec.vocode(mel, source=source)).double() - wave.double()
    noise = float(error.square().sum())
    snr_db = 10 * math.log10(float(wave.double().square().sum()) / noise) if noise else math.inf
    return CodecError(float(difference.max()), float(difference.mean()), snr_db)
