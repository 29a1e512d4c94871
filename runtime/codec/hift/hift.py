"""The vocoder: HiFT (arXiv 2309.09493), mel to waveform through an inverse STFT. Module names are the
checkpoint's, weight normalisation folded.

All of it is local: a sample depends on the mel within 13 frames. In a ragged batch the padding is zeroed
before every convolution, since zeros are what a row by itself would have there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import (
    DILATIONS,
    HOP,
    ISTFT_HOP,
    ISTFT_N_FFT,
    MEL_BANDS,
    RESBLOCK_KERNELS,
    SOURCE_RESBLOCK_KERNELS,
    UPSAMPLE_KERNELS,
    UPSAMPLE_RATES,
    HiftParams,
)
from antiphon.codec.layers.padding import frame_mask, masked, pad_rows
from antiphon.codec.stopping import stop_point
from antiphon.kernels.snake import snake

__all__ = [
    "LAST_SLOPE",
    "NUM_BINS",
    "Hift",
    "ResBlock",
    "Snake",
    "Trunk",
    "source_spectrum",
    "spectrum_samples",
]

NUM_BINS = ISTFT_N_FFT // 2 + 1
F0_CONVS = 5
LAST_SLOPE = 0.01
"""Of the last leaky ReLU: PyTorch's default, not the recipe's."""
MAX_MAGNITUDE = 100.0


class Trunk(Protocol):
    def __call__(self, mel: Tensor, source: Tensor, frames: Sequence[int]) -> Tensor:
        """See `Hift.trunk`."""
        ...


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, alpha per channel (arXiv 2006.08195). Keeps zero at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return snake(x, self.alpha)


class ResBlock(nn.Module):
    """Three times x + conv2(snake2(conv1(snake1(x)))), conv1 dilated."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=(kernel - 1) * d // 2)
            for d in DILATIONS
        )
        self.convs2 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in DILATIONS
        )
        self.activations1 = nn.ModuleList(Snake(channels) for _ in DILATIONS)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in DILATIONS)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        stages = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for snake1, conv1, snake2, conv2 in stages:
            stop_point()
            x = x + masked(conv2(snake2(masked(conv1(snake1(x)), mask))), mask)
        return x


