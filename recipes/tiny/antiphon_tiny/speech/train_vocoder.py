"""Trains the vocoder: first its pitch, robust against the mel that a flow makes, then mel to waveform by its
spectra at several resolutions (HiFT, arXiv 2309.09493, without a discriminator)."""

from __future__ import annotations

import math
import random
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.analysis.logmel import slaney_filters
from antiphon.codec.analysis.prompt_mel import MIN_MAGNITUDE, N_FFT
from antiphon.codec.checkpoint.hyperparams import HOP, MEL_BANDS, SAMPLE_RATE_HZ
from antiphon.codec.hift.hift import NUM_BINS, Hift, Snake, source_spectrum, spectrum_samples
from antiphon.codec.hift.source import Draws, harmonics
from antiphon.kernels.snake import SNAKE_EPS
from antiphon_tiny.speech.codec_params import HIFT
from antiphon_tiny.speech.vocoder_batches import VocoderBatch, VocoderBatches
from antiphon_tiny.stages import Run
from antiphon_tiny.training import Losses, Schedule, Training, fast_products

__all__ = ["load_into", "new_vocoder", "render", "synthesize", "train", "train_pitch", "tune"]

PITCH_STEPS = 2500
NUM_STEPS = 1000
TUNING_STEPS = 1000
RESOLUTIONS = ((512, 128, 512), (1024, 256, 1024), (2048, 512, 2048), (256, 64, 256))
"""n_fft, hop and window of each spectrum."""
MEL_WEIGHT = 3.0


class TrainedSnake(Snake):
    """Without the runtime's work in place, which has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(x * self.alpha[:, None]).square() / (self.alpha[:, None] + SNAKE_EPS)


def new_vocoder() -> Hift:
    hift = Hift(HIFT)
    with torch.no_grad():
        for module in hift.modules():
            if isinstance(module, Snake):
                nn.init.ones_(module.alpha)
                module.__class__ = TrainedSnake
            if (
                isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
                and module not in hift.f0_predictor.modules()
            ):
                nn.init.normal_(module.weight, 0, 0.02)
                assert module.bias is not None, "these convolutions have a bias"
                nn.init.zeros_(module.bias)
        for i in range(0, len(hift.f0_predictor.condnet), 2):
            conv = hift.f0_predictor.condnet[i]
            assert isinstance(conv, nn.Conv1d), "every other layer is a convolution"
            nn.init.kaiming_normal_(conv.weight)
        mixer = hift.m_source["l_linear"]
        assert isinstance(mixer, nn.Linear), "m_source.l_linear is built as a Linear"
        mixer.weight.fill_(1 / 3)
        # Magnitudes begin low: exp(-2).
        assert hift.conv_post.bias is not None, "conv_post has a bias"
        hift.conv_post.bias[:NUM_BINS] = -2
    return hift


def train_pitch(arguments: Run) -> None:
    """The f0 predictor alone."""
    hift = new_vocoder()
    training = Training(
        hift.f0_predictor, arguments.folder("pitch"), Schedule(arguments.num_steps or PITCH_STEPS, 2e-3),
        seed=arguments.seed, weight_decay=0.0, save_every=200, log_every=25,
    )  # fmt: skip
    batches, tests = VocoderBatches(arguments.work, "heart"), VocoderBatches(arguments.work, "test_heart")

    def losses(step: int, rng: random.Random) -> Losses:
        batch = batches.draw(rng, count=32, frames=96)
        return Losses({"pitch": _pitch_loss(hift.f0_predictor(_worn(batch.mel)), batch.f0)})

    def evaluate() -> dict[str, float]:
        batch = tests.draw(random.Random(0), count=64, frames=96)
        found = hift.f0_predictor(batch.mel)
        voiced = batch.f0 > 10
        both = voiced & (found > 10)
        return {
            "voicing wrong %": 100 * float(((found > 10) != voiced).float().mean()),
            "off by 5 %": 100
            * float(((found / batch.f0.clamp(min=1) - 1).abs() > 0.05)[both].float().mean()),
        }

    training.run(losses, evaluate)


def _pitch_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Octaves where there is a voice; without one the distance to zero."""
    voiced = (wanted > 10).float()
    low = torch.log2(found.clamp(min=20)) - torch.log2(wanted.clamp(min=20))
    # Below the clamp there is no slope: a linear part leads out of it.
    lost = F.relu(60 - found) / 60
    return (
        4 * voiced * (low.abs() + lost)
        + (1 - voiced) * F.smooth_l1_loss(found, wanted * 0, reduction="none") / 60
    ).mean()


def _worn(mel: Tensor) -> Tensor:
    """The mel as a flow might make it: noisy, smoothed, or brighter and darker."""
    rows = mel.shape[0]
    smooth = F.avg_pool1d(F.pad(mel, (1, 1), mode="replicate"), 3, 1)
    blend = (torch.rand(rows) * (torch.rand(rows) < 0.4)).reshape(-1, 1, 1)
    noise = torch.randn_like(mel) * (torch.rand(rows) * 0.35 * (torch.rand(rows) < 0.7)).reshape(-1, 1, 1)
    bands = F.interpolate(torch.randn(rows, 1, 6) * 0.2, MEL_BANDS, mode="linear").mT
    return torch.lerp(mel, smooth, blend) + noise + bands


