"""What happens to speech on its way to the microphone: rooms, noise, levels, and other throats.

Two kinds of change: of the samples, before the log-mel, and of the spectrum on the way to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.signal
import torch

from antiphon.codec.analysis.logmel import (
    DYNAMIC_RANGE,
    HOP,
    INPUT_RATE_HZ,
    MIN_POWER,
    MIN_SAMPLES,
    N_FFT,
    NUM_BANDS,
)

__all__ = ["Clip", "log_mel", "moved_in_time", "through_a_room"]

PAUSE_S = 0.5
"""Longer pauses are cut by the runtime."""
PAUSED = 0.2
"""Part of the clips that have one more pause."""
WINDOW = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


@dataclass
class Clip:
    """float32 samples at 16 kHz, and when its sounds end, where that is known."""

    samples: np.ndarray
    ends_s: np.ndarray | None


def moved_in_time(
    clip: Clip, plain: np.ndarray | None, rng: np.random.Generator
) -> tuple[Clip, np.ndarray | None]:
    """The clip with silence around it, now and then with some between two of its sounds, and half of the time
    played faster and higher or slower and lower; `plain`, which has the same sounds at the same moments, is
    changed with it. The runtime leaves this much silence (`antiphon.sound.silence`), and may be told to leave
    more."""
    before, after = (int(INPUT_RATE_HZ * _silence_s(rng)) for _ in range(2))
    pause = int(INPUT_RATE_HZ * rng.uniform(0.05, PAUSE_S)) if rng.random() < PAUSED else 0
    at = _between_sounds(clip, rng)
    rate = float(np.exp(rng.uniform(-0.15, 0.15))) if rng.random() < 0.5 else 1.0

    def moved(samples: np.ndarray) -> np.ndarray:
        if rate != 1.0:
            places = np.arange(int(len(samples) / rate)) * rate
            samples = np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
        return np.pad(samples, (before, after))

    if pause:
        silence = np.zeros(pause, np.float32)
        parts = [
            np.concatenate([track[:at], silence, track[at:]])
            for track in (clip.samples, plain)
            if track is not None
        ]
        ends_s = clip.ends_s
        if ends_s is not None:
            ends_s = ends_s + np.where(ends_s > at / INPUT_RATE_HZ, pause / INPUT_RATE_HZ, 0.0)
        clip, plain = Clip(parts[0], ends_s), parts[1] if len(parts) > 1 else None
    ends = None if clip.ends_s is None else clip.ends_s / rate + before / INPUT_RATE_HZ
    return Clip(moved(clip.samples), ends), None if plain is None else moved(plain)


def _silence_s(rng: np.random.Generator) -> float:
    """Most of the time what the runtime leaves, else up to a second, and seldom up to three."""
    kind = rng.random()
    return float(rng.uniform(0, 0.45 if kind < 0.85 else 1.0 if kind < 0.97 else 3.0))


def _between_sounds(clip: Clip, rng: np.random.Generator) -> int:
    """A sample where a pause may be: where a sound ends, if that is known, or else where it is quiet."""
    if clip.ends_s is not None and len(clip.ends_s) > 2:
        return int(rng.choice(clip.ends_s[:-1]) * INPUT_RATE_HZ)
    size = INPUT_RATE_HZ // 50
    count = len(clip.samples) // size
    if count < 3:
        return len(clip.samples)
    power = np.square(clip.samples[: count * size]).reshape(count, size).mean(axis=1)
    quietest = np.argsort(power[1:-1])[: max(1, count // 10)] + 1
    return int(rng.choice(quietest)) * size + size // 2


def through_a_room(samples: np.ndarray, others: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Echo, noise and level. others: speech that may be heard in the background."""
    if rng.random() < 0.45:
        samples = scipy.signal.fftconvolve(samples, _room(rng))[: len(samples)].astype(np.float32)
    power = float(np.square(samples).mean()) + 1e-9
    if rng.random() < 0.7:
        noise = _coloured_noise(len(samples), rng)
        if others and rng.random() < 0.25:
            talk = np.resize(others[rng.integers(len(others))], len(samples))
            noise = noise * 0.3 + talk / (talk.std() + 1e-6)
            snr_db = rng.uniform(8, 30)
        else:
            snr_db = rng.uniform(4, 40)
        samples = samples + noise * np.float32(
            np.sqrt(power / (np.square(noise).mean() + 1e-9)) * 10 ** (-snr_db / 20)
        )
    peak = np.abs(samples).max() + 1e-6
    level = np.exp(rng.uniform(np.log(0.03), 0.0))
    if rng.random() < 0.05:
        level *= 2  # clipped
    return np.clip(samples * np.float32(level / peak), -1, 1)