class F0Predictor(nn.Module):
    """(batch, 80, frames) mel to (batch, frames) Hz."""

    def __init__(self, cond_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(F0_CONVS):
            layers += [nn.Conv1d(cond_channels if i else MEL_BANDS, cond_channels, 3, padding=1), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(cond_channels, 1)

    def forward(self, mel: Tensor, mask: Tensor | None = None) -> Tensor:
        x = mel
        for layer in self.condnet:
            x = layer(masked(x, mask) if isinstance(layer, nn.Conv1d) else x)
        f0: Tensor = self.classifier(x.mT)[..., 0].abs()
        return f0


class Hift(nn.Module):
    def __init__(self, params: HiftParams) -> None:
        super().__init__()
        self.params = params
        base = params.base_channels
        channels = [base // 2 ** (i + 1) for i in range(len(UPSAMPLE_RATES))]
        self.m_source = nn.ModuleDict({"l_linear": nn.Linear(params.num_waves, 1)})
        self.conv_pre = nn.Conv1d(MEL_BANDS, base, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(2 * c, c, kernel, stride=rate, padding=(kernel - rate) // 2)
            for c, kernel, rate in zip(channels, UPSAMPLE_KERNELS, UPSAMPLE_RATES, strict=True)
        )
        # The source's spectrum has a frame every 4 samples, like the last level; the first level has fewer.
        self.source_downs = nn.ModuleList(
            [
                nn.Conv1d(2 * NUM_BINS, channels[0], 16, stride=8, padding=4),
                nn.Conv1d(2 * NUM_BINS, channels[1], 1),
            ]
        )
        self.source_resblocks = nn.ModuleList(
            ResBlock(c, kernel) for c, kernel in zip(channels, SOURCE_RESBLOCK_KERNELS, strict=True)
        )
        self.resblocks = nn.ModuleList(ResBlock(c, kernel) for c in channels for kernel in RESBLOCK_KERNELS)
        self.conv_post = nn.Conv1d(channels[-1], 2 * NUM_BINS, 7, padding=3)
        self.f0_predictor = F0Predictor(params.cond_channels)
        self._trunk: Trunk | None = None

    def use(self, trunk: Trunk) -> None:
        """From now on, compute `trunk` by this one, made from the same weights."""
        self._trunk = trunk

    def f0(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Pitch of each mel (80, frames_i): (frames_i,) in Hz."""
        frames = [mel.shape[1] for mel in mels]
        # In the predictor's precision, which is float64 in a codec: the source adds up the pitch over the
        # whole utterance, and float32's rounding would grow to some thousandths of the waveform.
        mel = pad_rows(mels).to(self.f0_predictor.classifier.weight.dtype)
        f0 = self.f0_predictor(mel, frame_mask(frames, mel.device))
        return [row[:length] for row, length in zip(f0, frames, strict=True)]

    def mix(self, waves: Tensor) -> Tensor:
        """The source (samples,) from its waves (samples, waves)."""
        mixed: Tensor = self.m_source["l_linear"](waves)
        return torch.tanh(mixed[:, 0])

    def forward(self, mels: Sequence[Tensor], sources: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms (256 * frames_i,) from mels (80, frames_i) and sources (256 * frames_i,)."""
        frames = [mel.shape[1] for mel in mels]
        # Each row is reflected at its own ends, here and in the inverse.
        spectra = pad_rows([source_spectrum(source) for source in sources])
        spectra = self.trunk(pad_rows(mels), spectra, frames)
        return [
            self.waveform(row[:, : length * HOP // ISTFT_HOP + 1])
            for row, length in zip(spectra, frames, strict=True)
        ]

    def trunk(self, mel: Tensor, source: Tensor, frames: Sequence[int]) -> Tensor:
        """Mel (batch, 80, T) and the source's spectra (batch, 18, 64T + 1) to log-magnitude and phase
        (batch, 18, 64T + 1). frames: how many are valid in each row."""
        compute = self.plain_trunk if self._trunk is None else self._trunk
        return compute(mel, source, frames)

    def plain_trunk(self, mel: Tensor, source: Tensor, frames: Sequence[int]) -> Tensor:
        """`trunk` by the modules themselves, in float32."""
        x = masked(self.conv_pre(mel), frame_mask(frames, mel.device))
        lengths = list(frames)
        for i, (up, rate) in enumerate(zip(self.ups, UPSAMPLE_RATES, strict=True)):
            last = i == len(self.ups) - 1
            lengths = [length * rate + last for length in lengths]
            mask = frame_mask(lengths, mel.device)
            x = up(F.leaky_relu(x, self.params.lrelu_slope))
            if last:
                x = F.pad(x, (1, 0), mode="reflect")
            excitation = masked(self.source_downs[i](source), mask)
            x = masked(x, mask) + self.source_resblocks[i](excitation, mask)
            blocks = self.resblocks[len(RESBLOCK_KERNELS) * i : len(RESBLOCK_KERNELS) * (i + 1)]
            total = blocks[0](x, mask)
            for block in list(blocks)[1:]:
                total = total + block(x, mask)
            x = total / len(RESBLOCK_KERNELS)
        out: Tensor = self.conv_post(F.leaky_relu(x, LAST_SLOPE))
        return out

    def waveform(self, spectrum: Tensor) -> Tensor:
        """(18, 64T + 1) log-magnitude and sine of phase to (256T,) samples."""
        limit = self.params.audio_limit
        return spectrum_samples(spectrum).clamp(-limit, limit)


def source_spectrum(source: Tensor) -> Tensor:
    """(256T,) samples to (18, 64T + 1): real parts, then imaginary parts."""
    spectrum = torch.stft(
        source,
        ISTFT_N_FFT,
        ISTFT_HOP,
        window=torch.hann_window(ISTFT_N_FFT, device=source.device),
        pad_mode="reflect",
        return_complex=True,
    )
    return torch.cat([spectrum.real, spectrum.imag])


def spectrum_samples(spectrum: Tensor) -> Tensor:
    """(..., 18, 64T + 1) log-magnitude and sine of phase to (..., 256T) samples of any level."""
    magnitude = spectrum[..., :NUM_BINS, :].exp().clamp(max=MAX_MAGNITUDE)
    phase = spectrum[..., NUM_BINS:, :].sin()
    return torch.istft(
        torch.complex(magnitude * phase.cos(), magnitude * phase.sin()),
        ISTFT_N_FFT,
        ISTFT_HOP,
        window=torch.hann_window(ISTFT_N_FFT, device=spectrum.device),
    )
