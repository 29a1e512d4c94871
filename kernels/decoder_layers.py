"""A run of Llama layers over a ragged batch and its paged cache: the op that a decoding step is made of.

Layer: x += o(attention(norm(x))); where a token receives fusion, x += fusion_o(fusion(x)) on the
un-normalised x; x += down(silu(gate(norm(x))) * up(norm(x))). What comes out is the final norm of x
(Llama; Stream-Omni's top layers).

On the CPU the whole run is one call into C++, which is to a CPU what a CUDA graph is to a GPU: between
the operators of a one-row step there would be more time than in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from antiphon.kernels.fusion_attention import FusionBatch, fusion_attention
from antiphon.kernels.linear import CppLinear, Linear
from antiphon.kernels.paged_attention import AttentionBatch, paged_attention, rope_cache_write
from antiphon.kernels.registry import cpp_available, cpp_float32, register, resolve
from antiphon.kernels.rms_norm import rms_norm, rms_norm_residual
from antiphon.kernels.silu_mul import silu_mul

__all__ = ["DecoderGeometry", "DecoderLayer", "DecoderLayers", "decoder_layers"]


@dataclass(frozen=True)
class DecoderGeometry:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float


@dataclass(frozen=True)
class DecoderLayer:
    """The weights of one layer, ready to be multiplied with."""

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
        caches: Sequence[tuple[Tensor, Tensor]],
        fusion: FusionBatch | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """x (tokens, hidden), consumed -> (tokens, hidden), normed. `caches`: keys and values of each layer.

        wanted: int64 (n,), ascending: only these tokens' rows come out, (n, hidden), and the last layer does
            no more for the others than to write their keys and values.
        """
        ...


def decoder_layers(
    layers: Sequence[DecoderLayer],
    final_norm: Tensor,
    geometry: DecoderGeometry,
    cos_sin: Tensor,
    *,
    backend: str | None = None,
) -> DecoderLayers:
    """The layers, and the norm (hidden) behind the last, as one callable. They must all be on one device and
    of one dtype.

    Raises ValueError naming the argument that does not fit, here and when called; what the batch says
    is trusted.
    """
    if not layers:
        raise ValueError("layers: expected at least one, got none")
    norm = layers[0].input_norm
    if final_norm.shape != norm.shape or final_norm.dtype != norm.dtype:
        raise ValueError(
            f"final_norm: expected {norm.dtype} {tuple(norm.shape)}, "
            f"got {final_norm.dtype} {tuple(final_norm.shape)}"
        )
    run: DecoderLayers = resolve("decoder_layers", backend, norm.device, norm.dtype)(
        layers, final_norm, geometry, cos_sin
    )
    return run


@register("decoder_layers", "cpp", is_available=cpp_available, supports=cpp_float32)
class CppDecoderLayers:
    def __init__(
        self, layers: Sequence[DecoderLayer], final_norm: Tensor, geometry: DecoderGeometry, cos_sin: Tensor
    ) -> None:
        from antiphon import _C

        self._kept = (tuple(layers), final_norm, cos_sin)  # the addresses below point into these
        self._decoder = _C.Decoder(
            layers=[
                [
                    layer.input_norm.data_ptr(),
                    _address(layer.qkv),
                    _address(layer.o),
                    layer.post_norm.data_ptr(),
                    _address(layer.gate_up),
                    _address(layer.down),
                    _address(layer.fusion_q),
                    _address(layer.fusion_o),
                ]
                for layer in layers
            ],
            hidden=layers[0].qkv.in_features,
            intermediate=layers[0].down.in_features,
            num_heads=geometry.num_heads,
            num_kv_heads=geometry.num_kv_heads,
            head_dim=geometry.head_dim,
            eps=geometry.rms_norm_eps,
            cos_sin=cos_sin.data_ptr(),
            final_norm=final_norm.data_ptr(),
        )

    def __call__(
        self,
        x: Tensor,
        batch: AttentionBatch,
        caches: Sequence[tuple[Tensor, Tensor]],
        fusion: FusionBatch | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        _check(x, self._kept[0], caches, fusion, wanted)
        x = x.contiguous()
        key, value = caches[0]
        layer_stride = _layer_stride(caches)
        fused = (0, 0, 0, 0, 0, 0, 0)
        if fusion is not None:
            fused = (
                fusion.cache.data_ptr(),
                fusion.tokens.data_ptr(),
                fusion.rows.data_ptr(),
                fusion.num_valid.data_ptr(),
                fusion.positions.data_ptr(),
                len(fusion.tokens),
                fusion.cache.shape[1],
            )
        self._decoder.run(
            x.data_ptr(),
            x.shape[0],
            batch.positions.data_ptr(),
            batch.slot_mapping.data_ptr(),
            key.data_ptr(),
            value.data_ptr(),
            key.stride(0),
            key.stride(1),
            key.shape[1],
            layer_stride,
            batch.cu_seqlens_q.data_ptr(),
            batch.context_lens.data_ptr(),
            batch.block_table.data_ptr(),
            batch.num_seqs,
            batch.block_table.shape[1],
            *fused,
            wanted.data_ptr() if wanted is not None else 0,
            len(wanted) if wanted is not None else 0,
        )
        return x if wanted is None else x[: len(wanted)]


@register("decoder_layers", "torch")
class TorchDecoderLayers:
    """The reference, and the way of every device without a fused one: each op by its own best backend.

    On a GPU nothing here waits for the device, so that the whole run can be captured in a CUDA graph.
    """

    def __init__(
        self, layers: Sequence[DecoderLayer], final_norm: Tensor, geometry: DecoderGeometry, cos_sin: Tensor
    ) -> None:
        self.layers = layers
        self.final_norm = final_norm
        self.geometry = geometry
        self.cos_sin = cos_sin

    def __call__(
        self,
        x: Tensor,
        batch: AttentionBatch,
        caches: Sequence[tuple[Tensor, Tensor]],
        fusion: FusionBatch | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        _check(x, self.layers, caches, fusion, wanted)
        eps, heads = self.geometry.rms_norm_eps, self.geometry.num_heads
        normed = rms_norm(x, self.layers[0].input_norm, eps)
        for index, layer in enumerate(self.layers):
            keys, values = caches[index]
            q = rope_cache_write(layer.qkv(normed), self.cos_sin, batch, keys, values, num_heads=heads)
            mixed = paged_attention(q, keys, values, batch)
            if fusion is not None and layer.fusion_q is not None:
                x = self._fuse(layer.o(mixed, x), index, layer, fusion)
                normed = rms_norm(x, layer.post_norm, eps)
            else:
                normed, x = rms_norm_residual(layer.o(mixed), x, layer.post_norm, eps)
            gated = silu_mul(layer.gate_up(normed))
            # the sum is taken where it is normed, by what comes behind
            is_last = index + 1 == len(self.layers)
            following = self.final_norm if is_last else self.layers[index + 1].input_norm
            normed, x = rms_norm_residual(layer.down(gated), x, following, eps)
        return normed if wanted is None else normed.index_select(0, wanted)

    def _fuse(self, x: Tensor, index: int, layer: DecoderLayer, fusion: FusionBatch) -> Tensor:
        assert layer.fusion_q is not None and layer.fusion_o is not None
        heads, head_dim = self.geometry.num_heads, self.geometry.head_dim
        k, v = fusion.cache[:, :, index].unflatten(-1, (heads, head_dim)).unbind(2)
        fused = x[fusion.tokens]
        q = layer.fusion_q(fused).view(-1, heads, head_dim)
        mixed = fusion_attention(q, k, v, fusion.num_valid, fusion.positions, self.cos_sin, rows=fusion.rows)
        return x.index_copy_(0, fusion.tokens, layer.fusion_o(mixed.flatten(1), fused))


def _check(
    x: Tensor,
    layers: Sequence[DecoderLayer],
    caches: Sequence[tuple[Tensor, Tensor]],
    fusion: FusionBatch | None,
    wanted: Tensor | None,
) -> None:
    norm = layers[0].input_norm
    if x.dim() != 2 or x.shape[1:] != norm.shape or x.dtype != norm.dtype:
        raise ValueError(f"x: expected {norm.dtype} (tokens, {len(norm)}), got {x.dtype} {tuple(x.shape)}")
    if len(caches) != len(layers):
        raise ValueError(f"caches: expected one for each of {len(layers)} layers, got {len(caches)}")
    if fusion is not None and fusion.cache.shape[2] != len(layers):
        raise ValueError(f"fusion.cache: expected {len(layers)} layers, got {fusion.cache.shape[2]}")
    if wanted is not None and (wanted.dtype != torch.int64 or wanted.dim() != 1 or len(wanted) > len(x)):
        raise ValueError(
            f"wanted: expected int64, at most {len(x)}, got {wanted.dtype} {tuple(wanted.shape)}"
        )


def _layer_stride(caches: Sequence[tuple[Tensor, Tensor]]) -> int:
    """Numbers from one layer's keys to the next layer's, the same for all: the caches share a storage."""
    places = [(key.data_ptr(), value.data_ptr()) for key, value in (caches[0], caches[-1])]
    between = max(1, len(caches) - 1)
    between_keys, between_values = ((last - first) // between for first, last in zip(*places, strict=True))
    if between_keys != between_values:
        raise ValueError("caches: expected keys and values at equal distances from layer to layer")
    stride: int = between_keys // caches[0][0].element_size()
    return stride


def _address(weight: Linear | None) -> int:
    if weight is None:
        return 0
    assert isinstance(weight, CppLinear), "the C++ decoder reads packed weights"
    return weight.address
