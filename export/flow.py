"""The flow's parts: the velocity estimator, and the solver around it.

Expected is what PyTorch makes of each row by itself in float32: the velocity, and the mel after ten steps
with guidance. A velocity file takes the steps here, one by one; a solver file takes them itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count as count_from
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from antiphon.codec.checkpoint.hyperparams import MEL_BANDS
from antiphon.codec.exported import FLOW, FLOW_FILES, fingerprint
from antiphon.codec.flow.flow import FlowInput
from antiphon.codec.flow.solver import Solver, schedule
from antiphon.codec.tensorrt.profile import PROFILES
from antiphon.export.estimator import estimator_model
from antiphon.export.onnx_file import OPSET, add_metadata
from antiphon.export.part import PRECISIONS, Bound, Compared, EnginePlan, Part, Port, Precision, Run
from antiphon.export.solver import solver_of
from antiphon.export.sources import FlowSource, read_flow
from antiphon.export.tries import flow_tries

if TYPE_CHECKING:
    import onnx

__all__ = [
    "BATCHES",
    "COSYVOICE_NAMES",
    "FLOW_PART",
    "NAMES",
    "QUICK_BATCHES",
    "SOLVER_PART",
    "Names",
    "cosyvoice_part",
]

BFLOAT16_OPSET = 22
"""The first in which convolutions take bfloat16."""
LENGTHS = (1, 2, 3, 16, 51, 150, 1000, 3000)
RAGGED = (2, 5, 16)
QUICK_BATCHES: tuple[tuple[int, ...], ...] = ((1,), (2,), (51,), (64,), (40, 1, 23), (150, 7))


def _ragged(rows: int) -> tuple[int, ...]:
    """From the longest to a single frame, odd and even."""
    return tuple(max(1, 300 - i * 299 // (rows - 1)) for i in range(rows))


BATCHES = (*((frames,) for frames in LENGTHS), *(_ragged(rows) for rows in RAGGED))
"""The frames of each row of what is compared."""
MEL: tuple[str | int, ...] = ("batch", MEL_BANDS, "frames")
MASK: tuple[str | int, ...] = ("batch", 1, "frames")
ROW: tuple[str | int, ...] = ("batch", MEL_BANDS)


@dataclass(frozen=True)
class Names:
    """Those of the estimator's inputs, in order, and of its output."""

    inputs: tuple[str, str, str, str, str, str]
    output: str


NAMES = Names(("x", "mask", "mu", "t", "speaker", "prompt"), "velocity")
COSYVOICE_NAMES = Names(("x", "mask", "mu", "t", "spks", "cond"), "estimator_out")


def cosyvoice_part(precision: Precision) -> Part[FlowSource, Trial]:
    """The estimator, with file, inputs and output called as CosyVoice calls them."""
    return replace(
        FLOW_PART,
        file=f"flow.decoder.estimator.{precision}.onnx",
        other_files=(),
        inputs=partial(_inputs, COSYVOICE_NAMES),
        outputs=partial(_outputs, COSYVOICE_NAMES),
        graph=partial(_graph, COSYVOICE_NAMES),
    )


def _inputs(names: Names, source: FlowSource) -> tuple[Port, ...]:
    shapes = (MEL, MASK, MEL, ("batch",), ROW, MEL)
    return tuple(Port(name, shape) for name, shape in zip(names.inputs, shapes, strict=True))


def _outputs(names: Names, source: FlowSource) -> tuple[Port, ...]:
    return (Port(names.output, MEL),)


def _graph(
    names: Names, source: FlowSource, precision: Precision, base: onnx.ModelProto | None
) -> onnx.ModelProto:
    plan = source.int8_plan() if precision == "int8" else None
    model = estimator_model(
        source.estimator,
        names.inputs,
        names.output,
        opset=BFLOAT16_OPSET if precision == "bf16" else OPSET,
        dtype=PRECISIONS[precision],
        scales=None if plan is None else plan.scales,
    )
    if plan is not None:
        add_metadata(model, plan.metadata)
    return model


def _solver_inputs(source: FlowSource) -> tuple[Port, ...]:
    return Port("noise", MEL), Port("mask", MASK), Port("mu", MEL), Port("speaker", ROW), Port("prompt", MEL)


def _solver_outputs(source: FlowSource) -> tuple[Port, ...]:
    return (Port("mel", MEL),)


def _solver_graph(source: FlowSource, precision: Precision, base: onnx.ModelProto | None) -> onnx.ModelProto:
    assert base is not None, "made around the estimator's"
    model = solver_of(base, source.params.inference_cfg_rate)
    add_metadata(model, {prop.key: prop.value for prop in base.metadata_props})
    return model


def _flow_weights(source: FlowSource) -> str:
    return fingerprint(source.estimator.params, source.estimator)


def _solver_weights(source: FlowSource) -> str:
    return fingerprint((source.estimator.params, source.params.inference_cfg_rate), source.estimator)


