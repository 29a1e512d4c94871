"""The paged cache's one storage, seen as the layers of either track."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from antiphon.config import CacheConfig, EngineConfig, KVCacheDtype, ModelConfig
from antiphon.kernels import QuantizedCache
from antiphon.kernels.quantized_cache import Caches, numbers_of
from antiphon.model import cache
from antiphon.model.cache import PagedKVCache, cache_config

CPU = torch.device("cpu")
MODEL = ModelConfig(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    rope_scaling=None,
    max_position_embeddings=1000,
    text_vocab_size=50,
    vocab_size=60,
    audio_vocab_size=10,
    num_bottom_audio_layers=1,
    num_top_audio_layers=2,
    vision=None,
)


def config(**changes: Any) -> CacheConfig:
    return replace(CacheConfig(5, 4, 4, 3, 2, 6, 4), **changes)


def cleared() -> PagedKVCache:
    paged = PagedKVCache(config(), torch.float32, CPU)
    paged.storage.zero_()
    return paged


def tensors(layers: list[Caches]) -> list[tuple[Tensor, Tensor]]:
    return [(numbers_of(keys), numbers_of(values)) for keys, values in layers]


# --- the shape of a block -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_text_layers", "num_speech_layers", "sizes"),
    [
        (32, 8, (16, 64)),  # the released size
        (12, 8, (16, 24)),
        (4, 3, (16, 21)),  # what is left over is not used
        (3, 3, (16, 16)),
        (2, 5, (40, 16)),
    ],
)
def test_a_block_is_as_large_for_either_track(
    num_text_layers: int, num_speech_layers: int, sizes: tuple[int, int]
) -> None:
    found = config(block_size=16, num_text_layers=num_text_layers, num_speech_layers=num_speech_layers)
    assert (found.text_block_size, found.speech_block_size) == sizes
    per_position = 2 * 2 * 6
    assert sizes[0] * num_text_layers * per_position <= found.block_numel
    assert sizes[1] * num_speech_layers * per_position <= found.block_numel
    assert found.block_numel == 16 * max(num_text_layers, num_speech_layers) * per_position
    assert found.block_bytes == 4 * found.block_numel


# --- views ----------------------------------------------------------------------------------------


def test_views_have_the_shape_that_kernels_take() -> None:
    paged = PagedKVCache(config(), torch.float32, CPU)
    assert (len(paged.text), len(paged.speech)) == (4, 3)
    for layers, block_size in ((paged.text, 4), (paged.speech, 5)):
        for keys, values in tensors(layers):
            assert keys.shape == values.shape == (5, block_size, 2, 6)
            assert keys.stride() == values.stride()
            assert keys[0, 0].is_contiguous()
            assert keys.untyped_storage().data_ptr() == paged.storage.untyped_storage().data_ptr()


@pytest.mark.parametrize("track", ["text", "speech"])
def test_layers_of_a_track_do_not_overlap(track: str) -> None:
    paged = cleared()
    views = [view for layer in getattr(paged, track) for view in layer]
    for number, view in enumerate(views, start=1):
        view.fill_(number)
    for number, view in enumerate(views, start=1):
        assert (view == number).all()
    per_block = views[0][0].numel() * len(views)
    assert (paged.storage != 0).sum(1).tolist() == [per_block] * 5


def test_a_block_of_one_track_is_no_other_block_of_the_other() -> None:
    paged = cleared()
    for keys, values in tensors(paged.text):
        keys[2], values[2] = 1.0, 1.0
    for keys, values in tensors(paged.speech):
        assert not keys[[0, 1, 3, 4]].any()
        assert not values[[0, 1, 3, 4]].any()
    assert not paged.storage[[0, 1, 3, 4]].any()


def test_layers_lie_at_equal_distances() -> None:
    """A run of layers is told where the first one is, and how far the next."""
    for layers in (
        PagedKVCache(config(), torch.float32, CPU).text,
        PagedKVCache(config(), torch.float32, CPU).speech,
    ):
        for place in (0, 1):
            offsets = [layer[place].storage_offset() for layer in tensors(layers)]
            assert len({b - a for a, b in pairwise(offsets)}) == 1


def test_dtype() -> None:
    paged = PagedKVCache(config(dtype_bytes=2), torch.bfloat16, CPU)
    assert numbers_of(paged.text[0][0]).dtype == torch.bfloat16
    assert paged.storage.numel() * paged.storage.element_size() == 5 * paged.config.block_bytes


def in_int8() -> PagedKVCache:
    return PagedKVCache(config(dtype_bytes=1, has_scales=True), torch.float32, CPU)


def test_in_int8_a_block_has_its_scales_behind_its_numbers() -> None:
    paged = in_int8()
    assert paged.config.block_bytes == paged.config.block_numel + paged.config.block_numel // 6 * 4
    assert paged.storage.shape == (5, paged.config.block_bytes)
    for layers, block_size in ((paged.text, 4), (paged.speech, 5)):
        for pair in layers:
            for part in pair:
                assert isinstance(part, QuantizedCache)
                assert part.values.shape == (5, block_size, 2, 6)
                assert part.scales.shape == (5, 2, block_size)
                assert part.scales[0].is_contiguous()


@pytest.mark.parametrize("track", ["text", "speech"])
def test_in_int8_nothing_overlaps(track: str) -> None:
    paged = in_int8()
    paged.storage.zero_()
    halves = [half for pair in getattr(paged, track) for half in pair]
    parts = [part for half in halves for part in (half.values, half.scales)]
    for number, part in enumerate(parts, start=1):
        part.fill_(number)
    for number, part in enumerate(parts, start=1):
        assert (part == number).all()


# --- how many blocks ------------------------------------------------------------------------------

BLOCK_BYTES = 16 * 4 * 2 * 2 * 6 * 4


def test_blocks_for_the_bytes_given() -> None:
    found = cache_config(MODEL, EngineConfig(kv_cache_bytes=10 * BLOCK_BYTES + 5), torch.float32, CPU)
    assert found == CacheConfig(10, 16, 4, 3, 2, 6, 4)
    half = cache_config(MODEL, EngineConfig(kv_cache_bytes=10 * BLOCK_BYTES), torch.float16, CPU)
    assert (half.num_blocks, half.dtype_bytes) == (20, 2)


@pytest.mark.parametrize(("head_dim", "times"), [(64, 3.76), (128, 3.88)])
def test_int8_holds_nearly_four_times_as_many(head_dim: int, times: float) -> None:
    model = replace(MODEL, head_dim=head_dim)
    engine = EngineConfig(kv_cache_bytes=1 << 26, max_num_seqs=10_000)
    dtypes: tuple[KVCacheDtype, ...] = ("auto", "int8")
    float32, int8 = (
        cache_config(model, replace(engine, kv_cache_dtype=dtype), torch.float32, CPU) for dtype in dtypes
    )
    assert int8.block_size == float32.block_size
    assert int8.num_blocks / float32.num_blocks == pytest.approx(times, rel=0.01)
    assert int8.num_blocks * int8.block_bytes <= 1 << 26


def test_no_more_than_all_requests_can_use() -> None:
    engine = EngineConfig(kv_cache_bytes=1 << 40, max_num_seqs=3, max_model_len=100)
    # 100 positions: 7 blocks of 16 for text, 5 of 21 for speech
    assert cache_config(MODEL, engine, torch.float32, CPU).num_blocks == 3 * (7 + 5)


@pytest.mark.parametrize("num_bytes", [0, BLOCK_BYTES, 2 * BLOCK_BYTES - 1])
def test_too_few_bytes_are_refused(num_bytes: int) -> None:
    with pytest.raises(
        ValueError, match=f"kv_cache_bytes: expected room for at least 2 blocks of {BLOCK_BYTES}"
    ):
        cache_config(MODEL, EngineConfig(kv_cache_bytes=num_bytes), torch.float32, CPU)


@pytest.mark.parametrize(
    ("free", "expected"), [(1 << 40, 1 << 30), (1 << 30, 1 << 28), (64 * BLOCK_BYTES, 16 * BLOCK_BYTES)]
)
def test_a_quarter_of_the_free_memory_and_a_gibibyte_at_most(
    monkeypatch: pytest.MonkeyPatch, free: int, expected: int
) -> None:
    monkeypatch.setattr(cache, "available_memory_bytes", lambda: free)
    engine = EngineConfig(max_num_seqs=10_000)
    assert cache_config(MODEL, engine, torch.float32, CPU).num_blocks == expected // BLOCK_BYTES
