"""The way to flash-attn and FlashInfer: what they are called with, and what comes of it with stand-ins."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module, util
from importlib.metadata import version
from typing import Any

import pytest
import torch
from fake_attention_libraries import PACKAGES, fake_library, parameters_of, signature_of
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_sequences import Paged
from torch import Tensor

from antiphon.kernels import AttentionBatch, backends, paged_attention, registry
from antiphon.kernels.attention_batch import AttentionPlanner, BatchSequences
from antiphon.kernels.attention_libraries import LIBRARIES
from antiphon.kernels.flash_attention import FlashAttnPlanner, RaggedLengths
from antiphon.kernels.flashinfer_attention import FlashInferPlanner
from antiphon.kernels.paged_attention import paged_attention_reference

Check = Callable[[Tensor, Tensor, Tensor], None]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NAMES = tuple(LIBRARIES)
HEAD_DIM = 64
BLOCK_SIZES = {"flash-attn": (256, 512), "flashinfer": (1, 4, 16)}
LENGTHS = (5, 33, 300)
SPANS = {
    "decoding": [(4, 5), (32, 33), (299, 300)],
    "whole prompts": [(0, 5), (0, 33), (0, 300)],
    "chunks": [(3, 5), (16, 33), (100, 256)],
    "a prompt beside decoding": [(4, 5), (0, 33), (299, 300)],
    "to the end of a page": [(2, 4), (0, 16), (10, 256)],
}


def planner_of(backend: str, paged: Paged, dtype: torch.dtype) -> AttentionPlanner:
    if backend == "flash-attn":
        return FlashAttnPlanner()
    return FlashInferPlanner(paged.num_heads, paged.num_kv_heads, paged.head_dim, dtype, CPU)


def ready(
    planner: AttentionPlanner, paged: Paged, spans: list[tuple[int, int]], block_size: int
) -> AttentionBatch:
    """The batch as the runner has it: entries of the block table beyond a sequence's keys name no block."""
    lengths, ends = [end - start for start, end in spans], [end for _, end in spans]
    sequences = BatchSequences(lengths, ends, paged.tables(block_size), block_size)
    return planner.prepared(paged.batch(spans, block_size), sequences)


# --- signatures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_the_stored_signatures_are_those_of_the_installed_package(package: str) -> None:
    """Of the same release; only then can they be compared."""
    module = PACKAGES[package]["module"]
    if util.find_spec(module) is None or version(package) != PACKAGES[package]["version"]:
        pytest.skip(f"{package} {PACKAGES[package]['version']} is not installed")
    for name, stored in PACKAGES[package]["functions"].items():
        function: Any = import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        assert parameters_of(inspect.signature(function)) == stored["parameters"], name


@pytest.mark.parametrize("package", PACKAGES)
def test_stored_signatures_are_read_as_they_were_written(package: str) -> None:
    for name, stored in PACKAGES[package]["functions"].items():
        assert parameters_of(signature_of(package, name)) == stored["parameters"]


def test_a_call_that_does_not_fit_its_signature_is_noticed() -> None:
    """Otherwise the tests below would show nothing."""
    with fake_library("flash-attn"):
        flash_attn = import_module("flash_attn")
        with pytest.raises(TypeError, match="page_table"):
            flash_attn.flash_attn_with_kvcache(None, None, None, page_table=None)
    with fake_library("flashinfer"):
        wrapper = import_module("flashinfer").BatchDecodeWithPagedKVCacheWrapper
        made = wrapper(torch.zeros(1 << 20, dtype=torch.uint8), "NHD", use_tensor_cores=True, backend="fa2")
        with pytest.raises(TypeError, match="causal"):
            made.plan(None, None, None, 4, 2, 64, 16, causal=True)


# --- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", SPANS)
@pytest.mark.parametrize(
    ("backend", "block_size"), [(name, size) for name in NAMES for size in BLOCK_SIZES[name]]
)
def test_ragged_batches(
    backend: str, block_size: int, kind: str, dtype: torch.dtype, assert_within_half_budget: Check
) -> None:
    """Beside the reference in the same dtype, with grouped heads, over blocks that lie about in the cache."""
    paged, spans = Paged.random(LENGTHS, 6, 2, HEAD_DIM).rounded(dtype), SPANS[kind]
    q, caches = paged.queries(spans).to(dtype), paged.caches(block_size, dtype=dtype)
    with fake_library(backend) as calls:
        batch = ready(planner_of(backend, paged, dtype), paged, spans, block_size)
        table = batch.block_table.where(batch.block_table < 2**20, 0)  # which the op's own checks want
        found = paged_attention(q, *caches, replace(batch, block_table=table))
    decoding = {"flash-attn": "flash_attn_with_kvcache", "flashinfer": "decode"}[backend]
    assert (dict(calls) == {decoding: 1}) == (kind == "decoding")
    scale = HEAD_DIM**-0.5
    exact = paged_attention_reference(q.double(), caches[0].double(), caches[1].double(), batch, scale)
    assert_within_half_budget(found, paged_attention_reference(q, *caches, batch, scale), exact)


