"""What quantization loses: decibels of each matrix on a model's own activations, and perplexity of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from antiphon.bench.spans import replaced
from antiphon.config import ModelConfig
from antiphon.engine.engine import Engine
from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.decoder_layers import decoder_layers
from antiphon.kernels.linear import Linear, TorchLinear, linear
from antiphon.kernels.quantized import quantize_int8
from antiphon.model import omni
from antiphon.sched.request import RequestState
from antiphon.types import Request, SamplingParams

__all__ = ["Replied", "Tap", "names_of", "perplexity", "replies", "tapped"]


LAYER, FUSION = ("qkv", "o", "gate_up", "down"), ("fusion q", "fusion o")


@dataclass
class Tap:
    """A matrix in float32 that also multiplies in int8, and sees how much that differs."""

    exact: TorchLinear
    dynamic: Linear = field(init=False)
    weight_only: Linear = field(init=False)
    signal: float = 0.0
    noise: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Of the rows in int8, too, and of the weights alone"""

    def __post_init__(self) -> None:
        self.in_features, self.out_features = self.exact.in_features, self.exact.out_features
        self.num_bytes = self.exact.num_bytes
        self.dynamic, self.weight_only = (
            linear(quantize_int8(self.exact.weight, dynamic=dynamic)) for dynamic in (True, False)
        )

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self.exact(x)
        self.signal += float(y.double().square().sum())
        for index, other in enumerate((self.dynamic, self.weight_only)):
            self.noise[index] += float((other(x) - y).double().square().sum())
        return y if residual is None else residual + y

    def decibels(self) -> tuple[float, float]:
        """With the rows in int8, too, and with the weights alone; infinite where nothing was lost."""
        dynamic, weight_only = (
            10 * math.log10(self.signal / noise) if noise else math.inf for noise in self.noise
        )
        return dynamic, weight_only


@contextmanager
def tapped() -> Iterator[list[Tap]]:
    """Engines made within the context multiply by `Tap`s, which are given in the order in which the model
    makes them, see `names_of`. Their dtype must be float32."""
    taps: list[Tap] = []

    def tap(weight: Tensor) -> Tap:
        taps.append(Tap(TorchLinear(weight)))
        return taps[-1]

    def plain_layers(*args: object, **kwargs: object) -> object:
        return decoder_layers(*args, **(kwargs | {"backend": "torch"}))  # type: ignore[arg-type]

    with ExitStack() as stack:
        stack.enter_context(replaced(linear, tap, owner=omni))
        stack.enter_context(replaced(decoder_layers, plain_layers, owner=omni))
        yield taps


def names_of(config: ModelConfig) -> list[str]:
    """What the taps of a model are, one after the other."""
    stacks = (
        ("bottom", config.num_bottom_audio_layers),
        ("text", config.num_hidden_layers),
        ("top", config.num_top_audio_layers),
    )
    names = []
    for stack, count in stacks:
        parts = (*LAYER, *FUSION) if stack == "top" else LAYER
        names += [f"{stack} {index} {part}" for index in range(count) for part in parts]
    return [*names, "CTC head", "LM head", "unit head", "fusion kv"]


@dataclass(frozen=True)
class Replied:
    """A typed prompt and its reply, as the LLM reads them."""

    ids: list[int]
    num_prompt: int


def replies(
    engine: Engine, requests: Sequence[Request], params: Sequence[SamplingParams] | None = None
) -> list[Replied]:
    """What an engine replies to typed requests without pictures; params: of each, or else greedily."""
    seen: dict[str, RequestState] = {}

    def note(name: str, request: RequestState, first: int, rows: Tensor) -> None:
        seen[request.request_id] = request

    engine.runner.tracer = note
    engine.generate(list(requests), SamplingParams(max_tokens=64) if params is None else params)
    engine.runner.tracer = None
    return [Replied(list(request.text.ids), request.num_text_prompt) for request in seen.values()]


@torch.inference_mode()
def perplexity(engine: Engine, texts: Sequence[Replied]) -> float:
    """Of the replies, given their prompts. The engine must be idle, and is of no use afterwards: the first
    blocks of its cache are written."""
    model, caches = engine.model, engine.runner.cache.text
    block_size = engine.cache_config.text_block_size
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor(text.ids)
        size = len(ids) - 1
        batch = AttentionBatch(
            positions=torch.arange(size, dtype=torch.int32),
            slot_mapping=torch.arange(size),
            cu_seqlens_q=torch.tensor([0, size], dtype=torch.int32),
            context_lens=torch.tensor([size], dtype=torch.int32),
            block_table=torch.arange(-(-size // block_size), dtype=torch.int32)[None],
        )
        states = model.think(model.embed_text(ids[:-1]), batch, caches)[text.num_prompt - 1 :]
        likely = model.lm_head(states).double().log_softmax(-1)
        picked = likely.gather(1, ids[text.num_prompt :, None])
        total, count = total - float(picked.sum()), count + len(picked)
    return math.exp(total / count)
