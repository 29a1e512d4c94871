"""An engine whose KV cache is int8: what it answers does not depend on what else happens, either."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoints import RANDOM_MODEL
from golden_cases import cases
from plain_capture import PlainCapture, recording

from antiphon import Completion, Engine, Request, SamplingParams

LAYERS, KV_HEADS, HEAD_DIM = 8, 2, 16
"""Of the random model: those of the track that has more layers"""
POSITION_BYTES = LAYERS * 2 * KV_HEADS * (HEAD_DIM + 4)


def requests() -> list[Request]:
    return [case.request() for case in cases() if case.name in ("s2s", "s2s_short", "t2s", "s2t", "t2t")]


def answers(**settings: Any) -> list[Completion]:
    with Engine(RANDOM_MODEL, kv_cache_dtype="int8", **settings) as engine:
        done = engine.generate(requests())
        engine.check_integrity()
    return done


@pytest.fixture(scope="module")
def expected() -> list[tuple[list[int], list[int]]]:
    """Of each request by itself."""
    with Engine(RANDOM_MODEL, kv_cache_dtype="int8", enable_prefix_caching=False) as engine:
        return ids([engine.generate(request)[0] for request in requests()])


def ids(done: list[Completion]) -> list[tuple[list[int], list[int]]]:
    return [(each.text_ids, each.unit_ids) for each in done]


def test_together_and_in_small_pieces(expected: list[tuple[list[int], list[int]]]) -> None:
    assert ids(answers(max_num_batched_tokens=29, block_size=3)) == expected


def test_preempted_requests(expected: list[tuple[list[int], list[int]]]) -> None:
    """They are computed again, and go on with the same ids."""
    done = answers(block_size=4, kv_cache_bytes=130 * 4 * POSITION_BYTES)
    assert sum(each.metrics.num_preemptions for each in done) > 0
    assert ids(done) == expected


def test_a_hot_prefix_cache(expected: list[tuple[list[int], list[int]]]) -> None:
    with Engine(RANDOM_MODEL, kv_cache_dtype="int8", block_size=4) as engine:
        first, second = engine.generate(requests()), engine.generate(requests())
    assert sum(each.metrics.num_cached_tokens for each in second) > 100
    assert ids(first) == ids(second) == expected


def test_recorded_steps(expected: list[tuple[list[int], list[int]]]) -> None:
    capture = PlainCapture()
    with recording(capture):
        assert ids(answers(max_num_seqs=5)) == expected
    assert capture.num_replayed > 50


def test_the_same_memory_holds_more_positions() -> None:
    """With heads of 64 numbers 3.76 times as many as float32: 64 bytes and a scale of 4 for each 256."""
    positions = {}
    for dtype in ("auto", "int8"):
        settings: dict[str, Any] = {"kv_cache_bytes": 1 << 20, "max_num_seqs": 64, "max_model_len": 32768}
        with Engine(RANDOM_MODEL, kv_cache_dtype=dtype, **settings) as engine:
            cache = engine.cache_config
            positions[dtype] = cache.num_blocks * cache.block_size
            storage = engine.runner.cache.storage
            assert storage.numel() * storage.element_size() == cache.num_blocks * cache.block_bytes
            assert cache.block_bytes * (cache.num_blocks + 1) > 1 << 20
    assert positions["int8"] == (1 << 20) // (16 * POSITION_BYTES) * 16
    assert positions["int8"] / positions["auto"] == pytest.approx(HEAD_DIM * 4 / (HEAD_DIM + 4), rel=0.02)


def test_near_float32() -> None:
    """Of the packaged model: the same words, heard and answered, and nearly all the same units."""
    asked = [Request("What is shown?", modalities=("text", "units")), Request("Say something kind.")]
    found = []
    for dtype in ("auto", "int8"):
        with Engine(kv_cache_dtype=dtype, device="cpu") as engine:
            found.append(engine.generate(asked, SamplingParams(max_units=60)))
    for one, other in zip(*found, strict=True):
        assert one.text == other.text
        same = sum(a == b for a, b in zip(one.unit_ids, other.unit_ids, strict=False))
        assert same >= 0.9 * len(one.unit_ids)
