"""Other voices to hear: flite, festival and espeak-ng of Debian, each called as a program.

All give 16 kHz samples and, except for espeak-ng, the time when each sound ends.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from antiphon.codec.analysis.logmel import INPUT_RATE_HZ
from antiphon_tiny.speech.phones import from_festival

__all__ = ["RATE_HZ", "Speech", "espeak", "espeak_variants", "festival", "flite"]

RATE_HZ = INPUT_RATE_HZ


@dataclass
class Speech:
    """What a synthesizer said."""

    samples: np.ndarray
    """float32 (n,) at 16 kHz"""
    phones: list[int] | None
    """Numbers of `phones.PHONES`, silence included; None where the synthesizer does not tell"""
    ends_s: list[float] | None
    """When each of them ends"""


def flite(text: str, voice: str, stretch: float, pitch_hz: float | None) -> Speech:
    """stretch: of the durations. pitch_hz: mean; None for the voice's own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}"]
        if pitch_hz is not None:
            command += ["--setf", f"int_f0_target_mean={pitch_hz:.1f}"]
        command += ["-psdur", "-o", str(path), "-t", text]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        phones, ends = [], []
        for segment in told.split():
            name, end = segment.rsplit(":", 1)
            phones.append(from_festival(name))
            ends.append(float(end))
        return Speech(_read(path), phones, ends)


def festival(texts: list[str], voice: str, stretches: list[float]) -> list[Speech]:
    """One process for all texts, since it takes a second to start."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"(voice_{voice})"]
        for i, (text, stretch) in enumerate(zip(texts, stretches, strict=True)):
            quoted = text.replace("\\", " ").replace('"', " ")
            lines += [
                f"(Parameter.set 'Duration_Stretch {stretch:.3f})",
                f'(set! u (utt.synth (Utterance Text "{quoted}")))',
                f'(utt.save.wave u "{folder}/{i}.wav")',
                f'(utt.save.segs u "{folder}/{i}.seg")',
            ]
        script = Path(folder) / "say.scm"
        script.write_text("\n".join(lines) + "\n")
        subprocess.run(["festival", "--batch", str(script)], check=True, capture_output=True)
        speeches = []
        for i in range(len(texts)):
            rows = (Path(folder) / f"{i}.seg").read_text().split("#\n", 1)[1].split("\n")
            segments = [row.split() for row in rows if row.strip()]
            phones = [from_festival(row[2]) for row in segments]
            speeches.append(
                Speech(_read(Path(folder) / f"{i}.wav"), phones, [float(row[0]) for row in segments])
            )
        return speeches


def espeak(text: str, voice: str, words_per_minute: int, pitch: int) -> Speech:
    """voice: such as en-us+f3. pitch: 0 to 99."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "-w", str(path)]
        subprocess.run([*command, text], check=True, capture_output=True)
        return Speech(_read(path), None, None)


def espeak_variants() -> list[str]:
    """The timbres that espeak-ng knows, without those that whisper or are meant as a joke."""
    told = subprocess.run(
        ["espeak-ng", "--voices=variant"], check=True, capture_output=True, text=True
    ).stdout
    names = sorted(set(re.findall(r"!v/(\S+)", told)))
    odd = ("whisper", "croak", "robo", "Robot", "Demonic", "fast", "UniRobot", "Half", "announcer", "Tweaky")
    return [name for name in names if not any(part.lower() in name.lower() for part in odd)]


def _read(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != RATE_HZ:
        samples = soxr.resample(samples, rate, RATE_HZ)
    out: np.ndarray = samples.astype(np.float32)
    return out