def train(arguments: Run) -> None:
    """On true mels with the true pitch."""
    hift = new_vocoder()
    load_into(hift.f0_predictor, arguments.work / "pitch")
    _train(arguments, hift, "vocoder", Schedule(arguments.num_steps or NUM_STEPS, 1.5e-3, last=0.05), None)


def tune(arguments: Run) -> None:
    """On mels that the flow retouched, with the pitch that the predictor reads off them."""
    from antiphon_tiny.speech.retouch import made_mels  # which needs this module

    hift = new_vocoder()
    load_into(hift, arguments.work / "vocoder")
    schedule = Schedule(arguments.num_steps or TUNING_STEPS, 4e-4, warmup=50, last=0.02)
    _train(arguments, hift, "vocoder-tuned", schedule, made_mels(arguments))


def _train(arguments: Run, hift: Hift, name: str, schedule: Schedule, mels: list[np.ndarray] | None) -> None:
    hift.f0_predictor.requires_grad_(False)
    training = Training(
        hift, arguments.folder(name), schedule,
        seed=arguments.seed, weight_decay=0.0, betas=(0.8, 0.99), clip=5.0, save_every=200, log_every=20,
    )  # fmt: skip
    batches = VocoderBatches(arguments.work, "heart", mels)
    tests = VocoderBatches(arguments.work, "test_heart")

    def losses(step: int, rng: random.Random) -> Losses:
        return _losses(hift, batches.draw(rng, count=12, frames=52), random_start=True)

    def evaluate() -> dict[str, float]:
        torch.manual_seed(0)
        batch = tests.draw(random.Random(0), count=24, frames=80)
        losses = _losses(hift, batch, random_start=False).all
        return {f"test {name}": float(value) for name, value in losses.items()}

    training.run(losses, evaluate)


def load_into(module: nn.Module, folder: Path) -> None:
    module.load_state_dict(torch.load(folder / "state.pt", weights_only=True)["module"])


def synthesize(hift: Hift, mel: Tensor, f0: Tensor, *, random_start: bool) -> Tensor:
    """mel (batch, 80, frames) and Hz (batch, frames) to samples (batch, 256 * frames)."""
    source = torch.tanh(hift.m_source["l_linear"](_waves(f0, random_start))[..., 0])
    return render(hift, mel, source)


def render(hift: Hift, mel: Tensor, source: Tensor) -> Tensor:
    """What `Hift` makes of one mel and its source, for a batch of one length, and not cut at full level."""
    spectra = torch.stack([source_spectrum(row) for row in source])
    with fast_products():
        out = hift.plain_trunk(mel, spectra, [mel.shape[2]] * mel.shape[0])
    return spectrum_samples(out.float())


def _waves(f0: Tensor, random_start: bool) -> Tensor:
    """(batch, samples, waves), each row with its own noise and, if wanted, its own phases."""
    rows, frames = f0.shape
    start = torch.rand(rows, HIFT.num_waves) if random_start else torch.zeros(rows, HIFT.num_waves)
    noise = torch.randn(rows, frames * HOP, HIFT.num_waves)
    draws = map(Draws, 2 * math.pi * start, noise)
    return torch.stack([harmonics(row, drawn, HIFT)[0] for row, drawn in zip(f0, draws, strict=True)])


def _losses(hift: Hift, batch: VocoderBatch, *, random_start: bool) -> Losses:
    f0 = batch.f0 if batch.made is None else hift.f0_predictor(batch.made).detach()
    made = synthesize(hift, batch.mel if batch.made is None else batch.made, f0, random_start=random_start)
    true = batch.samples
    spectral = torch.zeros(())
    for n_fft, hop, window in RESOLUTIONS:
        ours, theirs = _magnitude(made, n_fft, hop, window), _magnitude(true, n_fft, hop, window)
        shape = torch.linalg.vector_norm(theirs - ours) / torch.linalg.vector_norm(theirs)
        spectral = spectral + shape + (ours.log() - theirs.log()).abs().mean()
    mel = (_mel(made) - _mel(true)).abs().mean()
    return Losses({"spectra": spectral / len(RESOLUTIONS), "mel": MEL_WEIGHT * mel})


@cache
def _window(length: int) -> Tensor:
    return torch.hann_window(length)


@cache
def _filters() -> Tensor:
    return torch.from_numpy(slaney_filters(SAMPLE_RATE_HZ, N_FFT, MEL_BANDS))


def _magnitude(samples: Tensor, n_fft: int, hop: int, window: int) -> Tensor:
    spectrum = torch.stft(samples, n_fft, hop, window, _window(window), return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt()


def _mel(samples: Tensor) -> Tensor:
    return (_filters() @ _magnitude(samples, N_FFT, HOP, N_FFT)).clamp(min=MIN_MAGNITUDE).log()
