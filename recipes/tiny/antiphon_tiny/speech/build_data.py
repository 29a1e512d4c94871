"""The first stage: everything that is heard or said in training, spoken and written to disk.

Every shard is made from its own seed, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.codec.checkpoint.hyperparams import HOP, SAMPLE_RATE_HZ
from antiphon_tiny.speech import synthesizers
from antiphon_tiny.speech.processes import process_per_core
from antiphon_tiny.speech.sentences import draw
from antiphon_tiny.speech.shards import has_shard, to_int16, write_shard
from antiphon_tiny.speech.speaking_voice import FRAME_RATE_HZ, Anatomy, Voicebox, disguise, resampled
from antiphon_tiny.speech.synthesizers import RATE_HZ, Speech
from antiphon_tiny.stages import Run

__all__ = ["SETS", "build_all", "trimmed"]

SHARD = 250
LEAD_S = 0.1
"""Silence that is left before speech, and after it: what synthesizers add differs, and delays a reply."""
TAIL_S = 0.25
ACCENTS = ("en-us", "en-us", "en-us", "en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-029")


@dataclass(frozen=True)
class SpeechSet:
    """How many utterances of which kind."""

    count: int
    say: Callable[[list[str], np.random.Generator], list[tuple[dict[str, Any], dict[str, np.ndarray]]]]
    world_share: float
    held_out: bool = False


def build_all(arguments: Run) -> None:
    """Writes what is missing of all sets, with a process for each core."""
    folder, seed = arguments.folder("speech"), arguments.seed
    missing = [
        (name, index)
        for name in SETS
        for index in range(-(-SETS[name].count // SHARD))
        if not has_shard(folder, name, index)
    ]
    with process_per_core() as pool:
        begun = [pool.submit(_write, folder, name, index, seed) for name, index in missing]
        for number, one in enumerate(as_completed(begun), 1):
            print(f"{one.result()}; {number} of {len(begun)} shards", flush=True)


def _write(folder: Path, name: str, index: int, seed: int) -> str:
    plan = SETS[name]
    texts = _texts(name, seed)[index * SHARD : (index + 1) * SHARD]
    rng = np.random.default_rng([seed, sum(name.encode()), index])
    spoken = plan.say(texts, rng)
    tracks = {track: [utterance[track] for _, utterance in spoken] for track in spoken[0][1]}
    write_shard(folder, name, index, [info for info, _ in spoken], tracks)
    return f"{name}: {len(texts)} utterances"


@cache
def _texts(name: str, seed: int) -> list[str]:
    plan = SETS[name]
    return draw(plan.count, f"{seed} {name}", world_share=plan.world_share, held_out=plan.held_out)


def trimmed(speech: Speech) -> tuple[Speech, int, int]:
    """Without the silence at either end beyond `LEAD_S` and `TAIL_S`, and where it was cut."""
    samples, loud = speech.samples, np.abs(speech.samples)
    window = RATE_HZ // 100
    level = np.sqrt(np.convolve(loud**2, np.ones(window) / window, "same"))
    heard = np.flatnonzero(level > 0.02 * level.max())
    first = max(0, heard[0] - int(LEAD_S * RATE_HZ))
    last = min(len(samples), heard[-1] + int(TAIL_S * RATE_HZ))
    ends = None
    if speech.ends_s is not None:
        longest = (last - first) / RATE_HZ
        ends = [min(max(0.0, end - first / RATE_HZ), longest) for end in speech.ends_s]
        ends[-1] = longest
    return Speech(samples[first:last], speech.phones, ends), first, last


def _entry(
    text: str, voice: str, speech: Speech, **more: np.ndarray
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    peak = max(1e-3, float(np.abs(speech.samples).max()))
    info: dict[str, Any] = {"text": text, "voice": voice, "phones": speech.phones}
    info["ends_s"] = None if speech.ends_s is None else [round(end, 3) for end in speech.ends_s]
    return info, {"heard": to_int16(speech.samples * min(1.0, 0.95 / peak)), **more}


@cache
def _voicebox() -> Voicebox:
    return Voicebox()


def _speaking_voice(texts: list[str], rng: np.random.Generator) -> list[Any]:
    """hibari at its own pace, with the sound at 22.05 kHz and the pitch that the vocoder is to learn."""
    entries = []
    for text in texts:
        own = _voicebox().think(text, 1.0)
        sound = own.say(rng)
        speech, first, last = trimmed(Speech(resampled(sound, RATE_HZ), own.phones, own.ends_s))
        begin, end = (int(cut / RATE_HZ * SAMPLE_RATE_HZ) for cut in (first, last))
        spoken = resampled(sound, SAMPLE_RATE_HZ)[begin:end]
        pitch = _pitch_of(own, begin / SAMPLE_RATE_HZ, len(spoken) // HOP)
        info, tracks = _entry(text, "hibari", speech)
        # Without the change of level that `_entry` may make.
        entries.append((info, {**tracks, "spoken": to_int16(spoken), "f0": pitch.astype(np.float16)}))
    return entries


def _pitch_of(own: Anatomy, begin_s: float, frames: int) -> np.ndarray:
    """Hz at the middle of each mel frame of 256 samples, 0 where there is no voice."""
    places = (begin_s + (np.arange(frames) + 0.5) * HOP / SAMPLE_RATE_HZ) * FRAME_RATE_HZ - 0.5
    left = np.clip(places.astype(int), 0, len(own.f0_hz) - 2)
    low, high = own.f0_hz[left], own.f0_hz[left + 1]
    weight = np.clip(places - left, 0, 1)
    between = low * (1 - weight) + high * weight
    # hibari's own threshold: between a voiced and an unvoiced frame the pitch is the voiced one's.
    both = np.where(low > 40, np.where(high > 40, between, low), high)
    return np.where(between > 40, both, 0)


def _disguised(texts: list[str], rng: np.random.Generator) -> list[Any]:
    """A new voice for each, with the same words at the same moments in hibari's own as `plain`."""
    entries = []
    for text in texts:
        own = _voicebox().think(text, float(np.exp(rng.uniform(np.log(0.75), np.log(1.35)))))
        other = resampled(disguise(own, rng).say(rng), RATE_HZ)
        plain = resampled(own.say(rng), RATE_HZ)
        _, first, last = trimmed(Speech(plain, None, None))
        ends = [max(0.0, end - first / RATE_HZ) for end in own.ends_s]
        info, tracks = _entry(text, "disguised", Speech(other[first:last], own.phones, ends))
        entries.append((info, {**tracks, "plain": to_int16(plain[first:last])}))
    return entries


