"""The part `encoder`: units to the conditions of the velocity, and where frames lie among units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import HOP, MEL_BANDS, SAMPLE_RATE_HZ, FlowParams
from antiphon.codec.exported import fingerprint
from antiphon.codec.flow.flow import FlowInput, UnitSpan
from antiphon.codec.flow.length_regulator import EDGE_UNITS
from antiphon.codec.tensorrt.profile import Profile, Span
from antiphon.export.encoder import EncoderNetwork
from antiphon.export.onnx_file import traced
from antiphon.export.part import PRECISIONS, Bound, Compared, EnginePlan, Part, Port, Precision, Run
from antiphon.export.sources import FlowSource, read_flow
from antiphon.export.tries import encoder_tries

if TYPE_CHECKING:
    import onnx

__all__ = ["ENCODER_PART", "places"]

EXAMPLE_UNITS, EXAMPLE_FRAMES = 5, 17
LENGTHS = (1, 2, 3, 5, 20, 40, 41, 43, 150, 291, 871)
"""871 units have 3,000 frames."""
RAGGED = ((87, 1), (87, 61, 44, 22, 1), tuple(range(5, 85, 5)))
QUICK_BATCHES: tuple[tuple[int, ...], ...] = ((1,), (2,), (20,), (41,), (12, 1, 7), (44, 3))


def places(
    params: FlowParams,
    num_units: int,
    *,
    prompt: tuple[int, int] = (0, 0),
    span: UnitSpan | None = None,
) -> tuple[Tensor, Tensor]:
    """`left` (frames,) int64 and `weight` (frames,) float32 of the frames of a row: each lies between unit
    `left` of the row and the next one, whose share is `weight`.

    num_units: without the prompt's. prompt: its units and frames, (0, 0) without one. span: of a chunk of a
    stream, see `FlowInput`. The frames are those of `Flow.condition`.
    """
    units, frames = prompt
    if span is not None:
        own = num_units + span.num_context
        frames -= params.mel_frames(span.first + span.num_context) - params.mel_frames(span.first)
        parts = [_stretched(0, units - span.num_context, frames)] if frames else []
        parts.append(_spanned(units - span.num_context, own, span.first, params))
    else:
        parts = [_stretched(0, units, frames)] if units else []
        edge, total = EDGE_UNITS, params.mel_frames(num_units)
        if num_units <= 2 * edge:
            parts.append(_stretched(units, num_units, total))
        else:
            at_edge = params.mel_frames(edge)
            parts.append(_stretched(units, edge, at_edge))
            parts.append(_stretched(units + edge, num_units - 2 * edge, total - 2 * at_edge))
            parts.append(_stretched(units + num_units - edge, edge, at_edge))
    lefts, weights = zip(*parts, strict=True)
    return torch.cat(lefts), torch.cat(weights)


def _stretched(first: int, count: int, frames: int) -> tuple[Tensor, Tensor]:
    """Frames over `count` units from `first` on, at (i + 0.5) count / frames - 0.5. With one rounding to
    float32, as PyTorch's interpolation computes it."""
    scale = torch.tensor(count, dtype=torch.float32) / frames
    position = scale.double() * (torch.arange(frames) + 0.5).double() - 0.5
    return _between(position.float(), first, count)


def _spanned(first: int, count: int, number: int, params: FlowParams) -> tuple[Tensor, Tensor]:
    """Frames over `count` units from `first` on, which are those from `number` on of a stream; see
    `interpolate_span`."""
    frame = torch.arange(params.mel_frames(number), params.mel_frames(number + count)).double()
    units_per_frame = params.input_frame_rate * HOP / SAMPLE_RATE_HZ
    return _between((frame + 0.5) * units_per_frame - 0.5 - number, first, count)


