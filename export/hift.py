"""The part `hift`: mel to sound.

Expected is what PyTorch makes of each utterance as a whole. Rows are whole utterances or their ends, whose
phases are given at a frame in the middle: so a window is compared with the same frames of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import HOP, MEL_BANDS, HiftParams
from antiphon.codec.checkpoint.tensors import HIFT_PREFIX, fill_module, read_tensors
from antiphon.codec.exported import fingerprint
from antiphon.codec.hift.hift import Hift
from antiphon.codec.hift.source import Draws, draw, harmonics
from antiphon.codec.hift.stream import F0_CONTEXT, HIFT_CONTEXT
from antiphon.codec.tensorrt.profile import Profile, Span
from antiphon.export.onnx_file import keeping_values, traced
from antiphon.export.part import PRECISIONS, Bound, Compared, EnginePlan, Part, Port, Precision, Run
from antiphon.export.sources import RECIPE, hashes, read_recipe
from antiphon.export.tries import hift_tries
from antiphon.export.vocoder import VocoderNetwork

if TYPE_CHECKING:
    import onnx

__all__ = ["HIFT_PART", "HiftSource", "read_hift"]

HIFT_WEIGHTS = "hift.pt"
EXAMPLE_FRAMES = 7
CONTEXT = F0_CONTEXT + HIFT_CONTEXT
"""Frames at the beginning of a window whose sound is not that of the whole."""
EARLIER = 31
"""Frames of an utterance before a window."""
LENGTHS = (1, 2, 3, 16, 51, 150, 1000, 3000)
RAGGED = ((300, 1), (300, 226, 151, 76, 1), tuple(range(10, 170, 10)))
QUICK_BATCHES: tuple[tuple[int, ...], ...] = ((1,), (2,), (51,), (40, 1, 23), (120, 7))


@dataclass(frozen=True, eq=False)
class HiftSource:
    """A vocoder that is exported."""

    params: HiftParams
    model: Hift
    files: Mapping[str, str]
    """sha256 of each file that it was read from, by name"""


def read_hift(codec: Path) -> HiftSource:
    """The vocoder of a CosyVoice folder, on the CPU in float32. Raises CheckpointError."""
    params = read_recipe(codec).hift
    with torch.device("meta"):
        model = Hift(params)
    path = codec / HIFT_WEIGHTS
    filled = fill_module(model, read_tensors(path, HIFT_PREFIX), path, torch.device("cpu"))
    return HiftSource(params, filled, hashes(codec, RECIPE, HIFT_WEIGHTS))


def _inputs(source: HiftSource) -> tuple[Port, ...]:
    waves = source.params.num_waves
    return (
        Port("mel", ("batch", MEL_BANDS, "frames")),
        Port("mask", ("batch", 1, "frames")),
        Port("noise", ("batch", "frames", HOP, waves)),
        Port("phase", ("batch", waves)),
        Port("start", ("batch",), torch.int64),
        Port("cycles", ("batch", waves), torch.float64),
    )


def _outputs(source: HiftSource) -> tuple[Port, ...]:
    ends = ("batch", "frames", source.params.num_waves)
    return Port("samples", ("batch", "samples")), Port("cycles_at_ends", ends, torch.float64)


def _values(source: HiftSource) -> tuple[Port, ...]:
    """What sound is made from in place of pitch and phases; see `VocoderNetwork.phases`."""
    frames = "batch", "frames"
    waves = source.params.num_waves
    return Port("steps", (*frames, 2)), Port("begins", (*frames, waves)), Port("voiced", frames)


def _graph(source: HiftSource, precision: Precision, base: onnx.ModelProto | None) -> onnx.ModelProto:
    batch, waves = 2, source.params.num_waves
    example = (
        torch.zeros(batch, MEL_BANDS, EXAMPLE_FRAMES),
        torch.ones(batch, 1, EXAMPLE_FRAMES),
        torch.zeros(batch, EXAMPLE_FRAMES, HOP, waves),
        torch.zeros(batch, waves),
        torch.zeros(batch, dtype=torch.int64),
        torch.zeros(batch, waves, dtype=torch.float64),
    )
    network = _WithPhases(VocoderNetwork(source.model, PRECISIONS[precision]))
    values = _values(source)
    model = traced(network, _inputs(source), example, [*_outputs(source), *values])
    keeping_values(model, len(values))
    return model


class _WithPhases(nn.Module):
    """The vocoder, which also returns what it makes sound from."""

    def __init__(self, network: VocoderNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, mel: Tensor, mask: Tensor, noise: Tensor, phase: Tensor, start: Tensor, cycles: Tensor
    ) -> tuple[Tensor, ...]:
        *values, ends = self.network.phases(mel, mask, start, cycles)
        return self.network.sound(mel, mask, noise, phase, *values), ends, *values


def _weights(source: HiftSource) -> str:
    return fingerprint(source.params, source.model)


@dataclass(frozen=True, eq=False)
class Trial:
    """Whole utterances, and ends of longer ones: inputs, and what PyTorch makes of them."""

    source: HiftSource
    given: tuple[Tensor, ...]
    skipped: list[int]
    """Frames at the beginning of each row that are not compared"""
    samples: list[Tensor]
    """(256 * (frames_i - skipped_i),) each"""
    cycles: list[Tensor]
    """(frames_i - skipped_i, waves) each"""

    @classmethod
    def drawn(cls, source: HiftSource, sizes: Sequence[int], generator: torch.Generator) -> Trial:
        """Every other row that is long enough is the end of an utterance."""
        params, rows, longest, waves = source.params, len(sizes), max(sizes), source.params.num_waves
        mel = 10 * torch.randn(rows, MEL_BANDS, longest, generator=generator)
        noise = torch.randn(rows, longest, HOP, waves, generator=generator)
        phase, cycles = torch.zeros(rows, waves), torch.zeros(rows, waves, dtype=torch.float64)
        start, skipped = torch.zeros(rows, dtype=torch.int64), []
        samples, ends = [], []
        hift = Hift(params)
        hift.load_state_dict(source.model.state_dict(), assign=True)
        hift.f0_predictor.double()  # see `Hift.f0`
        for i, size in enumerate(sizes):
            is_end = (i + size) % 2 == 1 and size > CONTEXT
            before, skip = (EARLIER, CONTEXT) if is_end else (0, 0)
            whole = _mel(before + size, generator)
            draws = draw(params, seed=i, first_frame=0, num_frames=before + size, device=mel.device)
            with torch.inference_mode():
                made, at_ends = _waves(hift.f0([whole])[0], draws, params)
                (wave,) = hift([whole], [hift.mix(made)])
            mel[i, :, :size] = whole[:, before:]
            noise[i, :size] = draws.noise.view(-1, HOP, waves)[before:]
            phase[i] = draws.phase
            if is_end:
                start[i] = size // 2
                cycles[i] = at_ends[before + size // 2 - 1]
            skipped.append(skip)
            samples.append(wave[HOP * (before + skip) :])
            ends.append(at_ends[before + skip :])
        mask = (torch.arange(longest) < torch.tensor(sizes)[:, None])[:, None].float()
        return cls(source, (mel, mask, noise, phase, start, cycles), skipped, samples, ends)


def _mel(frames: int, generator: torch.Generator) -> Tensor:
    """(80, frames) log-mel that changes slowly, about as loud as speech"""
    points = torch.randn(1, MEL_BANDS, frames // 8 + 2, generator=generator)
    return 1.5 * F.interpolate(points, size=frames, mode="linear", align_corners=True)[0] - 4


def _waves(f0: Tensor, draws: Draws, params: HiftParams) -> tuple[Tensor, Tensor]:
    """The waves of a source (256 * frames, waves), and the phases (frames, waves) at each frame's end."""
    waves, ends, cycles = [], [], None
    for frame, noise in zip(f0.split(1), draws.noise.split(HOP), strict=True):
        made, cycles = harmonics(frame, Draws(draws.phase, noise), params, cycles)
        waves.append(made)
        ends.append(cycles)
    return torch.cat(waves), torch.stack(ends)


