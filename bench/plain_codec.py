"""The codec as the released code runs it: what a benchmark compares its figures with.

Guidance is two calls of the estimator, the time is embedded anew at every step, weights are as they were
stored, and everything is float32.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from antiphon.codec import Codec
from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.flow.flow import FlowInput
from antiphon.codec.flow.solver import schedule
from antiphon.codec.flow.unet import UNet
from antiphon.codec.hift.hift import source_spectrum
from antiphon.codec.hift.source import draw, harmonics

__all__ = ["PlainCodec"]


class PlainCodec:
    """With the weights, the noise and the source of `codec`."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        estimator = codec.decoder.flow.model.decoder["estimator"]
        assert isinstance(estimator, UNet), "decoder.estimator is built as a UNet"
        self.estimator = estimator
        self.f0_predictor = copy.deepcopy(codec.decoder.hift.f0_predictor).float()

    def decode(self, units: list[int], seed: int = 0) -> Tensor:
        """Speech (samples,) of one utterance, as `Codec.decode` gives it."""
        mel = self.mel(self.codec.decoder.flow_input(units, self.codec.voice(None), seed=seed))
        return self.waveform(mel, self.source(mel, seed))

    @torch.inference_mode()
    def mel(self, row: FlowInput) -> Tensor:
        """(80, frames)"""
        condition = self.codec.decoder.flow.condition([row])
        x = row.noise[None]
        frames, rate = x.shape[2], self.codec.params.flow.inference_cfg_rate
        speaker = condition.speaker[:, :, None].expand(-1, -1, frames)
        given = torch.cat([condition.mu, speaker, condition.prompt], dim=1)
        none = x.new_zeros(1, 3 * MEL_BANDS, frames)
        for t, step in zip(*schedule(), strict=True):
            velocities = [
                self.estimator(torch.cat([x, known], dim=1), self.estimator.time_bias(t[None])[0])
                for known in (given, none)
            ]
            x = x + step * ((1 + rate) * velocities[0] - rate * velocities[1])
        return x[0, :, row.prompt_frames :]

    @torch.inference_mode()
    def source(self, mel: Tensor, seed: int) -> Tensor:
        """(samples,)"""
        params, (f0,) = self.codec.params.hift, self.f0_predictor(mel[None])
        waves, _ = harmonics(f0, draw(params, seed, 0, f0.shape[0], f0.device), params)
        return self.codec.decoder.hift.mix(waves)

    @torch.inference_mode()
    def waveform(self, mel: Tensor, source: Tensor) -> Tensor:
        """(samples,)"""
        hift = self.codec.decoder.hift
        (spectrum,) = hift.plain_trunk(mel[None], source_spectrum(source)[None], [mel.shape[1]])
        return hift.waveform(spectrum)
