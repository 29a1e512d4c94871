"""Compares exported networks with PyTorch in float32, from single frames to long and ragged batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count as count_from
from pathlib import Path

import torch
from torch import Tensor

from antiphon.codec.analysis.onnx_network import OnnxNetwork
from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.exported import FLOW, FLOW_FILES, PRECISION, fingerprint, open_network
from antiphon.codec.flow.flow import Flow, FlowInput
from antiphon.codec.flow.solver import Solver, schedule
from antiphon.errors import CheckpointError
from antiphon.export.folder import SOLVER, SOLVER_FILE, Source
from antiphon.files.checkpoint import is_folder, is_there, shown

__all__ = ["BATCHES", "BOUNDS", "QUICK_BATCHES", "Bound", "Row", "verify"]

MAX_RUN_S = 3600.0
MEL, ROW, MASK = [None, MEL_BANDS, None], [None, MEL_BANDS], [None, 1, None]
SHAPES: dict[str, list[list[int | None]]] = {
    FLOW: [MEL, MASK, MEL, [None], ROW, MEL],
    SOLVER: [MEL, MASK, MEL, ROW, MEL],
}
LENGTHS = (1, 2, 3, 16, 51, 150, 1000, 3000)
RAGGED = (2, 5, 16)
QUICK_BATCHES: tuple[tuple[int, ...], ...] = ((1,), (2,), (51,), (64,), (40, 1, 23), (150, 7))


def _ragged(rows: int) -> tuple[int, ...]:
    """From the longest to a single frame, odd and even."""
    return tuple(max(1, 300 - i * 299 // (rows - 1)) for i in range(rows))


BATCHES = (*((frames,) for frames in LENGTHS), *(_ragged(rows) for rows in RAGGED))
"""The frames of each row of what is compared."""


@dataclass(frozen=True)
class Bound:
    """What an export may be off by."""

    relative: float
    """The largest difference of a velocity, divided by the largest velocity"""
    mel: float
    """The largest difference of the log-mel (natural logarithm) after ten steps"""


BOUNDS = {"fp32": Bound(relative=1e-4, mel=1e-4), "fp16": Bound(relative=5e-3, mel=5e-2)}


@dataclass(frozen=True)
class Row:
    """One batch through one file."""

    file: str
    precision: str
    frames: tuple[int, ...]
    """Of each row"""
    max_error: float
    relative_error: float
    """max_error divided by the largest expected value"""
    mel_error: float
    """The largest difference of the mel"""
    num_nan: int
    """Numbers that are NaN or infinite"""
    is_within: bool


def verify(
    source: Source, folder: Path, batches: Sequence[Sequence[int]] = BATCHES, *, seed: int = 0
) -> Iterator[Row]:
    """Yields a row for each batch and file. Expected is what PyTorch makes of each row by itself in float32,
    so that a padded batch is compared with rows that were computed one by one.

    Raises CheckpointError for a folder without an export, or with one of another codec.
    """
    exports = _opened(source, folder)
    times, steps = schedule()
    solve = Solver(source.estimator, steps, source.params.inference_cfg_rate)
    flow = Flow(source.model, source.params, torch.device("cpu"))
    for number, frames in enumerate(batches):
        batch = _Batch.drawn(flow, frames, torch.Generator().manual_seed(seed + number))
        with torch.inference_mode():
            biases = source.estimator.time_bias(times)
            mels = [solve(row, biases) for row in batch.rows()]
            velocities = [
                source.estimator(row, source.estimator.time_bias(t[None])[0])
                for row, t in zip(batch.rows(), batch.t, strict=True)
            ]
        for export in exports:
            mel = export.mel(batch, times, steps)
            mel_error, _, num_nan = _compared(mel, mels)
            max_error, relative = mel_error, mel_error / _largest(mels)
            if export.kind == FLOW:
                max_error, relative, more = _compared(export.velocity(batch), velocities)
                num_nan += more
            bound = export.bound
            fits = relative <= bound.relative or export.kind == SOLVER
            yield Row(
                file=export.path.name,
                precision=export.precision,
                frames=tuple(frames),
                max_error=max_error,
                relative_error=relative,
                mel_error=mel_error,
                num_nan=num_nan,
                is_within=not num_nan and fits and mel_error <= bound.mel,
            )


@dataclass(frozen=True, eq=False)
class _Batch:
    """What the velocity is computed from, padded with numbers that must not matter."""

    noise: Tensor
    mu: Tensor
    prompt: Tensor
    """(batch, 80, frames)"""
    speaker: Tensor
    """(batch, 80)"""
    t: Tensor
    """(batch,)"""
    mask: Tensor
    """(batch, 1, frames)"""
    frames: Sequence[int]

    @classmethod
    def drawn(cls, flow: Flow, frames: Sequence[int], generator: torch.Generator) -> _Batch:
        """Conditions of random units; on a third of the longer rows, the mel of a prompt."""
        longest, params = max(frames), flow.params
        padding = 10 * torch.randn(4, len(frames), MEL_BANDS, longest, generator=generator)
        noise, mu, prompt, _ = padding.unbind()
        speaker = torch.zeros(len(frames), MEL_BANDS)
        for i, count in enumerate(frames):
            num_units = next(n for n in count_from(1) if params.mel_frames(n) >= count)
            units = torch.randint(params.vocab_size, (num_units,), generator=generator)
            embedding = torch.randn(params.spk_embed_dim, generator=generator)
            condition = flow.condition([FlowInput(units, embedding, torch.zeros(MEL_BANDS, 1))])
            said = count // 3
            mu[i, :, :count], speaker[i] = condition.mu[0, :, :count], condition.speaker[0]
            noise[i, :, :count] = torch.randn(MEL_BANDS, count, generator=generator)
            prompt[i, :, :count] = 0
            prompt[i, :, :said] = mu[i, :, :said]
        t = torch.rand(len(frames), generator=generator)
        mask = (torch.arange(longest) < torch.tensor(frames)[:, None])[:, None].float()
        return cls(noise, mu, prompt, speaker, t, mask, frames)

    def rows(self) -> Iterator[Tensor]:
        """(1, 320, frames_i): what the estimator in PyTorch is given."""
        for i, count in enumerate(self.frames):
            on_each = self.speaker[i, :, None].expand(-1, count)
            parts = [self.noise[i, :, :count], self.mu[i, :, :count], on_each, self.prompt[i, :, :count]]
            yield torch.cat(parts)[None]


@dataclass(frozen=True, eq=False)
class _Export:
    path: Path
    kind: str
    precision: str
    bound: Bound
    network: OnnxNetwork
    cfg_rate: float

    def velocity(self, batch: _Batch) -> Tensor:
        given = (batch.noise, batch.mask, batch.mu, batch.t, batch.speaker, batch.prompt)
        return self._run(*given)

    def mel(self, batch: _Batch, times: Tensor, steps: Sequence[float]) -> Tensor:
        if self.kind == SOLVER:
            return self._run(batch.noise, batch.mask, batch.mu, batch.speaker, batch.prompt)
        state, mask = batch.noise, batch.mask
        none, nobody = torch.zeros_like(batch.mu), torch.zeros_like(batch.speaker)
        for time, step in zip(times, steps, strict=True):
            t = time.expand(len(state))
            guided = self._run(state, mask, batch.mu, t, batch.speaker, batch.prompt)
            free = self._run(state, mask, none, t, nobody, none)
            state = state + step * ((1 + self.cfg_rate) * guided - self.cfg_rate * free)
        return state

    def _run(self, *given: Tensor) -> Tensor:
        return torch.from_numpy(self.network.run(*(each.numpy() for each in given), max_s=MAX_RUN_S))


def _opened(source: Source, folder: Path) -> list[_Export]:
    if not is_folder(folder):
        raise CheckpointError(f"{folder}: expected a folder that `antiphon export` wrote, found no folder")
    params, unet, rate = source.estimator.params, source.estimator, source.params.inference_cfg_rate
    weights = {FLOW: fingerprint(params, unet), SOLVER: fingerprint((params, rate), unet)}
    exports = []
    for name in (*FLOW_FILES, SOLVER_FILE):
        if not is_there(folder / name):
            continue
        kind = SOLVER if name == SOLVER_FILE else FLOW
        shapes = SHAPES[kind]
        network = open_network(folder / name, kind, weights[kind], shapes, None, may_loop=kind == SOLVER)
        precision = network.metadata.get(PRECISION, "")
        if precision not in BOUNDS:
            raise CheckpointError(
                f"{folder / name}: {PRECISION}: expected {' or '.join(BOUNDS)}, found {shown(precision)}"
            )
        exports.append(_Export(folder / name, kind, precision, BOUNDS[precision], network, rate))
    if not exports:
        raise CheckpointError(
            f"{folder}: expected {FLOW_FILES[0]} or {SOLVER_FILE}, as `antiphon export flow` writes them"
        )
    return exports


def _compared(found: Tensor, expected: Sequence[Tensor]) -> tuple[float, float, int]:
    """The largest difference on valid frames, absolute and relative, and how many numbers are not finite."""
    num_nan, worst = 0, 0.0
    for row, right in zip(found, expected, strict=True):
        own = row[:, : right.shape[2]]
        num_nan += int((~own.isfinite()).sum())
        worst = max(worst, float((own - right[0]).nan_to_num(math.inf).abs().max()))
    return worst, worst / _largest(expected), num_nan


def _largest(rows: Sequence[Tensor]) -> float:
    return max(float(row.abs().max()) for row in rows)
