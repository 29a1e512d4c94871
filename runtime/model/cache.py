"""The tensors of the paged KV cache: one storage of equal blocks that both tracks share."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from antiphon.config import CacheConfig, EngineConfig, ModelConfig
from antiphon.device.machine import available_memory_bytes, memory_bytes
from antiphon.errors import ConfigError
from antiphon.kernels.huge_pages import advise_huge_pages
from antiphon.kernels.quantized_cache import Caches, QuantizedCache

__all__ = ["PagedKVCache", "cache_config", "cache_layout"]

CPU_DEFAULT_BYTES = 1 << 30
CPU_MEMORY_SHARE = 0.25


class PagedKVCache:
    """`text[i]` and `speech[i]` are the keys and values of layer i of that track.

    A block that a track owns is laid out (layers, keys/values, positions, kv heads, head_dim), so a
    layer's view is strided: (num_blocks, block_size, num_kv_heads, head_dim). In int8, a block's scales lie
    behind its numbers, (layers, keys/values, kv heads, positions).
    """

    def __init__(self, config: CacheConfig, dtype: torch.dtype, device: torch.device) -> None:
        """dtype: of the numbers, where the config does not say int8"""
        self.config = config
        dtype = torch.int8 if config.has_scales else dtype
        numel = config.block_bytes // dtype.itemsize
        # Not cleared: nothing is read before it is written, and untouched memory is not allocated.
        try:
            self.storage = torch.empty(config.num_blocks, numel, dtype=dtype, device=device)
        except (RuntimeError, MemoryError) as error:
            wanted = config.num_blocks * config.block_bytes
            raise ConfigError(f"kv_cache_bytes: {device} has no {wanted} bytes for the KV cache") from error
        advise_huge_pages(self.storage)
        self.text = self._views(config.num_text_layers, config.text_block_size)
        self.speech = self._views(config.num_speech_layers, config.speech_block_size)

    def _views(self, num_layers: int, block_size: int) -> list[Caches]:
        heads, config = self.config.num_kv_heads, self.config
        numbers = _blocks(self.storage, (num_layers, 2, block_size, heads, config.head_dim))
        if not config.has_scales:
            return [(numbers[:, layer, 0], numbers[:, layer, 1]) for layer in range(num_layers)]
        behind = self.storage[:, config.block_numel :].view(torch.float32)
        scales = _blocks(behind, (num_layers, 2, heads, block_size))
        return [
            (
                QuantizedCache(numbers[:, layer, 0], scales[:, layer, 0]),
                QuantizedCache(numbers[:, layer, 1], scales[:, layer, 1]),
            )
            for layer in range(num_layers)
        ]


def _blocks(storage: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What a track uses of each block, in its shape"""
    blocks: Tensor = storage[:, : prod(shape)].unflatten(1, shape)
    return blocks


def cache_layout(model: ModelConfig, engine: EngineConfig, dtype: torch.dtype) -> CacheConfig:
    """A cache of one block. dtype: of activations"""
    is_int8 = engine.kv_cache_dtype == "int8"
    return CacheConfig(
        num_blocks=1,
        block_size=engine.block_size,
        num_text_layers=model.num_hidden_layers,
        num_speech_layers=model.num_speech_layers,
        num_kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        dtype_bytes=1 if is_int8 else dtype.itemsize,
        has_scales=is_int8,
    )


def cache_config(
    model: ModelConfig, engine: EngineConfig, dtype: torch.dtype, device: torch.device
) -> CacheConfig:
    """A cache of the number of blocks that fit into `kv_cache_bytes`.

    If it is None: on a GPU, the part of `gpu_memory_utilization` that is not in use yet; on a CPU, a
    quarter of the free memory, but no more than 1 GiB. Never more than all requests can use.
    """
    one = cache_layout(model, engine, dtype)
    room = engine.kv_cache_bytes if engine.kv_cache_bytes is not None else _free_bytes(engine, device)
    per_track = (-(-engine.max_model_len // size) for size in (one.text_block_size, one.speech_block_size))
    useful = engine.max_num_seqs * sum(per_track)
    num_blocks = min(room // one.block_bytes, useful)
    if num_blocks < 2:
        raise ConfigError(
            f"kv_cache_bytes: expected room for at least 2 blocks of {one.block_bytes} bytes, got {room}"
        )
    if device.type == "cpu" and num_blocks * one.block_bytes > memory_bytes():
        raise ConfigError(
            f"kv_cache_bytes: expected at most the {memory_bytes()} bytes of this machine, got {room}"
        )
    return replace(one, num_blocks=num_blocks)


def _free_bytes(engine: EngineConfig, device: torch.device) -> int:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free - total * (1 - engine.gpu_memory_utilization))
    return min(CPU_DEFAULT_BYTES, int(available_memory_bytes() * CPU_MEMORY_SHARE))