def _flite(voice: str, pitch_hz: tuple[float, float] | None) -> Callable[..., list[Any]]:
    def say(texts: list[str], rng: np.random.Generator) -> list[Any]:
        entries = []
        for text in texts:
            stretch = float(np.exp(rng.uniform(np.log(0.75), np.log(1.4))))
            pitch = None if pitch_hz is None else float(rng.uniform(*pitch_hz))
            speech = synthesizers.flite(text, voice, stretch, pitch)
            entries.append(_entry(text, f"flite {voice}", trimmed(speech)[0]))
        return entries

    return say


def _festival(voice: str) -> Callable[..., list[Any]]:
    def say(texts: list[str], rng: np.random.Generator) -> list[Any]:
        stretches = [float(np.exp(rng.uniform(np.log(0.8), np.log(1.35)))) for _ in texts]
        spoken = synthesizers.festival(texts, voice, stretches)
        return [
            _entry(text, f"festival {voice}", trimmed(speech)[0])
            for text, speech in zip(texts, spoken, strict=True)
        ]

    return say


def _espeak(texts: list[str], rng: np.random.Generator) -> list[Any]:
    variants = synthesizers.espeak_variants()
    entries = []
    for text in texts:
        voice = f"{rng.choice(ACCENTS)}+{rng.choice(variants)}"
        speech = synthesizers.espeak(text, voice, int(rng.integers(120, 210)), int(rng.integers(10, 90)))
        # It does not tell its sounds: they are looked up in hibari's dictionary.
        speech.phones = _voicebox().phones(text)
        entries.append(_entry(text, f"espeak {voice}", trimmed(speech)[0]))
    return entries


def _piper(texts: list[str], rng: np.random.Generator) -> list[Any]:
    from antiphon_tiny.speech.piper_voice import speak  # a package for evaluation only

    return [
        _entry(text, "piper joe", trimmed(Speech(speak(text), _voicebox().phones(text), None))[0])
        for text in texts
    ]


SETS = {
    "heart": SpeechSet(12000, _speaking_voice, 0.75),
    "disguised": SpeechSet(12000, _disguised, 0.4),
    "slt": SpeechSet(2500, _flite("slt", (120, 230)), 0.4),
    "rms": SpeechSet(2500, _flite("rms", (75, 150)), 0.4),
    "awb": SpeechSet(2500, _flite("awb", (85, 170)), 0.4),
    "kal16": SpeechSet(1000, _flite("kal16", (75, 150)), 0.4),
    "kal": SpeechSet(750, _flite("kal", (75, 150)), 0.4),
    "slt_hts": SpeechSet(2000, _festival("cmu_us_slt_arctic_hts"), 0.4),
    "kal_diphone": SpeechSet(1000, _festival("kal_diphone"), 0.4),
    "espeak": SpeechSet(5000, _espeak, 0.4),
    # Never trained on: new sentences of known voices, and two voices that training does not know.
    "test_heart": SpeechSet(250, _speaking_voice, 1.0, held_out=True),
    "test_slt": SpeechSet(100, _flite("slt", None), 1.0, held_out=True),
    "test_rms": SpeechSet(100, _flite("rms", None), 1.0, held_out=True),
    "test_ked": SpeechSet(100, _festival("ked_diphone"), 1.0, held_out=True),
    "test_joe": SpeechSet(200, _piper, 1.0, held_out=True),
}
