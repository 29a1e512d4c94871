"""The demo as README shows it: what the terminal said, and the spectrogram of the reply; and those of five
replies, as the packaged model's card shows them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import soundfile
from PIL import Image

from antiphon import Completion, Engine, Request

mpl.use("Agg")
from matplotlib import pyplot

__all__ = ["draw_demo"]

PROJECT = Path(__file__).parents[4]
FOLDER = PROJECT / "docs" / "pictures"
COMMAND = ("generate", "--demo", "--out", "reply.wav")
INK, PAPER, PROMPT = "#e6e6e6", "#1e2127", "#7ec699"
HIGHEST_HZ = 8000
ASKED = (
    "Hello, my name is Anna.",
    "What is seven plus five?",
    "What is the capital of France?",
    "Say after me: the old clock is by the window.",
    "How far is the moon?",
)


def draw_demo(folder: Path = FOLDER) -> None:
    """Runs the demo of the packaged model and writes demo.png, reply_spectrogram.png and replies.png."""
    folder.mkdir(parents=True, exist_ok=True)
    antiphon = Path(sys.executable).with_name("antiphon")
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run([antiphon, *COMMAND], cwd=place, capture_output=True, text=True, check=True)
        samples, rate_hz = soundfile.read(Path(place) / "reply.wav", dtype="float32")
    _draw_terminal(done.stdout, folder / "demo.png")
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())
    _draw_spectrogram(samples, rate_hz, said["reply"], folder / "reply_spectrogram.png")
    with Engine() as engine:
        _draw_replies(
            engine.generate([Request(text, ("text", "audio")) for text in ASKED]), folder / "replies.png"
        )


def _draw_terminal(said: str, path: Path) -> None:
    lines = ["$ antiphon " + " ".join(COMMAND), *said.rstrip().splitlines()]
    picture = np.asarray(Image.open(PROJECT / "runtime" / "assets" / "demo" / "shapes.png"))
    width = max(len(line) for line in lines)
    figure = pyplot.figure(figsize=(3.1 + 0.105 * width, 2.2), facecolor=PAPER)
    seen = figure.add_axes((0.015, 0.08, 2.7 / figure.get_figwidth(), 0.84))
    seen.imshow(picture)
    seen.axis("off")
    for number, line in enumerate(lines):
        figure.text(
            3.0 / figure.get_figwidth(), 0.86 - 0.13 * number, line, family="DejaVu Sans Mono", fontsize=12,
            color=PROMPT if number == 0 else INK, va="top",
        )  # fmt: skip
    figure.savefig(path, dpi=110, facecolor=PAPER)
    pyplot.close(figure)


def _draw_replies(replies: list[Completion], path: Path) -> None:
    figure, rows = pyplot.subplots(len(replies), 1, figsize=(9, 1.5 * len(replies)), layout="constrained")
    for axes, done in zip(rows, replies, strict=True):
        assert done.audio is not None
        assert done.sample_rate_hz is not None
        axes.specgram(
            done.audio + 1e-7,
            NFFT=512,
            Fs=done.sample_rate_hz,
            noverlap=384,
            cmap="magma",
            vmin=-130,
            vmax=-30,
        )
        axes.set_ylim(0, HIGHEST_HZ)
        axes.set_yticks([0, 4000, HIGHEST_HZ], ["0", "4", "8 kHz"])
        axes.set_title(f"“{done.text}”", fontsize=9)
    rows[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=60)
    pyplot.close(figure)


def _draw_spectrogram(samples: np.ndarray, rate_hz: int, text: str, path: Path) -> None:
    figure, (wave, axes) = pyplot.subplots(
        2, 1, figsize=(9, 4.2), sharex=True, height_ratios=(1, 3), layout="constrained"
    )
    time = np.arange(len(samples)) / rate_hz
    wave.plot(time, samples, linewidth=0.4, color="#2f66b3")
    wave.set_yticks([])
    wave.set_title(f"“{text}”")
    axes.specgram(samples + 1e-7, NFFT=512, Fs=rate_hz, noverlap=384, cmap="magma", vmin=-130, vmax=-30)
    axes.set_ylim(0, HIGHEST_HZ)
    axes.set_xlim(0, time[-1])
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
