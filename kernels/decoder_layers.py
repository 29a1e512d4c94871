"""A run of Llama layers over a ragged batch and its paged cache: the op that a decoding step is made of.

Layer: x += o(attention(norm(x))); where a token receives fusion, x += fusion_o(fusion(x)) on the
un-normalised x; x += down(silu(gate(norm(x))) * up(norm(x))). The result is the final norm of x
(Llama; Stream-Omni's top layers).

On the CPU the whole run is one call into C++, which does for a CPU what a CUDA graph does for a GPU: a step
of one row would otherwise spend more time between the operators than in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from antiphon.kernels.attention_batch import AttentionBatch, check_caches_written
from antiphon.kernels.checks import address, check_written
from antiphon.kernels.decoder_checks import check_call, check_distances, check_stack, weight_stretches
from antiphon.kernels.decoder_stack import DecoderGeometry, DecoderLayer, DecoderLayers
from antiphon.kernels.fusion_attention import FusionBatch
from antiphon.kernels.linear import CppLinear, Linear, PackedAddress, TorchLinear, TritonLinear
from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.quantized_cache import Caches, cache_address, layer_strides
from antiphon.kernels.registry import cpp_available, cpp_float32, register, resolve

__all__ = ["DecoderGeometry", "DecoderLayer", "DecoderLayers", "decoder_layers"]

MATRICES = ("qkv", "o", "gate_up", "down", "fusion_q", "fusion_o")
"""In the order in which the C++ kernel takes them."""


def decoder_layers(
    layers: Sequence[DecoderLayer],
    final_norm: Tensor,
    geometry: DecoderGeometry,
    cos_sin: Tensor,
    *,
    backend: str | None = None,
    checked: bool = True,
) -> DecoderLayers:
    """The layers, and the norm (hidden) after the last, as one callable. All of them must be on one device
    and of one dtype; but packed matrices, as `linear` makes them on the CPU, may be in fewer bits beside
    norms of float32.

    checked: False skips the checks at each call, which take longer than a small layer does, for callers
        whose arguments fit by construction.

    Gradients are not computed. Raises ValueError naming the argument that does not fit, here and when
    called; the values in a batch are checked where that does not mean waiting for the device.
    """
    if not isinstance(layers, Sequence) or not layers:
        found = "none" if isinstance(layers, Sequence) else type(layers).__name__
        raise ValueError(f"layers: expected at least one, got {found}")
    layers = tuple(layers)
    check_stack(layers, final_norm, geometry, cos_sin)
    norm = layers[0].input_norm
    run: DecoderLayers = resolve("decoder_layers", backend, norm.device, norm.dtype)(
        layers, final_norm, geometry, cos_sin, checked
    )
    return run


@register("decoder_layers", "cpp", is_available=cpp_available, supports=cpp_float32)
class CppDecoderLayers:
    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        final_norm: Tensor,
        geometry: DecoderGeometry,
        cos_sin: Tensor,
        checked: bool,
    ) -> None:
        from antiphon.kernels import _C

        self.layers, self.geometry, self.final_norm = tuple(layers), geometry, final_norm
        self.cos_sin = cos_sin.float().contiguous()
        norms = [norm for layer in layers for norm in (layer.input_norm, layer.post_norm)]
        self._checked = checked
        self._weights = weight_stretches(layers, final_norm, self.cos_sin)
        self._norms = torch.stack([*norms, final_norm])
        self.decoder = _C.Decoder(
            layers=[
                (
                    address(self._norms[2 * i]),
                    address(self._norms[2 * i + 1]),
                    [_packed(f"layers[{i}].{name}", getattr(layer, name)) for name in MATRICES],
                )
                for i, layer in enumerate(layers)
            ],
            hidden=layers[0].qkv.in_features,
            intermediate=layers[0].down.in_features,
            num_heads=geometry.num_heads,
            num_kv_heads=geometry.num_kv_heads,
            head_dim=geometry.head_dim,
            eps=geometry.rms_norm_eps,
            cos_sin=address(self.cos_sin),
            final_norm=address(self._norms[-1]),
        )

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        batch: AttentionBatch,
        caches: Sequence[Caches],
        fusion: FusionBatch | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        if self._checked:
            check_call(
                x, self.layers, self.geometry, self.cos_sin, self._weights, batch, caches, fusion, wanted
            )
        x = x.contiguous()
        layer_stride, layer_scale_stride = layer_strides(caches)
        if self._checked:
            read = (("fusion.cache", fusion.cache if fusion is not None else None),)
            check_distances(caches)
            check_caches_written(caches, (("x", x), *read))
            check_written("x", x, read)
            wanted = wanted.contiguous() if wanted is not None else None
        fused = {}
        if fusion is not None:
            tokens = torch.arange(len(x)) if fusion.tokens is None else fusion.tokens
            fused = _fusion_arguments(fusion, tokens)
        self.decoder.run(
            x=address(x),
            num_tokens=x.shape[0],
            positions=address(batch.positions),
            slots=address(batch.slot_mapping),
            cache=cache_address(*caches[0]),
            layer_stride=layer_stride,
            layer_scale_stride=layer_scale_stride,
            cu_seqlens_q=address(batch.cu_seqlens_q),
            context_lens=address(batch.context_lens),
            block_table=address(batch.block_table),
            num_seqs=batch.num_seqs,
            max_blocks=batch.block_table.shape[1],
            wanted=address(wanted) if wanted is not None else 0,
            num_wanted=len(wanted) if wanted is not None else 0,
            **fused,
        )
        return x if wanted is None else x[: len(wanted)]


@register("decoder_layers", "torch")
class TorchDecoderLayers:
    """The reference, which also runs on devices without a fused backend: each op uses its own best backend.

    On a GPU nothing here waits for the device, so the whole run can be captured in a CUDA graph.
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        final_norm: Tensor,
        geometry: DecoderGeometry,
        cos_sin: Tensor,
        checked: bool,
    ) -> None:
        self.layers = layers
        self.final_norm = final_norm
        self.geometry = geometry
        self.cos_sin = cos_sin
        self._checked = checked
        self._weights = weight_stretches(layers, final_norm, cos_sin)

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        batch: AttentionBatch,
        caches: Sequence[Caches],
        fusion: FusionBatch | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        if self._checked:
            check_call(
                x, self.layers, self.geometry, self.cos_sin, self._weights, batch, caches, fusion, wanted
            )
        # Resolved directly: the ops' wrappers would check again what has been checked.
        norm, norm_sum, write, gate = (
            resolve(op, None, x.device, x.dtype)
            for op in ("rms_norm", "rms_norm_residual", "rope_cache_write", "silu_mul")
        )
        attend = resolve("paged_attention", batch.backend, x.device, x.dtype)
        eps, heads = self.geometry.rms_norm_eps, self.geometry.num_heads
        scale = self.geometry.head_dim**-0.5
        normed = norm(x, self.layers[0].input_norm, eps)
        for index, layer in enumerate(self.layers):
            keys, values = caches[index]
            q = write(layer.qkv(normed), self.cos_sin, batch, keys, values, heads)
            mixed = attend(q, keys, values, batch, scale)
            if fusion is None or layer.fusion_q is None:
                normed, x = norm_sum(layer.o(mixed), x, layer.post_norm, eps)
            elif fusion.tokens is None:
                x = _plus_product(x, mixed, layer.o)
                normed, x = norm_sum(self._fused(x, index, layer, fusion), x, layer.post_norm, eps)
            else:
                x = _plus_product(x, mixed, layer.o)
                some = x[fusion.tokens]
                x.index_copy_(0, fusion.tokens, some + self._fused(some, index, layer, fusion))
                normed = norm(x, layer.post_norm, eps)
            gated = _gated(normed, layer.gate_up, gate)
            # the residual is added by the norm that comes next
            is_last = index + 1 == len(self.layers)
            following = self.final_norm if is_last else self.layers[index + 1].input_norm
            normed, x = norm_sum(layer.down(gated), x, following, eps)
        rows: Tensor = normed if wanted is None else normed.index_select(0, wanted)
        return rows

    def _fused(self, x: Tensor, index: int, layer: DecoderLayer, fusion: FusionBatch) -> Tensor:
        """What fusion adds to these rows (fused, hidden)."""
        assert layer.fusion_q is not None and layer.fusion_o is not None
        heads, head_dim = self.geometry.num_heads, self.geometry.head_dim
        attend = resolve("fusion_attention", None, x.device, x.dtype)
        k, v = fusion.cache[:, :, index].unflatten(-1, (heads, head_dim)).unbind(2)
        q = layer.fusion_q(x).view(-1, heads, head_dim)
        table = at_least_float32(self.cos_sin)
        mixed = attend(q, k, v, fusion.num_valid, fusion.positions, table, fusion.rows)
        return layer.fusion_o(mixed.flatten(1))


