"""Products of the velocity estimator in int8: which layers, and the ranges of their inputs, by measurement.

Static and symmetric: a weight has a scale for each output channel, the input of a layer one scale, which is
found on the ten steps of real utterances. Then the velocity is computed with each layer in int8 by itself.
Layers add their errors as independent ones do, in squares; those that add the most stay in float32, until
the rest adds up to `MAX_ERROR`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from antiphon.codec.checkpoint.hyperparams import FlowParams
from antiphon.codec.decoder import SMALL_FLOW
from antiphon.codec.flow.flow import Flow, FlowInput, FlowModel
from antiphon.codec.flow.solver import Solver, schedule
from antiphon.codec.flow.unet import Attention, UNet
from antiphon.kernels.threads import openmp_threads

__all__ = ["MAX_ERROR", "QKV", "Int8Plan", "layers", "plan_int8", "quantized"]

MAX_ERROR = 0.005
"""Of the velocity, as a share of its root mean square"""
QKV = "to_qkv"
"""An attention's to_q, to_k and to_v, which multiply the same input and are exported as one layer"""
LARGEST = 127
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Of the largest input of a layer: where the scale may end. What is beyond is cut off, so that the rest is
told apart more finely."""
NUM_KEPT = 512
"""Numbers of each input that scales are fitted to"""
NUM_TRIALS = 4
TRIAL_FRAMES = 64
"""What each layer is tried on by itself: pieces of the utterances, at different steps."""

Layer = nn.Linear | nn.Conv1d


@dataclass(frozen=True)
class Int8Plan:
    """What is to be computed in int8."""

    scales: Mapping[str, float]
    """Of the inputs of layers, by name. A layer that is left out is computed in float32."""
    in_float: tuple[str, ...]
    """The layers that could be computed in int8, and would have the largest errors"""
    error: float
    """Of the velocity, expected from those of the single layers, as a share of its root mean square"""

    @property
    def metadata(self) -> dict[str, str]:
        """For the file that is made by it."""
        return {
            "antiphon.int8.layers": str(len(self.scales)),
            "antiphon.int8.in_float": " ".join(self.in_float),
            "antiphon.int8.expected_error": f"{self.error:.2g}",
        }


def layers(unet: UNet) -> dict[str, tuple[Layer, ...]]:
    """All that can be computed in int8, by the names that they have in the graph. Transposed convolutions
    and what embeds time cannot: they are few."""
    found: dict[str, tuple[Layer, ...]] = {}
    for path, module in unet.named_modules():
        if isinstance(module, Attention):
            found[f"{path}.{QKV}"] = (module.to_q, module.to_k, module.to_v)
        is_qkv = path.rpartition(".")[2] in ("to_q", "to_k", "to_v")
        embeds_time = path.startswith("time_mlp") or ".mlp." in path
        if isinstance(module, nn.Linear | nn.Conv1d) and not is_qkv and not embeds_time:
            found[path] = (module,)
    return found


def quantized(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """int8, and float32 scales (channels,). axis: of the channels."""
    channels = weight.movedim(axis, 0).flatten(1)
    scales = channels.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    whole = (weight / scales.view(shape)).round().clamp(-LARGEST, LARGEST)
    return whole.to(torch.int8), scales


def plan_int8(
    model: FlowModel,
    params: FlowParams,
    inputs: Sequence[FlowInput],
    *,
    max_error: float = MAX_ERROR,
    report: Callable[[str], None] = lambda _: None,
) -> Int8Plan:
    """inputs: utterances that the codec is used for; half of them are decoded a second time with their first
    third as a prompt, as a stream is decoded."""
    unet = copy.deepcopy(model.decoder["estimator"])
    assert isinstance(unet, UNet), "decoder.estimator is built as a UNet"
    watched = {name: _Watched(own) for name, own in layers(unet).items()}
    is_small = sum(each.numel() for each in unet.parameters()) <= SMALL_FLOW
    with torch.inference_mode(), openmp_threads(1 if is_small else None):
        trials = _watch(unet, watched, Flow(model, params, torch.device("cpu")), inputs, report)
        errors = {}
        expected = [unet(x, bias) for x, bias in trials]
        power = sum(float(each.square().sum()) for each in expected)
        for number, (name, layer) in enumerate(watched.items()):
            report(f"trying layer {number + 1} of {len(watched)} in int8")
            with layer.in_int8():
                found = [unet(x, bias) for x, bias in trials]
            off = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
            errors[name] = off / power
    in_float: list[str] = []
    for name in sorted(errors, key=errors.__getitem__, reverse=True):
        if sum(errors.values()) <= max_error**2:
            break
        in_float.append(name)
        del errors[name]
    scales = {name: watched[name].scale for name in errors}
    return Int8Plan(scales, tuple(in_float), math.sqrt(sum(errors.values())))


@dataclass
class _Watched:
    """A layer that remembers what it is given, or rounds it and its weights as int8 does."""

    parts: tuple[Layer, ...]
    largest: float = 0.0
    kept: list[Tensor] = field(default_factory=list)

    @contextmanager
    def watching(self) -> Iterator[None]:
        generator = torch.Generator().manual_seed(0)

        def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
            values = given[0].detach().flatten()
            self.largest = max(self.largest, float(values.abs().max()))
            places = torch.randint(len(values), (NUM_KEPT,), generator=generator)
            self.kept.append(values[places])

        hook = self.parts[0].register_forward_pre_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    @cached_property
    def scale(self) -> float:
        """The one that rounds the inputs best, in the square of the error."""
        values = torch.cat(self.kept)
        scales = [max(share * self.largest, torch.finfo(torch.float32).tiny) / LARGEST for share in SHARES]
        return min(scales, key=lambda scale: float((_rounded(values, scale) - values).square().sum()))

    @contextmanager
    def in_int8(self) -> Iterator[None]:
        scale = self.scale
        hooks = [
            part.register_forward_pre_hook(lambda _, given: (_rounded(given[0], scale),))
            for part in self.parts
        ]
        before = [part.weight.data for part in self.parts]
        for part in self.parts:
            whole, scales = quantized(part.weight.data, 0)
            part.weight.data = whole * scales.view(-1, *[1] * (whole.ndim - 1))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for part, weight in zip(self.parts, before, strict=True):
                part.weight.data = weight


def _rounded(values: Tensor, scale: float) -> Tensor:
    return (values / scale).round().clamp(-LARGEST - 1, LARGEST) * scale


def _watch(
    unet: UNet,
    watched: Mapping[str, _Watched],
    flow: Flow,
    inputs: Sequence[FlowInput],
    report: Callable[[str], None],
) -> list[tuple[Tensor, Tensor]]:
    """Decodes the utterances; returns what the estimator was given at some of the steps."""
    times, steps = schedule()
    biases = unet.time_bias(times)
    seen: list[tuple[Tensor, Tensor]] = []

    def estimate(x: Tensor, time_bias: Tensor, mask: Tensor | None = None) -> Tensor:
        seen.append((x[:, :, :TRIAL_FRAMES].clone(), time_bias))
        velocity: Tensor = unet(x, time_bias, mask)
        return velocity

    solve = Solver(estimate, steps, flow.params.inference_cfg_rate)
    with _all([layer.watching() for layer in watched.values()]):
        for number, row in enumerate(inputs):
            report(f"utterance {number + 1} of {len(inputs)}")
            condition = flow.condition([row])
            on_each = condition.speaker[:, :, None].expand_as(condition.mu)
            parts = [row.noise[None], condition.mu, on_each]
            mel = solve(torch.cat([*parts, condition.prompt], 1), biases)
            if number % 2:
                mel[:, :, mel.shape[2] // 3 :] = 0
                solve(torch.cat([*parts, mel], 1), biases)
    places = torch.linspace(0, len(seen) - 1, NUM_TRIALS).round().long().tolist()
    return [seen[place] for place in places]


@contextmanager
def _all(contexts: Sequence[Any]) -> Iterator[None]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield
