"""HiFT as a module that can be exported: mel to sound, with pitch, source, trunk and both transforms.

The function of `codec.hift.vocoder.Vocoder`, written with convolutions, products, sums and gathering. What is
random is given, and so is where the phases begin. Sound depends on the mel within 19 frames and on the phases
alone: a window of an utterance, given the phases at one of its frames, gives the same samples as the whole.

Pitch and phases are float64: they add up over the whole utterance, and float32's rounding would grow to some
thousandths of the waveform. Within a frame float32 is enough, if nothing large is rounded: of a frame, sound
is made from the phases that it begins with and from how far they go in a sample, in two parts, the larger of
which has few bits. All that is float64 is in `VocoderNetwork.phases`, so that a runtime without float64 can
compute the rest.

In the trunk, products are taken in float32 or float16; Snake, the residual streams and the transforms stay
float32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import (
    HOP,
    ISTFT_HOP,
    ISTFT_N_FFT,
    RESBLOCK_KERNELS,
    SAMPLE_RATE_HZ,
    UPSAMPLE_RATES,
)
from antiphon.codec.hift.hift import LAST_SLOPE, MAX_MAGNITUDE, NUM_BINS, Hift, ResBlock, Snake
from antiphon.codec.layers.padding import masked
from antiphon.kernels.snake import SNAKE_EPS

__all__ = ["VocoderNetwork"]

EDGE = ISTFT_N_FFT // 2
"""Samples of the first frame of a transform that lie before the row."""
MIN_WEIGHT = 1e-11
FLOAT32_BITS = 24


class VocoderNetwork(nn.Module):
    """Samples and phases, for a ragged batch; a row comes out as it would alone."""

    forth: Tensor
    """(18, 1, 16): real parts, then imaginary parts; windowed"""
    back: Tensor
    """The same for the inverse"""
    squares: Tensor
    """(1, 1, 16), of the window"""
    order: Tensor
    """(waves,)"""
    turns: Tensor
    """(256, waves): how many cycles one cycle per sample of the fundamental comes to since the frame began"""

    def __init__(self, hift: Hift, dtype: torch.dtype) -> None:
        """dtype: that of the trunk's products. Weights are copied."""
        super().__init__()
        self.hift = copy.deepcopy(hift)
        self.dtype = dtype
        trunk = [self.hift.conv_pre, self.hift.conv_post, self.hift.ups, self.hift.source_downs]
        for part in [*trunk, self.hift.source_resblocks, self.hift.resblocks]:
            for module in part.modules():
                if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                    module.to(dtype)
        self.pitch = Pitch(self.hift)
        window = torch.hann_window(ISTFT_N_FFT, dtype=torch.float64)
        sample, order = torch.arange(ISTFT_N_FFT), torch.arange(NUM_BINS)
        angle = 2 * math.pi / ISTFT_N_FFT * (sample[:, None] * order).double()
        # Bins other than the first and the last stand for two.
        share = torch.full((NUM_BINS,), 2.0 / ISTFT_N_FFT, dtype=torch.float64)
        share[[0, -1]] /= 2
        forth = torch.cat([angle.cos(), -angle.sin()], dim=1) * window[:, None]
        back = torch.cat([share * angle.cos(), -share * angle.sin()], dim=1) * window[:, None]
        self.register_buffer("forth", forth.mT[:, None].float())
        self.register_buffer("back", back.mT[:, None].float())
        self.register_buffer("squares", window.square().float()[None, None])
        self.register_buffer("order", torch.arange(1, hift.params.num_waves + 1).double())
        self.register_buffer("turns", torch.arange(1, HOP + 1)[:, None] * self.order.float())
        # A coarse step times a turn has at most the bits of float32, so that it is exact.
        self.grid = 2.0 ** (FLOAT32_BITS - (HOP * hift.params.num_waves).bit_length())

    def forward(
        self, mel: Tensor, mask: Tensor, noise: Tensor, phase: Tensor, start: Tensor, cycles: Tensor
    ) -> tuple[Tensor, Tensor]:
        """mel: (batch, 80, frames); mask: (batch, 1, frames), 1 on valid frames, which come first, and 0 on
        padding; noise: (batch, frames, 256, waves) standard normal; phase: (batch, waves) radians, in which
        the waves of the whole utterance begin; start: (batch,) int64, a frame of the row; cycles: (batch,
        waves) float64, the phases with which that frame begins.

        Returns samples (batch, 256 * frames), and the phases (batch, frames, waves) float64 with which each
        frame ends; on padding, both mean nothing.
        """
        steps, begins, voiced, ends = self.phases(mel, mask, start, cycles)
        return self.sound(mel, mask, noise, phase, steps, begins, voiced), ends

    def phases(
        self, mel: Tensor, mask: Tensor, start: Tensor, cycles: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pitch, which is constant within a frame, and the phases, which add up over frames.

        Returns, float32, steps (batch, frames, 2), the fundamental's cycles per sample without whole ones, as
        a multiple of 1 / `grid` and the rest; begins (batch, frames, waves), the cycles with which a frame
        begins; voiced (batch, frames), 0 or 1; and, float64, the ends of `forward`.
        """
        f0 = self.pitch(mel, mask)
        step = f0 / SAMPLE_RATE_HZ
        advance = step[:, :, None] * (HOP * self.order)
        sums = advance.cumsum(dim=1)
        before = (torch.arange(f0.shape[1], device=f0.device) < start[:, None])[:, :, None]
        # From the frame that the phases are known of, on and back.
        ends = sums + (cycles - (advance * before).sum(dim=1))[:, None]
        begins = ends - advance
        part = step - step.floor()
        coarse = (part * self.grid).floor() / self.grid
        steps = torch.stack([coarse, part - coarse], dim=2).float()
        voiced = (f0 > self.hift.params.nsf_voiced_threshold).float()
        return steps, (begins - begins.floor()).float(), voiced, ends - ends.floor()

    def sound(
        self,
        mel: Tensor,
        mask: Tensor,
        noise: Tensor,
        phase: Tensor,
        steps: Tensor,
        begins: Tensor,
        voiced: Tensor,
    ) -> Tensor:
        """Samples, from what `forward` is given and what `phases` returns."""
        source = self._excite(noise, phase, steps, begins, voiced)
        frames = mask.sum(dim=2).long()
        spectrum = self._trunk(masked(mel, mask), self._spectrum(source, frames), mask)
        limit = self.hift.params.audio_limit
        return self._samples(spectrum, levels(mask)[-1]).clamp(-limit, limit)

    def _excite(self, noise: Tensor, phase: Tensor, steps: Tensor, begins: Tensor, voiced: Tensor) -> Tensor:
        """(batch, 256 * frames)"""
        params = self.hift.params
        coarse, fine = steps[:, :, None, :1] * self.turns, steps[:, :, None, 1:] * self.turns
        within = (coarse - coarse.floor()) + fine
        within = (within - within.round()) + begins[:, :, None]
        angle = 2 * math.pi * (within - within.round()) + phase[:, None, None]
        voiced = voiced[:, :, None, None]
        noise_amplitude = voiced * params.nsf_sigma + (1 - voiced) * params.nsf_alpha / 3
        waves = params.nsf_alpha * angle.sin() * voiced + noise_amplitude * noise
        return torch.tanh(self.hift.m_source["l_linear"](waves)).flatten(1)

    def _spectrum(self, source: Tensor, frames: Tensor) -> Tensor:
        """(batch, 256T) samples to (batch, 18, 64T + 1). frames: (batch, 1)"""
        ends = HOP * frames
        place = torch.arange(-EDGE, source.shape[1] + EDGE, device=source.device).abs()
        # Each row is reflected at its own end.
        place = torch.where(place < ends, place, 2 * (ends - 1) - place).clamp(min=0)
        return F.conv1d(source.gather(1, place)[:, None], self.forth, stride=ISTFT_HOP)

    def _samples(self, spectrum: Tensor, mask: Tensor) -> Tensor:
        """(batch, 18, 64T + 1) log-magnitude and sine of phase to (batch, 256T) samples of any level."""
        magnitude = spectrum[:, :NUM_BINS].exp().clamp(max=MAX_MAGNITUDE) * mask
        phase = spectrum[:, NUM_BINS:].sin()
        parts = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=1)
        sums = F.conv_transpose1d(parts, self.back, stride=ISTFT_HOP)
        # At the ends a sample lies in fewer frames.
        weight = F.conv_transpose1d(mask, self.squares, stride=ISTFT_HOP).clamp(min=MIN_WEIGHT)
        return (sums / weight)[:, 0, EDGE:-EDGE]

    def _trunk(self, mel: Tensor, spectrum: Tensor, mask: Tensor) -> Tensor:
        hift, count = self.hift, len(RESBLOCK_KERNELS)
        masks = levels(mask)
        spectrum = masked(spectrum, masks[-1])
        x = masked(self._product(hift.conv_pre, mel), mask)
        for i, up in enumerate(hift.ups):
            own = masks[i + 1]
            x = self._product(up, F.leaky_relu(x, hift.params.lrelu_slope))
            if i == len(UPSAMPLE_RATES) - 1:
                # Reflection by one frame on the left.
                x = torch.cat([x[:, :, 1:2], x], dim=2)
            excitation = masked(self._product(hift.source_downs[i], spectrum), own)
            x = masked(x, own) + self._block(hift.source_resblocks[i], excitation, own)
            blocks = [self._block(block, x, own) for block in hift.resblocks[count * i : count * (i + 1)]]
            x = added(blocks) / count
        return self._product(hift.conv_post, F.leaky_relu(x, LAST_SLOPE))

    def _block(self, block: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        assert isinstance(block, ResBlock), "built of them"
        stages = zip(block.activations1, block.convs1, block.activations2, block.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in stages:
            h = masked(self._product(conv1, snake(x, snake1)), mask)
            x = x + masked(self._product(conv2, snake(h, snake2)), mask)
        return x

    def _product(self, layer: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = layer(x.to(self.dtype))
        return out.float()


class Pitch(nn.Module):
    """`F0Predictor` in float64, its convolutions of 3 frames as products: runtimes have products of float64,
    but no convolutions."""

    def __init__(self, hift: Hift) -> None:
        super().__init__()
        predictor = hift.f0_predictor
        convs = [layer for layer in predictor.condnet if isinstance(layer, nn.Conv1d)]
        # (3 * in, out): the frame before, the frame, and the one after
        self.weights = nn.ParameterList(
            nn.Parameter(conv.weight.detach().double().permute(2, 1, 0).flatten(0, 1), requires_grad=False)
            for conv in convs
        )
        self.biases = nn.ParameterList(double(conv.bias) for conv in convs)
        last = predictor.classifier
        self.last, self.last_bias = double(last.weight.mT), double(last.bias)

    def forward(self, mel: Tensor, mask: Tensor) -> Tensor:
        """(batch, frames) Hz, 0 on padding."""
        valid = mask.mT.double()
        x = mel.mT.double()
        for weight, bias in zip(self.weights, self.biases, strict=True):
            padded = F.pad(x * valid, (0, 0, 1, 1))
            x = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=2) @ weight + bias
            # ELU; where x > 0, the other side must not overflow
            x = x.clamp(min=0) + x.clamp(max=0).exp() - 1
        return ((x @ self.last + self.last_bias).abs() * valid)[:, :, 0]


def levels(mask: Tensor) -> list[Tensor]:
    """The masks of mel frames, and of what the trunk makes of each: 8, then 64, and at last one more."""
    masks = [mask]
    for rate in UPSAMPLE_RATES:
        masks.append(masks[-1].repeat_interleave(rate, dim=2))
    masks[-1] = torch.cat([masks[-1][:, :, :1], masks[-1]], dim=2)
    return masks


def snake(x: Tensor, own: nn.Module) -> Tensor:
    assert isinstance(own, Snake), "built of them"
    alpha = own.alpha[:, None]
    sine = (x * alpha).sin()
    return x + sine * sine * (1 / (alpha + SNAKE_EPS))


def added(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def double(bias: Tensor | None) -> nn.Parameter:
    assert bias is not None, "built with one"
    return nn.Parameter(bias.detach().double(), requires_grad=False)
