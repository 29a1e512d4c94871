"""What quantization loses: decibels of each matrix on a model's own activations, and perplexity of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from antiphon.bench.spans import replaced
from antiphon.config import ModelConfig
from antiphon.engine.engine import Engine
from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.decoder_layers import decoder_layers
from antiphon.kernels.huge_pages import WeightMemory
from antiphon.kernels.linear import linear
from antiphon.kernels.quantized import quantize_int8
from antiphon.model import omni
from antiphon.model.checkpoint.quantizing import matrix_groups
from antiphon.sched.request import RequestState
from antiphon.types import Request, SamplingParams

__all__ = ["Replied", "Tap", "names_of", "perplexity", "replies", "tapped", "tensors_of"]


LAYER, FUSION = ("qkv", "o", "gate_up", "down"), ("fusion q", "fusion o")
BOTH = (True, False)


class Tap:
    """The product with a matrix, which also multiplies in int8, and sees how much that differs.

    dynamic: the ways in which it does: with the rows in int8, too, or with the weights alone.
    """

    def __init__(self, weight: Tensor, dynamic: Sequence[bool] = BOTH) -> None:
        self.others = [linear(quantize_int8(weight, dynamic=each)) for each in dynamic]
        self.exact = linear(weight)
        self.in_features, self.out_features = self.exact.in_features, self.exact.out_features
        self.num_bytes = self.exact.num_bytes
        self.signal = 0.0
        self.noise = [0.0] * len(self.others)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self.exact(x)
        self.signal += float(y.double().square().sum())
        for index, other in enumerate(self.others):
            self.noise[index] += float((other(x) - y).double().square().sum())
        return y if residual is None else residual + y

    def decibels(self) -> tuple[float, ...]:
        """Signal to noise in each way; infinite where nothing was lost."""
        return tuple(10 * math.log10(self.signal / noise) if noise else math.inf for noise in self.noise)


@contextmanager
def tapped(dynamic: Sequence[bool] = BOTH) -> Iterator[list[Tap]]:
    """Engines made within the context multiply by `Tap`s, which are given in the order in which the model
    makes them, see `names_of`. They must be on the CPU, where 16 bits are widened to float32, too."""
    taps: list[Tap] = []

    def tap(weight: Tensor, *, memory: WeightMemory | None = None) -> Tap:
        taps.append(Tap(weight, dynamic))
        return taps[-1]

    def plain_layers(*args: object, **kwargs: object) -> object:
        return decoder_layers(*args, **(kwargs | {"backend": "torch"}))  # type: ignore[arg-type]

    with ExitStack() as stack:
        stack.enter_context(replaced(linear, tap, owner=omni))
        stack.enter_context(replaced(decoder_layers, plain_layers, owner=omni))
        yield taps


def names_of(config: ModelConfig) -> list[str]:
    """What the taps of a model are, one after the other."""
    stacks = [*_bottom(config), *_text(config), *_top(config)]
    return [*stacks, "CTC head", "LM head", "unit head", "fusion kv"]


def tensors_of(config: ModelConfig) -> dict[str, list[str]]:
    """The tensors of a checkpoint that each of `names_of` holds."""
    *groups, fusion_kv = matrix_groups(config)
    names = [*_text(config), *_bottom(config), *_top(config), "LM head", "CTC head", "unit head"]
    return dict(zip(names, groups, strict=False)) | {"fusion kv": fusion_kv}


def _bottom(config: ModelConfig) -> list[str]:
    return _matrices("bottom", config.num_bottom_audio_layers, LAYER)


def _text(config: ModelConfig) -> list[str]:
    return _matrices("text", config.num_hidden_layers, LAYER)


def _top(config: ModelConfig) -> list[str]:
    return _matrices("top", config.num_top_audio_layers, (*LAYER, *FUSION))


def _matrices(stack: str, count: int, parts: Sequence[str]) -> list[str]:
    return [f"{stack} {index} {part}" for index in range(count) for part in parts]


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