def _plus_product(x: Tensor, y: Tensor, weight: Linear) -> Tensor:
    """x + weight(y); x is consumed. A GPU's product adds to what is there, without a launch of its own."""
    if _products_add(x) and isinstance(weight, TorchLinear) and weight.weight.dtype == x.dtype == y.dtype:
        return x.addmm_(y, weight.weight.T)
    return weight(y, x)


def _gated(x: Tensor, weight: Linear, gate: Callable[[Tensor], Tensor]) -> Tensor:
    """gate(weight(x)); of int8 weights on a GPU in one launch"""
    if isinstance(weight, TritonLinear) and x.dtype != torch.float64:
        return weight.silu_mul(x)
    return gate(weight(x))


def _products_add(x: Tensor) -> bool:
    return x.is_cuda


def _fusion_arguments(fusion: FusionBatch, tokens: Tensor) -> dict[str, int]:
    return {
        "fusion_cache": address(fusion.cache),
        "fusion_tokens": address(tokens),
        "fusion_rows": address(fusion.rows),
        "fusion_valid": address(fusion.num_valid),
        "fusion_positions": address(fusion.positions),
        "num_fused": len(tokens),
        "window": fusion.cache.shape[1],
    }


def _packed(name: str, weight: Linear | None) -> PackedAddress:
    if weight is None:
        return 0, 0, 0
    if not isinstance(weight, CppLinear):
        raise ValueError(f"{name}: expected a weight packed by backend 'cpp', got {type(weight).__name__}")
    return weight.packed
