"""A run of decoder layers as its callers see it: the sizes, the weights, and the arguments of a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from antiphon.kernels.attention_batch import AttentionBatch
from antiphon.kernels.fusion_attention import FusionBatch
from antiphon.kernels.linear import Linear
from antiphon.kernels.quantized_cache import Caches

__all__ = ["DecoderGeometry", "DecoderLayer", "DecoderLayers"]


@dataclass(frozen=True)
class DecoderGeometry:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float


@dataclass(frozen=True)
class DecoderLayer:
    """The weights of one layer, ready for multiplication."""

    input_norm: Tensor
    qkv: Linear
    o: Linear
    post_norm: Tensor
    gate_up: Linear
    down: Linear
    fusion_q: Linear | None = None
    fusion_o: Linear | None = None


class DecoderLayers(Protocol):
    def __call__(
        self,
        x: Tensor,
        batch: AttentionBatch,
        caches: Sequence[Caches],
        fusion: FusionBatch | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """x (tokens, hidden), consumed -> (tokens, hidden), normed. `caches`: keys and values of each layer.

        wanted: int64 (n,), ascending: only these tokens' rows are returned, (n, hidden), and for the others
            the last layer may do no more than write their keys and values.
        """
        ...