def _compared(trial: Trial, run: Run) -> Mapping[str, Compared]:
    samples, cycles = run(*trial.given)
    own_cycles = []
    for i, ends in enumerate(trial.cycles):
        begin = trial.skipped[i]
        # Phases are on a circle: 0 is next to 1.
        off = cycles[i, begin : begin + len(ends)] - ends
        own_cycles.append(ends + off - off.round())
    return {"samples": _compared_samples(trial, samples), "cycles": (own_cycles, trial.cycles)}


def _compared_engine(trial: Trial, run: Run) -> Mapping[str, Compared]:
    """Pitch and phases by PyTorch, sound by the engine."""
    mel, mask, noise, phase, start, cycles = trial.given
    with torch.inference_mode():
        *values, _ = VocoderNetwork(trial.source.model, torch.float32).phases(mel, mask, start, cycles)
    (samples,) = run(mel, mask, noise, phase, *values)
    return {"samples": _compared_samples(trial, samples)}


def _compared_samples(trial: Trial, samples: Tensor) -> Compared:
    begins = [HOP * skipped for skipped in trial.skipped]
    parts = zip(samples, begins, trial.samples, strict=True)
    return [row[begin : begin + len(wave)] for row, begin, wave in parts], trial.samples


CYCLES = Bound(1e-7, is_relative=False)
CHUNKS = Profile((Span(1, 128, 320),), Span(1, 1, 16))
UTTERANCES = Profile((Span(1, 1024, 3000),), Span(1, 1, 1))
HIFT_PART = Part(
    kind="hift",
    file="hift.onnx",
    about="mel to sound",
    folder="codec",
    read=read_hift,
    inputs=_inputs,
    outputs=_outputs,
    graph=_graph,
    weights=_weights,
    size="frames",
    batches=(*((frames,) for frames in LENGTHS), *RAGGED),
    quick_batches=QUICK_BATCHES,
    trial=Trial.drawn,
    compare=_compared,
    bounds={
        "fp32": {"samples": Bound(1e-4, is_relative=True), "cycles": CYCLES},
        "fp16": {"samples": Bound(1e-2, is_relative=True, is_rms=True), "cycles": CYCLES},
    },
    engine=EnginePlan(
        (CHUNKS, UTTERANCES),
        hift_tries,
        inputs=("mel", "mask", "noise", "phase", "steps", "begins", "voiced"),
        outputs=("samples",),
        rest=("steps", "begins", "voiced", "cycles_at_ends"),
        why="pitch and phases, which are float64; TensorRT would make them float32",
        compare=_compared_engine,
        results=("samples",),
    ),
)