@pytest.mark.slow
@pytest.mark.parametrize("backend", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_batch(backend: str, data: st.DataObject) -> None:
    """In float32, which the stand-ins take here, so that nothing but a wrong argument makes a difference."""
    ends = data.draw(st.lists(st.integers(1, 600), min_size=1, max_size=4))
    spans = [(data.draw(st.integers(max(0, end - 20), end - 1)), end) for end in ends]
    heads, kv_heads = data.draw(st.sampled_from([(4, 1), (4, 4), (8, 2)]))
    block_size = data.draw(st.sampled_from([256] if backend == "flash-attn" else [1, 7, 64]))
    paged = Paged.random(ends, heads, kv_heads, HEAD_DIM)
    q, caches = paged.queries(spans), paged.caches(block_size)
    with fake_library(backend, (torch.float32,)):
        batch = ready(planner_of(backend, paged, torch.float32), paged, spans, block_size)
        attend = registry.resolve("paged_attention", backend, CPU, torch.float32)
        found = attend(q, *caches, batch, HEAD_DIM**-0.5)
    torch.testing.assert_close(found, paged_attention_reference(q, *caches, batch, HEAD_DIM**-0.5))


def test_rows_of_no_request() -> None:
    """What pads a recorded step has no keys, and any entries in its block table."""
    paged, spans = Paged.random((300,), 4, 2, HEAD_DIM).rounded(torch.float16), [(299, 300)]
    q, caches = paged.queries(spans).half(), paged.caches(256, dtype=torch.float16)
    batch = paged.batch(spans, 256)
    padded = replace(
        batch,
        cu_seqlens_q=torch.arange(4, dtype=torch.int32),
        context_lens=torch.tensor([300, 0, 0], dtype=torch.int32),
        block_table=batch.block_table.repeat(3, 1),
        backend=FlashAttnPlanner.recorded_backend,
    )
    with fake_library("flash-attn"):
        found = paged_attention(q.repeat(3, 1, 1), *caches, padded)
    expected = paged_attention_reference(q, *caches, batch, HEAD_DIM**-0.5)
    torch.testing.assert_close(found[:1], expected, rtol=2e-3, atol=2e-3)
    assert not found[1:].any()


def test_a_layer_that_lies_among_others() -> None:
    """Layers of a block lie beside each other: pages are far apart, and queries are a part of qkv."""
    paged, spans = Paged.random((40, 20), 4, 2, HEAD_DIM), [(39, 40), (5, 20)]
    alone = paged.caches(16)
    storage = torch.full((len(alone[0]), 3, 2, *alone[0].shape[1:]), torch.nan)
    storage[:, 1, 0], storage[:, 1, 1] = alone
    q = torch.cat([paged.queries(spans), torch.full((16, 4, HEAD_DIM), torch.nan)], dim=1)[:, :4]
    with fake_library("flashinfer", (torch.float32,)):
        batch = ready(planner_of("flashinfer", paged, torch.float32), paged, spans, 16)
        found = paged_attention(q, storage[:, 1, 0], storage[:, 1, 1], _within(batch))
    torch.testing.assert_close(found, paged_attention_reference(q, *alone, batch, HEAD_DIM**-0.5))


def _within(batch: AttentionBatch) -> AttentionBatch:
    return replace(batch, block_table=batch.block_table.where(batch.block_table < 2**20, 0))


def test_one_plan_after_the_other() -> None:
    """Each of them stands until the next one is made, which takes its memory."""
    paged, kinds = Paged.random(LENGTHS, 4, 2, HEAD_DIM), ["whole prompts", "decoding", "chunks", "decoding"]
    caches = paged.caches(16)
    with fake_library("flashinfer", (torch.float32,)):
        planner = planner_of("flashinfer", paged, torch.float32)
        planner.warm_up(*caches)
        before = None
        for kind in kinds:
            spans = SPANS[kind]
            batch = _within(ready(planner, paged, spans, 16))
            found = paged_attention(paged.queries(spans), *caches, batch)
            torch.testing.assert_close(
                found, paged_attention(paged.queries(spans), *caches, batch, backend="cpp")
            )
            if before is not None:
                with pytest.raises(ValueError, match="expected that of the last batch, number"):
                    paged_attention(*before)
            before = paged.queries(spans), *caches, batch


def test_a_plan_waits_until_the_last_one_was_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, plans are copied from one place in pinned memory."""
    events: list[str] = []

    class Event:
        def record(self) -> None:
            events.append("record")

        def synchronize(self) -> None:
            events.append("wait")

    def on_the_host(*shape: int, device: torch.device, **options: Any) -> Tensor:
        return torch.empty(*shape, **options)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "zeros", on_the_host)
    with fake_library("flashinfer"):
        planner = FlashInferPlanner(4, 2, HEAD_DIM, torch.float16, CUDA)
    paged = Paged.random(LENGTHS, 4, 2, HEAD_DIM)
    for kind in ("decoding", "chunks", "decoding"):
        ready(planner, paged, SPANS[kind], 16)
    assert events == ["record", "wait", "record", "wait", "record"]


# --- when they run --------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", NAMES)
def test_they_run_only_if_named(backend: str) -> None:
    """On a GPU in 16 bits; what they compute may depend on the batch."""
    with fake_library(backend):
        assert backend in backends("paged_attention")
        assert registry.choose("paged_attention", CPU, torch.float16) != backend
    known = registry._IMPLEMENTATIONS["paged_attention"]
    assert list(known).index("torch") < list(known).index(backend)
    supports = known[backend].supports
    assert supports(CUDA, torch.bfloat16) and supports(CUDA, torch.float16)
    assert not supports(CUDA, torch.float32) and not supports(CPU, torch.bfloat16)


# --- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", NAMES)
def test_caches_that_they_do_not_read(backend: str) -> None:
    narrow, wide = (Paged.random((5,), 4, 2, dim) for dim in (60, HEAD_DIM))
    with fake_library(backend, (torch.float32,)):
        batch = narrow.batch([(4, 5)], 256)
        heads = {"flash-attn": "a multiple of 8, up to 256", "flashinfer": "64, 128 or 256"}[backend]
        with pytest.raises(ValueError, match=f"key_cache: {backend} takes heads of {heads} numbers, got 60"):
            paged_attention(narrow.queries([(4, 5)]), *narrow.caches(256), batch, backend=backend)
        q, batch = wide.queries([(4, 5)]), wide.batch([(4, 5)], 256)
        with pytest.raises(ValueError, match=f"key_cache: {backend} reads keys in 16 bits, got a QuantizedC"):
            paged_attention(q, *wide.int8_caches(256), batch, backend=backend)
        caches, batch = wide.caches(256), replace(batch, plan="none")
        with pytest.raises(ValueError, match=r"batch.plan: expected .*, got str"):
            paged_attention(q, *caches, batch, backend=backend)


def test_flash_attn_wants_large_pages_and_lengths() -> None:
    paged, spans = Paged.random((5, 9), 4, 2, HEAD_DIM), [(2, 5), (8, 9)]
    q = paged.queries(spans)
    with fake_library("flash-attn", (torch.float32,)):
        message = "key_cache: flash-attn reads pages of a multiple of 256 positions, got 16"
        with pytest.raises(ValueError, match=message):
            paged_attention(q, *paged.caches(16), paged.batch(spans, 16), backend="flash-attn")
        message = "batch.plan: expected RaggedLengths for 4 queries of 2 sequences, got None"
        with pytest.raises(ValueError, match=message):
            paged_attention(q, *paged.caches(256), paged.batch(spans, 256), backend="flash-attn")
    few = FlashAttnPlanner().prepared(
        paged.batch([(4, 5), (9, 9)], 256), BatchSequences([1, 0], [5, 9], [[0], [1]], 256)
    )
    assert isinstance(few.plan, RaggedLengths) and few.plan.max_seqlen_q == 2


def test_flashinfer_wants_the_planned_scale() -> None:
    paged, spans = Paged.random((5,), 4, 2, HEAD_DIM), [(0, 5)]
    with fake_library("flashinfer", (torch.float32,)):
        batch = ready(planner_of("flashinfer", paged, torch.float32), paged, spans, 16)
        with pytest.raises(ValueError, match=r"scale: expected 0.125 as it was planned, got 1.0"):
            paged_attention(paged.queries(spans), *paged.caches(16), batch, scale=1.0)
