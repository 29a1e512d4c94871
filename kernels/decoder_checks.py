"""The checks of a run of decoder layers: of the weights once, and of the batch at each call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from antiphon.kernels.attention_batch import (
    AttentionBatch,
    check_batch,
    check_cache,
    check_sequences,
    check_slots,
)
from antiphon.kernels.checks import (
    FLOATS,
    check,
    check_device,
    check_integer,
    check_number,
    check_plain,
    check_range,
    check_rising,
    stretch,
)
from antiphon.kernels.decoder_stack import DecoderGeometry, DecoderLayer
from antiphon.kernels.fusion_attention import FusionBatch
from antiphon.kernels.linear import check_linear
from antiphon.kernels.quantized_cache import Caches, QuantizedCache, layer_strides, numbers_of, scales_of
from antiphon.kernels.rope import check_table

__all__ = ["check_call", "check_distances", "check_stack", "weight_stretches"]


def weight_stretches(
    layers: Sequence[DecoderLayer], final_norm: Tensor, cos_sin: Tensor
) -> list[tuple[int, int]]:
    """Where the weights outside a `Linear` lie: no call may write there."""
    norms = [norm for layer in layers for norm in (layer.input_norm, layer.post_norm)]
    return [stretch(weight) for weight in (*norms, final_norm, cos_sin) if weight.device.type != "meta"]


def check_stack(
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


def check_call(
    x: Tensor,
    layers: Sequence[DecoderLayer],
    geometry: DecoderGeometry,
    cos_sin: Tensor,
    weights: Sequence[tuple[int, int]],
    batch: AttentionBatch,
    caches: Sequence[Caches],
    fusion: FusionBatch | None,
    wanted: Tensor | None,
) -> None:
    norm, count = layers[0].input_norm, len(layers)
    check("x", x, norm.dtype, ("tokens", len(norm)), ("the weights", norm))
    check_batch(batch)
    if not isinstance(caches, Sequence) or len(caches) != count:
        found = len(caches) if isinstance(caches, Sequence) else type(caches).__name__
        raise ValueError(f"caches: expected one for each of {count} layers, got {found}")
    keys, values = _pair(caches[0])
    check_cache(keys, values, x)
    key, value = numbers_of(keys), numbers_of(values)
    if key.shape[2:] != (geometry.num_kv_heads, geometry.head_dim):
        raise ValueError(
            f"caches: expected {geometry.num_kv_heads} kv heads of {geometry.head_dim}, "
            f"got {tuple(key.shape)}"
        )
    for pair in caches:
        for cache in _pair(pair):
            is_of_kind = isinstance(cache, QuantizedCache) == isinstance(keys, QuantizedCache)
            if not is_of_kind or not _is_like(numbers_of(cache), key):
                raise ValueError("caches: expected keys and values of one shape, dtype and device")
            if isinstance(keys, QuantizedCache) and not _is_like(scales_of(cache), keys.scales):
                raise ValueError("caches: expected scales of one shape, dtype and device")
    written = [stretch(x), stretch(key), stretch(value)]
    if isinstance(keys, QuantizedCache):
        written += [stretch(keys.scales), stretch(scales_of(values))]
    if any(begin < last and first < end for first, last in written for begin, end in weights):
        raise ValueError("x, caches: expected memory of their own, got some of a norm or of cos_sin")
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
    fused = x.shape[:1]
    if fusion.tokens is not None:
        check("fusion.tokens", fusion.tokens, torch.int64, ("fused",), ("x", x), contiguous=True)
        fused = fusion.tokens.shape
    check("fusion.rows", fusion.rows, torch.int64, fused, ("x", x), contiguous=True)
    check("fusion.num_valid", fusion.num_valid, torch.int32, fused, ("x", x), contiguous=True)
    check("fusion.positions", fusion.positions, torch.int32, fused, ("x", x), contiguous=True)
    if fusion.tokens is not None:
        check_rising("fusion.tokens", fusion.tokens, len(x) - 1)
    check_range("fusion.rows", fusion.rows, 0, len(fusion.cache) - 1)
    check_range("fusion.num_valid", fusion.num_valid, 0, fusion.cache.shape[1])
    check_range("fusion.positions", fusion.positions, 0, len(cos_sin) - 1)


def _is_like(found: object, expected: Tensor) -> bool:
    return (
        isinstance(found, Tensor)
        and found.shape == expected.shape
        and found.dtype is expected.dtype
        and found.device == expected.device
        and not found.is_neg()
    )


def _pair(pair: Caches) -> Caches:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"caches: expected pairs of keys and values, got {type(pair).__name__}")
    return pair[0], pair[1]


def check_distances(caches: Sequence[Caches]) -> None:
    """Every layer lies as far after the one before, keys and values alike, and so do their scales."""
    layer_stride, scale_stride = layer_strides(caches)
    _check_distances([(numbers_of(keys), numbers_of(values)) for keys, values in caches], layer_stride)
    if isinstance(caches[0][0], QuantizedCache):
        _check_distances([(scales_of(keys), scales_of(values)) for keys, values in caches], scale_stride)


def _check_distances(caches: Sequence[tuple[Tensor, Tensor]], layer_stride: int) -> None:
    (key, value), step = caches[0], layer_stride * caches[0][0].element_size()
    first_key, first_value, strides = key.data_ptr(), value.data_ptr(), key.stride()
    for layer, (keys, values) in enumerate(caches):
        is_apart = (
            keys.data_ptr() == first_key + layer * step and values.data_ptr() == first_value + layer * step
        )
        if not is_apart or keys.stride() != strides or values.stride() != strides:
            raise ValueError("caches: expected keys and values at equal distances from layer to layer")