@dataclass(frozen=True, eq=False)
class Trial:
    """What the velocity is computed from, padded with numbers that must not matter."""

    source: FlowSource
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
    def drawn(cls, source: FlowSource, frames: Sequence[int], generator: torch.Generator) -> Trial:
        """Conditions of random units; on a third of the longer rows, the mel of a prompt."""
        longest, params = max(frames), source.params
        padding = 10 * torch.randn(4, len(frames), MEL_BANDS, longest, generator=generator)
        noise, mu, prompt, _ = padding.unbind()
        speaker = torch.zeros(len(frames), MEL_BANDS)
        for i, count in enumerate(frames):
            num_units = next(n for n in count_from(1) if params.mel_frames(n) >= count)
            units = torch.randint(params.vocab_size, (num_units,), generator=generator)
            embedding = torch.randn(params.spk_embed_dim, generator=generator)
            condition = source.flow.condition([FlowInput(units, embedding, torch.zeros(MEL_BANDS, 1))])
            said = count // 3
            mu[i, :, :count], speaker[i] = condition.mu[0, :, :count], condition.speaker[0]
            noise[i, :, :count] = torch.randn(MEL_BANDS, count, generator=generator)
            prompt[i, :, :count] = 0
            prompt[i, :, :said] = mu[i, :, :said]
        t = torch.rand(len(frames), generator=generator)
        mask = (torch.arange(longest) < torch.tensor(frames)[:, None])[:, None].float()
        return cls(source, noise, mu, prompt, speaker, t, mask, frames)

    @cached_property
    def mels(self) -> list[Tensor]:
        times, steps = schedule()
        solve = Solver(self.source.estimator, steps, self.source.params.inference_cfg_rate)
        with torch.inference_mode():
            biases = self.source.estimator.time_bias(times)
            return [solve(row, biases)[0] for row in self._rows()]

    @cached_property
    def velocities(self) -> list[Tensor]:
        estimator = self.source.estimator
        with torch.inference_mode():
            return [
                estimator(row, estimator.time_bias(t[None])[0])[0]
                for row, t in zip(self._rows(), self.t, strict=True)
            ]

    def compared(self, found: Tensor, expected: Sequence[Tensor]) -> Compared:
        return [row[:, :count] for row, count in zip(found, self.frames, strict=True)], expected

    def _rows(self) -> Iterator[Tensor]:
        """(1, 320, frames_i): what the estimator in PyTorch is given."""
        for i, count in enumerate(self.frames):
            on_each = self.speaker[i, :, None].expand(-1, count)
            parts = [self.noise[i, :, :count], self.mu[i, :, :count], on_each, self.prompt[i, :, :count]]
            yield torch.cat(parts)[None]


def _flow_compared(trial: Trial, run: Run) -> Mapping[str, Compared]:
    (velocity,) = run(trial.noise, trial.mask, trial.mu, trial.t, trial.speaker, trial.prompt)
    state, rate = trial.noise, trial.source.params.inference_cfg_rate
    none, nobody = torch.zeros_like(trial.mu), torch.zeros_like(trial.speaker)
    for time, step in zip(*schedule(), strict=True):
        t = time.expand(len(state))
        (guided,) = run(state, trial.mask, trial.mu, t, trial.speaker, trial.prompt)
        (free,) = run(state, trial.mask, none, t, nobody, none)
        state = state + step * ((1 + rate) * guided - rate * free)
    return {
        "velocity": trial.compared(velocity, trial.velocities),
        "mel": trial.compared(state, trial.mels),
    }


def _solver_compared(trial: Trial, run: Run) -> Mapping[str, Compared]:
    (mel,) = run(trial.noise, trial.mask, trial.mu, trial.speaker, trial.prompt)
    return {"mel": trial.compared(mel, trial.mels)}


VELOCITY_BOUNDS: Mapping[Precision, Bound] = {
    "fp32": Bound(1e-4, is_relative=True),
    "fp16": Bound(5e-3, is_relative=True),
    "bf16": Bound(4e-2, is_relative=True),
    "int8": Bound(5e-2, is_relative=True),
}
MEL_BOUNDS: Mapping[Precision, Bound] = {
    "fp32": Bound(1e-4, is_relative=False),
    "fp16": Bound(5e-2, is_relative=False),
    "bf16": Bound(4e-1, is_relative=False),
    "int8": Bound(5e-1, is_relative=False),
}
"""Of the log-mel (natural logarithm) after ten steps."""

FLOW_PART = Part(
    kind=FLOW,
    file=FLOW_FILES[0],
    other_files=FLOW_FILES[1:],
    about="the velocity",
    folder="codec",
    read=read_flow,
    inputs=partial(_inputs, NAMES),
    outputs=partial(_outputs, NAMES),
    graph=partial(_graph, NAMES),
    weights=_flow_weights,
    size="frames",
    batches=BATCHES,
    quick_batches=QUICK_BATCHES,
    trial=Trial.drawn,
    compare=_flow_compared,
    bounds={name: {"velocity": VELOCITY_BOUNDS[name], "mel": MEL_BOUNDS[name]} for name in PRECISIONS},
    engine=EnginePlan(PROFILES, flow_tries),
)
SOLVER_PART = Part(
    kind="solver",
    file="solver.onnx",
    about="ten steps with guidance",
    folder="codec",
    read=read_flow,
    inputs=_solver_inputs,
    outputs=_solver_outputs,
    graph=_solver_graph,
    weights=_solver_weights,
    size="frames",
    batches=BATCHES,
    quick_batches=QUICK_BATCHES,
    trial=Trial.drawn,
    compare=_solver_compared,
    bounds={name: {"mel": MEL_BOUNDS[name]} for name in PRECISIONS},
    engine=EnginePlan(PROFILES, flow_tries),
    base=FLOW_PART,
    may_loop=True,
)