def _room(rng: np.random.Generator) -> np.ndarray:
    """An impulse response: the direct sound, some first echoes, and a tail of noise that dies away."""
    seconds = rng.uniform(0.1, 0.7)
    time = np.arange(int(INPUT_RATE_HZ * seconds)) / INPUT_RATE_HZ
    tail = rng.normal(0, 1, len(time)) * np.exp(-6.9 * time / seconds)
    tail[: int(INPUT_RATE_HZ * rng.uniform(0.001, 0.01))] = 0
    tail *= 10 ** (-rng.uniform(0, 18) / 20) / np.sqrt(np.square(tail).sum() + 1e-9)
    response = tail
    response[0] = 1
    for place in rng.integers(8, 480, 4):
        response[place] += rng.uniform(-0.4, 0.4)
    return response.astype(np.float32)


def _coloured_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls with frequency by a random law, at times with a hum."""
    size = scipy.fft.next_fast_len(length, real=True)
    assert size is not None  # its stub says that it may be
    white: np.ndarray = rng.normal(0, 1, (size,))
    spectrum = np.asarray(scipy.fft.rfft(white.astype(np.float32)))
    hz = np.linspace(0, INPUT_RATE_HZ / 2, len(spectrum)) + 60
    knots = np.exp(np.interp(np.log(hz), np.linspace(np.log(60), np.log(8060), 5), rng.normal(0, 0.8, 5)))
    gain = knots * (hz / 1000) ** -rng.uniform(-0.3, 1.3)
    noise = np.asarray(scipy.fft.irfft(spectrum * gain.astype(np.float32), n=size))[:length]
    noise = noise / (noise.std() + 1e-9)
    if rng.random() < 0.15:
        time = np.arange(length) / INPUT_RATE_HZ
        noise = noise + sum(
            rng.uniform(0, 0.7) * np.sin(2 * np.pi * k * rng.choice((50, 60)) * time) for k in (1, 2, 3)
        )
    coloured: np.ndarray = noise.astype(np.float32)
    return coloured


def log_mel(samples: np.ndarray, filters: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """float32 (128, frames), as the runtime's `log_mel`. rng: with another vocal tract, another microphone
    and gaps, drawn at random. filters: (128, 201)."""
    if len(samples) < MIN_SAMPLES:
        samples = np.pad(samples, (0, MIN_SAMPLES - len(samples)))
    padded = np.pad(samples, N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][: len(samples) // HOP]
    spectrum = np.asarray(scipy.fft.rfft(frames * WINDOW, axis=1))
    power = (np.real(spectrum) ** 2 + np.imag(spectrum) ** 2).T
    if rng is not None and rng.random() < 0.6:
        power = _warped(power, float(np.exp(rng.uniform(-0.2, 0.2))))
    # Not numpy's product: its threads would fight for the cores that training is not using.
    bands = (torch.from_numpy(filters) @ torch.from_numpy(np.ascontiguousarray(power))).numpy()
    log = np.log10(np.maximum(bands, MIN_POWER))
    if rng is not None:
        log = _through_a_microphone(log, rng)
    features = (np.maximum(log, log.max() - DYNAMIC_RANGE) + 4) / 4
    return features if rng is None else _with_gaps(features, rng)


def _warped(power: np.ndarray, scale: float) -> np.ndarray:
    places = np.minimum(np.arange(power.shape[0]) * scale, power.shape[0] - 1)
    left = places.astype(int)
    right = np.minimum(left + 1, power.shape[0] - 1)
    weight = (places - left).astype(np.float32)[:, None]
    warped: np.ndarray = power[left] * (1 - weight) + power[right] * weight
    return warped


def _through_a_microphone(log: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    bands = np.linspace(0, 1, NUM_BANDS)
    if rng.random() < 0.6:
        log = log + np.interp(bands, np.linspace(0, 1, 6), rng.normal(0, 0.5, 6)).astype(np.float32)[:, None]
    if rng.random() < 0.15:
        cut = rng.integers(80, NUM_BANDS)
        log = log.copy()
        log[cut:] -= 4
    return log.astype(np.float32)


def _with_gaps(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SpecAugment (arXiv 1904.08779), mildly."""
    if rng.random() < 0.5:
        features = features.copy()
        frames = features.shape[1]
        for _ in range(rng.integers(1, 3)):
            start, length = rng.integers(NUM_BANDS - 12), rng.integers(4, 16)
            features[start : start + length] = features[start : start + length].mean()
        if frames > 40:
            start, length = rng.integers(frames - 10), rng.integers(2, 8)
            features[:, start : start + length] = features.min()
    return features
