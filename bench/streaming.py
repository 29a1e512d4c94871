"""`antiphon bench streaming`: how far streamed speech is from the whole, and whether its seams show.

A chunk sees less than the whole utterance does, so its mel differs; only a trained codec can tell what that
means to the ear. Where chunks meet, nothing should be heard: the bend of the waveform (its second difference)
and the step of the mel from frame to frame are compared with those elsewhere.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from antiphon.assets.embedded import EMBEDDED_CODEC
from antiphon.bench.options import JsonFile, check_output, device_name, read_counts, record_of, write_record
from antiphon.codec import Codec
from antiphon.codec.checkpoint.hyperparams import HOP
from antiphon.config import StreamSchedule

__all__ = ["StreamFigures", "measure", "run"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StreamFigures:
    """Of one schedule, over some utterances."""

    context_units: int
    lookahead_units: int
    num_seams: int
    log_mel_distance: float
    """Mean |streamed - whole| of the log-mel."""
    other_noise_distance: float
    """The same between two whole decodes with different noise: the scale of the above."""
    mel_step_at_seams: float
    """Mean |difference| of neighbouring frames where chunks meet, divided by that of all frames of the
    whole."""
    bend_at_seams: float
    """Largest |second difference| of samples within 2 of a seam, divided by the largest elsewhere."""
    samples_off: int
    """By how many samples the stream misses 256 for each frame of the whole."""


def measure(codec: Codec, utterances: list[list[int]], schedule: StreamSchedule) -> StreamFigures:
    distance, other, steps, whole_steps, bends, other_bends = [], [], [], [], [], []
    samples_off = 0
    for units in utterances:
        whole = codec.mel(units)
        mel, mel_seams = _streamed_mel(codec, units, schedule)
        distance.append(abs(mel - whole).mean())
        other.append(abs(codec.mel(units, seed=1) - whole).mean())
        step = abs(np.diff(mel, axis=1)).mean(axis=0)
        steps += [step[seam - 1] for seam in mel_seams]
        whole_steps.append(abs(np.diff(whole, axis=1)).mean())
        speech, seams = _streamed_speech(codec, units, schedule)
        samples_off += abs(len(speech) - HOP * whole.shape[1])
        bend = abs(np.diff(speech, n=2))
        near = np.zeros(len(bend), bool)
        for seam in seams:
            near[max(0, seam - 3) : seam + 2] = True
            bends.append(bend[max(0, seam - 3) : seam + 2].max())
        other_bends.append(bend[~near].max())
    return StreamFigures(
        schedule.context_units,
        schedule.lookahead_units,
        len(bends),
        float(np.mean(distance)),
        float(np.mean(other)),
        float(np.mean(steps) / np.mean(whole_steps)),
        float(max(bends) / max(other_bends)),
        samples_off,
    )


@torch.inference_mode()
def _streamed_mel(codec: Codec, units: list[int], schedule: StreamSchedule) -> tuple[Array, list[int]]:
    """(80, frames), and the frames where chunks begin."""
    flow = codec.stream(schedule=schedule).flow
    flow.add(units, complete=True)
    mels = []
    while flow.ready_units():
        mels.append(flow.take(codec.decoder.flow.generate([flow.chunk(codec.device)])[0]))
    seams = np.cumsum([mel.shape[1] for mel in mels])[:-1].tolist()
    return torch.cat(mels, dim=1).cpu().numpy(), seams


def _streamed_speech(codec: Codec, units: list[int], schedule: StreamSchedule) -> tuple[Array, list[int]]:
    """(samples,), and the samples where pieces begin."""
    stream = codec.stream(schedule=schedule)
    pieces = [stream.push([unit]) for unit in units]
    pieces = [piece for piece in [*pieces, stream.push(final=True)] if len(piece)]
    return np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces])[:-1].tolist()


def run(
    codec: Annotated[str, typer.Option(help="A CosyVoice folder.")] = str(EMBEDDED_CODEC),
    units: Annotated[int, typer.Option(min=2, help="Units of an utterance; 25 are a second.")] = 250,
    utterances: Annotated[int, typer.Option(min=1, help="Number of utterances, of random units.")] = 3,
    context: Annotated[str, typer.Option(help="Units of context, separated by commas.")] = "0,12,25,50",
    lookahead: Annotated[str, typer.Option(help="Units of look-ahead, separated by commas.")] = "0,3,6",
    json_out: JsonFile = None,
) -> None:
    """Distance of streamed speech from the whole, and the seams between its chunks."""
    check_output(json_out, "--json")
    loaded = Codec.from_pretrained(codec)
    rng = random.Random(0)
    spoken = [[rng.randrange(loaded.num_units_vocab) for _ in range(units)] for _ in range(utterances)]
    schedules = [
        StreamSchedule(context_units=context_units, lookahead_units=lookahead_units)
        for context_units in read_counts(context, "--context", 0)
        for lookahead_units in read_counts(lookahead, "--lookahead", 0)
    ]
    rows = [measure(loaded, spoken, schedule) for schedule in schedules]
    Console().print(_table(rows))
    if json_out is not None:
        title = f"{Path(codec).name}, {device_name(loaded.device)}, torch {torch.__version__}"
        command = (
            f"antiphon bench streaming --units {units} --utterances {utterances} "
            f"--context {context} --lookahead {lookahead}"
        )
        figures = [asdict(row) for row in rows]
        write_record(json_out, record_of(title, command, codec=Path(codec).name, rows=figures))


def _table(rows: list[StreamFigures]) -> Table:
    table = Table(caption="mel step and bend: where chunks meet, relative to elsewhere")
    names = ("context", "look-ahead", "seams", "log-mel", "other noise", "mel step", "bend", "samples off")
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row.context_units),
            str(row.lookahead_units),
            str(row.num_seams),
            f"{row.log_mel_distance:.3f}",
            f"{row.other_noise_distance:.3f}",
            f"{row.mel_step_at_seams:.2f}",
            f"{row.bend_at_seams:.2f}",
            str(row.samples_off),
        )
    return table