def _between(position: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    position = position.clamp(0, count - 1)
    left = position.long()
    return first + left, (position - left).float()


def _inputs(source: FlowSource) -> tuple[Port, ...]:
    return (
        Port("units", ("batch", "units"), torch.int64, source.params.vocab_size),
        Port("unit_mask", ("batch", 1, "units")),
        Port("left", ("batch", "frames"), torch.int64),
        Port("weight", ("batch", "frames")),
        Port("mask", ("batch", 1, "frames")),
        Port("embedding", ("batch", source.params.spk_embed_dim)),
    )


def _outputs(source: FlowSource) -> tuple[Port, ...]:
    return Port("mu", ("batch", MEL_BANDS, "frames")), Port("speaker", ("batch", MEL_BANDS))


def _graph(source: FlowSource, precision: Precision, base: onnx.ModelProto | None) -> onnx.ModelProto:
    batch = 2
    example = (
        torch.zeros(batch, EXAMPLE_UNITS, dtype=torch.int64),
        torch.ones(batch, 1, EXAMPLE_UNITS),
        torch.zeros(batch, EXAMPLE_FRAMES, dtype=torch.int64),
        torch.zeros(batch, EXAMPLE_FRAMES),
        torch.ones(batch, 1, EXAMPLE_FRAMES),
        torch.ones(batch, source.params.spk_embed_dim),
    )
    network = EncoderNetwork(source.model, PRECISIONS[precision])
    return traced(network, _inputs(source), example, _outputs(source))


def _weights(source: FlowSource) -> str:
    params, model = source.params, source.model
    sizes = (params.vocab_size, params.encoder, params.num_regulator_convs)
    return fingerprint(
        sizes,
        model.input_embedding,
        model.spk_embed_affine_layer,
        model.encoder,
        model.encoder_proj,
        model.length_regulator,
    )


@dataclass(frozen=True, eq=False)
class Trial:
    """Utterances, some with a prompt, and chunks of streams: inputs, and what PyTorch makes of each."""

    given: tuple[Tensor, ...]
    mu: list[Tensor]
    """(80, frames_i) each"""
    speaker: list[Tensor]
    """(80,) each"""

    @classmethod
    def drawn(cls, source: FlowSource, sizes: Sequence[int], generator: torch.Generator) -> Trial:
        """Random units. sizes: those of a row, with its prompt or context."""
        params = source.params
        rows = [_row(params, size, (i + size) % 3, generator) for i, size in enumerate(sizes)]
        conditions = [source.flow.condition([row]) for row, _ in rows]
        most, longest = max(sizes), max(len(left) for _, (left, _) in rows)
        units = torch.randint(params.vocab_size, (len(rows), most), generator=generator)
        left = torch.randint(most, (len(rows), longest), generator=generator)
        weight = torch.rand(len(rows), longest, generator=generator)
        unit_mask, mask = torch.zeros(len(rows), 1, most), torch.zeros(len(rows), 1, longest)
        for i, (row, (own_left, own_weight)) in enumerate(rows):
            own = row.units if row.prompt_units is None else torch.cat([row.prompt_units, row.units])
            units[i, : len(own)], unit_mask[i, :, : len(own)] = own, 1
            left[i, : len(own_left)], weight[i, : len(own_left)] = own_left, own_weight
            mask[i, :, : len(own_left)] = 1
        embedding = torch.stack([row.embedding for row, _ in rows])
        given = (units, unit_mask, left, weight, mask, embedding)
        return cls(given, [each.mu[0] for each in conditions], [each.speaker[0] for each in conditions])


def _row(
    params: FlowParams, size: int, kind: int, generator: torch.Generator
) -> tuple[FlowInput, tuple[Tensor, Tensor]]:
    """kind: 0 for an utterance; 1: with a prompt; 2: a chunk of a stream, with a prompt if there is room."""
    said = size // 3 if kind else 0
    units = torch.randint(params.vocab_size, (size,), generator=generator)
    embedding = torch.randn(params.spk_embed_dim, generator=generator)
    span, frames = None, params.mel_frames(said)
    if kind == 2:
        span = UnitSpan(first=37, num_context=said // 2)
        frames = params.mel_frames(said - said // 2)
        frames += params.mel_frames(37 + said // 2) - params.mel_frames(37)
    row = FlowInput(
        units[said:],
        embedding,
        torch.zeros(MEL_BANDS, 1),
        units[:said] if said else None,
        torch.zeros(MEL_BANDS, frames) if said else None,
        span,
    )
    return row, places(params, size - said, prompt=(said, frames), span=span)


def _compared(trial: Trial, run: Run) -> Mapping[str, Compared]:
    mu, speaker = run(*trial.given)
    own = [row[:, : right.shape[1]] for row, right in zip(mu, trial.mu, strict=True)]
    return {"mu": (own, trial.mu), "speaker": (list(speaker), trial.speaker)}


# Chunks with their context, and whole utterances: the flow's sizes, in which an utterance has two rows. There
# are 3.45 frames for each of 25 units a second.
CHUNKS = Profile((Span(1, 75, 100), Span(1, 256, 345)), Span(1, 1, 16))
UTTERANCES = Profile((Span(1, 300, 871), Span(1, 1024, 3000)), Span(1, 1, 1))
ENCODER_PART = Part(
    kind="encoder",
    file="encoder.onnx",
    about="units to the conditions of the velocity",
    folder="codec",
    read=read_flow,
    inputs=_inputs,
    outputs=_outputs,
    graph=_graph,
    weights=_weights,
    size="units",
    batches=(*((n,) for n in LENGTHS), *RAGGED),
    quick_batches=QUICK_BATCHES,
    trial=Trial.drawn,
    compare=_compared,
    bounds={
        "fp32": {"mu": Bound(1e-4, is_relative=True), "speaker": Bound(1e-5, is_relative=True)},
        "fp16": {"mu": Bound(5e-3, is_relative=True), "speaker": Bound(1e-5, is_relative=True)},
    },
    engine=EnginePlan((CHUNKS, UTTERANCES), encoder_tries),
)
