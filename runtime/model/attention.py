"""Which attention a model is served with: ours, or that of a library."""

from __future__ import annotations

from math import lcm

import torch

from antiphon.config import AttentionBackend, CacheConfig, ModelConfig
from antiphon.errors import ConfigError
from antiphon.kernels.attention_batch import AttentionPlanner
from antiphon.kernels.attention_libraries import LIBRARIES, AttentionLibrary, is_installed
from antiphon.kernels.registry import backends, takes

__all__ = ["attention_planner", "check_attention_backend"]


def check_attention_backend(
    backend: AttentionBackend, cache: CacheConfig, device: torch.device, dtype: torch.dtype
) -> None:
    """Raise ConfigError if the library is not there, or does not take such a cache. dtype: of activations"""
    if backend == "native":
        return
    library = LIBRARIES[backend]
    where = "attention_backend"
    if backend not in backends("paged_attention") and not is_installed(library):
        raise ConfigError(
            f"{where}: {backend!r} needs the package {library.distribution}, which is not installed: "
            f"pip install 'antiphon[{backend}]'"
        )
    if not takes("paged_attention", backend, device, dtype):
        raise ConfigError(
            f"{where}: {backend!r} computes in float16 or bfloat16 on a GPU of NVIDIA, "
            f"got {dtype} on {device.type}"
        )
    if cache.has_scales:
        raise ConfigError(
            f"kv_cache_dtype: expected 'auto' with attention_backend {backend!r}, "
            "which reads keys and values in 16 bits, got 'int8'"
        )
    refusal = library.refusal(cache.head_dim, [cache.text_block_size, cache.speech_block_size])
    if refusal is not None:
        raise ConfigError(f"{where}: {refusal}{_other_block_size(library, cache)}")


def _other_block_size(library: AttentionLibrary, cache: CacheConfig) -> str:
    """A hint at the smallest block size that would do, if it is that."""
    if cache.head_dim not in library.head_dims:
        return ""
    most = max(cache.num_text_layers, cache.num_speech_layers)
    least = min(cache.num_text_layers, cache.num_speech_layers)
    fitting = lcm(library.page_multiple * least, most) // most
    size = lcm(fitting, library.page_multiple)
    return f" (block_size={cache.block_size}); block_size={size} would do"


def attention_planner(
    backend: AttentionBackend, model: ModelConfig, device: torch.device, dtype: torch.dtype
) -> AttentionPlanner | None:
    """What makes batches ready for a library that was checked; None for our own attention."""
    if backend == "flash-attn":
        from antiphon.kernels.flash_attention import FlashAttnPlanner

        return FlashAttnPlanner()
    if backend == "flashinfer":
        from antiphon.kernels.flashinfer_attention import FlashInferPlanner

        return FlashInferPlanner(
            model.num_attention_heads, model.num_key_value_heads, model.head_dim, dtype, device
        )
    return None
