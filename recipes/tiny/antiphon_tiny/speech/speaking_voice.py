"""The speaking voice, hibari-tts (Apache-2.0), and voices made out of it.

Its network gives what a voice is made of, frame by frame: the spectral envelope of the harmonics, that of the
noise, and the pitch. With these changed (pitch, vocal tract, breath, tilt, rhythm) the same sentence is said
by somebody else, naturally and at the same moments: what hearing lacks most is voices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import soxr
from hibari import Hibari, dsp  # pyright: ignore[reportMissingImports]  # of the extra "recipe"

from antiphon_tiny.speech.phones import from_misaki

__all__ = ["FRAME_RATE_HZ", "Anatomy", "Voicebox", "disguise", "resampled"]

FRAME_RATE_HZ = 80
RATE_HZ = dsp.SR
TICKS_PER_SECOND = 40
"""Durations are counted in these."""
LAG_S = 0.07
"""By how much its durations lag behind the sound: found by shifting them until vowels lay on loud stretches
and hisses on high ones."""
DURATIONS = "/Clip_output_0"
"""The tensor of the network that holds them, which is not an output by itself."""
FADE_S = 0.01


@dataclass
class Anatomy:
    """One sentence as the network says it: arrays (601, frames), pitch (frames,), and its sounds."""

    harmonic: np.ndarray
    harmonic_phase: np.ndarray
    breath: np.ndarray
    rest: np.ndarray
    rest_phase: np.ndarray
    f0_hz: np.ndarray
    phones: list[int]
    ends_s: list[float]

    def say(self, rng: np.random.Generator) -> np.ndarray:
        """float32 (n,) at 24 kHz."""
        parts = (self.harmonic, self.harmonic_phase, self.breath, self.rest, self.rest_phase, self.f0_hz)
        out: np.ndarray = dsp.synth(*(part.copy() for part in parts), rng)
        return out


class Voicebox:
    """Loads hibari once."""

    def __init__(self) -> None:
        self._hibari = Hibari()
        model = onnx.load(self._hibari.model_path)
        model.graph.output.append(onnx.helper.make_tensor_value_info(DURATIONS, onnx.TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def symbols(self, text: str) -> str:
        """All sentences of a text in one breath, in hibari's alphabet; symbols that it lacks are dropped."""
        known = self._hibari.vocab
        return "".join(symbol for symbol in " ".join(self._hibari.phonemize(text)) if symbol in known)

    def phones(self, text: str) -> list[int]:
        """The sounds of a text, numbered as in `phones.PHONES`."""
        return [phone for phone in from_misaki(self.symbols(text)) if phone >= 0]

    def think(self, text: str, speed: float) -> Anatomy:
        """speed: 1 is the voice's own pace, more is faster."""
        symbols = self.symbols(text)
        feeds = {
            "ids": np.array([self._hibari.ids(symbols)], np.int64),
            "speed": np.array([speed], np.float32),
        }
        *parts, durations = map(np.asarray, self._session.run(None, feeds))
        harmonic, harmonic_phase, breath, rest, rest_phase, f0_hz = (part[0] for part in parts)
        ends = np.maximum(0, np.cumsum(durations.ravel()) / TICKS_PER_SECOND - LAG_S)
        phones, ends_s = [], []
        # What has no sound of its own lends its time to the sound before.
        for phone, end in zip([0, *from_misaki(symbols), 0], ends, strict=True):
            if phone >= 0:
                phones.append(phone)
                ends_s.append(float(end))
            else:
                ends_s[-1] = float(end)
        return Anatomy(harmonic, harmonic_phase, breath, rest, rest_phase, f0_hz, phones, ends_s)


def disguise(own: Anatomy, rng: np.random.Generator) -> Anatomy:
    """The same sentence in another voice, drawn at random, sounds at the same moments."""
    bins = own.harmonic.shape[0]
    warp = _warp(bins, rng)
    tilt = _tilt(bins, rng)[:, None]
    voiced = own.f0_hz > 40
    f0_hz = own.f0_hz
    if voiced.any():
        middle = np.exp(np.log(f0_hz[voiced]).mean())
        target = np.exp(rng.uniform(np.log(75), np.log(290)))
        spread = rng.uniform(0.4, 1.6)
        new = target * (np.maximum(f0_hz, 41) / middle) ** spread
        new = new * np.exp(rng.normal(0, rng.uniform(0, 0.02), new.shape))
        f0_hz = np.where(voiced, np.clip(new, 55, 420), 0.0).astype(np.float32)
    return Anatomy(
        _stretched(own.harmonic, warp) + tilt + rng.normal(0, 0.5),
        _stretched(own.harmonic_phase, warp) * rng.uniform(0, 1),
        _stretched(own.breath, warp) + tilt + rng.uniform(-0.7, 1.5),
        # The rest follows the old pitch and would beat against the new one: it becomes noise.
        _stretched(own.rest, warp) + tilt - 0.5,
        rng.uniform(-np.pi, np.pi, own.rest_phase.shape).astype(np.float32),
        f0_hz,
        own.phones,
        own.ends_s,
    )


def _warp(bins: int, rng: np.random.Generator) -> np.ndarray:
    """For each bin the bin it takes from: a vocal tract of another length, its formants shifted unevenly."""
    scale = np.exp(rng.uniform(np.log(0.78), np.log(1.32)))
    knots_hz = np.array([0, 700, 1500, 2500, 4000, 12000])
    scales = scale * np.exp(rng.normal(0, 0.05, len(knots_hz)))
    hz = np.arange(bins) * RATE_HZ / 2 / (bins - 1)
    places: np.ndarray = np.clip(hz * np.interp(hz, knots_hz, scales) / RATE_HZ * 2 * (bins - 1), 0, bins - 1)
    return places


def _tilt(bins: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth random colour, in nepers."""
    knots = np.concatenate([[0.0], rng.normal(0, 0.45, 7)])
    slope = rng.normal(0, 0.7)
    place = np.linspace(0, 1, bins)
    tilt = np.interp(np.sqrt(place), np.linspace(0, 1, 8), knots) + slope * np.sqrt(place)
    return np.asarray(tilt, np.float32)


def _stretched(part: np.ndarray, warp: np.ndarray) -> np.ndarray:
    left = warp.astype(int)
    right = np.minimum(left + 1, part.shape[0] - 1)
    weight = (warp - left).astype(np.float32)[:, None]
    out: np.ndarray = part[left] * (1 - weight) + part[right] * weight
    return out


def resampled(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """float32 (n,) at 24 kHz to another rate."""
    out: np.ndarray = soxr.resample(samples, RATE_HZ, rate_hz).astype(np.float32)
    return out
