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

from antiphon.kernels.attention_batch import (
    AttentionBatch,
    check_batch,
    check_cache,
    check_caches_written,
    check_sequences,
    check_slots,
)
from antiphon.kernels.checks import (
    FLOATS,
    address,
    check,
    check_device,
    check_integer,
    check_number,
    check_plain,
    check_range,
    check_rising,
    check_written,
    stretch,
)
from antiphon.kernels.fusion_attention import FusionBatch
from antiphon.kernels.linear import CppLinear, Linear, check_linear
from antiphon.kernels.precision import at_least_float32
from antiphon.kernels.registry import cpp_available, cpp_float32, register, resolve
from antiphon.kernels.rope import check_table

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
    checked: bool = True,
) -> DecoderLayers:
    """The layers, and the norm (hidden) behind the last, as one callable. They must all be on one device and
    of one dtype.

    checked: False leaves out the checks of each call, for callers whose arguments fit by construction, since
    these
        take longer than a small layer does.

    Gradients are not computed. Raises ValueError naming the argument that does not fit, here and when
    called; what the batch says is looked at where that can be done without waiting for the device.
    """
    if not isinstance(layers, Sequence) or not layers:
        found = "none" if isinstance(layers, Sequence) else type(layers).__name__
        raise ValueError(f"layers: expected at least one, got {found}")
    layers = tuple(layers)
    _check_stack(layers, final_norm, geometry, cos_sin)
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
        # of its own, since x is written to: the addresses below point into it
        norms = [norm for layer in layers for norm in (layer.input_norm, layer.post_norm)]
        self._checked = checked
        self._weights = _stretches(layers, final_norm, self.cos_sin)
        self._norms = torch.stack([*norms, final_norm])
        self._decoder = _C.Decoder(
            layers=[
                [
                    address(self._norms[2 * i]),
                    _address(f"layers[{i}].qkv", layer.qkv),
                    _address(f"layers[{i}].o", layer.o),
                    address(self._norms[2 * i + 1]),
                    _address(f"layers[{i}].gate_up", layer.gate_up),
                    _address(f"layers[{i}].down", layer.down),
                    _address(f"layers[{i}].fusion_q", layer.fusion_q),
                    _address(f"layers[{i}].fusion_o", layer.fusion_o),
                ]
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
        caches: Sequence[tuple[Tensor, Tensor]],
        fusion: FusionBatch | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        if self._checked:
            _check(x, self.layers, self.geometry, self.cos_sin, self._weights, batch, caches, fusion, wanted)
        x = x.contiguous()
        key, value = caches[0]
        layer_stride = _layer_stride(caches)
        if self._checked:
            read = (("fusion.cache", fusion.cache if fusion is not None else None),)
            _check_distances(caches, layer_stride)
            check_caches_written(caches, layer_stride, (("x", x), *read))
            check_written("x", x, read)
            wanted = wanted.contiguous() if wanted is not None else None
        fused = (0, 0, 0, 0, 0, 0, 0)
        if fusion is not None:
            fused = (
                address(fusion.cache),
                address(fusion.tokens),
                address(fusion.rows),
                address(fusion.num_valid),
                address(fusion.positions),
                len(fusion.tokens),
                fusion.cache.shape[1],
            )
        self._decoder.run(
            address(x),
            x.shape[0],
            address(batch.positions),
            address(batch.slot_mapping),
            address(key),
            address(value),
            key.stride(0),
            key.stride(1),
            key.shape[1],
            layer_stride,
            address(batch.cu_seqlens_q),
            address(batch.context_lens),
            address(batch.block_table),
            batch.num_seqs,
            batch.block_table.shape[1],
            *fused,
            address(wanted) if wanted is not None else 0,
            len(wanted) if wanted is not None else 0,
        )
        return x if wanted is None else x[: len(wanted)]


@register("decoder_layers", "torch")
class TorchDecoderLayers:
    """The reference, and the way of every device without a fused one: each op by its own best backend.

    On a GPU nothing here waits for the device, so that the whole run can be captured in a CUDA graph.
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
        self._weights = _stretches(layers, final_norm, cos_sin)

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        batch: AttentionBatch,
        caches: Sequence[tuple[Tensor, Tensor]],
        fusion: FusionBatch | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        if self._checked:
            _check(x, self.layers, self.geometry, self.cos_sin, self._weights, batch, caches, fusion, wanted)
        # What has been checked is not checked again op by op.
        norm, norm_sum, write, attend, gate = (
            resolve(op, None, x.device, x.dtype)
            for op in ("rms_norm", "rms_norm_residual", "rope_cache_write", "paged_attention", "silu_mul")
        )
        eps, heads = self.geometry.rms_norm_eps, self.geometry.num_heads
        scale = self.geometry.head_dim**-0.5
        normed = norm(x, self.layers[0].input_norm, eps)
        for index, layer in enumerate(self.layers):
            keys, values = caches[index]
            q = write(layer.qkv(normed), self.cos_sin, batch, keys, values, heads)
            mixed = attend(q, keys, values, batch, scale)
            if fusion is not None and layer.fusion_q is not None:
                x = self._fuse(layer.o(mixed, x), index, layer, fusion)
                normed = norm(x, layer.post_norm, eps)
            else:
                normed, x = norm_sum(layer.o(mixed), x, layer.post_norm, eps)
            gated = gate(layer.gate_up(normed))
            # the sum is taken where it is normed, by what comes behind
            is_last = index + 1 == len(self.layers)
            following = self.final_norm if is_last else self.layers[index + 1].input_norm
            normed, x = norm_sum(layer.down(gated), x, following, eps)
        rows: Tensor = normed if wanted is None else normed.index_select(0, wanted)
        return rows

    def _fuse(self, x: Tensor, index: int, layer: DecoderLayer, fusion: FusionBatch) -> Tensor:
        assert layer.fusion_q is not None and layer.fusion_o is not None
        heads, head_dim = self.geometry.num_heads, self.geometry.head_dim
        attend = resolve("fusion_attention", None, x.device, x.dtype)
        k, v = fusion.cache[:, :, index].unflatten(-1, (heads, head_dim)).unbind(2)
        fused = x[fusion.tokens]
        q = layer.fusion_q(fused).view(-1, heads, head_dim)
        table = at_least_float32(self.cos_sin)
        mixed = attend(q, k, v, fusion.num_valid, fusion.positions, table, fusion.rows)
        return x.index_copy_(0, fusion.tokens, layer.fusion_o(mixed.flatten(1), fused))


def _stretches(layers: Sequence[DecoderLayer], final_norm: Tensor, cos_sin: Tensor) -> list[tuple[int, int]]:
    """Where the weights lie that are not a `Linear`'s: no call may write there."""
    norms = [norm for layer in layers for norm in (layer.input_norm, layer.post_norm)]
    return [stretch(weight) for weight in (*norms, final_norm, cos_sin) if weight.device.type != "meta"]


def _check_stack(
    layers: Sequence[DecoderLayer], final_norm: Tensor, geometry: DecoderGeometry, cos_sin: Tensor
) -> None:
    """Sizes, dtypes and devices of all weights fit together."""
    if not isinstance(geometry, DecoderGeometry):
        raise ValueError(f"geometry: expected a DecoderGeometry, got {type(geometry).__name__}")
    for field in ("num_heads", "num_kv_heads", "head_dim"):
        check_integer(f"geometry.{field}", getattr(geometry, field), 1)
    check_number("geometry.rms_norm_eps", geometry.rms_norm_eps, least=0)
    if geometry.num_heads % geometry.num_kv_heads:
        raise ValueError(
            f"geometry: expected num_heads a multiple of num_kv_heads, "
            f"got {geometry.num_heads} and {geometry.num_kv_heads}"
        )
    for index, layer in enumerate(layers):
        if not isinstance(layer, DecoderLayer):
            raise ValueError(f"layers[{index}]: expected a DecoderLayer, got {type(layer).__name__}")
    norm = layers[0].input_norm
    check("layers[0].input_norm", norm, FLOATS, ("hidden",))
    check("final_norm", final_norm, norm.dtype, norm.shape, ("the layers", norm))
    check_table("cos_sin", cos_sin, geometry.head_dim, ("the layers", norm))
    width = geometry.num_heads * geometry.head_dim
    first_down = layers[0].down
    check_linear("layers[0].down", first_down)
    sizes = {
        "qkv": (len(norm), width + 2 * geometry.num_kv_heads * geometry.head_dim),
        "o": (width, len(norm)),
        "gate_up": (len(norm), 2 * first_down.in_features),
        "down": (first_down.in_features, len(norm)),
        "fusion_q": (len(norm), width),
        "fusion_o": (width, len(norm)),
    }
    for index, layer in enumerate(layers):
        where = f"layers[{index}]"
        for name in ("input_norm", "post_norm"):
            weight = getattr(layer, name)
            check(f"{where}.{name}", weight, norm.dtype, norm.shape, ("layers[0].input_norm", norm))
        if (layer.fusion_q is None) != (layer.fusion_o is None):
            raise ValueError(f"{where}: expected both of fusion_q and fusion_o or neither, got one")
        for name, expected in sizes.items():
            product = getattr(layer, name)
            if product is None and name.startswith("fusion"):
                continue
            check_linear(f"{where}.{name}", product)
            assert product is not None
            found = (product.in_features, product.out_features)
            if found != expected:
                raise ValueError(
                    f"{where}.{name}: expected {expected[0]} to {expected[1]} features, "
                    f"got {found[0]} to {found[1]}"
                )


def _check(
    x: Tensor,
    layers: Sequence[DecoderLayer],
    geometry: DecoderGeometry,
    cos_sin: Tensor,
    weights: Sequence[tuple[int, int]],
    batch: AttentionBatch,
    caches: Sequence[tuple[Tensor, Tensor]],
    fusion: FusionBatch | None,
    wanted: Tensor | None,
) -> None:
    norm, count = layers[0].input_norm, len(layers)
    check("x", x, norm.dtype, ("tokens", len(norm)), ("the weights", norm))
    check_batch(batch)
    if not isinstance(caches, Sequence) or len(caches) != count:
        found = len(caches) if isinstance(caches, Sequence) else type(caches).__name__
        raise ValueError(f"caches: expected one for each of {count} layers, got {found}")
    key, value = _pair(caches[0])
    check_cache(key, value, x)
    if key.shape[2:] != (geometry.num_kv_heads, geometry.head_dim):
        raise ValueError(
            f"caches: expected {geometry.num_kv_heads} kv heads of {geometry.head_dim}, "
            f"got {tuple(key.shape)}"
        )
    for pair in caches:
        for cache in _pair(pair):
            if (
                not isinstance(cache, Tensor)
                or cache.shape != key.shape
                or cache.dtype is not key.dtype
                or cache.device != key.device
                or cache.is_neg()
            ):
                raise ValueError("caches: expected keys and values of one shape, dtype and device")
    written = (stretch(x), stretch(key), stretch(value))
    if any(begin < last and first < end for first, last in written for begin, end in weights):
        raise ValueError("x, caches: expected memory of their own, got some of a norm's or of cos_sin")
    check("batch.positions", batch.positions, torch.int32, (len(x),), ("x", x), contiguous=True)
    check_range("batch.positions", batch.positions, 0, len(cos_sin) - 1)
    check_slots(batch, x, key)
    check_sequences(batch, x, key)
    if fusion is not None:
        _check_fusion(fusion, x, count, geometry, cos_sin)
    if wanted is not None:
        check_plain("wanted", wanted)
        if wanted.dtype != torch.int64 or wanted.dim() != 1 or len(wanted) > len(x):
            raise ValueError(
                f"wanted: expected int64, at most {len(x)}, got {wanted.dtype} {tuple(wanted.shape)}"
            )
        check_device("wanted", wanted, "x", x)
        check_rising("wanted", wanted, len(x) - 1)


def _check_fusion(
    fusion: FusionBatch, x: Tensor, num_layers: int, geometry: DecoderGeometry, cos_sin: Tensor
) -> None:
    if not isinstance(fusion, FusionBatch):
        raise ValueError(f"fusion: expected a FusionBatch, got {type(fusion).__name__}")
    width = geometry.num_heads * geometry.head_dim
    check_plain("fusion.cache", fusion.cache)
    if fusion.cache.dim() == 5 and fusion.cache.shape[2] != num_layers:
        raise ValueError(f"fusion.cache: expected {num_layers} layers, got {fusion.cache.shape[2]}")
    shape = ("rows", "window", num_layers, 2, width)
    check("fusion.cache", fusion.cache, x.dtype, shape, ("x", x), contiguous=True)
    check("fusion.tokens", fusion.tokens, torch.int64, ("fused",), ("x", x), contiguous=True)
    fused = fusion.tokens.shape
    check("fusion.rows", fusion.rows, torch.int64, fused, ("x", x), contiguous=True)
    check("fusion.num_valid", fusion.num_valid, torch.int32, fused, ("x", x), contiguous=True)
    check("fusion.positions", fusion.positions, torch.int32, fused, ("x", x), contiguous=True)
    check_rising("fusion.tokens", fusion.tokens, len(x) - 1)
    check_range("fusion.rows", fusion.rows, 0, len(fusion.cache) - 1)
    check_range("fusion.num_valid", fusion.num_valid, 0, fusion.cache.shape[1])
    check_range("fusion.positions", fusion.positions, 0, len(cos_sin) - 1)


def _pair(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"caches: expected pairs of keys and values, got {type(pair).__name__}")
    return pair[0], pair[1]


def _layer_stride(caches: Sequence[tuple[Tensor, Tensor]]) -> int:
    """Numbers from one layer's keys to the next layer's."""
    if len(caches) == 1:
        return 0
    stride: int = (caches[1][0].data_ptr() - caches[0][0].data_ptr()) // caches[0][0].element_size()
    return stride


def _check_distances(caches: Sequence[tuple[Tensor, Tensor]], layer_stride: int) -> None:
    """The same from layer to layer, for keys and for values: the caches share a storage."""
    (key, value), step = caches[0], layer_stride * caches[0][0].element_size()
    first_key, first_value, strides = key.data_ptr(), value.data_ptr(), key.stride()
    for layer, (keys, values) in enumerate(caches):
        is_apart = (
            keys.data_ptr() == first_key + layer * step and values.data_ptr() == first_value + layer * step
        )
        if not is_apart or keys.stride() != strides or values.stride() != strides:
            raise ValueError("caches: expected keys and values at equal distances from layer to layer")


def _address(name: str, weight: Linear | None) -> int:
    if weight is None:
        return 0
    if not isinstance(weight, CppLinear):
        raise ValueError(f"{name}: expected a weight packed by backend 'cpp', got {type(weight).__name__}")
    return weight.address
